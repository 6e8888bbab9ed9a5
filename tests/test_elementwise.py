"""zmlx.elementwise: values, types, shapes, transformations, refusals, errors."""

from __future__ import annotations

import itertools
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx
from tests.near import close, normal
from zmlx import elementwise, msl, registry
from zmlx.errors import DeriveError, DeviceError

pytestmark = pytest.mark.usefixtures("default_device")

SIN = "metal::precise::sin(x) * x"
RAW = "as_type<float>(as_type<uint>((float)x) | 0x80000000u) * 2"  # no rows of the op table


# -- README ---------------------------------------------------------------------------------------
def test_readme_example() -> None:
    silu = elementwise.unary(
        name="kk_silu_demo",
        expr="x * kk_sigmoid(x)",
        compute_dtype=mx.float32,
        header=msl.DEFAULT_HEADER,
    )
    x = normal(64, 33)
    close(silu(x), nn.silu(x))
    close(mx.grad(lambda v: silu(v).sum())(x), mx.grad(lambda v: nn.silu(v).sum())(x))


# -- values ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("expr", [SIN, RAW])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16, mx.int32])
def test_result_has_the_type_of_the_input(expr: str, dtype: mx.Dtype) -> None:
    op = elementwise.unary(name="typed", expr=expr, compute_dtype=dtype)
    x = (3 * normal(7, 5)).astype(dtype)
    wide = x.astype(mx.float32)
    exact = mx.sin(wide) * wide if expr == SIN else -2 * mx.abs(wide)
    got = op(x)
    assert got.dtype == dtype
    if dtype == mx.int32:
        exact = mx.sign(exact) * mx.floor(mx.abs(exact))
        assert got.tolist() == exact.astype(mx.int32).tolist()
    else:
        close(got, exact.astype(dtype), {mx.float32: 2e-6, mx.float16: 1e-3}.get(dtype, 8e-3))


@pytest.mark.parametrize("expr", ["x * x + 1", RAW])
@pytest.mark.parametrize("contiguous", [True, False])
def test_shapes_and_strides(expr: str, contiguous: bool) -> None:
    op = elementwise.unary(name="strided", expr=expr, ensure_row_contiguous=contiguous)
    base = normal(6, 8, 5)
    inputs = [
        base, base.transpose(2, 0, 1), base[1:5:2, ::3], mx.broadcast_to(base[0, 0], (3, 5)),
        base[0, 0, 0], base[:, :0], mx.zeros((0,)), normal(1), normal(1, 1),
    ]  # fmt: skip
    for x in inputs:
        wanted = x * x + 1 if expr != RAW else -2 * mx.abs(x)
        close(op(x), wanted)


@pytest.mark.parametrize(
    "expr", ["a * b - x", "as_type<float>(as_type<uint>(a) & 0x7fffffffu) * b - x"]
)
def test_binary_broadcasts(expr: str) -> None:
    op = elementwise.binary(name="pair", expr=expr)
    shapes = [(4, 3), (4, 1), (3,), (), (2, 1, 3)]
    for left, right in [*itertools.pairwise(shapes), *itertools.pairwise(reversed(shapes))]:
        a, b = normal(*left), normal(*right, seed=1)
        first = a if "as_type" not in expr else mx.abs(a)
        close(op(a, b), first * b - a)


def test_map_over_three_inputs_of_three_types() -> None:
    op = elementwise.map(
        name="lerp", expr="lo + (hi - lo) * share", input_names=("lo", "hi", "share")
    )
    lo, hi, share = normal(3, 4, dtype=mx.bfloat16), normal(4, seed=1), normal(3, 1, seed=2)
    got = op(lo, hi, share)
    assert got.dtype == mx.bfloat16 and got.shape == (3, 4)
    close(got, (lo + (hi - lo) * share).astype(mx.bfloat16), 8e-3)
    wanted = mx.grad(lambda h: (lo + (h - lo) * share).astype(mx.bfloat16).sum())(hi)
    close(mx.grad(lambda h: op(lo, h, share).sum())(hi), wanted, 1e-2)


def test_one_input_that_nothing_depends_on_still_shapes_the_result() -> None:
    op = elementwise.map(name="flat", expr="1.5f", input_names=["p", "q"])
    got = op(normal(3, 1), normal(4))
    assert got.shape == (3, 4) and got.tolist() == [[1.5] * 4] * 3
    gradients = mx.grad(lambda p, q: op(p, q).sum(), argnums=(0, 1))(normal(3, 1), normal(4))
    assert [g.abs().max().item() for g in gradients] == [0, 0]


def test_nan_and_infinity() -> None:
    x = mx.array([math.nan, math.inf, -math.inf, -0.0, 3e38])
    relu = elementwise.unary(name="relu", expr="x > 0 || isnan(x) ? x : (T)0")
    assert repr(relu(x).tolist()) == repr([math.nan, math.inf, 0.0, 0.0, float(np.float32(3e38))])
    metal = elementwise.unary(name="metal_max", expr="max(x, 0)")
    assert metal(x).tolist() == [0.0, math.inf, 0.0, 0.0, float(np.float32(3e38))]
    assert mx.grad(lambda v: metal(v).sum())(mx.array([-1.0, 0.0, 2.0])).tolist() == [0, 0, 1]


# -- transformations ------------------------------------------------------------------------------
_ACTIVATIONS = {
    "sigmoid": mx.sigmoid, "silu": nn.silu, "gelu_tanh": nn.gelu_approx, "softplus": nn.softplus,
    "mish": nn.mish,
}  # fmt: skip


def _slope(f):
    return mx.grad(lambda x: f(x).sum())


PLAIN = {
    "x * kk_sigmoid(x)": nn.silu,
    "kk_gelu_tanh(x)": nn.gelu_approx,
    "kk_softplus(x)": nn.softplus,
    "kk_mish(x)": nn.mish,
    "kk_expm1(x) + kk_log1p(x * x)": lambda x: mx.expm1(x) + mx.log1p(x * x),
    "x > 0 ? x * x : exp(x)": lambda x: mx.where(x > 0, x * x, mx.exp(x)),
    "fma(x, x, 1) / sqrt(1 + x * x)": lambda x: (x * x + 1) / mx.sqrt(1 + x * x),
    "x - (int)x": lambda x: x - mx.stop_gradient(mx.sign(x) * mx.floor(mx.abs(x))),
    "pow(fabs(x), 1.5f) * tanh(x)": lambda x: mx.power(mx.abs(x), 1.5) * mx.tanh(x),
    **{f"kk_{name}_grad(x)": _slope(f) for name, f in _ACTIVATIONS.items()},
    "copysign(x, -2.0f) + copysign(2.5f, x)": lambda x: 2.5 * mx.sign(x) - mx.abs(x),
    "signbit(x) ? x * x : ldexp(x, -3)": lambda x: mx.where(x < 0, x * x, x / 8),
    "fdim(x, 1) + fmax3(x, -x, 0.5f)": (
        lambda x: mx.maximum(x - 1, 0) + mx.maximum(mx.abs(x), 0.5)
    ),
    "clamp(x, -1, 1) + fmod(x, 2)": (
        lambda x: mx.clip(x, -1, 1) + mx.sign(x) * mx.remainder(mx.abs(x), 2)
    ),
}


@pytest.mark.parametrize("expr", PLAIN)
def test_derivatives_are_those_of_plain_mlx(expr: str) -> None:
    op, plain = elementwise.unary(name="derived", expr=expr), PLAIN[expr]
    x = normal(3, 5) * 2

    def first(f):
        return mx.grad(lambda v: f(v).sum())

    close(op(x), plain(x), 4e-6)
    close(first(op)(x), first(plain)(x), 2e-5)
    close(first(first(op))(x), first(first(plain))(x), 1e-4)
    tangent = normal(3, 5, seed=3)
    got, wanted = (mx.jvp(f, [x], [tangent])[1][0] for f in (op, plain))
    close(got, wanted, 2e-5)
    close(mx.vmap(op, in_axes=1, out_axes=1)(x), plain(x), 4e-6)
    close(mx.vmap(first(op))(x), first(plain)(x), 2e-5)


def test_gradients_sum_over_broadcast_dimensions() -> None:
    op = elementwise.binary(name="scaled", expr="a * b + tanh(a)")
    a, b = normal(4, 1, 3), normal(5, 1, seed=1)
    got = mx.grad(lambda a, b: (op(a, b) ** 2).sum(), argnums=(0, 1))(a, b)
    wanted = mx.grad(lambda a, b: ((a * b + mx.tanh(a)) ** 2).sum(), argnums=(0, 1))(a, b)
    for g, w in zip(got, wanted, strict=True):
        close(g, w, 1e-5)
    mapped = mx.vmap(op, in_axes=(0, None))(a, b)
    close(mapped, a * b + mx.tanh(a), 1e-5)


def test_inside_fuse_and_compile() -> None:
    op = elementwise.unary(name="inner", expr=SIN)
    x = normal(6, 4)
    wanted = mx.sin(x) * x * 2
    close(zmlx.fuse(lambda v: op(v) * 2)(x), wanted)
    close(mx.compile(lambda v: op(v) * 2)(x), wanted)
    plain = mx.grad(lambda v: (mx.sin(v) * v * 2).sum())(x)
    close(mx.grad(lambda v: zmlx.fuse(lambda u: op(u) * 2)(v).sum())(x), plain, 1e-5)


# -- what cannot be read --------------------------------------------------------------------------
def test_other_c_runs_forward_and_says_why_it_has_no_gradient() -> None:
    header = "inline float twice(float v) { for (;;) { return v + v; } }\n"
    op = elementwise.unary(name="custom", expr="twice(x) + 1", header=msl.DEFAULT_HEADER + header)
    x = normal(5, 3)
    close(op(x), 2 * x + 1)
    close(mx.vmap(op, in_axes=1, out_axes=1)(x), 2 * x + 1)
    for transform in (mx.grad(lambda v: op(v).sum()), lambda v: mx.jvp(op, [v], [v])):
        with pytest.raises(DeriveError, match="'custom' has no gradient: .*column 1.*'twice'"):
            mx.eval(transform(x))


def test_raw_buffers() -> None:
    op = elementwise.binary(name="raw", expr="(T)lhs[elem] - (T)rhs[elem] + x")
    a, b = normal(4, 5), normal(5, seed=1)
    close(op(a, b), 2 * a - b)
    close(op(a.T[:, :1], b[0]), 2 * a.T[:, :1] - b[0])
    close(mx.vmap(op, in_axes=(0, None))(a, b), 2 * a - b)
    with pytest.raises(ValueError, match=r"ensure_row_contiguous is False.*indexes inp"):
        elementwise.unary(name="raw", expr="inp[elem]", ensure_row_contiguous=False)


def test_headers() -> None:
    x = normal(5)
    twice = "inline float twice(float v) { return v + exp(v) - exp(v) + v; }\n"
    both = elementwise.unary(name="both", expr="kk_silu(x) + twice(x)", header=twice)
    close(both(x), nn.silu(x) + 2 * x, 1e-5)
    assert elementwise.unary(name="plain", expr="exp(x)", header=twice).reason is None
    own = "#include <metal_stdlib>\nusing namespace metal;\n"
    replaced = own + "inline float kk_silu(float v) { return 3 * v; }\n"
    close(elementwise.unary(name="mine", expr="kk_silu(x)", header=replaced)(x), 3 * x)
    macro = elementwise.unary(name="macro", expr="ALPHA * x", header="#define ALPHA 3.0f\n")
    assert "'ALPHA' is not known here" in str(macro.reason)
    close(macro(x), 3 * x)


@pytest.mark.usefixtures("on_cpu")  # on a GPU MLX compiles, when it evaluates
def test_the_compiler_points_at_the_line_of_the_user() -> None:
    op = elementwise.unary(name="bad", expr="x +\n  undeclared<float>(x) // a comment")
    with pytest.raises(DeviceError, match=r"kernel 'bad' .*\n+expr:2:3: .*undeclared"):
        mx.eval(op(normal(3)))


def test_more_inputs_than_a_kernel_has_buffers() -> None:
    names = [f"v{i}" for i in range(40)]
    op = elementwise.map(name="many", expr=" + ".join(names), input_names=names)
    x = normal(3)
    rest = [x] * 39
    close(op(x, *rest), 40 * x, 1e-5)
    close(mx.grad(lambda v: (op(v, *rest) ** 2).sum())(x), 80 * x, 1e-5)


# -- memory of ops --------------------------------------------------------------------------------
def test_an_op_is_made_once() -> None:
    def make(**more):
        return elementwise.unary(name="once", expr="x + 1", compute_dtype=mx.float32, **more)

    first = make()
    assert make() is first and make(cache=False) is not first
    assert elementwise.unary(name="once", expr="x + 2") is not first
    registry.clear_cache()
    assert make() is not first


# -- errors ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "not a name"}, "name is 'not a name'; wanted an identifier"),
        ({"expr": ""}, "expr is empty"),
        ({"expr": "x * sigmid(x)"}, r"column 5: unknown function 'sigmid'. Did you mean"),
        ({"expr": "x +"}, "column 4: the end is not expected"),
        ({"compute_dtype": "float32"}, "compute_dtype is 'float32'; wanted"),
        ({"compute_dtype": mx.complex64}, "compute_dtype is mlx.core.complex64; wanted"),
    ],
)
def test_bad_arguments(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        elementwise.unary(**{"name": "op", "expr": "x", "compute_dtype": mx.float32, **arguments})


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1a"], "'1a', which is no identifier"),
        (["a", "a"], "a name occurs twice"),
        (["out"], "'out', which the kernel uses itself"),
        (["elem"], "'elem'"),
        (["T"], "'T'"),
        (["a", "O"], "'O'"),
        ([], "wanted a list of one name or more"),
        ("ab", "wanted a list of one name or more"),
    ],
)
def test_bad_input_names(names: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        elementwise.map(name="op", expr="1", input_names=names)


def test_bad_calls() -> None:
    op = elementwise.binary(name="op", expr="a + b")
    x = normal(3, 4)
    with pytest.raises(ValueError, match=r"'op' was called with 1 array; wanted 2 \(a, b\)"):
        op(x)
    with pytest.raises(ValueError, match=r"do not broadcast \(a: \(3, 4\), b: \(3,\)\)"):
        op(x, x[:, 0])
    with pytest.raises(TypeError, match="b is a float; wanted an mx.array"):
        op(x, 1.0)
    with pytest.raises(ValueError, match="b is of mlx.core.complex64"):
        op(x, x.astype(mx.complex64))
