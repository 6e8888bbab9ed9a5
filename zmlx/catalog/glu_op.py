"""Gated linear units: act(a) * b of the halves of a row, where there is a bias after adding it.

After Shazeer (arXiv:2002.05202). One kernel reads both halves; another gives the gradient of the
whole row at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx

from zmlx import metal
from zmlx.catalog.kernel_op import HEADER, PLACE, Arrays, KernelOp, joined_rows, packed_grid
from zmlx.fuse.function_rules import FunctionRules
from zmlx.rows.columns import ColumnSums
from zmlx.rows.launches import Prepared

_HALVES = (
    """\
const uint rows = uint(x_shape[0]);
const uint columns = uint(x_shape[1]) / 2u;
"""
    + PLACE
    + """\
const ulong kk_left = ulong(kk_row) * (2u * columns) + kk_at;
const ulong kk_right = kk_left + columns;
const ulong kk_to = ulong(kk_row) * columns + kk_at;
"""
)
_FORWARD = """\
for (uint k = 0; k < kk_count; ++k) {{
  const float a = float(x[kk_left + k]){bias_a};
  const float b = float(x[kk_right + k]){bias_b};
  out[kk_to + k] = T({act}(a) * b);
}}
"""
_BACKWARD = """\
for (uint k = 0; k < kk_count; ++k) {{
  const float a = float(x[kk_left + k]){bias_a};
  const float b = float(x[kk_right + k]){bias_b};
  const float g = float(cotan[kk_to + k]);
  dx[kk_left + k] = T(g * b * {act}_grad(a));
  dx[kk_right + k] = T(g * {act}(a));
}}
"""
_BIAS = {
    "bias_a": " + float(bias[kk_at + k])",
    "bias_b": " + float(bias[columns + kk_at + k])",
}


@dataclass(frozen=True)
class Glu:
    """One gated unit: `act` is a function of zmlx.msl's header that has a _grad twin."""

    name: str
    act: str
    plain: Callable[[mx.array], mx.array]  # the same in MLX's ops, float32
    biased: bool = False

    @cached_property
    def op(self) -> KernelOp:
        """Takes [x] or [x, bias]; x is (rows, 2 * D), the result (rows, D)."""
        return KernelOp(self.name, self._forward, _GluRules(self))

    def function(self, arrays: Arrays) -> list[mx.array]:
        """The op in MLX's ops."""
        x = sum(a.astype(mx.float32) for a in arrays)
        a, b = mx.split(x, 2, axis=-1)
        return [(self.plain(a) * b).astype(arrays[0].dtype)]

    @cached_property
    def pull(self) -> KernelOp:
        """Takes [x, cotan] or [x, bias, cotan]; gives the gradient of x."""

        def gradient(arrays: Arrays) -> list[mx.array]:
            def forward(x: mx.array) -> list[mx.array]:
                return self.function([x, *arrays[1:-1]])

            return list(mx.vjp(forward, [arrays[0]], [arrays[-1]])[1])

        return KernelOp(f"{self.name}_backward", self._backward, FunctionRules(gradient))

    def _forward(self, arrays: Arrays) -> Prepared:
        rows, width = arrays[0].shape
        return self._prepared(self._kernel, arrays, (rows, width // 2))

    def _backward(self, arrays: Arrays) -> Prepared:
        return self._prepared(self._backward_kernel, arrays, arrays[0].shape)

    def _prepared(
        self, kernel: metal.MetalKernel, arrays: Arrays, shape: Sequence[int]
    ) -> Prepared:
        x = arrays[0]
        lanes, grid, threadgroup = packed_grid(x.shape[0], x.shape[1] // 2, x.dtype.size)
        return kernel, kernel.prepared(
            arrays,
            template=[("T", x.dtype), ("LANES", lanes)],
            grid=grid,
            threadgroup=threadgroup,
            output_shapes=[shape],
            output_dtypes=[x.dtype],
        )

    @cached_property
    def _kernel(self) -> metal.MetalKernel:
        return self._made(self.name, _FORWARD, (), "out")

    @cached_property
    def _backward_kernel(self) -> metal.MetalKernel:
        return self._made(f"{self.name}_backward", _BACKWARD, ("cotan",), "dx")

    def _made(self, name: str, text: str, more: tuple[str, ...], output: str) -> metal.MetalKernel:
        bias = _BIAS if self.biased else dict.fromkeys(_BIAS, "")
        return metal.kernel(
            name=name,
            input_names=["x", *(("bias",) if self.biased else ()), *more],
            output_names=[output],
            source=_HALVES + text.format(act=self.act, **bias),
            header=HEADER,
        )


_rows_added = ColumnSums("rows_added", ("x",), ("x",))


class _GluRules(FunctionRules):
    def __init__(self, glu: Glu) -> None:
        super().__init__(glu.function, self._gradients)
        self._glu = glu

    def _gradients(
        self, primals: Arrays, cotangents: Arrays, argnums: Sequence[int], outputs: Arrays
    ) -> dict[int, mx.array]:
        (dx,) = self._glu.pull(*primals, cotangents[0])
        found = {0: dx}
        if 1 in argnums:
            found[1] = _rows_added([dx])[0].astype(primals[1].dtype)
        return found

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return joined_rows(self._glu.op, inputs, axes) or super().vmap(inputs, axes)
