"""Functions of C in elementwise ops: signs and powers of two bit for bit, headers, simdgroups."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from tests.near import close, normal
from zmlx import elementwise
from zmlx.errors import DeriveError

pytestmark = pytest.mark.usefixtures("default_device")


SPECIAL = [0.0, -0.0, 1.5, -1.5, math.inf, -math.inf, 1e-45, -1e-45, 3e38]


@pytest.mark.parametrize("expr", ["copysign(a, b)", "ldexp(a, 3) * 0 + copysign(1.0f, b)"])
def test_signs_of_zeros_and_infinities(expr: str) -> None:
    op = elementwise.binary(name="signs", expr=expr)
    a, b = (mx.array(v.ravel(), mx.float32) for v in np.meshgrid(SPECIAL, SPECIAL))
    got, size = np.array(op(a, b)), np.abs(np.array(a))
    if expr == "copysign(a, b)":
        np.testing.assert_array_equal(got, np.copysign(np.array(a), np.array(b)))
        assert (np.signbit(got) == np.signbit(np.array(b))).all()
    else:
        known = size < 1e37
        np.testing.assert_array_equal(got[known], np.copysign(1, np.array(b))[known])


@pytest.mark.parametrize("power", [-280, -127, 0, 127, 277])
def test_powers_of_two(power: int) -> None:
    op = elementwise.unary(name="scaled", expr=f"ldexp(x, {power})")
    x = mx.array([1.0, -1.5, 2.0**127, 2.0**-126, 2.0**-149, math.inf, 0.0])
    with np.errstate(over="ignore"):
        wanted = np.ldexp(np.array(x), power)
        slope = np.ldexp(np.float32(1), power)
    np.testing.assert_array_equal(np.array(op(x)), wanted)
    found = np.array(mx.grad(lambda v: op(v).sum())(x[:2]))
    np.testing.assert_array_equal(found, [slope, slope])


@pytest.mark.parametrize("name", ["sigmoid", "silu", "gelu_tanh", "softplus", "mish"])
def test_slopes_of_the_default_header_at_the_ends(name: str) -> None:
    op = elementwise.unary(name="slope", expr=f"kk_{name}_grad(x)")
    ends = mx.array([-math.inf, -3e38, -1e4, 1e4, 3e38, math.inf])
    flat = 0.0 if name == "sigmoid" else 1.0
    assert op(ends).tolist() == [0.0] * 3 + [flat] * 3
    assert mx.grad(lambda v: op(v).sum())(ends).tolist() == [0.0] * 6
    assert math.isnan(op(mx.array(math.nan)).item())


def test_functions_of_a_header_have_derivatives() -> None:
    header = """
    inline float bump(float v) { const float w = 1 + v * v; return v / w; }
    template <typename T> inline T gate(T v, T w) { if (v > T(0)) return v * bump(w); return w; }
    """
    op = elementwise.binary(name="gated", expr="gate(a, b) + kk_silu(a)", header=header)

    def plain(a: mx.array, b: mx.array) -> mx.array:
        return mx.where(a > 0, a * b / (1 + b * b), b) + nn.silu(a)

    a, b = normal(4, 3), normal(3, seed=1)
    assert op.reason is None
    close(op(a, b), plain(a, b))
    for i in (0, 1):
        got, wanted = (
            mx.grad(lambda a, b, f=f: (f(a, b) ** 2).sum(), i)(a, b) for f in (op, plain)
        )
        close(got, wanted, 1e-5)


def test_threads_that_act_together_run_as_they_are_written() -> None:
    op = elementwise.unary(name="share", expr="x / simd_sum(x) + 0 * thread_index_in_simdgroup")
    x = mx.abs(normal(32)) + 1
    close(op(x), x / x.sum(), 1e-5)
    with pytest.raises(
        DeriveError, match="'share' has no gradient: .*'simd_sum' has no derivative"
    ):
        mx.eval(mx.grad(lambda v: op(v).sum())(x))
