"""Explanations of gradients: which kernels run inside a call that MLX makes, forward and back."""

from __future__ import annotations

from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import zmlx
from zmlx import switches
from zmlx.fuse.explain import Explanation
from zmlx.fuse.inside import Inside
from zmlx.trace import intercept

# What plain MLX runs of these for one element each; all else here moves or adds up.
ELEMENTWISE = {"Tanh", "Multiply", "Add", "Divide", "Cosh", "Square", "Exp", "Subtract", "Negative"}
x, w = mx.ones((5, 4)), mx.ones((4, 3))


@zmlx.fuse
def act(x: Any) -> Any:
    return mx.tanh(x) * x + 1


# Of functions that could be called with nothing, no gradient becomes nodes of the graph.
def loss(*given: Any) -> Any:
    w, x = given
    return act(x @ w).sum()


def plain_loss(*given: Any) -> Any:
    w, x = given
    h = x @ w
    return (mx.tanh(h) * h + 1).sum()


def inside_of(e: Explanation) -> Inside:
    (inside,) = (u.inside for u in e.unfused if u.inside is not None)
    return inside


def exported(function: Any, *arrays: mx.array) -> int:
    """Elementwise primitives of a function of plain MLX, by MLX's own export."""
    names = []

    def note(entry: dict[str, Any]) -> None:
        if entry["type"] == "primitive":
            names.append(entry["name"])

    mx.export_function(note, function, *arrays)
    return sum(name in ELEMENTWISE for name in names)


def test_a_gradient_shows_its_kernels_forward_and_backward() -> None:
    e = zmlx.explain(mx.value_and_grad(loss), w, x)
    inside = inside_of(e)
    forward, backward = inside.launches
    assert (forward.function, forward.ops) == ("act.region0", ("tanh", "multiply", "add"))
    assert backward.function == "act.region0.vjp.region0"
    assert forward.bytes == 2 * 5 * 3 * 4
    assert backward.bytes == 3 * 5 * 3 * 4  # the array, the cotangent, the gradient
    assert inside.elementwise == {}
    assert inside.others["Matmul"] == 2
    assert inside.plain == exported(mx.value_and_grad(plain_loss), w, x)
    assert (e.kernels_before, e.kernels_after) == (inside.plain, 2)
    assert e.unfused[0].reason.startswith("mx.grad inside")
    for text in (str(e), e._repr_html_()):
        assert "Nothing" not in text
        assert "act.region0" in text


def test_a_gradient_that_is_nodes_of_the_graph_is_regions() -> None:
    summed = zmlx.fuse(lambda x: (mx.tanh(x) * x).sum())
    for function in (summed, lambda x: act(x @ w).sum()):
        e = zmlx.explain(mx.value_and_grad(function), x)
        assert len(e.regions) == 1 and all(u.inside is None for u in e.unfused)


def test_what_a_gradient_does_not_need_is_no_kernel() -> None:
    (launch,) = inside_of(zmlx.explain(mx.grad(loss), w, x)).launches
    assert launch.function == "act.region0.vjp.region0"


def test_a_gradient_of_plain_code_says_what_to_fuse() -> None:
    e = zmlx.explain(mx.grad(plain_loss), w, x)
    inside = inside_of(e)
    assert not inside.launches
    assert sum(inside.elementwise.values()) == inside.plain == e.kernels_after
    assert e.unfused[0].reason == "mx.grad inside; nothing in it is fused: fuse its function"
    assert "Nothing here is fused" in str(e)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.filterwarnings("ignore:.*ZMLX_DEVICE=replay:RuntimeWarning")
@pytest.mark.parametrize(("name", "value"), [("ZMLX_FUSE", "0"), ("ZMLX_DEVICE", "replay")])
def test_without_kernels_mlx_s_are_shown(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    e = zmlx.explain(mx.value_and_grad(loss), w, x)
    inside = inside_of(e)
    assert inside.launches == ()
    assert inside.elementwise["Tanh"] >= 1
    assert e.kernels_after == inside.kernels == sum(inside.elementwise.values())
    assert name in str(e)


def test_only_what_runs_inside_the_call_is_counted_there() -> None:
    def step(w: Any, x: Any) -> Any:
        scaled = mx.exp(x) * x - x  # before the call
        return mx.grad(plain_loss)(w, scaled) * 2 + w  # and after it

    e = zmlx.explain(step, w, x)
    inside = inside_of(e)
    assert "Exp" not in inside.elementwise
    assert inside.plain == exported(mx.grad(plain_loss), w, x)
    assert len(e.regions) == 2
    assert e.kernels_before == 3 + inside.plain + 2


def test_a_training_step_is_explained_and_left_as_it_was() -> None:
    net, adam = nn.Sequential(nn.Linear(4, 3), nn.SiLU()), optim.Adam(1e-3)
    fused = zmlx.fuse(net)
    gradient = nn.value_and_grad(net, lambda x: fused(x).sum())
    state = [net.state, adam.state, mx.random.state]

    @zmlx.fuse(inputs=state, outputs=state)
    def train(x: Any) -> Any:
        value, gradients = gradient(x)
        adam.update(net, gradients)
        return value

    mx.eval(train(x), state)
    weight, step, key = net.layers[0].weight + 0, adam.step.item(), mx.random.state[0] + 0
    e = train.explain(x)
    assert all(u.inside is None for u in e.unfused)
    assert any("sigmoid" in region.ops for region in e.regions)
    assert any("sqrt" in region.ops for region in e.regions)  # the optimizer
    assert mx.array_equal(net.layers[0].weight, weight).item()
    assert (adam.step.item(), mx.array_equal(mx.random.state[0], key).item()) == (step, True)
    mx.eval(train(x), state)
    assert adam.step.item() == step + 1


def test_other_transformations_show_their_kernels_too() -> None:
    functions = {
        "mx.vmap": mx.vmap(act),
        "mx.vjp": lambda x: mx.vjp(lambda x: [act(x)] * 2, [x], [x, x])[1][0],
    }
    for name, function in functions.items():
        e = zmlx.explain(function, x)
        assert inside_of(e).launches, name
        assert name in e.unfused[0].reason


def test_the_switch_is_as_it_was_even_if_the_function_fails() -> None:
    class Ran:  # what a trace writes into a list of its caller's it takes back
        fused: ClassVar[list[bool]] = []

    def fails_later(*given: Any) -> Any:
        Ran.fused.append(switches.FUSE.on())
        if not switches.FUSE.on():
            raise ZeroDivisionError
        return mx.exp(*given).sum()

    with pytest.raises(ZeroDivisionError):
        zmlx.explain(mx.grad(fails_later), w)
    assert False in Ran.fused and switches.FUSE.on()
    assert intercept.current() is None
    assert not zmlx.explain(mx.grad(plain_loss), w, x).regions


@pytest.mark.usefixtures("host_device")
def test_a_region_that_no_one_kernel_holds_is_told_by_what_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row's number is kept beside the sum over all of them: two kernels."""
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)

    def spread(x: mx.array) -> mx.array:
        size = (x * x).sum(-1, keepdims=True)
        return (mx.exp(-size) * size).mean()

    x = mx.random.normal((64, 1000)) / 30
    explained, fused = zmlx.explain(spread, x), zmlx.fuse(spread)
    with zmlx.profile(show=False) as profile:
        mx.eval(fused(x))
    (region,) = explained.regions
    launches = sum(record.launches for record in profile.kernels)
    parts = [part for part in region.parts if part.kernel]
    assert region.kernel == "" and len(parts) == launches == 2
    assert all(any(r.name in part.kernel for r in profile.kernels) for part in parts)
    lone = [u.label for u in explained.unfused if u.label == "divide"]
    assert explained.kernels_after == launches + len(lone)
    assert explained.bytes_after < explained.bytes_before
    for text in (str(explained), explained._repr_html_()):
        assert "as one alone is none or slower for these shapes" in text
        assert "one by one" not in text
    assert region.msl.count("// Body of kernel") == 2


@pytest.mark.usefixtures("host_device")
def test_rows_too_short_for_a_kernel_have_none_in_the_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # watched rows are a GPU's: none too short

    def shares(x: mx.array) -> mx.array:
        return x / (x * x).sum(-1, keepdims=True)

    counts = {}
    for columns in (3, 64):
        x, fused = mx.random.normal((4096, columns)), zmlx.fuse(shares)
        with zmlx.profile(show=False) as profile:
            mx.eval(fused(x))
        explained = zmlx.explain(shares, x)
        assert bool(explained.regions[0].kernel) == bool(profile.kernels)
        counts[columns] = explained.kernels_after
    assert counts == {3: 3, 64: 1}
