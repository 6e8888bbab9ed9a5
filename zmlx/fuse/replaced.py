"""Replaced: a graph with what was matched in it computed by the patterns' replacements.

Comes in: a simplified graph and matches that share no node. Goes out: the graph in which each match
is a call of its pattern's replacement, or, where that is to be traced in place, its nodes.
zmlx.fuse.patterns calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from zmlx.errors import PlanError
from zmlx.fuse.matched import Match
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.simplify import copy_node
from zmlx.fuse.spellings import Pattern
from zmlx.trace.exprs import leaves, replaced
from zmlx.trace.graph import Graph, OpaqueCall, Ref
from zmlx.trace.passes import verified
from zmlx.trace.run import Call, trace
from zmlx.trace.tree import flatten_call


@verified("patterns")
def with_replaced(graph: Graph, matches: Sequence[Match]) -> Graph:
    """`graph`, each of `matches` replaced."""
    made = Graph()
    new: dict[int, int] = {}
    parts: dict[Any, Graph] = {}
    home = {output: m for m in matches for output in m.outputs}
    inner = {n for m in matches for n in m.inner if _only_inside(graph, n, m)}
    for node in graph:
        if node in inner or node in new:
            continue
        for needed in (node, *graph.operands(node)):
            if needed in home and needed not in new and _is_due(node, needed, home[needed]):
                _replace(graph, made, home[needed], new, parts)
        if node not in new and node not in home:
            operands = [new[o] for o in graph.operands(node)]
            new[node] = copy_node(graph, node, made, operands)
    made.outputs = [new[n] for n in graph.outputs]
    return made


def _is_due(node: int, needed: int, match: Match) -> bool:
    """Whether the match is made when `node` is reached: it ends there, or something reads it."""
    return node == max(match.outputs) or node not in match.outputs


def _only_inside(graph: Graph, node: int, match: Match) -> bool:
    """Whether nothing else reads a node of a match, nor what replaces it."""
    if node in match.arrays.values():
        return False
    inside = match.inner | set(match.outputs)
    return inside.issuperset(graph.users(node)) and node not in graph.outputs


def _replace(
    graph: Graph, made: Graph, match: Match, new: dict[int, int], parts: dict[Any, Graph]
) -> None:
    """Put what replaces `match` into `made`; `parts` holds what was traced for others like it."""
    loc = graph[max(match.outputs)]["loc"]
    pattern = match.spelling.pattern
    numbers = {n: _number(graph, term, made, new) for n, term in match.numbers.items()}
    arrays = {name: new[node] for name, node in match.arrays.items()}
    if pattern.inline:
        found = _traced(made, match, arrays, numbers, loc, parts)
    else:
        found = _called(made, match, arrays, numbers, loc)
    for output, node in zip(match.outputs, found, strict=True):
        want, got = graph[output], made[node]
        if (want["shape"], want["dtype"]) != (got["shape"], got["dtype"]):
            raise PlanError(
                f"[zmlx.patterns] {loc}: what replaces {pattern.name!r} is {got['dtype']}"
                f"{list(got['shape'])}; wanted {want['dtype']}{list(want['shape'])}, which its "
                "spelling gives. Mend `by`, or set patterns=False."
            )
        new[output] = node


def _number(graph: Graph, term: Any, made: Graph, new: dict[int, int]) -> Any:
    """A number in the text as it is; else the node of it."""
    kind, what = term
    if kind == "value" or graph.kind(what) == "const":
        return what if kind == "value" else graph[what]["value"]
    return Ref(new[what])


def _called(
    made: Graph, match: Match, arrays: dict[str, int], numbers: dict[str, Any], loc: str
) -> list[int]:
    """One call of the replacement, at run time."""
    operands: list[int] = []

    def ref(node: int) -> Ref:
        operands.append(node)
        return Ref(len(operands) - 1)

    kwargs = {name: ref(node) for name, node in arrays.items()}
    kwargs |= {n: ref(v.position) if type(v) is Ref else v for n, v in numbers.items()}
    pattern, graph, outputs = match.spelling.pattern, match.subject.graph, match.outputs
    kinds = [{k: graph[o][k] for k in ("shape", "dtype", "loc")} for o in outputs]
    count = 0 if len(outputs) == 1 else len(outputs)
    call = OpaqueCall(pattern.by, (), kwargs, pattern.label, count)
    first = kinds[0] if not count else {"loc": loc}
    node = made.add("opaque", operands, call=call, pure=True, **first)
    if not count:
        return [node]
    return [made.add("item", (node,), index=i, **kind) for i, kind in enumerate(kinds)]


def _traced(
    made: Graph, match: Match, arrays: dict[str, int], numbers: dict[str, Any], loc: str,
    parts: dict[Any, Graph],
) -> list[int]:  # fmt: skip
    """The nodes that the replacement makes, for arrays of these shapes."""
    kinds = {n: (made[node]["shape"], made[node]["dtype"]) for n, node in arrays.items()}
    values = {name: float(match.example(name)) for name in numbers}
    key = (match.spelling.pattern, *kinds.items(), *map(repr, values.items()))
    if key not in parts:
        parts[key] = _part(match.spelling.pattern, kinds, values)
    return _spliced(made, parts[key], list(arrays.values()), list(numbers.values()), loc)


def _part(
    pattern: Pattern, kinds: dict[str, tuple[tuple[int, ...], str]], values: dict[str, float]
) -> Graph:
    """What the replacement does with arrays of these shapes and types, and numbers."""
    names = [*kinds, *values]
    examples = [mx.zeros(shape, dtype_of(dtype)) for shape, dtype in kinds.values()]

    def called(*given: Any) -> Any:
        return pattern.by(**dict(zip(names, given, strict=True)))

    found = trace(called, Call(*flatten_call((*examples, *values.values()), {})))
    if found.decisions or found.static_numbers or found.captures:
        raise PlanError(
            f"[zmlx.patterns] what replaces {pattern.name!r} reads sizes or numbers, or holds "
            "arrays of its own: it cannot be traced in place. Register it with inline=False."
        )
    return found.graph


def _spliced(
    made: Graph, part: Graph, arrays: Sequence[int], numbers: Sequence[Any], loc: str
) -> list[int]:
    """The nodes of `part`, whose inputs are these nodes of `made`, appended to it."""
    new: dict[int, int] = {}
    for node in part:
        data = part[node]
        if data["kind"] == "input":
            new[node] = arrays[data["index"]]
        elif data["kind"] == "scalar":
            new[node] = _scalar(made, data, arrays, numbers, loc)
        else:
            operands = [new[o] for o in data["operands"]]
            new[node] = made.add(data["kind"], operands, **{**part.attributes(node), "loc": loc})
    return [new[n] for n in part.outputs]


def _scalar(
    made: Graph, data: dict[str, Any], arrays: Sequence[int], numbers: Sequence[Any], loc: str
) -> int:
    """The node of a number that the replacement computes of its own numbers and sizes."""
    by: dict[Any, Any] = {}
    operands: list[int] = []
    for leaf in leaves(data["expr"]):
        given = arrays[leaf[1]] if leaf[0] == "size" else numbers[leaf[1]]
        if leaf[0] == "arg" and type(given) is not Ref:
            by[leaf] = ("value", given)
            continue
        by[leaf] = (leaf[0], len(operands), *leaf[2:])
        operands.append(given.position if type(given) is Ref else given)
    expr = replaced(data["expr"], by)
    if expr[0] == "value":
        return made.add("const", dtype=data["dtype"], value=expr[1], loc=loc)
    same = expr == ("arg", 0) and made[operands[0]]["dtype"] == data["dtype"]
    if same:
        return operands[0]
    return made.add("size", operands, dtype=data["dtype"], expr=expr, loc=loc)
