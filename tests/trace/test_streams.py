"""Ops on another stream than the default one stay with MLX."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from tracing import V, filled, kinds, replayed, same, traced


def test_ops_under_another_stream_stay_there():
    other = mx.new_stream(mx.cpu)
    used = []

    def fn(x):
        y = x * 2
        with mx.stream(other):
            y = nn.gelu(mx.exp(y)) + mx.sum(y)
        return y + 1

    found = traced(fn, V)
    graph = found.graph
    inside = [n for n in graph if graph.kind(n) == "opaque"]
    assert kinds(graph)[0] == "multiply" and kinds(graph)[-1] == "add"
    assert (
        all(k.startswith("[") for k in kinds(graph)[1:-1]) and len(inside) == len(kinds(graph)) - 2
    )
    assert {why for _, why in found.notes} == {"it runs on another stream"}
    call = graph[inside[0]]["call"]
    call.fn.fn, kept = (
        lambda x: used.append(mx.default_stream(mx.default_device())) or x,
        call.fn.fn,
    )
    call.fn(*filled(call.args, [V]))
    call.fn.fn = kept
    assert used == [other]
    same(replayed(found, [V]), fn(V))


def test_the_default_stream_is_no_other():
    def fn(x):
        with mx.stream(mx.default_device()):
            return x * 2

    assert kinds(traced(fn, V).graph) == ["multiply"]


def test_an_explicit_stream_is_left_to_mlx():
    other = mx.new_stream(mx.cpu)
    found = traced(lambda x: mx.exp(x, stream=other) + x.abs(stream=mx.cpu), V)
    assert kinds(found.graph) == ["[exp]", "[abs]", "add"]
    assert [why for _, why in found.notes] == ["it names a stream"] * 2
    same(replayed(found, [V]), mx.exp(V, stream=mx.cpu) + mx.abs(V, stream=mx.cpu))
