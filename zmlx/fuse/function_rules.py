"""FunctionRules: MLX's transformations of a kernel, by a function that computes the same.

Comes in: a function of MLX's ops (fused functions included). Goes out: rules for
zmlx.device.rules.differentiable. zmlx.fuse.joined uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

Arrays = Sequence[mx.array]
ArraysFunction = Callable[[Arrays], list[mx.array]]
# Of primals, cotangents, argnums, outputs: the gradients of those inputs that it knows.
Pull = Callable[[Arrays, Arrays, Sequence[int], Arrays], dict[int, mx.array]]


class FunctionRules:
    """How MLX's transformations go through a kernel that computes `function`, made of MLX's ops.

    `pull` gives gradients by kernels of their own, for the inputs that it knows; those of the
    others, tangents and mapped results come from `function`.
    """

    def __init__(self, function: ArraysFunction | None, pull: Pull | None = None) -> None:
        self._function, self._pull = function, pull

    def function(self) -> ArraysFunction:
        """The op in MLX's ops."""
        assert self._function is not None
        return self._function

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        pairs = list(zip(cotangents, outputs, strict=True))
        found: dict[int, mx.array] = {}
        if self._pull:
            seeds = [mx.zeros_like(o) if c is None else c.astype(o.dtype) for c, o in pairs]
            found |= self._pull(primals, seeds, argnums, outputs)
        rest = [i for i in argnums if i not in found]
        # Zeros for an output that nobody uses would meet infinite derivatives.
        used = [k for k, (c, _) in enumerate(pairs) if c is not None]
        if rest and used:
            moved = self._moved(primals, rest)
            seeds = [c.astype(o.dtype) for c, o in pairs if c is not None]
            pulled = mx.vjp(_some(moved, used), [primals[i] for i in rest], seeds)[1]
            found |= dict(zip(rest, pulled, strict=True))
        return [found[i] if i in found else mx.zeros_like(primals[i]) for i in argnums]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        moving = [primals[i] for i in argnums]
        return mx.jvp(self._moved(primals, argnums), moving, list(tangents))[1]

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        function = self.function()
        pairs = list(zip(inputs, axes, strict=True))
        if any(axis >= 0 and x.shape[axis] == 0 for x, axis in pairs):  # the shapes are one's
            shapes = [[n for d, n in enumerate(x.shape) if d != axis] for x, axis in pairs]
            one = function([mx.zeros(s, x.dtype) for s, x in zip(shapes, inputs, strict=True)])
            return [mx.zeros((0, *o.shape), o.dtype) for o in one]
        mapped = tuple(None if axis < 0 else axis for axis in axes)
        return list(mx.vmap(lambda *arrays: tuple(function(arrays)), in_axes=mapped)(*inputs))

    def _moved(self, primals: Arrays, argnums: Sequence[int]) -> Callable[..., list[mx.array]]:
        function = self.function()

        def run(*moving: mx.array) -> list[mx.array]:
            arrays = list(primals)
            for i, array in zip(argnums, moving, strict=True):
                arrays[i] = array
            return function(arrays)

        return run


def _some(
    function: Callable[..., list[mx.array]], used: Sequence[int]
) -> Callable[..., list[mx.array]]:
    """`function` with only the results `used`, by position."""

    def run(*arrays: mx.array) -> list[mx.array]:
        results = function(*arrays)
        return [results[k] for k in used]

    return run
