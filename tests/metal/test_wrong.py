"""Wrong kernels, each caught for the right reason at the right line; and right ones, which pass."""

from __future__ import annotations

import re

import mlx.core as mx
import pytest
from metal_cases import findings, kernel, raw_kernel

from zmlx.metal_check import Diagnostic, check, check_function, check_text, metal_text
from zmlx.metal_check.front_end import UTILS

F16, BF16 = "float16", "bfloat16"
INTO_BFLOAT = "assigning to '.*bfloat'.* from incompatible type"
HELPER = "inline float first(const device float* p) { return p[0]; }\n"
ODD = "inline int even(int n);\ninline int odd(int n) { return n ? even(n - 1) : 0; }\n"
ODD += "inline int even(int n) { return n ? odd(n - 1) : 1; }\n"

# name: (the wrong line, words of the message, what else the kernel has)
WRONG = {
    "double literal": ("out0[0] = in0[0] * 0.5;", "a double elsewhere; write 0.5f", {}),
    "double literal with exponent": ("out0[0] = in0[0] * 1e-3;", "write 1e-3f", {}),
    "double": ("const double x = in0[0];", "'double' does not exist", {}),
    "float to bfloat": ("out0[0] = in0[0];", INTO_BFLOAT, {"output": BF16}),
    "1.0f to bfloat": ("out0[0] = 1.0f;", INTO_BFLOAT, {"output": BF16}),
    "0.5 to bfloat": ("out0[0] = 0.5;", INTO_BFLOAT, {"output": BF16}),
    "integer to bfloat": ("out0[0] = in0_shape[0];", INTO_BFLOAT, {"output": BF16}),
    "start a bfloat with 0": ("bfloat16_t sum = 0; out0[0] = sum;", "of type 'int'", {}),
    "half to bfloat": (
        "out0[0] = in0[0];", INTO_BFLOAT, {"inputs": (F16,), "output": BF16},
    ),
    "initialise a bfloat": (
        "const bfloat16_t x = in0[0] * 2.0f;", "cannot initialize a variable of type",
        {"inputs": (BF16,)},
    ),
    "bfloat to half": (
        "const half h = in0[0];", "implicit conversion from 'bfloat' to 'half'",
        {"inputs": (BF16,)},
    ),
    "store bfloat as half": (
        "out0[0] = in0[0];", "implicit conversion from 'bfloat' to 'half'",
        {"inputs": (BF16,), "output": F16},
    ),
    "bfloat plus half": (
        "out0[0] = float(in0[0] + in1[0]);", "overload resolution selected deleted operator",
        {"inputs": (BF16, F16)},
    ),
    "result of a float function": (
        "out0[0] = metal::fma(float(in0[0]), 2.0f, 1.0f);", INTO_BFLOAT,
        {"inputs": (BF16,), "output": BF16},
    ),
    "bits of a bfloat": (
        "out0[0] = float(in0[0] & in0[1]);", "selected deleted operator", {"inputs": (BF16,)},
    ),
    "missing cast": ("out0[0] = metal::fma(in0[0], half(2.0f), 1.0f);", "ambiguous", {}),
    "device to thread": ("const thread float* p = in0;", "cannot initialize a variable", {}),
    "small input as device": (
        "const device float* p = in0;", "cannot initialize a variable", {"size": 4},
    ),
    "small input to a device helper": (
        "out0[0] = first(in0);", "no matching function", {"header": HELPER, "size": 4},
    ),
    "large input as constant": ("const constant float* p = in0;", "cannot initialize", {}),
    "threadgroup as device": (
        "threadgroup float t[4]; device float* p = t;", "cannot initialize a variable", {},
    ),
    "no address space": ("const float* p = nullptr;", "'p': a pointer or ref.* address space", {}),
    "expm1": ("out0[0] = metal::expm1(in0[0]);", "no member named 'expm1'", {}),
    "precise erf": ("out0[0] = metal::precise::erf(1.0f);", "no member named 'erf'", {}),
    "erf": ("out0[0] = erf(in0[0]);", "undeclared identifier 'erf'", {}),
    "a size that is not there": ("out0[0] = in0_size;", "undeclared identifier", {}),
    "an input's name with a typo": ("out0[0] = inn0[0];", "undeclared identifier 'inn0'", {}),
    "std": ("out0[0] = std::exp(in0[0]);", "undeclared identifier 'std'", {}),
    "structured binding": ("int2 v = {1, 2}; auto [a, b] = v;", "C\\+\\+17", {}),
    "static_assert without words": ("static_assert(ELEMS > 2);", "C\\+\\+17", {}),
    "write to an input": ("in0[0] = 1.0f;", "read-only|const-qualified", {}),
    "integer overloads": ("out0[0] = metal::exp(int(in0[0]));", "ambiguous", {}),
    "float remainder": ("out0[0] = in0[0] % 2.0f;", "invalid operands", {}),
    "as_type of another size": ("out0[0] = as_type<half>(in0[0]);", "no matching function", {}),
    "64 bits over a simdgroup": (
        "out0[0] = metal::simd_sum(in0[0]);", "no matching function", {"inputs": ("int64",)},
    ),
    "atomic on a number": (
        "atomic_fetch_add_explicit(out0, 1.0f, memory_order_relaxed);", "no matching function", {},
    ),
    "goto": ("goto end; end: out0[0] = 1.0f;", "'goto' does not exist", {}),
    "new": ("thread float* p = new float;", "'new' does not exist", {}),
    "throw": ("throw 1;", "'throw' does not exist", {}),
    "variable length": ("float t[in0_shape[0]]; t[0] = 1.0f;", "variable length arrays", {}),
    "semicolon": ("out0[0] = in0[0]", "expected ';'", {}),
    "only when instantiated": ('static_assert(ELEMS == 3, "three");', "static.*three", {}),
    "type of an instance": ("out0[0] = typename INDEX::none(1);", "cannot be used prior", {}),
    "parts of a vector": ("float4 v = float4(in0[0], 1.0f);", "no matching function", {}),
    "threadgroup memory": (
        "threadgroup float t[9000]; t[0] = 1.0f;", "36000 bytes of threadgroup memory", {},
    ),
    "threadgroup memory by template": (
        "threadgroup uint2 t[ELEMS * 1025]; t[0] = 1u;", "32800 bytes of threadgroup", {},
    ),
    "too few arguments": ("out0[0] = metal::pow(in0[0]);", "no matching function", {}),
}  # fmt: skip

# name: (header, the wrong line of it, words of the message)
WRONG_HEADERS = {
    "thread attribute": (
        "inline uint lane() {\n  return thread_index_in_simdgroup;\n}\n",
        "return thread_index_in_simdgroup;", "undeclared identifier 'thread_index_in_simdgroup'",
    ),
    "include": ("#include <cmath>\n", "#include <cmath>", "'cmath' file not found"),
    "recursion": (
        "inline int f(int n) { return n ? f(n - 1) : 1; }\n", "inline int f(int n)", "calls itself"
    ),
    "recursion of two": (ODD, "inline int odd(int n)", "calls itself"),
    "recursion of a template": (
        "template <typename T>\ninline T f(T n) { return n ? f(T(n - 1)) : T(1); }\n",
        "inline T f(T n)", "calls itself",
    ),
    "function pointer": (
        "inline float f(float (*g)(float)) { return g(1.0f); }\n", "inline float f",
        "no function pointers",
    ),
    "virtual": ("struct S {\n  virtual int f();\n};\n", "virtual int f();", "'virtual' does not"),
    "reference": ("inline void f(float& x) { x = 1.0f; }\n", "inline void f", "an address space"),
    "pointer in a struct": ("struct S {\n  float* p;\n};\n", "float* p;", "'p': a pointer or ref"),
    "typedef of a pointer": ("typedef float* bare;\n", "typedef float* bare;", "'bare': a pointer"),
    "alias of a pointer": ("using bare = float*;\n", "using bare = float*;", "'bare': a pointer"),
    "pointer of a template": (
        "template <typename T>\ninline T f(T* p) { return p[0]; }\n", "inline T f(T* p)",
        "'p': a pointer or reference needs",
    ),
    "no return type": ("inline f(float x) { return x; }\n", "inline f", "a type specifier"),
    "initial value": ("constant bfloat limit = 1.0f;\n", "constant bfloat limit", "initialize"),
}  # fmt: skip


def matching(name: str, found: list[Diagnostic], line: str, words: str) -> None:
    said = [d for d in found if re.search(words, d.message)]
    assert said, [str(d) for d in found]
    milder = re.search("integer to|literal|start a", name) is not None
    assert (said[0].severity == "warning") == milder, str(said[0])
    assert said[0].source.startswith(line), str(said[0])


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line_is_found(name: str) -> None:
    line, words, rest = WRONG[name]
    found = findings(f"uint i = thread_position_in_grid.x;\n{line}\nout0[i] = out0[0];\n", **rest)
    matching(name, found, line, words)


@pytest.mark.parametrize("name", WRONG_HEADERS)
def test_a_wrong_header_is_found(name: str) -> None:
    header, line, words = WRONG_HEADERS[name]
    matching(name, findings("out0[0] = in0[0];\n", header), line, words)


def test_more_buffers_than_metal_has() -> None:
    found = findings("out0[0] = in0[0];\n", inputs=("float32",) * 32)
    assert [d.message for d in found] == [
        "buffer 31: Metal has 31, numbered from 0",
        "buffer 32: Metal has 31, numbered from 0",
    ]
    assert found[0].source == "const device float* in31 [[buffer(31)]],"
    assert findings("out0[0] = in0[0];\n", inputs=("float32",) * 30) == []


def test_a_number_cannot_be_indexed() -> None:
    """MLX passes an array of rank 0 as a reference."""
    wrong, right = raw_kernel("y[0] = x[0];\n"), raw_kernel("y[0] = x;\n")
    (found,) = check_function(wrong, [mx.array(2.0)])
    assert "subscripted value is not an array" in found.message and found.source == "y[0] = x[0];"
    assert check_function(right, [mx.array(2.0)]) == []
    assert check_function(wrong, [mx.ones(4)]) == []


def test_both_address_spaces_are_tried_without_arrays() -> None:
    for space in ("device", "constant"):
        source = kernel(f"const {space} float* p = in0;\nout0[0] = p[0];\n")
        (found,) = check(source)
        assert "cannot initialize" in found.message
    assert check(source, (4,)) == [] and check(source, (16,)) == [found]


RIGHT = {
    "a reduction": (
        """
// one for each simdgroup
threadgroup float sums[32];
const uint lane = thread_index_in_simdgroup, group = simdgroup_index_in_threadgroup;
const float part = metal::simd_sum(in0[thread_position_in_grid.x]);
if (lane == 0) { sums[group] = part; }
threadgroup_barrier(metal::mem_flags::mem_threadgroup);
float total = simd_shuffle_xor(sums[lane], ushort(1)) + simd_max(part);
out0[0] = total;
""",
        "", ("float32",), "float32",
    ),
    "bfloat": (
        """
const float wide = in0[0];
bfloat16_t x = in0[0];
x = x * in0[1] + bfloat16_t(1.0f);
x += bfloat16_t(0.5bf);
x = metal::exp(x);
const half narrow = half(x) + static_cast<half>(in0[0]) + (half)x;
const float mixed = x * 2.0f + narrow;
out0[0] = (x < in0[1] && x == in0[0]) ? bfloat16_t(mixed + wide) : -x;
""",
        "", ("bfloat16",), "bfloat16",
    ),
    "half": (
        "half h = in0[0];\nh = h * 2.0h;\nh = in0[0] * 2.0f;\nh = metal::sqrt(h);\nout0[0] = h;\n",
        "", ("float16",), "float16",
    ),
    "vectors": (
        """
const float4 v = float4(float2(in0[0]), float2(1.0f, 2.0f));
float4 w = metal::fma(v, v, metal::clamp(v, 0.0f * v, v));
w.xy = v.zw;
out0[0] = metal::dot(w, v) + as_type<float>(as_type<uint>(w.x));
""",
        "", ("float32",), "float32",
    ),
    "atomics": (
        "device atomic_uint* a = (device atomic_uint*)out0;\n"
        "atomic_fetch_add_explicit(a, 1u, memory_order_relaxed);\n",
        "", ("uint32",), "uint32",
    ),
    "helpers": (
        "thread float x = in0[0];\ntwice(x);\nout0[0] = get(out0, 1) + x;\n"
        "out0[1] = table[1] + f(f(1.0f));\n",
        "constant float table[2] = {1.0f, 2.0f};\n"
        "inline void twice(thread float& x) { x = x + x; }\n"
        "template <typename T>\ninline T get(device T* p, int i) { return p[i]; }\n"
        "inline float f(float x) { return x; }\n"
        "inline half f(half x) { return half(f(float(x))); }\n",
        ("float32",), "float32",
    ),
    "pointers that templates deduce": (
        """
threadgroup float s[4];
s[0] = in0[0];
threadgroup float* p = s;
shared_floats q = p;
thread float own = 2.0f;
thread float* r = &own;
out0[0] = twice(s) + twice(p) + twice(q) + twice(r) + twice(in0) + get(s) + get(&s[1]);
""",
        "typedef threadgroup float* shared_floats;\nusing out_floats = device float*;\n"
        "template <typename P>\ninline float first(P p) { P q = p + 1 * 0; return q[0]; }\n"
        "template <typename P>\ninline float twice(const P p) { return first(p) + first(p); }\n"
        "template <typename T>\ninline T get(threadgroup T* p) { return p[0]; }\n"
        "struct view { device float* data; out_floats more; };\n",
        ("float32",), "float32",
    ),
    "helpers of MLX": (
        """
const auto at = elem_to_loc(thread_position_in_grid.x, in0_shape, in0_strides, in0_ndim);
float best = -Limits<float>::max;
best = metal::max(best, in0[at]) + log1p(best) + (in0_ndim ? hypot(best, best) : 0.0f);
out0[at] = cast_to<bool>(best) ? best : metal::numeric_limits<float>::infinity();
""",
        "", ("float32",), "float32",
    ),
    "comments and words": (
        "out0[0] = 1.0f; // 0.5, double, goto\n/* new 1.5 */ out0[1] = 5.f + .5f + 1e3f;\n",
        "", ("float32",), "float32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_kernel_passes(name: str) -> None:
    body, header, inputs, output = RIGHT[name]
    assert findings(body, header, inputs, output) == []


@pytest.mark.smoke
def test_lines_are_those_of_the_text() -> None:
    source = kernel("out0[0] = in0[0];\nout0[1] =  nothing;\n", "// one\n// two\n")
    text = metal_text(source, [(16,)])
    (found,) = check_text(text)
    line = text.splitlines()[found.line - 1]
    assert line == "out0[1] =  nothing;" and line[found.column - 1 :] == "nothing;"
    assert str(found).endswith("error: use of undeclared identifier 'nothing'\n    " + line)


# Kernels that Apple's compiler is known to take: MLX's own, instantiated as MLX does.
THEIRS = {
    "softmax.h": ("softmax_single_row<{T}>", "softmax_looped<{T}, float>"),
    "logsumexp.h": ("logsumexp<{T}>", "logsumexp_looped<{T}>"),
    "sdpa_vector.h": ("sdpa_vector<{T}, 64>", "sdpa_vector<{T}, 128>"),
    "hadamard.h": (),
    "cross_entropy.h": (),
    "erf.h": (),
    "expm1f.h": (),
}


@pytest.mark.parametrize("name", THEIRS)
def test_kernels_of_mlx_itself_pass(name: str) -> None:
    text = (UTILS.parent / name).read_text("utf-8").replace("#pragma once", "")
    for kind in ("float", "half", "bfloat16_t"):
        for instance in (f.format(T=kind) for f in THEIRS[name]):
            host_name = f'template [[host_name("{instance}")]] [[kernel]]'
            text += f"\n{host_name} decltype({instance}) {instance};\n"
    found = check_text(text)
    milder = "has no suffix|bfloat'.* type 'int'"
    assert all(d.severity == "warning" and re.search(milder, d.message) for d in found), found
