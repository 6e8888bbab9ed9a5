"""mx.vmap, mx.compile, @zmlx.fuse and parameter trees through the functions of the catalog."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from tests.catalog import cases
from tests.catalog.cases import CASES, PULLED, Case, close, drawn, listed, wide
from zmlx.kernels import norms, softmax, transformer

pytestmark = pytest.mark.usefixtures("default_device")
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SIZE = 3  # of mapped axes


def check_vmap(case: Case, axes: tuple[int | None, ...], shape: tuple[int, ...]) -> None:
    """vmap against a call for each item; axis 0 or the last one is mapped."""
    arrays = [
        a if axis is None else mx.moveaxis(drawn((SIZE, *a.shape), seed=i), 0, axis)
        for i, (a, axis) in enumerate(zip(case.arrays(shape, mx.float32), axes, strict=True))
    ]
    found = listed(mx.vmap(case.call, in_axes=axes)(*arrays))
    pairs = list(zip(arrays, axes, strict=True))
    items = [
        case.exact([a if axis is None else mx.take(a, k, axis) for a, axis in pairs])
        for k in range(SIZE)
    ]
    for output, wanted in zip(found, zip(*items, strict=True), strict=True):
        close(output, np.stack(wanted), "float32", what=f"{case.name} {axes}")


@EACH
def test_vmap(case: Case) -> None:
    count = len(case.takes)
    for i in range(count):
        check_vmap(case, tuple(0 if k == i else None for k in range(count)), (4, 40))
    check_vmap(case, (0,) * count, (4, 40))
    check_vmap(case, (0,) * count, (40,))
    check_vmap(case, (-1,) * count, (2, 4, 40))


@pytest.mark.parametrize("name", ["rmsnorm", "layernorm_residual", "bias_swiglu", "dropout"])
def test_gradients_of_mapped_calls(name: str) -> None:
    """The gradient within a mapped function, and of one; weights mapped too."""
    case = PULLED[name]
    arrays = [
        drawn((SIZE, *a.shape), seed=i) for i, a in enumerate(case.arrays((4, 40), mx.float32))
    ]
    numbers = tuple(range(len(arrays)))

    def number(*a: mx.array) -> mx.array:
        return sum(o.square().sum() for o in case.run(*a))

    inside = listed(mx.vmap(mx.grad(number, numbers))(*arrays))
    outside = listed(mx.grad(lambda *a: mx.vmap(number)(*a).sum(), numbers)(*arrays))
    for i in numbers:
        items = []
        for k in range(SIZE):
            item = [a[k] for a in arrays]
            items.append(case.pulled(item, [2 * o for o in case.run(*item)])[i])
        close(inside[i], np.stack(items), "float32", 4, f"{name} {i}")
        close(outside[i], np.stack(items), "float32", 4, f"{name} {i}")


@EACH
def test_compiled(case: Case) -> None:
    arrays = case.arrays((4, 40), mx.float32)
    compiled = mx.compile(case.call)
    for _ in range(2):
        for found, wanted in zip(listed(compiled(*arrays)), case.run(*arrays), strict=True):
            assert mx.array_equal(found, wanted), case.name
    if case.name not in PULLED:
        return

    def number(*a: mx.array) -> mx.array:
        return sum(o.square().sum() for o in case.run(*a))

    numbers = tuple(range(len(arrays)))
    wanted = case.pulled(arrays, [2 * o for o in case.run(*arrays)])
    for dx, right in zip(
        listed(mx.compile(mx.grad(number, numbers))(*arrays)), wanted, strict=True
    ):
        close(dx, right, "float32", 4, case.name)
    for dx, right in zip(
        listed(mx.grad(mx.compile(number), numbers)(*arrays)), wanted, strict=True
    ):
        close(dx, right, "float32", 4, case.name)


@EACH
def test_inside_a_fused_function(case: Case) -> None:
    """Its ops before and after are fused; the call stays one node."""

    @zmlx.fuse
    def fused(*a: mx.array) -> Any:
        return [o * 2 + 1 for o in case.run(a[0] * 0.5, *a[1:])]

    arrays = case.arrays((4, 40), mx.float32)
    half = [arrays[0] * 0.5, *arrays[1:]]
    for found, wanted in zip(fused(*arrays), case.exact(half), strict=True):
        close(found, 2 * wanted + 1, "float32", 2, case.name)
    if case.name not in PULLED:
        return
    dx = mx.grad(lambda x: sum(o.sum() for o in fused(x, *arrays[1:])))(arrays[0])
    ones = [mx.full(o.shape, 2.0) for o in case.run(*half)]
    close(dx, 0.5 * case.pulled(half, ones)[0], "float32", 4, case.name)


# -- a block with parameters ----------------------------------------------------------------------
def parameters() -> dict[str, Any]:
    ones = mx.ones((16,))
    return {
        "norm": {"weight": ones + 0.1 * drawn((16,))},
        "gate": {"weight": 0.3 * drawn((16, 48), seed=1), "bias": 0.1 * drawn((48,), seed=2)},
        "down": {"weight": 0.3 * drawn((24, 16), seed=3)},
        "last": {"gamma": ones, "beta": 0.1 * drawn((16,), seed=4)},
        "frozen": mx.array([1, 2, 3]),
    }


def block(p: dict[str, Any], x: mx.array, ours: bool) -> mx.array:
    w, gate, last = p["norm"]["weight"], p["gate"], p["last"]
    if ours:
        h = norms.rmsnorm(x, w)
        h = transformer.bias_swiglu(h @ gate["weight"], gate["bias"]) @ p["down"]["weight"]
        h = transformer.fused_add_layernorm(h, x, last["gamma"], last["beta"])
        return -softmax.log_softmax_lastdim(h)[..., 0].mean()
    h = cases.rms(x, w)
    h = cases.gated(cases.silu, h @ gate["weight"], gate["bias"]) @ p["down"]["weight"]
    h = cases.layer(h + x, last["gamma"], last["beta"])
    return -cases.log_softmax(h)[..., 0].mean()


def trained(p: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in p.items() if name != "frozen"}


@pytest.mark.parametrize("compiled", [False, True])
def test_value_and_grad_of_a_tree(compiled: bool) -> None:
    p, x = trained(parameters()), drawn((2, 5, 16), seed=9)
    found = mx.value_and_grad(lambda p, x: block(p, x, True))
    wanted = mx.value_and_grad(lambda p, x: block(p, x, False))
    loss, slopes = (mx.compile(found) if compiled else found)(p, x)
    right, right_slopes = wanted(p, x)
    np.testing.assert_allclose(loss.item(), right.item(), 1e-6)
    for part, values in right_slopes.items():
        for name, value in values.items():
            close(slopes[part][name], wide(value), "float32", 4, f"{part} {name}")


def test_training_lowers_the_loss() -> None:
    p, x = trained(parameters()), drawn((4, 16), seed=9)
    step = mx.compile(mx.value_and_grad(lambda p: block(p, x, True)))
    losses = []
    for _ in range(5):
        loss, slopes = step(p)
        losses.append(loss.item())
        p = {
            part: {n: v - 0.5 * slopes[part][n] for n, v in values.items()}
            for part, values in p.items()
        }
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.8 * losses[0]


def test_rules_for_more_than_one_row_stay_apart() -> None:
    """A row does not depend on its neighbours: the Jacobian has blocks."""
    x, w = drawn((3, 40)), drawn((40,), seed=1)
    for f in (lambda v: norms.rmsnorm(v, w), softmax.softmax_lastdim, norms.layer_norm_no_weight):
        dx = mx.grad(lambda v, f=f: f(v)[1].square().sum())(x)
        assert not np.array(dx[0]).any() and not np.array(dx[2]).any() and np.array(dx[1]).any()
