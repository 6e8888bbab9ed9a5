"""Vectors as Metal has them, where clang's are poorer: what is taken, and what is still refused."""

from __future__ import annotations

import re

import pytest

from zmlx.metal_check import Diagnostic, check_text

HEADER = """\
constexpr constant float4 L = float4(1, 2, 3, 4);
constant float3 TABLE[2] = {float3(1, 2, 3), {4, 5, 6}};
template <typename T> vec<T, 4> four(T a) { return vec<T, 4>(a, a, a, a); }
template <typename T, int N> vec<bool, N> positive(vec<T, N> v) { return v > vec<T, N>(T(0)); }
template <typename T> T twice(T a) { T b(a); b++; return b * T(2); }
inline bool both(bool2 b) { return b.x && b.y; }
inline bool2 two(float2 v) { return v > 1; }
struct P { float4 a; packed_float3 b; float c; };
static_assert(sizeof(P) == 32, "size");
static_assert(numeric_limits<int>::max() == 2147483647 && numeric_limits<uchar>::max() == 255, "");
static_assert(numeric_limits<half>::max() == 65504.0h && numeric_limits<long>::min() < 0, "");
"""
TAKEN = (
    "bool2 a = bool2(true), b = a; bool2 c = a && b || !a; out[i] = c.x;",
    "bool4 a = float4(1) < float4(2); a.xy = bool2(true); out[i] = a.w ? 1 : 0;",
    "bool3 c = (float3(x[i]) > 0.0f) && (float3(x[i]) < 1.0f); out[i] = all(c);",
    "bool2 g = isnan(float2(1)) || (float2(1) > 0); bool2 h = !g; out[i] = (g == h).x;",
    "out[i] = both(two(float2(1))) && both(float2(1) > 2) && all(positive(half3(1)));",
    "float4 v(1, 2, 3, 4); float3 w(v.xyz); float4 z(v.xy, float2(1)); out[i] = z.x + w.y;",
    "const half4 v(1, 2, 3, 4), w(5, 6, 7, 8); out[i] = v.x + w.y;",
    "packed_float3 p(1, 2, 3); float3 v = p; p = v * 2.0f; p.xy = v.yz; out[i] = p[2];",
    "vec<float, 3> v = vec<float, 3>(1, 2, 3); vec<half, 2> h(1, 2); out[i] = v.x + h.y;",
    "using T4 = vec<float, 4>; T4 q = T4(1, 2, 3, 4); T4 r(1, 2, 3, 4); out[i] = q.y + r.z;",
    "float4 v = four<float>(x[i]); v++; --v; int2 j = int2(1); ++j; out[i] = twice(v).x + j.x;",
    'constexpr int2 n = int2(3, 4); static_assert(n.x == 3, "n"); float a[n.y]; a[0] = 1;'
    " out[i] = a[0] + L.w + TABLE[i & 1].y;",
    "P p; p.a = float4(1); p.b = packed_float3(1, 2, 3); out[i] = p.b.x + p.b[2];",
    "float3 f(float3 a); float2x2 m(1, 2, 3, 4); out[i] = m[1].x;",
)
REFUSED = (  # a text, words of what is said
    ("float4 v(1, 2, 3); out[i] = v.x;", "no matching function"),
    ("float3 v = vec<float, 3>(1, 2); out[i] = v.x;", "no matching function"),
    ("float f(1, 2); out[i] = f;", "excess elements"),
    ("out[i] = float(1, 2);", "excess elements"),
    ("float2 v = float2(1); float3 w = v; out[i] = w.x;", "cannot initialize"),
    ("int4 a = int4(1); bool4 b = a; out[i] = b[0];", "cannot initialize"),
    ("bool2 b = bool2(true); b++; out[i] = b[0];", "cannot increment"),
    ("float2 v = float2(1); out[i] = v.z;", "exceeds"),
    ("float4 v = float4(1); out[i] = v.xg;", "illegal vector component"),
    ("float4 v = float4(1); if (v < 1) out[i] = 1;", "not contextually convertible"),
    ("float4 v = float4(1); out[i] = (v < 2 ? v : v * 2).x;", "select"),
    ("float4 v = float4(1); v.xx = float2(1); out[i] = v.x;", "not assignable"),
    ("float4 v = float4(1); half4 w = v; out[i] = w.x;", "cannot initialize"),
    ('static_assert(sizeof(float3) == 12, "no"); out[i] = 1;', "static assertion failed"),
    ('static_assert(numeric_limits<int>::max() == 1, "no"); out[i] = 1;', "static assertion"),
    ("uint n = i; float a[n]; a[0] = 1; out[i] = a[0];", "variable length"),
)


def said(body: str, header: str) -> list[Diagnostic]:
    return check_text(
        f"{header}[[kernel]] void k(device float* out [[buffer(0)]], const device float* x "
        f"[[buffer(1)]], uint i [[thread_position_in_grid]]) {{\n{body}\n}}\n"
    )


def test_what_metals_vectors_can_is_taken() -> None:
    bodies = "\n".join(f"{{ {text} }}" for text in TAKEN)
    assert not [str(d) for d in said(bodies, HEADER)]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_they_cannot_is_refused(text: str, words: str) -> None:
    found = said(text, "")
    assert len(found) == 1 and re.search(words, found[0].message), list(map(str, found))
