"""Graphs: a trace as JSON and arrays, and back.

Comes in: a Trace. Goes out: lists and dicts, with the arrays that it captured by name beside them;
from these the same Trace again. zmlx.stored.write and zmlx.stored.loaded are the callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from zmlx.errors import PlanError, StoredError
from zmlx.stored.calls import call_read, call_written
from zmlx.stored.values import (
    Unwritable,
    expr_read,
    expr_written,
    read,
    result_written,
    written,
)
from zmlx.trace.graph import KINDS, Graph
from zmlx.trace.operands import name_of
from zmlx.trace.recipe import Write
from zmlx.trace.run import Trace
from zmlx.trace.sizes import Decision

_AXES = "axes"


class Arrays:
    """The arrays of a file, each once, by name."""

    def __init__(self) -> None:
        self.named: dict[str, mx.array] = {}
        self._names: dict[int, str] = {}

    def name(self, array: mx.array) -> str:
        if id(array) not in self._names:
            name = self._names[id(array)] = f"array{len(self.named)}"
            self.named[name] = array
        return self._names[id(array)]


def trace_written(trace: Trace, arrays: Arrays, name: str) -> dict[str, Any]:
    """The trace as JSON; what no file holds is a StoredError that names its line."""
    try:
        result = result_written(trace.result)
    except Unwritable as what:
        raise StoredError(
            f"[zmlx.export] {name} returns {what}, which a file does not hold. Return arrays and "
            "numbers, in tuples, lists and dicts."
        ) from None
    if trace.updates:
        raise StoredError(
            f"[zmlx.export] {name} writes into objects that it reads (a module's state, outputs=), "
            "which are not there where the file is loaded. Return the new values instead; of an "
            "nn.Module, call .eval() first."
        )
    return {
        "nodes": [_node_written(trace.graph, node, arrays, name) for node in trace.graph],
        "outputs": list(trace.graph.outputs),
        "result": result,
        "writes": [[write.array, write.output] for write in trace.writes],
        "decisions": [[expr_written(d.expr), written(d.value), d.loc] for d in trace.decisions],
        "static": sorted(trace.static_numbers),
    }


def _node_written(graph: Graph, node: int, arrays: Arrays, name: str) -> dict[str, Any]:
    data = graph[node]
    kind = data["kind"]
    found = {key: data[key] for key in ("kind", "shape", "dtype", "loc")}
    found["operands"] = list(data["operands"])
    for key in KINDS[kind]:
        value = data[key]
        if key == "index" and kind != "item":
            continue  # the reader counts inputs
        if key == "expr":
            found[key] = None if value is None else expr_written(value)
        elif kind == "array":
            found[key] = arrays.name(value)
        elif key == "call":
            found[key] = _call(data, node, name)
        elif key == "value":
            found[key] = written(value)
        else:
            found[key] = list(value) if key == _AXES else value
    return found


def _call(data: dict[str, Any], node: int, name: str) -> dict[str, Any]:
    try:
        return call_written(data["call"], data["dtype"])
    except Unwritable as what:
        place = f"{data['loc']}: " if data["loc"] else ""
        raise StoredError(
            f"[zmlx.export] {place}{name} cannot be stored: it holds {what}. Write the line with "
            "functions of MLX on traced arrays, or do it outside of the exported function."
        ) from None


def trace_read(text: dict[str, Any], arrays: Mapping[str, mx.array]) -> Trace:
    """The trace; StoredError where `text` holds anything that `trace_written` never writes."""
    graph = Graph()
    try:
        for node in text["nodes"]:
            _node_read(graph, node, arrays)
        graph.outputs = [int(n) for n in text["outputs"]]
        graph.verify()
        return Trace(
            graph,
            read(text["result"]),
            (),
            tuple([Write(int(a), int(o)) for a, o in text["writes"]]),
            (),
            tuple([Decision(expr_read(e), read(v), str(loc)) for e, v, loc in text["decisions"]]),
            frozenset(map(int, text["static"])),
        )
    except (KeyError, TypeError, ValueError, IndexError, PlanError) as error:
        raise StoredError(f"[zmlx.load] the file's graph is none: {error!r}.") from error


def _node_read(graph: Graph, node: dict[str, Any], arrays: Mapping[str, mx.array]) -> None:
    data = dict(node)
    kind = data.pop("kind")
    operands, shape = data.pop("operands"), tuple(data.pop("shape"))
    if data.get("expr") is not None:
        data["expr"] = expr_read(data["expr"])
    if "value" in data:
        data["value"] = arrays[data["value"]] if kind == "array" else read(data["value"])
    if kind == "array" and (data["value"].shape, name_of(data["value"].dtype)) != (
        shape, data["dtype"],
    ):  # fmt: skip
        raise ValueError(f"array {node['value']} has another shape or dtype")
    if "call" in data:
        data["call"] = call_read(data["call"])
    if _AXES in data:
        data[_AXES] = tuple(data[_AXES])
    graph.add(kind, operands, shape=shape, **data)
