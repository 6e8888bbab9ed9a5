"""The mask that all dropout ops share, and dropout itself.

Element i of an array is dropped iff u(seed, i) < p, where u is kk_uniform01 of zmlx.msl and i the
element's number in the array: three steps of a linear congruential generator and PCG's output
permutation (O'Neill 2014; Jarzynski and Olano, JCGT 9(3), 2020). Neither type nor launch nor device
changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx

from zmlx import metal
from zmlx.catalog.kernel_op import HEADER, PLACE, Arrays, KernelOp, joined_rows, packed_grid
from zmlx.fuse.function_rules import FunctionRules
from zmlx.registry import forgets
from zmlx.rows.launches import Prepared

# An expression of the inputs `p` and `seed` (a uint): whether the element is dropped.
DROPPED = "(kk_uniform01(seed, kk_element) < p)"

_SOURCE = (
    """\
const uint rows = uint(x_shape[0]);
const uint columns = uint(x_shape[1]);
"""
    + PLACE
    + """\
const float kk_p = p[0], kk_keep = keep[0];
const ulong kk_from = ulong(kk_row) * columns + kk_at;
kk_pack<T, LANES> kk_x, kk_y;
if (kk_full) {
  kk_x = kk_load<T, LANES>(x + kk_from);
} else {
  for (uint k = 0; k < kk_count; ++k) {
    kk_x.item[k] = x[kk_from + k];
  }
}
ZMLX_UNROLL
for (uint k = 0; k < uint(LANES); ++k) {
  const bool dropped = kk_uniform01(seed[0], ulong(kk_at) + k) < kk_p;
  kk_y.item[k] = dropped ? T(0.0f) : T(float(kk_x.item[k]) * kk_keep);
}
if (kk_full) {
  kk_store<T, LANES>(out + kk_from, kk_y);
} else {
  for (uint k = 0; k < kk_count; ++k) {
    out[kk_from + k] = kk_y.item[k];
  }
}
"""
)


def dropped(x: mx.array, p: mx.array, keep: mx.array, seed: mx.array) -> mx.array:
    """`x` where it is kept, times `keep`, else 0; p, keep, seed have one element each."""
    op = _dropout()
    flat = op(x.reshape(1, x.size), p, keep, seed)[0] if x.size else x
    return flat.reshape(x.shape)


@lru_cache(maxsize=1)
def _dropout() -> KernelOp:
    return KernelOp("dropout", _prepared, _Rules(_plain))


forgets(_dropout.cache_clear)


class _Rules(FunctionRules):
    """Dropout is linear: cotangents and tangents pass through the same mask."""

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        """Nothing depends smoothly on p and seed; keep's gradient is that of a product."""
        if list(argnums) != [0]:
            return super().vjp(primals, cotangents, argnums, outputs)
        (g,) = cotangents
        return _dropout()(primals[0] if g is None else g, *primals[1:])

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        if list(argnums) != [0]:
            return super().jvp(primals, tangents, argnums)
        return _dropout()(tangents[0], *primals[1:])

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        """Mapped rows are rows of the kernel, each with the mask of its own first element on."""
        return joined_rows(_dropout(), inputs, axes) or super().vmap(inputs, axes)


def _prepared(arrays: Arrays) -> Prepared:
    x = arrays[0]
    lanes, grid, threadgroup = packed_grid(x.shape[0], x.shape[1], x.dtype.size)
    kernel = _kernel()
    return kernel, kernel.prepared(
        arrays,
        template=[("T", x.dtype), ("LANES", lanes)],
        grid=grid,
        threadgroup=threadgroup,
    )


@lru_cache(maxsize=1)
def _kernel() -> metal.MetalKernel:
    return metal.kernel(
        name="dropout",
        input_names=["x", "p", "keep", "seed"],
        output_names=["out"],
        source=_SOURCE,
        header=HEADER,
    )


forgets(_kernel.cache_clear)


def _plain(arrays: Arrays) -> list[mx.array]:
    """The same with MLX's ops."""
    x, p, keep, seed = arrays
    kept = uniform(seed, x.shape[-1]) >= p
    return [mx.where(kept, x.astype(mx.float32) * keep, 0.0).astype(x.dtype)]


def uniform(seed: mx.array, count: int) -> mx.array:
    """kk_uniform01(seed, i) for i below `count`, with MLX's ops: float32 of shape (count,)."""
    index = mx.arange(count, dtype=mx.int64).astype(mx.uint64)
    words = (index, index >> 32, seed.astype(mx.uint64))
    low = mx.array(0xFFFFFFFF, dtype=mx.uint64)
    x, y, z = ((word & low) * 1664525 + 1013904223 & low for word in words)
    x, y, z = _products(x, y, z, low)
    x, y, z = (word ^ (word >> 16) for word in (x, y, z))
    x, y, z = _products(x, y, z, low)
    x = x ^ z
    x = ((x >> ((x >> 28) + 4)) ^ x) * 277803737 & low
    bits = (x >> 22) ^ x
    return (bits >> 8).astype(mx.float32) * 2.0**-24


def _products(
    x: mx.array, y: mx.array, z: mx.array, low: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    x = x + y * z & low
    y = y + z * x & low
    return x, y, z + x * y & low
