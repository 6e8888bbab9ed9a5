"""Hand-written kernels on the host device: groups, barriers, simdgroups, atomics, their values."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zmlx import metal
from zmlx.device.address_spaces import without_address_spaces
from zmlx.errors import DeviceError

pytestmark = pytest.mark.usefixtures("host_device", "on_cpu")


@pytest.fixture(params=["0", "1"], ids=["plain", "sanitized"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_SANITIZE", request.param)


@pytest.fixture
def on_cpu() -> Any:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def run(
    source: str,
    *arrays: Any,
    grid: int | tuple[int, int, int],
    group: int | tuple[int, int, int],
    shape: tuple[int, ...],
    dtype: Any = mx.float32,
    header: str = "",
    atomic: bool = False,
    contiguous: bool = True,
    **launch: Any,
) -> np.ndarray:
    kernel = metal.kernel(
        name="written",
        input_names=[f"in{i}" for i in range(len(arrays))],
        output_names=["out"],
        source=source,
        header=header,
        atomic_outputs=atomic,
        ensure_row_contiguous=contiguous,
    )
    (result,) = kernel(
        *[mx.array(a) for a in arrays],
        grid=(grid, 1, 1) if isinstance(grid, int) else grid,
        threadgroup=(group, 1, 1) if isinstance(group, int) else group,
        output_shapes=[shape],
        output_dtypes=[dtype],
        **launch,
    )
    return np.array(result)


RNG = np.random.default_rng(0)
TREE = """
    threadgroup float part[128];
    uint t = thread_position_in_threadgroup.x;
    uint row = threadgroup_position_in_grid.x;
    uint width = uint(in0_shape[1]);
    float sum = 0.0;
    for (uint j = t; j < width; j += threads_per_threadgroup.x) sum += in0[row * width + j];
    part[t] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint half_ = 64; half_ > 0; half_ /= 2) {
      if (t < half_) part[t] += part[t + half_];
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (t == 0) out[row] = part[0];
"""
SIMD = """
    threadgroup float part[32];
    uint t = thread_index_in_threadgroup;
    uint row = threadgroup_position_in_grid.y;
    uint width = uint(in0_shape[1]);
    float most = -INFINITY;
    for (uint j = t; j < width; j += threads_per_threadgroup.x)
      most = max(most, in0[row * width + j]);
    most = simd_max(most);
    if (thread_index_in_simdgroup == 0) part[simdgroup_index_in_threadgroup] = most;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup_index_in_threadgroup == 0) {
      most = t < simdgroups_per_threadgroup ? part[t] : -INFINITY;
      most = simd_max(most);
      if (t == 0) out[row] = most;
    }
"""
SCAN = """
    threadgroup float totals[32];
    uint t = thread_index_in_threadgroup;
    uint i = thread_position_in_grid.x;
    float own = in0[i];
    float upto = simd_prefix_inclusive_sum(own);
    if (thread_index_in_simdgroup == threads_per_simdgroup - 1)
      totals[simdgroup_index_in_threadgroup] = upto;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint s = 0; s < simdgroup_index_in_threadgroup; ++s) upto += totals[s];
    out[i] = upto;
"""
TRANSPOSE = """
    threadgroup float tile[16][16 + 1];
    uint2 at = uint2(thread_position_in_grid.x, thread_position_in_grid.y);
    uint2 t = uint2(thread_position_in_threadgroup.x, thread_position_in_threadgroup.y);
    tile[t.y][t.x] = in0[at.y * uint(in0_shape[1]) + at.x];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint2 to = 16 * uint2(threadgroup_position_in_grid.y, threadgroup_position_in_grid.x) + t;
    out[to.y * uint(in0_shape[0]) + to.x] = tile[t.x][t.y];
"""
HISTOGRAM = """
    threadgroup atomic_uint bins[16];
    uint t = thread_index_in_threadgroup;
    if (t < 16) atomic_store_explicit(&bins[t], 0u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    atomic_fetch_add_explicit(&bins[in0[thread_position_in_grid.x]], 1, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (t < 16) atomic_fetch_add_explicit(
        &out[t], atomic_load_explicit(&bins[t], memory_order_relaxed), memory_order_relaxed);
"""
MATMUL = """
    constexpr uint N = SIZE;
    threadgroup float a[8][8], b[8][8];
    uint3 t = thread_position_in_threadgroup;
    uint3 at = thread_position_in_grid;
    float sum = 0;
    for (uint k = 0; k < N; k += 8) {
      a[t.y][t.x] = in0[at.y * N + k + t.x];
      b[t.y][t.x] = in1[(k + t.y) * N + at.x];
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (uint j = 0; j < 8; ++j) sum = fma(a[t.y][j], b[j][t.x], sum);
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    out[at.y * N + at.x] = sum;
"""


@pytest.mark.usefixtures("either")
def test_reductions() -> None:
    x = RNG.standard_normal((5, 300), dtype=np.float32)
    tree = run(TREE, x, grid=5 * 128, group=128, shape=(5,))
    np.testing.assert_allclose(tree, x.astype(np.float64).sum(1), rtol=0, atol=1e-4)
    largest = run(SIMD, x, grid=(96, 5, 1), group=(96, 1, 1), shape=(5,))
    np.testing.assert_array_equal(largest, x.max(1))


@pytest.mark.usefixtures("either")
def test_scan_and_transpose() -> None:
    x = RNG.integers(-9, 9, 256).astype(np.float32)
    np.testing.assert_array_equal(run(SCAN, x, grid=256, group=256, shape=(256,)), np.cumsum(x))
    m = RNG.standard_normal((32, 48), dtype=np.float32)
    turned = run(TRANSPOSE, m, grid=(48, 32, 1), group=(16, 16, 1), shape=(48, 32))
    np.testing.assert_array_equal(turned, m.T)


@pytest.mark.usefixtures("either")
def test_histogram_with_a_last_group_that_is_smaller() -> None:
    x = RNG.integers(0, 16, 1000).astype(np.uint32)
    found = run(
        HISTOGRAM, x, grid=1000, group=64, shape=(16,), dtype=mx.uint32, atomic=True, init_value=0
    )
    np.testing.assert_array_equal(found, np.bincount(x, minlength=16))


@pytest.mark.usefixtures("either")
def test_matrix_product_through_tiles() -> None:
    a, b = RNG.standard_normal((2, 24, 24), dtype=np.float32)
    found = run(
        MATMUL, a, b, grid=(24, 24, 1), group=(8, 8, 1), shape=(24, 24), template=[("SIZE", 24)]
    )
    np.testing.assert_allclose(found, a.astype(np.float64) @ b, rtol=0, atol=1e-4)


ATTRIBUTES = """
    uint i = thread_position_in_grid.x + threads_per_grid.x *
        (thread_position_in_grid.y + threads_per_grid.y * thread_position_in_grid.z);
    device uint* o = out + 12 * i;
    o[0] = thread_index_in_threadgroup;
    o[1] = thread_index_in_simdgroup;
    o[2] = simdgroup_index_in_threadgroup;
    o[3] = simdgroups_per_threadgroup;
    o[4] = threads_per_threadgroup.x;
    o[5] = dispatch_threads_per_threadgroup.x;
    o[6] = threadgroups_per_grid.x;
    o[7] = threadgroup_position_in_grid.z;
    o[8] = thread_position_in_threadgroup.y;
    o[9] = threads_per_simdgroup;
    o[10] = threads_per_grid.z;
    o[11] = thread_position_in_grid.x;
"""


@pytest.mark.smoke
@pytest.mark.usefixtures("either")
def test_attributes_where_groups_do_not_divide_the_grid() -> None:
    found = run(ATTRIBUTES, grid=(11, 6, 2), group=(4, 3, 1), shape=(2, 6, 11, 12), dtype=mx.uint32)
    z, y, x = np.meshgrid(range(2), range(6), range(11), indexing="ij")
    wide = np.where(x // 4 == 2, 3, 4)
    index = x % 4 + wide * (y % 3)
    wanted = [
        index, index % 32, index // 32, 1 + 0 * x, wide, 4 + 0 * x, 3 + 0 * x, z, y % 3,
        32 + 0 * x, 2 + 0 * x, x,
    ]  # fmt: skip
    np.testing.assert_array_equal(found, np.stack(wanted, -1))


LANES = """
    uint i = thread_position_in_grid.x;
    uint lane = thread_index_in_simdgroup;
    device int* o = out + 16 * i;
    int x = in0[i];
    o[0] = simd_sum(x);
    o[1] = simd_min(x);
    o[2] = simd_prefix_exclusive_sum(x);
    o[3] = simd_shuffle(x, ushort(0));
    o[4] = simd_shuffle_down(x, ushort(1));
    o[5] = simd_shuffle_up(x, ushort(2));
    o[6] = simd_shuffle_xor(x, ushort(1));
    o[7] = simd_broadcast(x, ushort(3));
    o[8] = simd_all(x > -100);
    o[9] = simd_any(x == in0[5]);
    o[10] = int(ulong(simd_ballot(lane < 2)));
    o[11] = lane < 4 ? simd_sum(x) : 0;
    o[12] = simd_shuffle_and_fill_down(x, 7, ushort(1));
    o[13] = quad_sum(x);
    o[14] = simd_broadcast_first(x);
    o[15] = simd_is_first();
"""


@pytest.mark.usefixtures("either")
def test_lanes_that_are_there_take_part() -> None:
    x = RNG.integers(-9, 9, 40).astype(np.int32)
    found = run(LANES, x, grid=40, group=40, shape=(40, 16), dtype=mx.int32)
    for i in range(40):
        first, end = (0, 32) if i < 32 else (32, 40)
        mine, lane = x[first:end], i - first
        at = [k if k < len(mine) else lane for k in (lane + 1, lane ^ 1)]
        up = mine[lane - 2] if lane >= 2 else mine[lane]
        fill = 7 if lane + 1 == 32 else mine[at[0]]
        wanted = [
            mine.sum(), mine.min(), mine[:lane].sum(), mine[0], mine[at[0]], up, mine[at[1]],
            mine[3], 1, x[5] in mine, 3, mine[:4].sum() * (lane < 4), fill,
            mine[lane // 4 * 4 : lane // 4 * 4 + 4].sum(), mine[0], lane == 0,
        ]  # fmt: skip
        np.testing.assert_array_equal(found[i], wanted)


VECTORS = """
    uint i = thread_position_in_grid.x;
    float4 a = ((const device float4*)in0)[i];
    a.xy += a.zw * 2.0;
    a.z = dot(a, float4(1.0, 0.5, 0.25, 1.0));
    half h = 1.0h;
    h += a.w;
    a.w = h * 2 + clamp(a, 0.0, 1.0).x;
    int2 n = int2(3, 4) << 1;
    ((device float4*)out)[i] = max(a, float4(n.x)) + METAL_FUNC_twice(a.x) + pick[i];
"""
HELPERS = """#include <metal_stdlib>
using namespace metal;
constant float pick[2] = {1.0, 2.0};
METAL_FUNC float METAL_FUNC_twice(float x) { return metal::fma(x, 2.0, 0.0); }
"""


@pytest.mark.usefixtures("either")
def test_vectors_and_helpers() -> None:
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    found = run(VECTORS, x, grid=2, group=2, shape=(2, 4), header=HELPERS)
    a = x.astype(np.float64)
    a[:, :2] += 2 * a[:, 2:]
    a[:, 2] = a @ [1.0, 0.5, 0.25, 1.0]
    a[:, 3] = 2 * (1 + a[:, 3]) + np.clip(a[:, 0], 0, 1)
    wanted = np.maximum(a, 6.0) + 2 * a[:, :1] + np.array([[1.0], [2.0]])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-3)


FUNCTIONS = """
    uint i = thread_position_in_grid.x;
    uint n = as_type<uint>(in0[i]);
    device float* o = out + 6 * i;
    float c;
    o[0] = sincos(in0[i], c);
    o[1] = c;
    o[2] = smoothstep(-1.0, 1.0, in0[i]);
    o[3] = fdim(in0[i], 0.25) + ldexp(1.0, int(i) - 1);
    o[4] = float(mulhi(n, 3000000001u) >> 8);
    o[5] = float((rotate(n, 7u) ^ reverse_bits(n)) >> 8);
"""


def test_functions_of_hand_written_kernels() -> None:
    x = RNG.standard_normal(50).astype(np.float32)
    found = run(FUNCTIONS, x, grid=50, group=16, shape=(50, 6))
    n = x.view(np.uint32).astype(np.uint64)
    t = np.clip((x.astype(np.float64) + 1) / 2, 0, 1)
    turned = (n << np.uint64(7) | n >> np.uint64(25)) & np.uint64(2**32 - 1)
    back = np.array([int(f"{v:032b}"[::-1], 2) for v in n.tolist()], dtype=np.uint64)
    wanted = [
        np.sin(x.astype(np.float64)), np.cos(x.astype(np.float64)), t * t * (3 - 2 * t),
        np.maximum(x - 0.25, 0) + 2.0 ** (np.arange(50) - 1),
        (n * np.uint64(3000000001) >> np.uint64(32)) >> np.uint64(8),
        (turned ^ back) >> np.uint64(8),
    ]  # fmt: skip
    np.testing.assert_allclose(found, np.stack(wanted, -1), rtol=3e-7, atol=1e-6)


@pytest.mark.usefixtures("either")
def test_strides_reach_the_kernel() -> None:
    kernel = metal.kernel(
        name="strided",
        input_names=["x"],
        output_names=["out"],
        source="uint3 p = thread_position_in_grid;\n"
        "out[p.y * uint(x_shape[1]) + p.x] = x[p.y * x_strides[0] + long(p.x) * x_strides[1]];",
        ensure_row_contiguous=False,
    )
    x = mx.arange(60, dtype=mx.float32).reshape(10, 6)
    for view in (x.T, x[1::3, ::2], x[::-1, ::-2]):
        rows, columns = view.shape
        grid = (columns, rows, 1)
        (found,) = kernel(view, grid=grid, threadgroup=(2, 2, 1))
        np.testing.assert_array_equal(np.array(found), np.array(view))


@pytest.mark.parametrize("dtype", ["bool_", "int8", "uint16", "int64", "float16", "bfloat16"])
def test_types_templates_and_the_number_that_fills(dtype: str) -> None:
    kind = getattr(mx, dtype)
    kernel = metal.kernel(
        name="filled",
        input_names=["x"],
        output_names=["out"],
        source="uint i = thread_position_in_grid.x; if (i % EVERY == 0) out[i] = T(x[i]);",
    )
    x = mx.arange(9).astype(kind)
    (found,) = kernel(x, template=[("T", kind), ("EVERY", 3)], init_value=1)
    wanted = mx.where(mx.arange(9) % 3 == 0, x, mx.array(1).astype(kind))
    assert found.dtype == kind
    assert mx.array_equal(found, wanted)


def test_many_groups_share_the_cores_and_compile_keeps_the_kernel() -> None:
    x = mx.random.normal((400, 1000))
    kernel = metal.kernel(name="rows", input_names=["in0"], output_names=["out"], source=TREE)

    def rows(a: mx.array) -> mx.array:
        (sums,) = kernel(
            a, grid=(400 * 128, 1, 1), threadgroup=(128, 1, 1),
            output_shapes=[(400,)], output_dtypes=[mx.float32],
        )  # fmt: skip
        return sums * 2

    wanted = 2 * np.array(x).astype(np.float64).sum(1)
    for function in (rows, mx.compile(rows)):
        np.testing.assert_allclose(np.array(function(x)), wanted, rtol=0, atol=1e-3)


def test_a_text_that_does_not_compile_names_its_own_line() -> None:
    with pytest.raises(DeviceError, match=r"wrong\.body:3:.*sine") as caught:
        kernel = metal.kernel(
            name="wrong", input_names=["x"], output_names=["out"],
            source="uint i = thread_position_in_grid.x;\nfloat y = x[i];\nout[i] = sine(y);\n",
        )  # fmt: skip
        kernel(mx.zeros(3))
    assert "3 | out[i] = sine(y);" in str(caught.value)
    assert "note:" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("threadgroup float a[3][N + 1], b;", "ZMLX_THREADGROUP(float, a, [3][N + 1]); "
         "ZMLX_THREADGROUP(float, b, );"),
        ("threadgroup vec<float, 4> q[2];", "ZMLX_THREADGROUP(ZMLX_TYPE(vec<float, 4>), q, [2]);"),
        ("threadgroup\nT s[sizes[0]];", "ZMLX_THREADGROUP(T, s, [sizes[0]]);\n"),
        ("threadgroup float* p = a;", " float* p = a;"),
        ("f(threadgroup float x[32], uint y)", "f( float x[32], uint y)"),
        ("(device int*)p; thread float (&t)[3]", "( int*)p;  float (&t)[3]"),
        ("constant float& r, const constant int* s", "const float& r, const  int* s"),
        ("constant float k[] = {1.0};", "ZMLX_STATIC const float k[] = {1.0f};"),
        ("2. + .5e-3 + 1e5 + 2.5bf + 1.5h + 1.5f + 0x1p3f + 7 + v.x1",
         "2.f + .5e-3f + 1e5f + bfloat16_t(2.5f) + half(1.5f) + 1.5f + 0x1p3f + 7 + v.x1"),
        ('// threadgroup float a; 1.0\n"device 2.0"', '// threadgroup float a; 1.0\n"device 2.0"'),
        ("float* s [[threadgroup(0)]]", "float* s [[zm_threadgroup(0)]]"),
    ],
)  # fmt: skip
def test_address_spaces(text: str, wanted: str) -> None:
    assert without_address_spaces(text) == wanted
