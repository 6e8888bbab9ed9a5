"""MLX's transformations and custom functions, as one call each."""

from __future__ import annotations

import mlx.core as mx
import pytest
from tracing import A, B, V, kinds, random_state, replayed, run, same, traced


def scaled(x):
    return mx.sin(x) * x


def custom():
    function = mx.custom_function(lambda x: x * 2)
    function.vjp(lambda primal, cotangent, output: cotangent * 7)
    return function


OBJECTS = {
    "grad": mx.grad(lambda x: scaled(x).sum()),
    "value_and_grad": mx.value_and_grad(lambda x: scaled(x).sum()),
    "vmap": mx.vmap(lambda row: row * row.sum()),
    "custom_function": custom(),
    "second order": mx.grad(lambda x: mx.grad(lambda y: (scaled(y) * y).sum())(x).sum()),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_transformed_functions(name):
    def fn(x):
        return OBJECTS[name](x * 2)

    assert len([k for k in kinds(traced(fn, A).graph) if k.startswith("[")]) == 1
    same(run(fn, A), fn(A))


def test_nested_results_are_flat_in_the_graph():
    nested = mx.value_and_grad(lambda p: (p["a"] * p["b"][0]).sum())
    fn = lambda x: nested({"a": x, "b": [x]})  # noqa: E731
    found = traced(fn, A)
    node = next(n for n in found.graph if found.graph.kind(n) == "opaque")
    assert found.graph[node]["call"].outputs == 3
    same(run(fn, A), fn(A))


def test_transformations_made_inside():
    def fn(x, w):
        value, grads = mx.value_and_grad(lambda p: {"a": (p["w"] * p["b"]).sum()}["a"])(
            {"w": w, "b": x}
        )
        return value, grads["w"] + 1, mx.vmap(lambda a, b: a * b, in_axes=(0, None))(x, w[0])

    same(run(fn, A, B), fn(A, B))


def test_a_transformed_closure_over_a_captured_array():
    weights = mx.array(V)
    same(
        run(lambda x: mx.grad(lambda y: (y * weights).sum())(x), A),
        mx.grad(lambda y: (y * weights).sum())(A),
    )


def test_draws_inside_a_transformation():
    noisy = mx.grad(lambda x: (x * mx.random.normal((4,))).sum())
    mx.random.seed(5)
    before = random_state()
    found = traced(lambda x: noisy(x * 2), V)
    assert random_state() == before
    assert [found.graph[n]["pure"] for n in found.graph if found.graph.kind(n) == "opaque"] == [
        False
    ]
    got = [replayed(found, [V]), replayed(found, [V])]
    mx.random.seed(5)
    same(got, [noisy(V * 2), noisy(V * 2)])


def test_draws_inside_a_transformation_of_untraced_arrays():
    noisy = mx.vmap(lambda v: v * mx.random.normal((4,)))
    mx.random.seed(6)
    before = random_state()
    found = traced(lambda x: x + noisy(A), A)
    assert random_state() == before and "[<lambda>]" in kinds(found.graph)
    got = [replayed(found, [A]), replayed(found, [A])]
    mx.random.seed(6)
    same(got, [A + noisy(A), A + noisy(A)])
    assert not any(k[0] == "[" for k in kinds(traced(lambda x: x + OBJECTS["grad"](V), V).graph))
