"""Gradients of row-wise ops, made of their expressions, against MLX's of plain functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from tests.rowwise_cases import KINDS, LAYERNORM, RMSNORM, SOFTMAX, drawn, op, wide
from zmlx.device.base import Device
from zmlx.errors import DeriveError

Function = Callable[..., mx.array]
LOGSUMEXP_SHIFTED: dict[str, Any] = dict(SOFTMAX, write_expr="x - s1 - metal::log(s2)")


def plain_softmax(x: mx.array) -> mx.array:
    return mx.softmax(x, axis=-1)


def plain_log_softmax(x: mx.array) -> mx.array:
    return x - mx.logsumexp(x, axis=-1, keepdims=True)


def plain_layernorm(x: mx.array, gamma: mx.array, beta: mx.array, eps: mx.array) -> mx.array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * mx.rsqrt((centred**2).mean(-1, keepdims=True) + eps) * gamma + beta


def plain_rmsnorm(x: mx.array, w: mx.array) -> mx.array:
    return x * mx.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w


def others(what: dict[str, Any], d: int) -> list[mx.array]:
    count = len(what.get("input_names", ("inp",))) - 1
    return [drawn((d,), seed=i + 1) for i in range(min(count, 2))] + [mx.array(0.01)] * (count - 2)


CASES: dict[str, tuple[dict[str, Any], Function]] = {
    "softmax": (SOFTMAX, plain_softmax),
    "log_softmax": (LOGSUMEXP_SHIFTED, plain_log_softmax),
    "layernorm": (LAYERNORM, plain_layernorm),
    "rmsnorm": (RMSNORM, plain_rmsnorm),
}


def first(f: Any) -> Function:
    return lambda *arrays: f(*arrays)[0]


def gradients(f: Function, arrays: list[mx.array]) -> list[np.ndarray]:
    g = drawn(arrays[0].shape, seed=9)
    found = mx.grad(lambda *a: (f(*a) * g).sum(), argnums=tuple(range(len(arrays))))(*arrays)
    return [wide(d) for d in several(found)]


def exact_gradients(f: Function, arrays: list[mx.array]) -> list[np.ndarray]:
    """Of the plain function, in float64."""
    with mx.stream(mx.cpu):
        g = drawn(arrays[0].shape, seed=9).astype(mx.float64)
        given = [a.astype(mx.float64) for a in arrays]
        found = mx.grad(lambda *a: (f(*a) * g).sum(), argnums=tuple(range(len(given))))(*given)
        mx.eval(found)
    return [np.array(d) for d in several(found)]


def several(found: Any) -> list[mx.array]:
    """mx.grad gives a bare array where one was asked for."""
    return [found] if isinstance(found, mx.array) else list(found)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("d", [1, 7, 100])
def test_first_derivatives(default_device: Device, case: str, d: int) -> None:
    what, plain = CASES[case]
    arrays = [drawn((2, 3, d)), *others(what, d)]
    found = gradients(first(op(what, d)), arrays)
    exact = exact_gradients(plain, arrays)
    for mine, true, array in zip(found, exact, arrays, strict=True):
        assert mine.shape == array.shape
        np.testing.assert_allclose(mine, true, 2e-5, 2e-5)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_types(default_device: Device, name: str) -> None:
    arrays = [a.astype(KINDS[name]) for a in (drawn((3, 64)), drawn((64,), seed=1))]
    g = mx.grad(lambda *a: op(RMSNORM, 64)(*a)[0].astype(mx.float32).sum(), argnums=(0, 1))
    found = g(*arrays)
    plain = mx.grad(lambda *a: plain_rmsnorm(*a).sum(), argnums=(0, 1))
    exact = plain(*[a.astype(mx.float32) for a in arrays])
    limit = 2e-3 if name == "float16" else 2e-2
    for mine, true, array in zip(found, exact, arrays, strict=True):
        assert mine.dtype == array.dtype
        np.testing.assert_allclose(wide(mine), wide(true), limit, 3 * limit)


@pytest.mark.parametrize("case", ["softmax", "rmsnorm"])
def test_second_derivatives_jvp_and_compile(default_device: Device, case: str) -> None:
    what, plain = CASES[case]
    rest, x, g = others(what, 12), drawn((4, 12)), drawn((4, 12), seed=9)

    def both(use: Callable[[Function], mx.array]) -> None:
        mine, true = use(lambda a: op(what, 12)(a, *rest)[0]), use(lambda a: plain(a, *rest))
        np.testing.assert_allclose(wide(mine), wide(true), 1e-4, 1e-5)

    def second(f: Function) -> mx.array:
        inner = mx.grad(lambda a: (f(a) * g).sum())
        return mx.grad(lambda a: (inner(a) ** 2).sum())(x)

    both(second)
    both(lambda f: mx.jvp(f, [x], [g])[1][0])
    both(lambda f: mx.compile(mx.grad(lambda a: (f(a) * g).sum()))(x))
    both(lambda f: zmlx.fuse(lambda a: f(a * 2) + 1)(x))
    both(lambda f: mx.grad(lambda a: (zmlx.fuse(lambda b: f(b * 2) + 1)(a) * g).sum())(x))


def test_vmap_over_each_input(default_device: Device) -> None:
    f, d = op(LAYERNORM, 6), 6
    eps = mx.array([0.01])
    sizes = {"x": (3, 4, d), "one": (d,), "many": (4, d)}
    x, one, many = (drawn(s, seed=i) for i, s in enumerate(sizes.values()))
    for axes, arrays in (
        ((1, None, None, None), (x, one, one, eps)),
        ((1, 0, None, None), (x, many, one, eps)),
        ((None, None, 0, None), (x, one, many, eps)),
        ((0, None, None, None), (drawn((4, d)), one, one, eps)),
        ((-1, None, None, None), (drawn((3, d, 4)), one, one, eps)),
        ((None, None, None, 0), (x, one, one, mx.array([0.01, 0.5, 1.0]))),
    ):
        mine = mx.vmap(first(f), in_axes=axes)(*arrays)
        true = mx.vmap(plain_layernorm, in_axes=axes)(*arrays)
        assert mine.shape == true.shape
        np.testing.assert_allclose(wide(mine), wide(true), 1e-5, 1e-5)
    per_example = mx.vmap(mx.grad(lambda a: first(f)(a, one, one, eps)[..., 0].sum()))(x)
    wanted = mx.vmap(mx.grad(lambda a: plain_layernorm(a, one, one, eps)[..., 0].sum()))(x)
    np.testing.assert_allclose(wide(per_example), wide(wanted), 1e-4, 1e-5)


def test_several_outputs_where_one_is_used(default_device: Device) -> None:
    both = op(
        SOFTMAX, 9, write_expr=("x * s2", "s1 + 0.0f * x"), output_names=("scaled", "highest")
    )
    x, g = drawn((4, 9)), drawn((4, 9), seed=9)

    def plain(a: mx.array) -> tuple[mx.array, mx.array]:
        top = a.max(-1, keepdims=True)
        return a * mx.exp(a - top).sum(-1, keepdims=True), mx.broadcast_to(top, a.shape)

    for pick in (lambda r: r[0], lambda r: r[1], lambda r: r[0] * r[1]):
        mine = mx.grad(lambda a, p=pick: (p(both(a)) * g).sum())(x)
        true = mx.grad(lambda a, p=pick: (p(plain(a)) * g).sum())(x)
        np.testing.assert_allclose(wide(mine), wide(true), 1e-4, 1e-5)


def test_products_extrema_and_per_row_inputs(default_device: Device) -> None:
    f = op(
        {
            "pass1_init": "1.0f", "pass1_update": "acc1 * (x + shift)", "pass1_reduce_op": "a * b",
            "pass2_init": "INFINITY", "pass2_update": "fmin(x * s1, acc2)",
            "pass2_reduce_op": "fmin(a, b)", "write_expr": "s1 * x + s2",
            "input_names": ("x", "shift"),
        },
        5,
    )  # fmt: skip

    def plain(x: mx.array, shift: mx.array) -> mx.array:
        s1 = (x + shift).prod(-1, keepdims=True)
        return s1 * x + (x * s1).min(-1, keepdims=True)

    arrays = [drawn((3, 5)), drawn((3, 1), seed=1)]
    np.testing.assert_allclose(wide(f(*arrays)[0]), wide(plain(*arrays)), 1e-5, 1e-5)
    for mine, true in zip(gradients(first(f), arrays), exact_gradients(plain, arrays), strict=True):
        np.testing.assert_allclose(mine, true, 1e-4, 1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pass1_update": "acc1 > x ? acc1 : x"}, "pass1_update 'acc1 > x ? acc1 : x'"),
        ({"write_expr": "as_type<float>(as_type<uint>(x))"}, "as_type"),
        ({"write_expr": "kk_uniform01(1u, ulong(x))"}, "kk_uniform01"),
    ],
)
def test_what_cannot_be_differentiated_says_why(changes: dict[str, Any], words: str) -> None:
    f = op(SOFTMAX, 8, **changes)
    with pytest.raises(DeriveError, match=re.escape(words)):
        mx.grad(lambda x: f(x)[0].sum())(drawn((2, 8)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pass1_update": "max(acc1, y)"}, "pass1_update of 'row_op', column 11: unknown name 'y'"),
        ({"pass1_update": "max(acc1, s1)"}, "unknown name 's1'"),
        ({"pass2_update": "acc2 + exq(x)"}, "Did you mean 'exp'"),
        ({"pass1_init": "x"}, "pass1_init of 'row_op', column 1: unknown name 'x'"),
        ({"write_expr": "x + s3"}, "Did you mean 's2'"),
        ({"write_expr": "(x + s1"}, "write_expr of 'row_op'"),
    ],
)
def test_errors_in_expressions_name_the_column(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        op(SOFTMAX, 8, **changes)


def test_functions_of_the_users_header(default_device: Device) -> None:
    header = zmlx.msl.DEFAULT_HEADER + "inline float cubed(float v) { return v * v * v; }\n"
    f = op(SOFTMAX, 8, write_expr="cubed(x)", header=header)
    x = drawn((2, 8))
    np.testing.assert_allclose(wide(f(x)[0]), wide(x) ** 3, 1e-6)
    slope = mx.grad(lambda x: f(x)[0].sum())(x)
    np.testing.assert_allclose(wide(slope), 3 * wide(x) ** 2, 1e-6)
    opaque = header + "inline float odd(float v) { while (v > 1.0f) { v -= 2.0f; } return v; }\n"
    f = op(SOFTMAX, 8, write_expr="odd(x)", header=opaque)
    assert f(x)[0].shape == x.shape
    with pytest.raises(DeriveError, match="odd"):
        mx.grad(lambda x: f(x)[0].sum())(x)


def test_layouts_and_broadcasting_inputs(default_device: Device) -> None:
    f = op(RMSNORM, 8)
    x = drawn((8, 5, 4)).transpose(2, 1, 0)
    for shape in [(8,), (4, 1, 8), (4, 5, 1), (5, 1), (1,), (), (4, 5, 8)]:
        arrays = [x, drawn(shape, seed=1)]
        found = gradients(first(f), arrays)
        for mine, true in zip(found, exact_gradients(plain_rmsnorm, arrays), strict=True):
            assert mine.shape == true.shape
            np.testing.assert_allclose(mine, true, 2e-5, 2e-5)
    whole = mx.array([1, 2, 3, 4, 5, 6, 7, 8])
    mine = mx.grad(lambda a: (f(a, whole)[0] * x).sum())(x)
    true = mx.grad(lambda a: (plain_rmsnorm(a, whole) * x).sum())(x)
    np.testing.assert_allclose(wide(mine), wide(true), 1e-4, 1e-5)


def test_empty_arrays_have_empty_gradients(default_device: Device) -> None:
    d = mx.grad(lambda a: op(SOFTMAX, 8)(a)[0].sum())(mx.zeros((0, 8)))
    assert d.shape == (0, 8)
