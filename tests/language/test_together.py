"""What vectors, matrices, lanes and other parts of Metal's language give on the host: values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from zmlx import metal

# Statements that end in values of `v`, with what those are.
ALONE: dict[str, Sequence[float]] = {
    "v = {sizeof(float2), sizeof(float3), sizeof(half2), sizeof(uchar3), sizeof(bool2)};":
        [8, 16, 4, 4, 2],
    "v = {sizeof(packed_float3), sizeof(packed_half2), sizeof(ulong3), sizeof(float3x3)};":
        [12, 4, 32, 48],
    "float4 a(1, 2, 3, 4); auto p = a.xz; v = {p.y, a.wzyx.x, a.xxxx.w, a.wzyx.xy.y, a.bgra.r};":
        [3, 4, 1, 3, 3],
    "float4 a(1, 2, 3, 4); a.yx = a.zw; v = {a.x, a.y}; a.zw *= 2.0f; v[2] = a.w; a.xy = a.xy.yx;"
    " v[3] = a.x; a.xyz += float3(1); v[4] = a.z;": [4, 3, 8, 3, 7],
    "float2 a(1, 2); float4 b(a, 5, 6), c(7, a, 8), d(a, a); v = {b.z, c.y, c.w, d.w};":
        [5, 1, 8, 2],
    "int4 a(7, -7, 5, 1); a %= 4; uint2 b = uint2(1, 2) << uint2(3, 4); v = {a.x, a.y, b.x, b.y};":
        [3, -3, 8, 32],
    "float3 a = float3(1, 5, 3); bool3 b = a > 2.0f; v = {any(b), all(b), select(a, -a, b).y,"
    " all(b || !b), any(b && !b)};": [1, 0, -5, 1, 0],
    "v = {cross(float3(1, 0, 0), float3(0, 1, 0)).z, distance(float2(0), float2(3, 4)),"
    " length_squared(float4(1, 2, 3, 4)), reflect(float2(1, -1), float2(0, 1)).y,"
    " normalize(float2(0, 5)).y};": [1, 5, 30, 1, 1],
    "v = {refract(float2(0, -1), float2(0, 1), 0.5f).y, faceforward(float2(1), float2(1),"
    " float2(1)).x, dot(half3(1, 2, 3), half3(4, 5, 6))};": [-1, -1, 32],
    "float2x2 m(1, 2, 3, 4); float2 a = m * float2(1, 10), b = float2(1, 10) * m;"
    " v = {a.x, a.y, b.x, b.y, determinant(m)};": [31, 42, 21, 43, -2],
    "float3x2 m(float2(1, 2), float2(3, 4), float2(5, 6)); float2x3 t = transpose(m);"
    " v = {t[1][2], (m * t)[0][1], (t * m)[2][0], (m * 2.0f)[2].y, (m + m)[1].x};":
        [6, 44, 17, 12, 6],
    "float4x4 m(2.0f); m[3] = float4(1, 2, 3, 4); m[1][3] = 5; float3x3 n(2, 0, 1, 1, 3, 2, 1, 1,"
    " 1); v = {determinant(m), determinant(n), float4x4(half4x4(half(3)))[2][2]};": [-8, 0, 3],
    "v = {float(pack_float_to_unorm4x8(float4(0, 1, 0.5f, 2)) >> 8 & 0xffffff),"
    " float(pack_float_to_snorm2x16(float2(-1, 0)) & 0xffff), unpack_snorm4x8_to_float(0x7f81)[0],"
    " unpack_unorm2x16_to_float(0xffff0000u).y, unpack_unorm10a2_to_float(0xc0000000u).w};":
        [0xFF80FF, 0x8001, -1, 1, 1],
    "int e; float w; float f = frexp(-12.0f, e); v = {f, e, modf(-2.75f, w), w, ilogb(0.3f)};":
        [-0.75, 4, -0.75, -2, -2],
    "int2 e; half2 w; half2 f = frexp(half2(12, 1), e), m = modf(half2(1.5f, -2.25f), w);"
    " v = {f.x, e.x, m.y, w.y, ldexp(half2(3), int2(2)).x};": [0.75, 4, -0.25, -2, 12],
    "half h = 2.0h; bool c = v[0] == 0; float f = 0.1f; v = {c ? h : 0, c ? h : f, c ? f : h,"
    " sizeof(c ? h : 1), sizeof(c ? 1.0f : h)};": [2, 2, 0.1, 2, 4],
    "half h = 65504.0h; h += 0.5f; ++h; bfloat b = bfloat(1.0f); b = b + 2; v = {h, b,"
    " h == HALF_MAX, M_PI_2_F, float(SHRT_MAX)};": [65504, 3, 1, 1.5707964, 32767],
    "constexpr float2 k(1, 2); constexpr half h = half(0.5f); if constexpr (sizeof(h) == 2) {"
    " v = {k.y, h, numeric_limits<half>::max(), numeric_limits<uchar>::max()}; }":
        [2, 0.5, 65504, 255],
    "array<int, 3> a = {{1, 2, 3}}; int s = 0; for (int x : a) s += x; v = {s, a.size(),"
    " is_same_v<conditional_t<true, int, float>, int>, is_unsigned_v<make_unsigned_t<short>>};":
        [6, 3, 1, 1],
    "packed_float3 p(1, 2, 3); float3 q = p; p = q * 2.0f; p.xy = q.yz; p += q;"
    " v = {p.x, p.y, p.z};":
        [3, 5, 9],
    "v = {as_type<half2>(0x40003c00u).y, as_type<uint2>(0x500000003ul).y,"
    " float(as_type<uint>(as_type<uchar4>(7u)))};": [2, 5, 7],
    "complex64_t z = complex64_t(1, 2) * complex64_t(3, 4); v = {z.real, z.imag, ceildiv(7, 2),"
    " hypot(3.0f, 4.0f), Limits<int>::max == INT_MAX};": [-5, 10, 4, 5, 1],
    "v = {sinpi(0.5f), cospi(float2(1.0f)).y, max3(1, 5, 3), median3(4.0f, 9.0f, 7.0f), fmin3(2.0f,"
    " NAN, 3.0f)};": [1, -1, 5, 7, 2],
    "v = {isnan(float2(NAN, 1)).x, isinf(half2(1, INFINITY)).y, signbit(float2(-0.0f)).x,"
    " isnormal(half(1e-5f)), isunordered(1.0f, NAN)};": [1, 1, 1, 0, 1],
}  # fmt: skip


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.usefixtures("quick_compiler", "host_device")
def test_values(exact: bool) -> None:
    lines = "".join(
        f"{{ array<float, 5> v = {{}}; {text.replace('v = {', 'v = array<float, 5>{')}\n"
        f"  for (int j = 0; j < 5; ++j) out[{5 * n} + j] = v[j]; }}\n"
        for n, text in enumerate(ALONE)
    )
    found = run(lines, 5 * len(ALONE), exact=exact).reshape(-1, 5)
    for (text, wanted), got in zip(ALONE.items(), found, strict=True):
        np.testing.assert_allclose(got[: len(wanted)], wanted, rtol=2e-7, err_msg=text)


def run(source: str, size: int, threads: int = 1, exact: bool = False) -> np.ndarray:
    """The `size` outputs of one group of threads."""
    made = metal.kernel(
        name="language", input_names=["x"], output_names=["out"], source=source,
    )  # fmt: skip
    made.spec = replace(made.spec, exact=exact)
    (out,) = made(
        mx.arange(64, dtype=mx.float32), grid=(threads, 1, 1), threadgroup=(threads, 1, 1),
        output_shapes=[(size,)], output_dtypes=[mx.float32],
    )  # fmt: skip
    return np.array(out)


LANE = np.arange(32)
QUAD = LANE // 4 * 4
# Of each lane's number (1 on), with what every lane gets.
LANES: dict[str, np.ndarray] = {
    "simd_shuffle_and_fill_down(a, -a, 3)": np.where(
        LANE + 3 < 32, LANE + 4, -((LANE + 3) % 32 + 1)),
    "simd_shuffle_and_fill_up(a, -a, 3)": np.where(LANE >= 3, LANE - 2, -((LANE - 3) % 32 + 1)),
    "simd_shuffle_and_fill_down(a, -a, 3, 8)": np.where(
        LANE % 8 + 3 < 8, LANE + 4, -(LANE // 8 * 8 + (LANE % 8 + 3) % 8 + 1)),
    "simd_shuffle_and_fill_up(a, -a, 3, 8)": np.where(
        LANE % 8 >= 3, LANE - 2, -(LANE // 8 * 8 + (LANE % 8 - 3) % 8 + 1)),
    "quad_broadcast(a, 2)": QUAD + 3,
    "quad_broadcast_first(a)": QUAD + 1,
    "quad_shuffle(a, 3)": QUAD + 4,
    "quad_shuffle_xor(a, 1)": (LANE ^ 1) + 1,
    "quad_shuffle_rotate_down(a, 1)": QUAD + (LANE + 1) % 4 + 1,
    "quad_shuffle_rotate_up(a, 1)": QUAD + (LANE - 1) % 4 + 1,
    "quad_shuffle_and_fill_down(a, -a, 2)": np.where(
        LANE % 4 < 2, LANE + 3, -(QUAD + (LANE + 2) % 4 + 1)),
    "quad_shuffle_and_fill_up(a, -a, 1)": np.where(
        LANE % 4 >= 1, LANE, -(QUAD + (LANE - 1) % 4 + 1)),
    "quad_prefix_inclusive_sum(a)": (LANE + 1) * (LANE + 2) // 2 - QUAD * (QUAD + 1) // 2,
    "quad_prefix_exclusive_sum(a)": LANE * (LANE + 1) // 2 - QUAD * (QUAD + 1) // 2,
    "quad_sum(a)": 4 * QUAD + 10,
    "simd_max(half2(half(a), half(-a))).y": -1 + 0 * LANE,
    "simd_max(i == 3 ? half(NAN) : half(a))": 32 + 0 * LANE,
    "float(uint(quad_vote::vote_t(quad_ballot(i % 4 == 1))))": 2 + 0 * LANE,
    "float(quad_any(i == 5))": (QUAD == 4) * 1,
    "float(quad_all(i < 8))": (QUAD < 8) * 1,
    "float(quad_is_first())": (LANE % 4 == 0) * 1,
    "float(simd_ballot(i < 3).any()) + 2 * float(simd_ballot(i < 3).all())": 1 + 0 * LANE,
    "float(simd_sum(long(1) << 40) >> 40)": 32 + 0 * LANE,
}  # fmt: skip


@pytest.mark.usefixtures("quick_compiler", "host_device")
def test_values_of_lanes() -> None:
    lines = "".join(f"out[{32 * n} + i] = float({text});\n" for n, text in enumerate(LANES))
    found = run(f"uint i = thread_index_in_simdgroup; float a = x[i] + 1;\n{lines}",
                32 * len(LANES), 32).reshape(-1, 32)  # fmt: skip
    for (text, wanted), got in zip(LANES.items(), found, strict=True):
        np.testing.assert_array_equal(got, wanted, err_msg=text)


TILES = """
threadgroup float s[128];
uint i = thread_index_in_simdgroup;
for (uint k = i; k < 128; k += 32) s[k] = float((k * 7) % 11) - 3.0f;
threadgroup_barrier(mem_flags::mem_threadgroup);
simdgroup_matrix<T, 8, 8> a, b;
simdgroup_float8x8 c = make_filled_simdgroup_matrix<float, 8, 8>(0.5f), d;
simdgroup_load(a, s, 16);
simdgroup_load(b, s, 16, ulong2(8, 0), true);
simdgroup_multiply_accumulate(d, a, b, c);
simdgroup_store(d, out, 8);
simdgroup_float8x8 two(2.0f);
simdgroup_multiply(d, d, two);
simdgroup_store(d, out + 64, 8, ulong2(0), true);
simdgroup_half8x8 e = make_diagonal_simdgroup_matrix<half, 8, 8>(half(3));
simdgroup_store(e, out + 128, 8);
"""


@pytest.mark.parametrize("kind", ["float", "half", "bfloat"])
@pytest.mark.usefixtures("quick_compiler", "host_device")
def test_matrices_of_a_simdgroup(kind: str) -> None:
    found = run(TILES.replace("<T,", f"<{kind},"), 192, 32).reshape(3, 8, 8)
    s = ((np.arange(128) * 7) % 11 - 3.0).reshape(8, 16)
    wanted = s[:, :8] @ s[:, 8:].T + 0.5
    np.testing.assert_array_equal(found[0], wanted)
    np.testing.assert_array_equal(found[1], 2 * wanted.T)
    np.testing.assert_array_equal(found[2], 3 * np.eye(8))


SPACES = """
#define TWICE(x) ((x) * 2)
inline float first(const device float* p, uint n) { return p[n]; }
inline float first(const threadgroup float* p, uint n) {
  return p[n];  // the same words
}
inline float first(const constant float* p, uint n) { return p[n]; }
template <typename T> inline T none(T x) { return x; }
"""


@pytest.mark.usefixtures("quick_compiler", "host_device")
def test_functions_for_each_address_space_are_one() -> None:
    made = metal.kernel(
        name="language_spaces", input_names=["x"], output_names=["out"], header=SPACES,
        source="threadgroup float s[2]; s[0] = TWICE(7.0f); threadgroup_barrier(mem_flags::"
        "mem_threadgroup); out[0] = first(x, 3) + first(s, 0) + none(1.0f);",
    )  # fmt: skip
    (out,) = made(
        mx.arange(64, dtype=mx.float32), grid=(1, 1, 1), threadgroup=(1, 1, 1),
        output_shapes=[(1,)], output_dtypes=[mx.float32],
    )  # fmt: skip
    assert out.item() == 18
    assert made.spec.header.count("first") == 3
