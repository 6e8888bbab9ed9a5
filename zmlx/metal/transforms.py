"""Transforms: what MLX's transformations find at a kernel written by hand.

Comes in: one launch. Goes out: rules that refuse derivatives and batching with the way out, and say
under mx.compile(shapeless=True) whether the launch holds for other sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NoReturn

from zmlx.errors import DeriveError, DeviceError
from zmlx.msl.spec import Launch, MetalKernelSpec

Sizes = Sequence[Sequence[int]]
_PARTS = (1, 2, 4, 8, 16, 32, 64)  # elements that a thread may take


class Transforms:
    """The rules of one launch over inputs of these shapes."""

    def __init__(self, spec: MetalKernelSpec, launch: Launch, shapes: Sizes) -> None:
        self._spec, self._launch, self._shapes = spec, launch, shapes

    def vjp(self, *_: object) -> NoReturn:
        self._refuse("gradient")

    def jvp(self, *_: object) -> NoReturn:
        self._refuse("jvp")

    def vmap(self, *_: object) -> NoReturn:
        self._refuse("vmap")

    def output_shapes(self, shapes: Sizes) -> list[tuple[int, ...]]:
        """The outputs' shapes for inputs of other sizes than those that were traced."""
        for i, (old, new) in enumerate(zip(self._shapes, shapes, strict=False)):  # CUDA adds a grid
            if tuple(old) != tuple(new) and (number := self._follows(old, new)) is not None:
                name = self._spec.input_names[i]
                raise DeviceError(
                    f"[zmlx.metal] kernel {self._spec.name!r} was traced by "
                    f"mx.compile(shapeless=True) for {name} of shape {tuple(old)}; now it is "
                    f"{tuple(new)}, and its launch, {self._launch.grid} threads in groups of "
                    f"{self._launch.threadgroup} for outputs {list(self._launch.output_shapes)}, "
                    f"follows that shape ({number}). Compile without shapeless, or have the kernel "
                    f"read {name}_shape and launch it alike for all sizes."
                )
        return [tuple(shape) for shape in self._launch.output_shapes]

    def _follows(self, old: Sequence[int], new: Sequence[int]) -> int | None:
        """A number of the launch that a size which changed explains, None where there is none."""
        if len(old) != len(new):
            return prod(old)
        sizes = {n for n, m in zip(old, new, strict=True) if n != m} | {prod(old)}
        sizes |= {prod(old[d:]) for d in range(len(old)) if prod(old[d:]) != prod(new[d:])}
        sizes |= {prod(old[:d]) for d in range(1, len(old)) if prod(old[:d]) != prod(new[:d])}
        for number, parts in self._numbers():
            if any(_explains(size, number, parts) for size in sizes if size > 1):
                return number
        return None

    def _numbers(self) -> Iterator[tuple[int, bool]]:
        """The numbers of the launch; whether parts of a size may be meant by one."""
        launch = self._launch
        for shape in launch.output_shapes:
            yield from ((n, False) for n in shape if n > 1)
        for threads, group in zip(launch.grid, launch.threadgroup, strict=True):
            groups = -(-threads // group)
            yield from ((n, groups > 1) for n in (threads, groups) if n > 1)

    def _refuse(self, what: str) -> NoReturn:
        raise DeriveError(
            f"[zmlx.metal] kernel {self._spec.name!r} has no {what}: it is a text that ZMLX only "
            "runs. Make it with zmlx.autograd.nary_from_expr, which has vmap, reads what it can "
            "and takes a bwd_source, or give mx.custom_function the rule."
        )


def _explains(size: int, number: int, parts: bool) -> bool:
    """Whether `number` is what a launch has for `size`: as many, some for each, or a part."""
    if number % size == 0:
        return True
    return parts and any(number == -(-size // part) for part in _PARTS)
