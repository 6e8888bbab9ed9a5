"""Gradients of every function of the catalog against float64: all arguments, both cotangents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.catalog import exact
from tests.catalog.cases import CASES, KINDS, PULLED, RTOL, Case, close, drawn, listed, wide
from zmlx.device.base import Device
from zmlx.kernels import norms, transformer

pytestmark = pytest.mark.usefixtures("default_device")
EACH = pytest.mark.parametrize("case", PULLED.values(), ids=PULLED)
SOME_NAMES = (
    "softmax_lastdim", "log_softmax_lastdim", "rmsnorm", "layernorm_residual", "bias_geglu",
    "layer_norm_dropout",
)  # fmt: skip
SOME = [PULLED[name] for name in SOME_NAMES]
REST = [case for name, case in PULLED.items() if name not in SOME_NAMES]
THE_SOME = pytest.mark.parametrize("case", SOME, ids=SOME_NAMES)
THE_REST = pytest.mark.parametrize("case", REST, ids=[case.name for case in REST])
PAIRS = [case for name, case in PULLED.items() if name.endswith("_residual")]


def cotangents(outputs: Sequence[mx.array], seed: int = 50) -> list[mx.array]:
    return [drawn(o.shape, o.dtype, seed + i) for i, o in enumerate(outputs)]


def pulled(case: Case, arrays: Sequence[mx.array], g: Sequence[mx.array]) -> list[mx.array]:
    return mx.vjp(case.run, list(arrays), list(g))[1]


@EACH
def test_the_formulas_are_derivatives(case: Case) -> None:
    """The reference itself: its gradients against differences of its values."""
    arrays = [wide(a) for a in case.arrays((2, 3), mx.float32)]

    def forward(*given: Any) -> list[np.ndarray]:
        return case.row.wanted(given)

    g = [np.random.default_rng(i).normal(size=o.shape) for i, o in enumerate(forward(*arrays))]

    def number(*given: Any) -> float:
        return sum((o * c).sum() for o, c in zip(forward(*given), g, strict=True))

    for i, found in enumerate(exact.PULL[case.name](arrays, g)):
        np.testing.assert_allclose(found, exact.slopes(number, arrays, i), 1e-7, 1e-8)


@EACH
def test_gradients(case: Case) -> None:
    for shape in ((1,), (2,), (3, 7), (3, 33), (2, 3, 33), (5, 1000), (300, 128)):
        arrays = case.arrays(shape, mx.float32, sum(shape))
        g = cotangents(case.run(*arrays))
        wanted = case.pulled(arrays, g)
        # LayerNorm of one element: a difference of equal products of 1 / sqrt(eps), of which one
        # is not rounded where the device makes fma of it.
        terms = 1e-5**-0.5 if shape == (1,) and "layer" in case.name else 1.0
        for i, (dx, right) in enumerate(zip(pulled(case, arrays, g), wanted, strict=True)):
            close(dx, right, "float32", 2, f"{case.name} {shape} argument {i}", terms)


def check_half(case: Case, name: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Two roundings: softmax's gradient starts from its rounded value; weights sum up rounded g."""
    for shape in shapes:
        arrays = case.arrays(shape, KINDS[name], sum(shape))
        g = cotangents(case.run(*arrays))
        for dx, right in zip(pulled(case, arrays, g), case.pulled(arrays, g), strict=True):
            assert dx.dtype == KINDS[name] and dx.shape == right.shape
            limit = 2 * RTOL[name] * max(1.0, np.abs(right).max())
            np.testing.assert_allclose(wide(dx), right, 2 * RTOL[name], limit, err_msg=case.name)


@THE_SOME
def test_half_types(case: Case) -> None:
    for name in ("float16", "bfloat16"):
        check_half(case, name, [(3, 33), (2, 3, 1000)])


@pytest.mark.exhaustive
@EACH
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_types_in_all_sizes(case: Case, name: str) -> None:
    check_half(case, name, [(1,), (7,), (3, 1), (3, 7), (40,), (100, 40), (2, 3, 257), (3, 4096)])


@EACH
def test_as_mlx_differentiates_the_plain_formula(case: Case) -> None:
    """Alone and together: what is asked for does not change what comes."""
    arrays = case.arrays((4, 40), mx.float32)
    g = cotangents(case.run(*arrays))

    def number(f: Any) -> Any:
        return lambda *a: sum((o * c).sum() for o, c in zip(listed(f(*a)), g, strict=True))

    numbers = range(len(arrays))
    wanted = listed(mx.grad(number(case.plain), tuple(numbers))(*arrays))
    together = listed(mx.grad(number(case.call), tuple(numbers))(*arrays))
    for i in numbers:
        alone = mx.grad(number(case.call), i)(*arrays)
        close(alone, wide(wanted[i]), "float32", 3, case.name)
        close(together[i], wide(wanted[i]), "float32", 3, case.name)


@pytest.mark.smoke
@pytest.mark.parametrize("case", PAIRS, ids=[case.name for case in PAIRS])
def test_both_cotangents_of_a_pair_count(case: Case) -> None:
    arrays = case.arrays((3, 40), mx.float32)
    g = cotangents(case.run(*arrays))
    zero = mx.zeros_like(g[0])
    for used in ([0], [1], [0, 1]):
        numbers = tuple(range(len(arrays)))

        def number(*a: mx.array, used: list[int] = used) -> mx.array:
            outputs = case.run(*a)
            return sum((outputs[i] * g[i]).sum() for i in used)

        wanted = case.pulled(arrays, [g[i] if i in used else zero for i in (0, 1)])
        for dx, right in zip(mx.grad(number, numbers)(*arrays), wanted, strict=True):
            close(dx, right, "float32", 2, f"{case.name} {used}")


@EACH
def test_gradients_have_the_type_of_their_argument(case: Case) -> None:
    arrays = case.arrays((3, 40), mx.float32)
    arrays = [arrays[0], *[a.astype(mx.bfloat16) for a in arrays[1:]]]
    g = cotangents(case.run(*arrays))
    for a, dx, right in zip(arrays, pulled(case, arrays, g), case.pulled(arrays, g), strict=True):
        assert dx.dtype == a.dtype and dx.shape == a.shape
        limit = 1e-5 if a.dtype == mx.float32 else RTOL["bfloat16"]
        np.testing.assert_allclose(wide(dx), right, limit, 1e-5 * np.abs(right).max())


def test_cotangents_of_another_type() -> None:
    """As they come out of MLX's sums of integers, or of wider arrays."""
    case = PULLED["rmsnorm"]
    arrays = case.arrays((3, 40), mx.float32)
    g = (drawn((3, 40)) * 3).astype(mx.int32)
    for cotangent in (g, g.astype(mx.float16)):
        for dx, right in zip(
            pulled(case, arrays, [cotangent]), case.pulled(arrays, [g]), strict=True
        ):
            close(dx, right, "float32", 2)


@EACH
def test_no_rows(case: Case) -> None:
    arrays = case.arrays((0, 40), mx.float32)
    g = cotangents(case.run(*arrays))
    for a, dx in zip(arrays, pulled(case, arrays, g), strict=True):
        assert dx.shape == a.shape and not np.array(dx).any(), case.name


def test_layouts_of_arrays_and_cotangents() -> None:
    case = PULLED["layernorm_residual"]
    arrays = case.arrays((6, 5, 40), mx.float32)
    arrays[0] = arrays[0].transpose(1, 0, 2)
    arrays[1] = drawn((5, 6, 80), seed=9)[:, :, ::2]
    arrays[2] = arrays[2][::-1]
    g = [mx.broadcast_to(drawn((6, 40)), (5, 6, 40)), drawn((40, 6, 5)).transpose(2, 1, 0)]
    for dx, right in zip(pulled(case, arrays, g), case.pulled(arrays, g), strict=True):
        close(dx, right, "float32", 2)


def test_many_rows_keep_their_digits() -> None:
    """The gradient of a weight is a sum over 100000 rows."""
    x, w = drawn((100_000, 8)), drawn((8,), seed=1)
    dw, dbeta = mx.grad(lambda w, b: norms.layernorm(x, w, b).square().sum(), (0, 1))(w, w)
    h = exact.layer(wide(x))
    y = h * wide(w) + wide(w)
    np.testing.assert_allclose(wide(dw), (2 * y * h).sum(0), 2e-6, 0.1)
    np.testing.assert_allclose(wide(dbeta), (2 * y).sum(0), 2e-6, 0.1)


def test_the_public_backward_passes_are_the_gradients() -> None:
    x, w, g = drawn((3, 40)), drawn((40,), seed=1), drawn((3, 40), seed=2)
    for eps in (1e-6, 0.5):
        dx = norms.rmsnorm_grad(x, w, g, eps=eps)
        same = mx.vjp(lambda v, e=eps: norms.rmsnorm(v, w, eps=e), [x], [g])[1][0]
        assert mx.array_equal(dx, same)
        close(dx, exact.rms_pull(wide(x), wide(w), wide(g), eps)[0], "float32")


# -- tangents, second order -----------------------------------------------------------------------
def check_tangent(case: Case) -> None:
    arrays = case.arrays((2, 5), mx.float32)
    tangents = [drawn(a.shape, seed=70 + i) for i, a in enumerate(arrays)]
    found = mx.jvp(case.run, arrays, tangents)[1]
    step = 1e-6
    sides = [
        case.row.wanted(
            [wide(a) + sign * step * wide(t) for a, t in zip(arrays, tangents, strict=True)]
        )
        for sign in (1, -1)
    ]
    for tangent, high, low in zip(found, *sides, strict=True):
        close(tangent, (high - low) / (2 * step), "float32", 5, case.name)
    alone = mx.jvp(lambda x: case.run(x, *arrays[1:]), arrays[:1], tangents[:1])[1]
    zeros = [tangents[0], *[mx.zeros_like(t) for t in tangents[1:]]]
    for tangent, same in zip(alone, mx.jvp(case.run, arrays, zeros)[1], strict=True):
        close(tangent, wide(same), "float32", 5, case.name)


def check_second_order(case: Case) -> None:
    """The gradient of <gradient, directions>, by every array."""
    arrays = case.arrays((2, 5), mx.float32)
    g = cotangents(case.run(*arrays))
    directions = [drawn(a.shape, seed=80 + i) for i, a in enumerate(arrays)]

    def number(*given: mx.array) -> mx.array:
        return sum((dx * h).sum() for dx, h in zip(pulled(case, given, g), directions, strict=True))

    def right(*given: Any) -> float:
        found = exact.PULL[case.name](given, [wide(c) for c in g])
        return sum((dx * wide(h)).sum() for dx, h in zip(found, directions, strict=True))

    found = listed(mx.grad(number, tuple(range(len(arrays))))(*arrays))
    for i, second in enumerate(found):
        wanted = exact.slopes(right, [wide(a) for a in arrays], i)
        close(second, wanted, "float32", 8, f"{case.name} argument {i}")


@THE_SOME
def test_tangents(case: Case) -> None:
    check_tangent(case)


@THE_SOME
def test_second_order(case: Case) -> None:
    check_second_order(case)


@pytest.mark.exhaustive
@THE_REST
def test_tangents_and_second_order_of_the_rest(case: Case) -> None:
    check_tangent(case)
    check_second_order(case)


def test_second_order_of_rows_without_variance() -> None:
    """Rows of zeros, as padding gives: h is linear there, its slope 1 / sqrt(eps)."""
    x, h = mx.zeros((2, 5)), drawn((2, 5))

    def slope(v: mx.array) -> mx.array:
        return mx.grad(lambda u: (norms.layer_norm_no_weight(u, eps=0.25) * h).sum())(v)

    centred = wide(h) - wide(h).mean(-1, keepdims=True)
    close(slope(x), 2 * centred, "float32")
    third = mx.grad(lambda v: (mx.grad(lambda u: (slope(u) * h).sum())(v) * h).sum())(x)
    # d3/dt3 of t*h / sqrt(t*t*var + eps), along h itself: -3 * var * c / eps**1.5.
    c, var = centred, (centred**2).mean(-1, keepdims=True)
    along = (wide(third) * wide(h)).sum(-1)
    wanted = (-3 * var * c * 8 * 1.0 * wide(h)).sum(-1)
    np.testing.assert_allclose(along, wanted, 1e-4)


# -- launches -------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [32, 256])
def test_gradients_do_not_depend_on_the_threadgroup(
    default_device: Device, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(default_device), "takes_turns", False)
    case = PULLED["layernorm_residual"]
    for shape in ((5, 7), (300, 40)):
        arrays = case.arrays(shape, mx.float32)
        g = cotangents(case.run(*arrays))

        def run(*a: mx.array) -> Any:
            return transformer.layernorm_residual(*a, threadgroup=threads)

        for dx, right in zip(mx.vjp(run, arrays, g)[1], case.pulled(arrays, g), strict=True):
            close(dx, right, "float32", 2)


def test_a_residual_of_a_wider_type_keeps_its_digits() -> None:
    case = CASES["fused_add_rmsnorm"]
    x, residual, w = case.arrays((3, 33), mx.float32, 5)
    arrays = [x.astype(mx.bfloat16), residual, w]
    g = cotangents(case.run(*arrays))
    wanted = case.pulled(arrays, g)
    dx, dr, _ = pulled(case, arrays, g)
    close(dr, wanted[1], "float32", 2)
    assert dx.dtype == mx.bfloat16
    np.testing.assert_allclose(wide(dx), wanted[0], 2**-8, 2**-9)
