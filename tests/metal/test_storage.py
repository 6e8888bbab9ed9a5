"""The Metal check on variables, arguments and syntax: what Metal refuses, and what it takes."""

from __future__ import annotations

import re

import pytest

from zmlx.metal_check import check_text

pytestmark = pytest.mark.usefixtures("metal_check")

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
KERNEL = (
    "[[kernel]] void k(device float* out [[buffer(0)]], constant float* c [[buffer(1)]],\n"
    "    device atomic_uint* u [[buffer(2)]], uint i [[thread_position_in_grid]]) {{\n{}\n}}\n"
)
PAIR = "struct pair { float a; int b; };\n"
# Helpers, the kernel's body, words of the message.
REFUSED = {
    "mutable global": ("float total = 0;\n", "out[i] = total;", "constant address space"),
    "const global": ("const float t = 0;\n", "out[i] = t;", "constant address space"),
    "constexpr global": ("constexpr float t = 0;\n", "out[i] = t;", "constant address space"),
    "global array": ("float t[4];\n", "out[i] = t[0];", "constant address space"),
    "in a namespace": ("namespace a { int n = 0; }\n", "out[i] = a::n;", "constant address space"),
    "static local": ("", "static int n = 0; out[i] = n;", "no static variables"),
    "static const local": ("", "static const int n[1] = {0}; out[i] = n[0];", "no static"),
    "threadgroup in a helper": (
        "float h(uint i) { threadgroup float s[4]; s[i] = 1; return s[0]; }\n",
        "out[i] = h(i);", "only a kernel"),
    "threadgroup with values": (
        "", "threadgroup float s[2] = {0, 1}; out[i] = s[i];", "no initial value"),
    "threadgroup with a value": ("", "threadgroup float s = 0; out[i] = s;", "no initial value"),
    "atomic half": ("void f(device atomic<half>* h) {}\n", "out[i] = 1;", "no atomic<half>"),
    "atomic long": ("void f(device atomic<long>* h) {}\n", "out[i] = 1;", "no atomic<long>"),
    "atomic short": ("", "threadgroup atomic<short> n; out[i] = 1;", "no atomic<short>"),
    "fetch_max of float": (
        "void f(device atomic_float* h) "
        "{ atomic_fetch_max_explicit(h, 1.0f, memory_order_relaxed); }\n",
        "out[i] = 1;", "has no max|no matching function"),
    "orders of atomics": (
        "", "atomic_fetch_add_explicit(u, 1u, memory_order_acq_rel); out[i] = 1;",
        "take memory_order_relaxed, not memory_order_acq_rel"),
    "long long": ("", "long long n = 1; out[i] = n;", "no 'long long'"),
    "variadic": ("float f(int n, ...) { return n; }\n", "out[i] = 1;", "no variadic"),
    "simd_and of floats": ("", "out[i] = simd_and(1.0f);", "for integers|no matching function"),
    "write to constant": ("", "c[0] = 1; out[i] = 1;", "constant cannot be written"),
    "add to constant": ("", "c[i] += 1; out[i] = 1;", "constant cannot be written"),
    "count in constant": ("", "c[i]++; out[i] = 1;", "constant cannot be written"),
    "write to a table": ("constant int t[2] = {1, 2};\n", "t[0] = 1; out[i] = 1;", "constant"),
    "uninitialised": ("", "float s; for (int k = 0; k < 3; ++k) s += 1; out[i] = s;", "uninitial"),
    "second pointer": ("", "device float *p = out; float *q = p; out[i] = *q;", "space|init"),
    "same method twice": (
        "struct S { float f() const { return 1; } float f() const { return 2; } };\n",
        "out[i] = 1;", "redeclared"),
}  # fmt: skip
TAKEN = {
    "tables": ("constant float a[2] = {0, 1};\nconstexpr constant int b[2] = {1, 2};\n"
               "static constant constexpr const int d = 3;\n", "out[i] = a[i] + b[i] + d;"),
    "local constants": ("", "constexpr int n = 3; const float t[2] = {1, 2}; out[i] = n + t[0];"),
    "threadgroup atomics": ("", "threadgroup atomic_uint n, m[4];\n"
                            "atomic_store_explicit(&m[i], 0u, memory_order_relaxed); out[i] = 1;"),
    "threadgroup structs": (PAIR, "threadgroup pair s[4]; threadgroup pair one; s[i].a = 1;\n"
                            "pair p = s[i]; one = p; s[i] = pair{1, 2}; s[i] = s[0];\n"
                            "out[i] = p.a + one.b;"),
    "local structs": ("", PAIR + "threadgroup pair s[4]; s[i].a = 1; out[i] = s[i].a;"),
    "several threadgroup arrays": ("", "threadgroup float a[4], b[8]; a[i] = b[i] = 1;"),
    "volatile": ("", "volatile threadgroup float a[4]; threadgroup volatile int b[2];\n"
                 "a[i] = 1; b[i] = 2; out[i] = a[i] + b[i];"),
    "threadgroup pointers": ("", "threadgroup float s[4]; threadgroup float* p = s;\n"
                             "threadgroup const float* const q = s; threadgroup float& r = s[i];\n"
                             "r = 1; p[i] = 2; out[i] = q[i];"),
    "casts of vectors": ("", "half4 h = half4(1); float4 f = (float4)h; int4 n = (int4)f;\n"
                         "float2 g = (float2)(h.xy) * 2; out[i] = f.x + g.y + ((float4)h).z;"),
    "several declarators": ("", "device float *p = out, *r = out + 1; out[i] = *p + *r;"),
    "later syntax": ("", "if constexpr (true) { out[i] = 0x1.8p3f; } else { out[i] = 2; }"),
    "methods of spaces": (
        "struct S { float a; float f() const { return a; } float f() const device { return a; }\n"
        "  void set(float v) threadgroup { a = v; } };\n",
        "threadgroup S s[4]; s[i].set(3); out[i] = s[i].a;"),
    "constant references": ("float half_of(float v, constant float& s) { return v * s; }\n"
                            "float twice(constant float& s) { return half_of(4, s); }\n",
                            "out[i] = twice(c[0]); constant float* p = c; p += 1; out[i] += *p;"),
    "switch": ("", "float s; switch (i) { case 0: s = 1; break; default: s = 2; } out[i] = s;"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_metal_refuses(name: str) -> None:
    header, body, words = REFUSED[name]
    text = HEAD + header + KERNEL.format(body)
    told = [d for d in check_text(text) if d.severity != "warning"]
    assert any(re.search(words, d.message) for d in told), [str(d) for d in told]


@pytest.mark.parametrize("name", TAKEN)
def test_what_metal_takes(name: str) -> None:
    header, body = TAKEN[name]
    found = check_text(HEAD + header + KERNEL.format(body))
    assert not [d for d in found if d.severity != "warning"], [str(d) for d in found]


def test_two_kernels_of_a_text_have_their_own_arrays() -> None:
    one = KERNEL.format("threadgroup float s[4]; s[i] = 1; out[i] = s[i];")
    other = one.replace("void k", "void other").replace("float s[4]", "int s[8]")
    assert not check_text(HEAD + one + other)
