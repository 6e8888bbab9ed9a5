"""Every pass's graph is looked through: a fault planted in one is an error with its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from zmlx.derive import accumulate, factor
from zmlx.errors import PlanError
from zmlx.fuse import backward, extract, move, shapes, simplify, written
from zmlx.msl import schedule
from zmlx.trace import passes, run
from zmlx.trace.graph import Graph


def spoilt(made: Any) -> Any:
    """What a pass made, with a graph whose result is of a type that is none."""
    first = made[0] if isinstance(made, tuple) else made
    graph = first if isinstance(first, Graph) else first.graph
    graph[graph.outputs[0]]["dtype"] = "float99"
    return made


def spoiling(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: spoilt(function(*args, **kwargs))


def wrong_shape(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: (*function(*args), 7)


def wrong_type(function: Callable[..., Any]) -> Callable[..., Any]:
    def copy(source: Graph, node: int, target: Graph, operands: Any) -> int:
        made = function(source, node, target, operands)
        target[made]["at"] = "float99"
        return made

    return copy


def lost_operand(function: Callable[..., Any]) -> Callable[..., Any]:
    def gathered(copy: Any, *args: Any) -> int:
        made = function(copy, *args)
        for source in copy.graph.operands(made)[:1]:
            copy.graph.nx.remove_edge(source, made)
        return made

    return gathered


def shortest(rewriter: Any) -> Any:
    """A rewriter whose graph is spoilt; it is taken, whatever it costs."""

    class Spoilt(rewriter):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            spoilt(self.result)

    return Spoilt


def spoilt_part(part: Any) -> Callable[..., Any]:
    def made(*args: Any) -> Any:
        found = part(*args)
        return spoilt(found) if found.graph.outputs else found

    return made


def centred(x: mx.array, y: mx.array) -> mx.array:
    return mx.exp(x - mx.mean(x, axis=-1, keepdims=True)) * y


def gate(x: mx.array, y: mx.array) -> mx.array:
    return (x * y).T * mx.exp(x.T)


def gradient(x: mx.array, y: mx.array) -> mx.array:
    return mx.grad(lambda x: (zmlx.fuse(gate)(x, y)).sum())(x)


def of_one_kernel(x: mx.array, y: mx.array) -> mx.array:
    fused = zmlx.fuse(lambda x, y: x * mx.exp(y) * x)
    return mx.grad(lambda x: fused(x, y).sum())(x)


FAULTS: dict[str, tuple[Any, str, Callable[..., Any], Callable[..., Any]]] = {
    "trace": (run, "_run", spoiling, zmlx.fuse(gate)),
    "simplify": (simplify, "_shorter", spoiling, zmlx.fuse(gate)),
    "lift": (move, "_Writer", spoiling, zmlx.fuse(gate)),
    "write": (written, "Written", spoiling, zmlx.fuse(centred)),
    "schedule": (schedule, "Part", spoilt_part, zmlx.fuse(centred)),
    "extract": (extract, "copy_node", wrong_type, zmlx.fuse(gate)),
    "specialize": (shapes, "broadcast", wrong_shape, zmlx.fuse(gate)),
    "derive": (accumulate, "gathered", lost_operand, of_one_kernel),
    "backward": (backward, "gathered", lost_operand, gradient),
    "factor": (factor, "_Rewriter", shortest, gradient),
}
x, y = mx.ones((3, 4)), mx.ones((4,))


@pytest.mark.smoke
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_told_with_the_name_of_its_pass(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, inner, plant, call = FAULTS[name]
    monkeypatch.setattr(module, inner, plant(getattr(module, inner)))
    costs = iter(range(99))
    monkeypatch.setattr(factor, "_cost", lambda graph: next(costs))  # the first one is taken
    monkeypatch.setattr(passes, "always", False)
    with zmlx.config(check=True), pytest.raises(PlanError, match=rf"^\[zmlx\.{name}\] the pass"):
        mx.eval(call(x, y))


@pytest.mark.parametrize(
    "call", [zmlx.fuse(gate), gradient, zmlx.fuse(centred)], ids=["value", "gradient", "rows"]
)
def test_without_a_fault_all_passes_are_right(call: Any) -> None:
    with zmlx.config(check=True):
        mx.eval(call(x, y))


def test_graphs_are_looked_through_under_the_switch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Graph] = []
    monkeypatch.setattr(passes, "verify", seen.append)
    monkeypatch.setattr(passes, "always", False)
    zmlx.fuse(gate).entry(x, y)
    assert not seen
    with zmlx.config(check=True):
        zmlx.fuse(gate).entry(x, y)
    assert seen
