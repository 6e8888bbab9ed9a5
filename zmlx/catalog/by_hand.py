"""Ops by hand: a kernel's text, or any other way to a value, with rules for MLX's transformations.

Comes in: how to compute (`run`), the same in MLX's ops (`plain`) and how cotangents go back
(`pull`). Goes out: an op for arrays that zmlx.catalog.common has checked. Tangents are those of
`plain`, which also runs where sizes are still to come or no kernel can run; mx.vmap is one call
where leading axes are free, else a call for each example. The modules of the catalog call it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import metal, switches
from zmlx.device import watch
from zmlx.device.base import Launcher, device_for_current_stream
from zmlx.device.rules import (
    Rules,
    differentiable,
    differentiable_ops,
    or_ops,
    repeated,
    sizes_to_come,
)
from zmlx.errors import DeriveError
from zmlx.fuse.by_size import alone
from zmlx.helpers.rules import seeds
from zmlx.msl.spec import Launch
from zmlx.registry import forgets
from zmlx.trace import intercept

SIMD_WIDTH = 32
ROW = "ulong(thread_position_in_grid.x / LANES)"  # of a thread in `by_rows`
MOST_LAUNCHES = 1024  # that a text remembers

Arrays = Sequence[mx.array]
Run = Callable[..., list[mx.array]]  # of arrays: one for each output
# (primals, cotangents, outputs) -> the gradient of each primal; None where it has none
Pull = Callable[[Arrays, Arrays, Arrays], Sequence[mx.array | None]]


class ByHand:
    """An op: call it with arrays, get a list of them.

    `rows` says that all arrays have the same leading axes, however many, and that each row stands
    alone; `composed`, that `run` is several ops of MLX's, which mx.vmap maps by itself, and not one
    kernel of the arrays; `linear`, that only this array has tangents, in which the op is linear;
    `why` says why there are no derivatives, where `pull` is None.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        plain: Run,
        pull: Pull | None,
        *,
        rows: bool = False,
        composed: bool = False,
        linear: int | None = None,
        why: str = "",
    ) -> None:
        self.name, self._plain, self._pull = name, plain, pull
        self._rows, self._linear, self._why = rows, linear, why
        launch = _spread(run)
        ruled = differentiable_ops(launch, self) if composed else _Again(launch, self)
        self._ruled = or_ops(ruled, differentiable_ops(_spread(plain), self))

    def __call__(self, *arrays: mx.array) -> list[mx.array]:
        tracer = intercept.current()
        if tracer is not None and tracer.sees(arrays):
            found: list[mx.array] = tracer.opaque(self.name, self, arrays, {})
            return found
        if sizes_to_come(arrays):
            return self._plain(*arrays)
        return self._ruled(arrays)

    def __repr__(self) -> str:
        return f"<zmlx.catalog {self.name}>"

    # -- rules ------------------------------------------------------------------------------------
    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        pulled = self._pulled(primals, seeds(cotangents, outputs), outputs)
        pairs = [(primals[i], pulled[i]) for i in argnums]
        return [mx.zeros_like(x) if dx is None else dx.astype(x.dtype) for x, dx in pairs]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        if self._pull is None:
            raise DeriveError(self._why)
        if self._linear is not None:
            tangent = dict(zip(argnums, tangents, strict=True))[self._linear]
            return self(*[tangent if i == self._linear else x for i, x in enumerate(primals)])
        moving = set(argnums)

        def of(*moved: mx.array) -> list[mx.array]:
            given = dict(zip(argnums, moved, strict=True))
            return self._plain(*[given[i] if i in moving else x for i, x in enumerate(primals)])

        return mx.jvp(of, [primals[i] for i in argnums], list(tangents))[1]

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        size = next(x.shape[axis] for x, axis in zip(inputs, axes, strict=True) if axis >= 0)
        pairs = list(zip(inputs, axes, strict=True))
        if self._rows or size == 0:
            wide = [
                mx.moveaxis(x, axis, 0) if axis >= 0 else mx.broadcast_to(x, (size, *x.shape))
                for x, axis in pairs
            ]
            if self._rows:
                return self(*wide)
            single = self(*[mx.zeros(x.shape[1:], x.dtype) for x in wide])
            return [mx.zeros((0, *o.shape), o.dtype) for o in single]
        each = [
            self(*[mx.take(x, n, axis) if axis >= 0 else x for x, axis in pairs])
            for n in range(size)
        ]
        return [mx.stack(outputs) for outputs in zip(*each, strict=True)]

    def _pulled(self, primals: Arrays, given: Arrays, outputs: Arrays) -> Sequence[mx.array | None]:
        if self._pull is None:
            raise DeriveError(self._why)
        return self._pull(primals, given, outputs)


def _spread(run: Run) -> Callable[[Arrays], list[mx.array]]:
    return lambda arrays: run(*arrays)


class _Again:
    """A launch with rules, repeated by native code for arrays of shapes and types met before."""

    def __init__(self, launch: Launcher, rules: Rules) -> None:
        self._launch, self._rules = launch, rules
        self._told = differentiable(launch, rules)  # of each launch
        self._known: dict[Any, Launcher] = {}  # by device, and what decides how it runs kernels
        _again.add(self)

    def forget(self) -> None:
        self._known.clear()

    def __call__(self, arrays: Arrays) -> list[mx.array]:
        if watch.active or switches.SANITIZE.on():
            return self._told(arrays)
        device = device_for_current_stream()
        key = (device.name, device.takes_turns, switches.host())
        run = self._known.get(key)
        if run is None:
            run = self._known[key] = repeated(self._launch, self._rules, device.takes_turns)
        return run(arrays)


_again: weakref.WeakSet[_Again] = weakref.WeakSet()


def _forget() -> None:
    for one in [*_again]:
        one.forget()


forgets(_forget)


class Text:
    """A kernel's text with its launches: sizes are read from its arrays, when it runs."""

    def __init__(self, name: str, inputs: str, outputs: str, source: str, header: str = "") -> None:
        self._parts: dict[str, Any] = {
            "name": name, "input_names": inputs.split(), "output_names": outputs.split(),
            "source": source, "header": header,
        }  # fmt: skip
        self._kernel: metal.MetalKernel | None = None
        self._launches: dict[Any, Launch] = {}
        forgets(self._forget)

    def _forget(self) -> None:
        self._kernel = None
        self._launches.clear()

    def __call__(
        self,
        arrays: Arrays,
        shapes: Sequence[Sequence[int]],
        kinds: Sequence[mx.Dtype],
        grid: Sequence[int],
        group: Sequence[int],
        choices: Sequence[tuple[str, int]] = (),
    ) -> list[mx.array]:
        """Outputs of these shapes and types, the first one's is `O`; no launch for no elements.

        `choices` are numbers of the text for each of which there is a kernel.
        """
        if not any(map(prod, shapes)):
            pairs = zip(shapes, kinds, strict=True)
            return [mx.zeros(shape, kind) for shape, kind in pairs]
        if self._kernel is None:
            self._kernel = metal.kernel(**self._parts)
        given = [a if a.ndim else a.reshape(1) for a in arrays]
        key = (*map(tuple, shapes), *kinds, *grid, *group, *choices)
        launch = self._launches.get(key)
        if launch is None:
            if len(self._launches) >= MOST_LAUNCHES:
                self._launches.clear()
            template = [("O", kinds[0]), *choices]
            launch = self._kernel.prepared(given, template, grid, group, shapes, kinds)
            self._launches[key] = launch
        self._kernel.stats.run_count += 1
        return self._kernel.bare(given, launch)


def lanes() -> int:
    """Threads that share a row: a simdgroup's, or one where threads take turns."""
    return 1 if alone() else SIMD_WIDTH


def known_lanes() -> list[tuple[str, int]]:
    """LANES, `lanes()` as a choice of a text: compilers know the step of its loops."""
    return [("LANES", lanes())]


def by_rows(rows: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and group of a launch with `lanes()` threads for each row, the row's number is `ROW`.

    All along x, as CUDA has at most 65535 groups along y.
    """
    width = lanes()
    together = max(1, min(8, rows)) if width > 1 else 1
    return (width * max(rows, 1), 1, 1), (width * together, 1, 1)


def by_elements(count: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and group of a launch with a thread for each of `count` elements at least."""
    wide = min(max(count, 1), 2**20)
    return (wide, max(1, -(-count // wide)), 1), (min(256, wide), 1, 1)


def element(count: str) -> str:
    """Text: `elem`, a thread's number in `by_elements`, which ends those from `count` on."""
    return (
        "const ulong elem = ulong(thread_position_in_grid.y) * threads_per_grid.x"
        f" + thread_position_in_grid.x;\nif (elem >= ulong({count})) return;"
    )
