"""Objects of Python's standard library as arguments, attributes and state: each call as in Python.

For each the function computes with what it reads of the object. Equal objects share a trace or make
one each; a changed one makes another; what could be right at the first call only is refused.
"""

from __future__ import annotations

import logging
import random
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from standard_cases import CASES, Owner

import zmlx
from zmlx.errors import TraceError


def _forms(read: Callable[[Any], Any]) -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """Ways to pass an object: the function, and what makes its second argument of the object."""
    return {
        "argument": (lambda x, held: x * read(held), lambda held: held),
        "in a list": (lambda x, held: x * read(held[0]), lambda held: [held]),
        "attribute": (
            lambda x, held: x * read(held.it),
            lambda held: types.SimpleNamespace(it=held),
        ),
    }


@pytest.mark.parametrize("form", ["argument", "in a list", "attribute"])
@pytest.mark.parametrize("name", CASES)
def test_equal_objects_share_a_trace_and_changed_ones_make_another(name: str, form: str) -> None:
    case, x = CASES[name], mx.array([1.0, 2.0])
    function, passed = _forms(case.read)[form]
    fused, held = zmlx.fuse(function), case.make()
    for _ in range(3):
        if case.refused:
            with pytest.raises((TraceError, TypeError), match=r"\[zmlx\.\w+\] "):
                fused(x, passed(held))
        else:
            for given in (held, held, case.make()):
                wanted = function(x, passed(given)).tolist()
                assert fused(x, passed(given)).tolist() == wanted
        held = case.change(held) or held if not isinstance(held, (list, dict)) else held
        if isinstance(held, (int, float)):  # what `next` and draws give
            held = case.make()


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.shared and not case.refused]
)
def test_equal_objects_make_one_trace(name: str) -> None:
    case, x = CASES[name], mx.array([1.0, 2.0])
    fused = zmlx.fuse(lambda x, held: x * case.read(held))
    fused(x, case.make()), fused(x, case.make())
    assert fused.cache_info().misses == 1


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.refused])
def test_named_state_is_read_at_every_call(name: str) -> None:
    case, x = CASES[name], mx.array([1.0, 2.0])
    state = {"held": case.make()}
    fused = zmlx.fuse(lambda x: x * case.read(state["held"]), inputs=state)
    for _ in range(2):
        assert fused(x).tolist() == (x * case.read(state["held"])).tolist()
        state["held"] = case.change(state["held"]) or state["held"]


def test_weak_references_that_equal_objects_hold_share_a_trace() -> None:
    class Child:
        def __init__(self, parent: Owner) -> None:
            self.parent = weakref.ref(parent)

        @zmlx.fuse
        def __call__(self, x: mx.array) -> mx.array:
            return x * self.parent().weight

    parents = [Owner() for _ in range(5)]
    for i, parent in enumerate(parents):
        parent.weight = mx.array(float(i))
        assert Child(parent)(mx.array(2.0)).item() == 2 * i
    assert Child.__call__.cache_info().misses == 1
    gone = weakref.ref(parents[0])
    del parents, parent
    assert gone() is None


def test_a_weak_reference_to_an_array_is_refused_and_a_dead_one_is_none() -> None:
    x, owner = mx.array(2.0), Owner()
    fused = zmlx.fuse(lambda x, ref: x * (2.0 if ref() is None else ref().rate + 5))
    with pytest.raises(TypeError, match="a weak reference to an array"):
        fused(x, weakref.ref(x))
    ref = weakref.ref(owner)
    assert fused(x, ref).item() == 14
    del owner
    assert fused(x, ref).item() == 4


def test_machines_that_are_only_carried_are_let_through() -> None:
    class Layer:
        def __init__(self) -> None:
            self.rng, self.log, self.lock = (
                random.Random(0),
                logging.getLogger("a test"),
                threading.Lock(),
            )

        @zmlx.fuse
        def __call__(self, x: mx.array) -> Any:
            assert isinstance(self.rng, random.Random)
            self.kept = self.rng
            with self.lock:
                return x * 2, self.rng

    layer = Layer()
    for _ in range(2):
        assert layer(mx.array(1.0))[1] is layer.rng is layer.kept
        layer.rng.random()
    assert Layer.__call__.cache_info().misses <= 2  # `kept` was not there at the first call
