"""The kernels of MLX's page on custom kernels: a strided input, grid_sample, and its gradient."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zmlx import metal
from zmlx.device.base import Device

STRIDED = """
    uint elem = thread_position_in_grid.x;
    uint loc = elem_to_loc(elem, inp_shape, inp_strides, inp_ndim);
    T tmp = inp[loc];
    out[elem] = metal::precise::exp(tmp) * threads_per_simdgroup;
"""


@pytest.mark.parametrize("kind", [mx.float32, mx.float16])
def test_a_strided_input_is_found_by_mlx_own_function(
    default_device: Device, kind: mx.Dtype
) -> None:
    kernel = metal.kernel("strided", ["inp"], ["out"], STRIDED, ensure_row_contiguous=False)
    a = mx.random.normal((4, 6, 16)).astype(kind)
    for view in (a[::2], a.transpose(2, 0, 1), mx.broadcast_to(a[:1, :1], a.shape), a[:, 1:4, ::3]):
        (out,) = kernel(
            inputs=[view], template=[("T", mx.float32)], grid=(view.size, 1, 1),
            threadgroup=(256, 1, 1), output_shapes=[view.shape], output_dtypes=[view.dtype],
        )  # fmt: skip
        wanted = 32 * np.exp(np.array(view.astype(mx.float32)))
        np.testing.assert_allclose(np.array(out.astype(mx.float32)), wanted, 2e-3)


# Corners of a point's cell, west and east, north and south: what a kernel has of each.
CORNERS = """
    int H = x_shape[1], W = x_shape[2], C = x_shape[3];
    int gH = grid_shape[1], gW = grid_shape[2];
    float ix = ((grid[point] + 1) * W - 1) / 2;
    float iy = ((grid[point + 1] + 1) * H - 1) / 2;
    int west = floor(ix), north = floor(iy);
    int east = west + 1, south = north + 1;
    T nw = (east - ix) * (south - iy), ne = (ix - west) * (south - iy);
    T sw = (east - ix) * (iy - north), se = (ix - west) * (iy - north);
"""
FORWARD = f"""
    uint elem = thread_position_in_grid.x;
    uint point = elem / x_shape[3] * 2;
    {CORNERS}
    int base = elem / C / gH / gW * H * W * C + elem % C;
    bool n = north >= 0 && north < H, s = south >= 0 && south < H;
    bool w = west >= 0 && west < W, e = east >= 0 && east < W;
    T a = n && w ? x[base + (north * W + west) * C] : 0;
    T b = n && e ? x[base + (north * W + east) * C] : 0;
    T c = s && w ? x[base + (south * W + west) * C] : 0;
    T d = s && e ? x[base + (south * W + east) * C] : 0;
    out[elem] = nw * a + ne * b + sw * c + se * d;
"""
BACKWARD = f"""
    uint elem = thread_position_in_grid.x;
    int padded = ceildiv(x_shape[3], threads_per_simdgroup) * threads_per_simdgroup;
    uint point = elem / padded * 2;
    {CORNERS}
    int channel = elem % padded;
    int base = elem / padded / gH / gW * H * W * C + channel;
    T gix = T(0), giy = T(0);
    if (channel < C) {{
        T cot = cotangent[elem / padded * C + channel];
        for (int k = 0; k < 4; ++k) {{
            int at_y = k < 2 ? north : south, at_x = k % 2 ? east : west;
            if (at_y < 0 || at_y >= H || at_x < 0 || at_x >= W) continue;
            T share = k == 0 ? nw : k == 1 ? ne : k == 2 ? sw : se;
            int offset = base + (at_y * W + at_x) * C;
            atomic_fetch_add_explicit(&x_grad[offset], share * cot, memory_order_relaxed);
            float across = k < 2 ? south - iy : iy - north, along = k % 2 ? ix - west : east - ix;
            gix += (k % 2 ? 1 : -1) * x[offset] * across * cot;
            giy += (k < 2 ? -1 : 1) * x[offset] * along * cot;
        }}
    }}
    T gix_mult = T(W) / 2, giy_mult = T(H) / 2;
    gix = simd_sum(gix);
    giy = simd_sum(giy);
    if (thread_index_in_simdgroup == 0) {{
        atomic_fetch_add_explicit(&grid_grad[point], gix * gix_mult, memory_order_relaxed);
        atomic_fetch_add_explicit(&grid_grad[point + 1], giy * giy_mult, memory_order_relaxed);
    }}
"""


def sampler() -> Any:
    forward = metal.kernel("grid_sample", ["x", "grid"], ["out"], FORWARD)
    backward = metal.kernel(
        "grid_sample_grad", ["x", "grid", "cotangent"], ["x_grad", "grid_grad"], BACKWARD,
        atomic_outputs=True,
    )  # fmt: skip

    @mx.custom_function
    def sample(x: mx.array, grid: mx.array) -> mx.array:
        shape = (*grid.shape[:3], x.shape[3])
        return forward(
            inputs=[x, grid], template=[("T", x.dtype)], output_shapes=[shape],
            output_dtypes=[x.dtype], grid=(np.prod(shape), 1, 1), threadgroup=(256, 1, 1),
        )[0]  # fmt: skip

    @sample.vjp
    def pulled(primals: Any, cotangent: mx.array, _: Any) -> Any:
        x, grid = primals
        padded = -(-x.shape[3] // 32) * 32
        threads = grid.shape[0] * grid.shape[1] * grid.shape[2] * padded
        return tuple(
            backward(
                inputs=[x, grid, cotangent], template=[("T", x.dtype)],
                output_shapes=[x.shape, grid.shape], output_dtypes=[x.dtype, x.dtype],
                grid=(threads, 1, 1), threadgroup=(256, 1, 1), init_value=0,
            )
        )  # fmt: skip

    return sample


def by_ops(x: mx.array, grid: mx.array) -> mx.array:
    n, h, w, _ = x.shape
    ix, iy = ((grid[..., 0] + 1) * w - 1) / 2, ((grid[..., 1] + 1) * h - 1) / 2
    west, north = mx.floor(ix), mx.floor(iy)
    total = mx.zeros((*grid.shape[:3], x.shape[3]))
    for at_y, at_x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        y, z = mx.stop_gradient(north + at_y), mx.stop_gradient(west + at_x)
        share = (1 - mx.abs(iy - y)) * (1 - mx.abs(ix - z))
        inside = (y >= 0) & (y < h) & (z >= 0) & (z < w)
        rows, columns = (v.astype(mx.int32) for v in (mx.clip(y, 0, h - 1), mx.clip(z, 0, w - 1)))
        value = x[mx.arange(n)[:, None, None], rows, columns]
        total = total + mx.where(inside, share, 0)[..., None] * value
    return total


def test_grid_sample_and_its_gradient(default_device: Device) -> None:
    x, grid = mx.random.normal((2, 5, 6, 3)), mx.random.uniform(-1.2, 1.2, (2, 4, 7, 2))
    weight = mx.random.normal((2, 4, 7, 3))
    sample = sampler()
    np.testing.assert_allclose(np.array(sample(x, grid)), np.array(by_ops(x, grid)), 1e-5, 1e-5)
    found, wanted = (
        mx.grad(lambda x, grid, f=f: (f(x, grid) * weight).sum(), argnums=(0, 1))(x, grid)
        for f in (sample, by_ops)
    )
    for mine, true in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.array(mine), np.array(true), 1e-4, 1e-4)


def test_grid_sample_of_halves(default_device: Device) -> None:
    x, grid = mx.random.normal((1, 5, 6, 3)), mx.random.uniform(-1, 1, (1, 4, 7, 2))
    found = sampler()(x.astype(mx.float16), grid)
    np.testing.assert_allclose(
        np.array(found.astype(mx.float32)), np.array(by_ops(x, grid)), 1e-2, 1e-2
    )
