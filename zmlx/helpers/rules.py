"""Rules: how MLX's transformations go through an op whose gradient was given, or is refused.

An elementwise op has a diagonal Jacobian: what pulls a cotangent back also pushes a tangent on, and
mapping over an axis is the op itself on arrays of one rank more. zmlx.helpers.op attaches these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import mlx.core as mx

from zmlx.device.rules import native_or_none
from zmlx.errors import DeriveError
from zmlx.fuse.region import batch_first
from zmlx.fuse.runtime import Run

Arrays = Sequence[mx.array]
# (inputs, result, cotangent, which inputs) -> their gradients, in the shape of the result
Pull = Callable[[Arrays, mx.array, mx.array, tuple[int, ...]], Arrays]


def seeds(cotangents: Sequence[mx.array | None], outputs: Arrays) -> list[mx.array]:
    """The cotangents in the types of `outputs`; zeros where none came."""
    pairs = zip(cotangents, outputs, strict=True)
    return [mx.zeros_like(o) if c is None else c.astype(o.dtype) for c, o in pairs]


class Given:
    """The rules of an op with one output, from `run` (the op) and `pull` (its gradients)."""

    def __init__(self, run: Run, pull: Pull) -> None:
        self._run, self._pull = run, pull

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        wanted, cotangent = tuple(argnums), cotangents[0]
        if cotangent is None:
            return [mx.zeros_like(primals[i]) for i in wanted]
        found = self._pull(primals, outputs[0], cotangent.astype(outputs[0].dtype), wanted)
        return [_summed(d, primals[i]) for i, d in zip(wanted, found, strict=True)]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        output = self._run(primals)[0]
        moved: list[mx.array] = []
        for i, tangent in zip(argnums, tangents, strict=True):
            wide = mx.broadcast_to(tangent.astype(output.dtype), output.shape)
            moved += self._pull(primals, output, wide, (i,))
        return [reduce(mx.add, moved).astype(output.dtype)]

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return self._run(mapped_first(inputs, axes))


class Refused:
    """The rules of a kernel that has no derivative: a gradient says why, vmap works."""

    def __init__(self, run: Run, why: str) -> None:
        self._run, self._why = run, why

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        raise DeriveError(self._why)

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        raise DeriveError(self._why)

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return self._run(mapped_first(inputs, axes))


def handed(run: Run, rules: Given) -> Run:
    """`run`, made of MLX's ops, with `rules` in place of theirs, where sizes are still to come."""

    def call(arrays: Arrays) -> list[mx.array]:
        results: list[mx.array] = native_or_none().handed(
            run(arrays), arrays, _Handed(rules, len(arrays))
        )
        return results

    return call


class _Handed:
    """`rules` of an op of `count` inputs, behind which MLX sees its results."""

    def __init__(self, rules: Given, count: int) -> None:
        self._rules, self._count = rules, count

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        own = [i for i in argnums if i < self._count]
        pulled = self._rules.vjp(primals[: self._count], cotangents, own, outputs)
        found = dict(zip(own, pulled, strict=True))
        return [found[i] if i in found else mx.zeros_like(primals[i]) for i in argnums]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        pairs = [(i, t) for i, t in zip(argnums, tangents, strict=True) if i < self._count]
        moving = [i for i, _ in pairs]
        return self._rules.jvp(primals[: self._count], [t for _, t in pairs], moving)

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return self._rules.vmap(inputs[: self._count], axes[: self._count])


def mapped_first(inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
    """Inputs of an elementwise op with the mapped axis in front of as many others as any has."""
    pairs = list(zip(inputs, axes, strict=True))
    rank = max(x.ndim - (axis >= 0) for x, axis in pairs)
    size = next(x.shape[axis] for x, axis in pairs if axis >= 0)
    moved = []
    for x, axis in pairs:
        whole = x if axis >= 0 else mx.broadcast_to(x, (size, *x.shape))
        moved.append(batch_first(whole, max(axis, 0), rank))
    return moved


def _summed(gradient: mx.array, primal: mx.array) -> mx.array:
    """`gradient` in shape and type of `primal`, added up where that was broadcast."""
    if gradient.shape != primal.shape:
        lead = gradient.ndim - primal.ndim
        narrow = [d + lead for d, n in enumerate(primal.shape) if n != gradient.shape[d + lead]]
        summed = gradient.astype(mx.float32).sum((*range(lead), *narrow), keepdims=True)
        gradient = summed.reshape(primal.shape)
    return gradient.astype(primal.dtype)
