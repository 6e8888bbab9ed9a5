"""Ops from C expressions and hand-written kernels inside fused functions: joined, or one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from zmlx import autograd, elementwise, metal
from zmlx.errors import DeriveError

HEAD = "uint elem = thread_position_in_grid.x; "
gate = elementwise.map(
    name="gate", expr="kk_silu(a) * b + (float)((int)n % 3)", input_names=("a", "b", "n")
)
cube = autograd.unary_from_expr(name="cube", fwd_expr="x * x * x")
pair = autograd.nary_from_expr(
    name="pair", input_names=["a", "b"], output_names=["p", "q"],
    fwd_source=HEAD + "T u = a[elem], v = b[elem]; p[elem] = (O)(u * v); q[elem] = (O)(u - v);",
)  # fmt: skip


def drawn(*shape: int, seed: int = 0, kind: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape)).astype(kind)


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


def gated(a: mx.array, b: mx.array, n: mx.array) -> mx.array:
    return mx.exp(-gate(mx.sin(a), b, n)) + cube(a)


def plain_gated(a: mx.array, b: mx.array, n: mx.array) -> mx.array:
    s = mx.sin(a)
    return mx.exp(-(s * mx.sigmoid(s) * b + (n % 3).astype(mx.float32))) + a * a * a


def both(a: mx.array, b: mx.array) -> mx.array:
    p, q = pair(mx.tanh(a), b)
    return mx.softmax(p * q, axis=-1)


def plain_both(a: mx.array, b: mx.array) -> mx.array:
    t = mx.tanh(a)
    return mx.softmax(t * b * (t - b), axis=-1)


NUMBERS = mx.arange(200).reshape(5, 40)
CASES: dict[str, tuple[Callable[..., mx.array], Callable[..., mx.array], list[mx.array]]] = {
    "elementwise": (gated, plain_gated, [drawn(5, 40), drawn(40, seed=1), NUMBERS]),
    "nary": (both, plain_both, [drawn(5, 40), drawn(5, 40, seed=1)]),
}


@pytest.mark.parametrize("name", CASES)
def test_ops_join_what_stands_beside_them(name: str) -> None:
    f, plain, arrays = CASES[name]
    fused = zmlx.fuse(f)
    assert fused.explain(*arrays).kernels_after == 1
    np.testing.assert_allclose(wide(fused(*arrays)), wide(plain(*arrays)), 2e-5, 2e-6)


@pytest.mark.parametrize("name", CASES)
def test_their_gradients_are_those_of_the_whole(name: str) -> None:
    f, plain, arrays = CASES[name]
    weights = drawn(5, 40, seed=9)

    def slopes(g: Callable[..., mx.array]) -> Any:
        return mx.grad(lambda a, b: (g(a, b, *arrays[2:]) * weights).sum(), (0, 1))(*arrays[:2])

    for mine, true in zip(slopes(zmlx.fuse(f)), slopes(plain), strict=True):
        np.testing.assert_allclose(wide(mine), wide(true), 1e-4, 1e-5)


@pytest.mark.parametrize("kind", [mx.float16, mx.bfloat16], ids=str)
def test_half_types_are_rounded_once(kind: mx.Dtype) -> None:
    """Inside a function the op's own result is not rounded; its type is as ever."""
    x = drawn(4, 64, kind=kind)
    f = zmlx.fuse(lambda a: cube(a * 3) * 0.125)
    exact = (3 * wide(x)) ** 3 * 0.125
    found = f(x)
    assert found.dtype == kind and zmlx.fuse(lambda a: cube(a))(x).dtype == kind
    unit = 2.0 ** (-11 if kind == mx.float16 else -8)
    assert (np.abs(wide(found) - exact) <= 1.01 * unit * np.abs(exact) + 1e-7).all()


def test_new_sizes_need_no_new_trace() -> None:
    fused = zmlx.fuse(gated)
    for rows in (4, 9):
        arrays = [drawn(rows, 30, seed=rows), drawn(30), mx.arange(rows * 30).reshape(rows, 30)]
        np.testing.assert_allclose(wide(fused(*arrays)), wide(plain_gated(*arrays)), 2e-5, 2e-6)
    assert fused.cache_info().misses == 1
    shapeless = mx.compile(fused, shapeless=True)
    for rows in (4, 9):
        arrays = [drawn(rows, 30, seed=rows), drawn(30), mx.arange(rows * 30).reshape(rows, 30)]
        np.testing.assert_allclose(wide(shapeless(*arrays)), wide(plain_gated(*arrays)), 2e-5, 2e-6)


def test_integers_keep_their_meaning() -> None:
    """C's division cuts off, MLX's rounds down."""
    half = elementwise.map(
        name="half", expr="(a / 2) + (b << 1)", input_names=("a", "b"), compute_dtype=mx.int32
    )
    a, b = mx.arange(-6, 6), mx.arange(12)
    got = zmlx.fuse(lambda a, b: half(a, b) * 2)(a, b)
    wanted = (np.trunc(np.arange(-6, 6) / 2) + 2 * np.arange(12)) * 2
    np.testing.assert_array_equal(np.array(got), wanted)


def test_shapes_that_do_not_fit_are_refused_inside_too() -> None:
    with pytest.raises(ValueError, match=r"'gate': shapes do not broadcast \(a: \(5, 40\), b"):
        zmlx.fuse(lambda a, b: gate(a, b, a))(drawn(5, 40), drawn(3, 40))
    with pytest.raises(ValueError, match="'pair': shapes differ"):
        zmlx.fuse(lambda a, b: pair(a, b)[0])(drawn(5, 40), drawn(40))


def test_known_and_captured_arrays() -> None:
    table = drawn(1, 8, seed=3)
    fused = zmlx.fuse(lambda a: cube(table) + cube(mx.ones((1, 8))) * a)
    for rows in (2, 3):
        a = drawn(rows, 8)
        np.testing.assert_allclose(wide(fused(a)), wide(table) ** 3 + wide(a), 1e-5, 1e-6)


@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
def test_text_that_cannot_be_read_is_one_call(numerics: str) -> None:
    bits = elementwise.unary(name="bits", expr="as_type<float>(as_type<uint>(x) & 0xFFFF0000u)")
    x = drawn(6, 33)
    cut = (np.array(x * 2).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    fused = zmlx.fuse(lambda a: bits(a * 2) + 1, numerics=numerics)
    np.testing.assert_allclose(wide(fused(x)), cut.astype(np.float64) + 1, 1e-6)
    with pytest.raises(DeriveError, match="'bits' has no gradient"):
        mx.grad(lambda a: fused(a).sum())(x)


# -- hand-written kernels -------------------------------------------------------------------------
double = metal.kernel(
    name="double", input_names=["inp"], output_names=["out"],
    source="uint i = thread_position_in_grid.x; out[i] = 2 * inp[i];",
)  # fmt: skip


@mx.custom_function
def doubled(a: mx.array) -> mx.array:
    return double(a)[0]


@doubled.vjp
def _pulled(primals: Any, cotangent: mx.array, output: Any) -> mx.array:
    return cotangent * 2


def asked(a: mx.array) -> mx.array:
    """With everything that a launch may say."""
    (found,) = double(
        mx.sin(a), template=[("T", a.dtype)], grid=(a.size, 1, 1), threadgroup=(8, 1, 1),
        output_shapes=[a.shape], output_dtypes=[a.dtype],
    )  # fmt: skip
    return found * 3


LAUNCHED: dict[str, Callable[[mx.array], mx.array]] = {
    "by default": lambda a: double(mx.sin(a))[0] * 3,
    "as asked": asked,
    "timed": lambda a: double(mx.sin(a), timed=True)[0] * 3,
    "under compile": lambda a: mx.compile(lambda b: double(mx.sin(b))[0])(a) * 3,
    "in a custom function": lambda a: doubled(mx.sin(a)) * 3,
}


@pytest.mark.parametrize("name", LAUNCHED)
def test_hand_written_kernels_are_calls(name: str) -> None:
    fused = zmlx.fuse(LAUNCHED[name])
    compiled = mx.compile(fused)
    for rows in (5, 9):
        x = drawn(rows, 16, seed=rows)
        for f in (fused, compiled, zmlx.fuse(lambda a: mx.exp(fused(a)))):
            wanted = 6 * np.sin(wide(x))
            if f not in (fused, compiled):
                wanted = np.exp(wanted)
            np.testing.assert_allclose(wide(f(x)), wanted, 1e-5, 1e-6)


def test_a_hand_written_kernel_has_the_gradient_that_it_was_given() -> None:
    x = drawn(4, 16)
    slope = mx.grad(lambda a: zmlx.fuse(LAUNCHED["in a custom function"])(a).sum())(x)
    np.testing.assert_allclose(wide(slope), 6 * np.cos(wide(x)), 1e-5, 1e-6)
    with pytest.raises(DeriveError, match="'double' has no gradient.*autograd.nary_from_expr"):
        mx.grad(lambda a: zmlx.fuse(LAUNCHED["by default"])(a).sum())(x)
