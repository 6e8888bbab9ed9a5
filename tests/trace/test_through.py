"""Compiled and checkpointed functions are seen through; what cannot be is one call."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn
import pytest
from tracing import A, B, V, kinds, run, same, traced


def gate(x, y=1.5):
    return mx.sin(x) * y


def opaque(graph):
    return [kind for kind in kinds(graph) if kind.startswith("[")]


def two(fn):
    inner = mx.compile(fn)
    return mx.compile(lambda x: inner(x, y=2.0) + 1)


FORMS = {
    "compile": mx.compile(gate),
    "shapeless": partial(mx.compile, shapeless=True)(gate),
    "checkpoint": mx.checkpoint(gate),
    "checkpoint of compile": mx.checkpoint(mx.compile(gate)),
    "compile of checkpoint": mx.compile(mx.checkpoint(gate)),
    "nested": two(gate),
    "no arguments of state": mx.compile(gate, inputs=[], outputs=None),
    "draws named as state": mx.compile(gate, inputs=mx.random.state, outputs=mx.random.state),
    "a method": mx.compile(nn.Sequential(nn.Tanh()).__call__),
    "a module": mx.compile(nn.Tanh()),
    "MLX's own function": mx.compile(mx.tanh),
    "a partial": mx.compile(partial(gate, y=3.0)),
    "a lambda": mx.compile(lambda x: {"a": [gate(x), x * 2]}),
}


@pytest.mark.parametrize("name", FORMS)
def test_seen_through(name):
    fn = lambda x: FORMS[name](x * 2)  # noqa: E731
    assert opaque(traced(fn, A).graph) == []
    same(run(fn, A), fn(A))


@pytest.mark.usefixtures("on_cpu")  # MLX contracts products on a GPU
def test_keyword_arguments_and_trees():
    compiled = mx.compile(lambda p, *rest, scale=1.0: p["w"] * p["b"][0] * scale + sum(rest))
    fn = lambda x, y: compiled({"w": x, "b": [y]}, x, y, scale=x)  # noqa: E731
    assert opaque(traced(fn, A, B).graph) == []
    same(run(fn, A, B), fn(A, B))


def test_checkpoint_made_inside_and_of_a_module():
    layer = nn.Linear(4, 4)

    def fn(x):
        return nn.utils.checkpoint(layer)(x) + mx.checkpoint(lambda v: v * 2)(x)

    assert "[CustomTransforms]" not in kinds(traced(fn, A).graph)
    assert type(layer.weight) is mx.array
    same(run(fn, A), fn(A))


def test_what_may_run_when_asked_is_left_a_call():
    class Ran:  # what a trace writes into a list of its caller's it takes back
        with_arrays: ClassVar[list[int]] = []

    def count(*arrays):
        Ran.with_arrays.append(len(arrays))
        return arrays[0] * 2

    point = mx.checkpoint(count)
    found = traced(lambda x: point(x), A)
    assert Ran.with_arrays == [1] and opaque(found.graph) == ["[count]"]
    assert "MLX runs its Python" in found.notes[0][1]


def test_gradients_and_vmap_are_calls_with_a_reason():
    objects = [
        mx.grad(lambda x: gate(x).sum()),
        mx.value_and_grad(lambda x, y=2.0: gate(x, y).sum()),
        mx.vmap(lambda row: row * row.sum(), in_axes=0),
        mx.grad(lambda *, x: x.sum(), argnums=[], argnames=["x"]),
    ]
    for target in objects[:3]:
        found = traced(lambda x, target=target: target(x * 2), A)
        assert len(opaque(found.graph)) == 1 and len(found.notes) == 1
    found = traced(lambda x: objects[3](x=x)[1]["x"], A)
    assert len(opaque(found.graph)) == 1
    pair = mx.vmap(lambda a, b: a * b.sum(), in_axes=[0, None], out_axes=[0])
    assert len(opaque(traced(lambda x: pair, A).graph)) == 0


def test_what_the_body_raises_comes_out():
    def bad(x):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        traced(lambda x: mx.compile(bad)(x), A)

    def fn(x):
        try:
            return mx.compile(bad)(x)
        except LookupError:
            return mx.compile(gate)(x)

    same(run(fn, A), fn(A))


def test_arguments_are_copies_as_in_a_compiled_function():
    def body(x, w, held):
        x += 1
        w *= 2
        held["a"] = x
        held["l"].append(w)
        return x * w

    compiled = mx.compile(body)

    def fn(x):
        w, held = mx.array(V), {"a": x, "l": [x]}
        y = compiled(x, w, held)
        return y, x * 1.5, w * 3, held["a"] * 1.5, len(held["l"])

    same(run(fn, A), fn(A))


def test_captured_arrays_are_not_written():
    weights = mx.array(V)

    def body(w):
        w += 1
        return w

    compiled = mx.compile(body)
    fn = lambda x: compiled(weights) * x + weights  # noqa: E731
    want = fn(A)
    for _ in range(2):
        same(run(fn, A), want)
        same(weights, V)


@pytest.mark.smoke
def test_closures_over_traced_arrays():
    def fn(x, y):
        inner = mx.compile(lambda v: v * y)
        return inner(x) + inner(V)

    assert opaque(traced(fn, A, B).graph) == []
    same(run(fn, A, B), A * B + V * B)


def test_draws_inside_are_recorded():
    noisy = mx.compile(lambda x: x + mx.random.normal((4,)), inputs=[mx.random.state])
    assert kinds(traced(lambda x: noisy(x), V).graph) == ["[random.normal]", "add"]


def test_types_without_kernels():
    with mx.stream(mx.cpu):
        wide = mx.array([0.5, 2.0], mx.float64)
        complexes = mx.array([1j, 2 + 1j])
        compiled = mx.compile(gate)
        for array in (wide, complexes):
            same(run(lambda x: compiled(x) * 1, array), gate(array))
        same(run(lambda x: nn.silu(x), wide), wide * mx.sigmoid(wide))


def test_state_that_the_trace_takes_as_input_is_seen_through():
    state = {"n": mx.array(1.0)}

    def body(x):
        state["n"] = state["n"] + x.sum()
        return x * state["n"]

    compiled = mx.compile(body, inputs=state, outputs=state)
    found = traced(lambda x: compiled(x), V, inputs=[state], outputs=[state])
    assert kinds(found.graph).count("multiply") == 1 and len(found.updates) == 1
    assert type(state["n"]) is mx.array and state["n"].item() == 1.0


def test_other_state_stays_with_mlx():
    state = {"n": mx.array(1.0)}

    def body(x):
        state["n"] = state["n"] + x.sum()
        return x * state["n"]

    compiled = mx.compile(body, inputs=state, outputs=state)
    found = traced(lambda x: compiled(x), V)
    assert opaque(found.graph) == ["[body]"] and "state" in found.notes[0][1]
    assert type(state["n"]) is mx.array and state["n"].item() == 1.0
    (node,) = [n for n in found.graph if found.graph.kind(n) == "opaque"]
    assert found.graph[node]["pure"] is False
