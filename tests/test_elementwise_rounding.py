"""fma, ldexp and nextafter in expressions: results rounded once, bit for bit, and gradients."""

from __future__ import annotations

import math

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest

from zmlx import autograd, elementwise, rowwise
from zmlx.errors import DeriveError
from zmlx.fuse.replay import replay_fp32

pytestmark = pytest.mark.usefixtures("default_device")

TINY = 2.0**-149
SPECIAL = [0.0, -0.0, 1.5, -1.5, math.inf, -math.inf, math.nan, TINY, -TINY]
SPECIAL += [2.0**-126, 2.0**-126 - TINY, -(2.0**-126), 3.4028235e38, -3.4028235e38]
HALVES = {mx.float16: np.float16, mx.bfloat16: ml_dtypes.bfloat16}
POWERS = [-400, -300, -150, -149, -127, -126, -24, -1, 0, 1, 14, 127, 128, 276, 300, 400]
POWERS += [2**30, -(2**31)]  # T is float32: it holds these


def drawn(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


def same_bits(got: mx.array, wanted: np.ndarray) -> None:
    found = np.array(got)
    assert found.dtype == wanted.dtype == np.float32 and found.shape == wanted.shape
    equal = found.view(np.uint32) == wanted.view(np.uint32)
    assert (equal | (np.isnan(found) & np.isnan(wanted))).all()


def lost(a: mx.array, b: mx.array) -> np.ndarray:
    """What rounding a product loses: 48 bits of it at most, so exact in float64."""
    product = wide(a) * wide(b)
    return (product - product.astype(np.float32)).astype(np.float32)


LAYOUTS = {
    "empty": (drawn(0), drawn(0, seed=1)),
    "one": (drawn(1), drawn(1, seed=1)),
    "odd": (drawn(3, 7), drawn(3, 7, seed=1)),
    "large": (drawn(1 << 17), drawn(1 << 17, seed=1)),
    "broadcast": (drawn(5, 1), drawn(7, seed=1)),
    "transposed": (drawn(6, 5).T, drawn(5, 6, seed=1)),
    "sliced": (drawn(9, 8)[1::2, ::3], drawn(4, 3, seed=1)),
}


@pytest.mark.parametrize("expr", ["fma(a, b, -(a * b))", "metal::fma(a, b, 0 - a * b)"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fma_gives_what_a_product_loses(expr: str, layout: str) -> None:
    a, b = LAYOUTS[layout]
    op = elementwise.binary(name="lost", expr=expr)
    assert op.reason is None
    wanted = lost(a, b)
    assert wanted.size < 8 or wanted.any()
    np.testing.assert_array_equal(np.array(op(a, b)), wanted)


def test_fma_in_a_header_and_in_a_gradient_that_is_given() -> None:
    a, b = LAYOUTS["odd"]
    header = "inline float left(float a, float b) { return fma(a, b, -(a * b)); }"
    of_header = elementwise.binary(name="lost", expr="left(a, b)", header=header)
    given = autograd.binary_from_expr(
        name="lost", fwd_expr="a", vjp_lhs_expr="fma(a, b, -(a * b)) * g", vjp_rhs_expr="g"
    )
    np.testing.assert_array_equal(np.array(of_header(a, b)), lost(a, b))
    found = mx.grad(lambda a: given(a, b).sum())(a)
    np.testing.assert_array_equal(np.array(found), lost(a, b))


@pytest.mark.parametrize("kind", HALVES, ids=str)
def test_fma_of_half_types_computes_in_float32(kind: mx.Dtype) -> None:
    op = elementwise.map(name="fused", expr="fma(a, b, c)", input_names=["a", "b", "c"])
    arrays = [drawn(1001, seed=i).astype(kind) for i in range(3)]
    a, b, c = map(wide, arrays)
    wanted = (a * b + c).astype(np.float32).astype(HALVES[kind])
    found = op(*arrays)
    assert found.dtype == kind
    np.testing.assert_array_equal(wide(found), wanted.astype(np.float64))


def test_fma_of_integers_is_a_float() -> None:
    op = elementwise.binary(name="whole", expr="fma((int)a, 3, (int)b)")
    assert op(mx.array([2.9, -1.0]), mx.array([1.0, 2.5])).tolist() == [7.0, -1.0]


def test_derivatives_of_fma() -> None:
    op = elementwise.map(name="fused", expr="fma(a, b, c)", input_names=["a", "b", "c"])
    a, b, c = arrays = [drawn(33, seed=i) for i in range(3)]
    da, db, dc = mx.grad(lambda *v: op(*v).sum(), (0, 1, 2))(*arrays)
    assert mx.array_equal(da, b) and mx.array_equal(db, a) and mx.array_equal(dc, mx.ones(33))
    (tangent,) = mx.jvp(op, arrays, [mx.ones(33), mx.zeros(33), 2 * mx.ones(33)])[1]
    np.testing.assert_allclose(np.array(tangent), np.array(b) + 2, rtol=1e-6)
    second = mx.grad(lambda b: mx.grad(lambda a: (op(a, b, c)).sum())(a).sum())(b)
    assert mx.array_equal(second, mx.ones(33))


def test_fma_in_a_row_wise_op() -> None:
    op = rowwise.map_reduce(
        name="row", d=40, pass1_init="-INFINITY", pass1_update="max(acc1, x)",
        pass1_reduce_op="max(a, b)", pass2_init="0.0f", pass2_update="acc2",
        pass2_reduce_op="a + b", write_expr="fma(x, s1, -(x * s1))",
    )  # fmt: skip
    x = drawn(3, 40)
    wanted = lost(x, mx.broadcast_to(x.max(-1, keepdims=True), x.shape))
    np.testing.assert_array_equal(np.array(op(x)[0]), wanted)


def test_fma_without_a_kernel() -> None:
    """MLX's ops make up for what they lose, but for sums that lie all but halfway."""
    op = elementwise.map(name="fused", expr="fma(a, b, c)", input_names=["a", "b", "c"])
    graph = op.graph(["float32"] * 3)
    a, b = LAYOUTS["large"]
    for c in (-(a * b), drawn(1 << 17, seed=2), 1e-9 * a, mx.zeros(1 << 17)):
        (found,) = replay_fp32(graph, [a, b, c])
        exact = wide(a) * wide(b) + wide(c)
        unit = np.spacing(np.abs(exact.astype(np.float32))).astype(np.float64)
        assert (np.abs(wide(found) - exact) <= 0.5001 * unit).all()
    large = 2.0**127  # its halves overflow
    arrays = [mx.array(v) for v in ([large, large, 2.0], [0.5, 2.0, math.inf], [8.0, 8.0, -3.0])]
    assert replay_fp32(graph, arrays)[0].tolist() == [large / 2, math.inf, math.inf]
    slopes = mx.grad(lambda *v: replay_fp32(graph, v)[0].sum(), (0, 1, 2))(a, b, a)
    assert all(map(mx.array_equal, slopes, (b, a, mx.ones(1 << 17))))


@pytest.mark.parametrize("expr", ["fma(a, b, -(a * b))", "fma(a, b, a)", "ldexp(a, (int)(9 * b))"])
def test_a_checked_run_finds_nothing_wrong(expr: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_CHECK", "1")
    op = elementwise.binary(name="checked", expr=expr)
    a, b = LAYOUTS["large"]
    mx.eval(op(a, b))


# -- ldexp ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("expr", ["ldexp(x, n)", "metal::ldexp(x, n)"])
def test_ldexp_with_a_variable_exponent(expr: str) -> None:
    op = elementwise.map(name="scaled", expr=expr, input_names=["x", "n"])
    assert op.reason is None
    x, n = np.meshgrid(np.array([*SPECIAL, 1 + 2.0**-23], np.float32), np.array(POWERS, np.int32))
    with np.errstate(over="ignore"):
        same_bits(op(mx.array(x), mx.array(n)), np.ldexp(x, n))


def test_ldexp_cuts_a_float_exponent_off() -> None:
    op = elementwise.binary(name="scaled", expr="ldexp(a, b)")
    n = mx.array([2.7, -0.9, -3.5, 0.0])
    assert op(mx.full((4,), 1.5), n).tolist() == [6.0, 1.5, 0.1875, 1.5]


@pytest.mark.parametrize("kind", [mx.float32, *HALVES], ids=str)
def test_the_slope_of_ldexp_is_the_power(kind: mx.Dtype) -> None:
    op = elementwise.map(name="scaled", expr="ldexp(x, n)", input_names=["x", "n"])
    n = mx.array([-4, -3, 0, 1, 5, 12])
    x = drawn(6).astype(kind)
    wanted = np.ldexp(1.0, np.array(n))
    assert op(x, n).dtype == kind
    np.testing.assert_array_equal(wide(op(x, n)), wide(x) * wanted)
    dx = mx.grad(lambda x: op(x, n).astype(mx.float32).sum())(x)
    assert dx.dtype == kind
    np.testing.assert_array_equal(wide(dx), wanted)
    (tangent,) = mx.jvp(lambda x: op(x, n), [x], [mx.full((6,), 3, kind)])[1]
    np.testing.assert_array_equal(wide(tangent), 3 * wanted)


def test_the_exponent_of_ldexp_has_no_gradient() -> None:
    op = elementwise.binary(name="scaled", expr="ldexp(a, b)")
    a, b = drawn(5), mx.array([0.5, 1.0, 2.0, -1.0, -7.5])
    da, db = mx.grad(lambda a, b: op(a, b).sum(), (0, 1))(a, b)
    assert da.tolist() == [1.0, 2.0, 4.0, 0.5, 2.0**-7] and db.tolist() == [0.0] * 5


def test_ldexp_without_a_kernel() -> None:
    op = elementwise.map(name="scaled", expr="ldexp(x, n)", input_names=["x", "n"])
    n = mx.array([-140, -20, 0, 3, 127])
    found = replay_fp32(op.graph(["float32", "int32"]), [mx.full((5,), 1.5), n])[0]
    np.testing.assert_array_equal(np.array(found), np.ldexp(np.float32(1.5), np.array(n)))


# -- nextafter ------------------------------------------------------------------------------------
@pytest.mark.parametrize("expr", ["nextafter(a, b)", "metal::nextafter(a, b)"])
def test_nextafter(expr: str) -> None:
    op = elementwise.binary(name="neighbour", expr=expr)
    values = np.concatenate([np.array(SPECIAL, np.float32), np.array(drawn(40))])
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    with np.errstate(over="ignore", under="ignore"):
        same_bits(op(mx.array(a), mx.array(b)), np.nextafter(a, b))
    for shape in ((0,), (1,), (0, 3)):
        assert op(mx.zeros(shape), mx.ones(shape)).shape == shape


def test_nextafter_has_no_gradient() -> None:
    op = elementwise.unary(name="neighbour", expr="nextafter(x, 2.0f)")
    with pytest.raises(DeriveError, match="'neighbour' has no gradient: .*'nextafter' has no"):
        mx.grad(lambda x: op(x).sum())(mx.ones(3))
