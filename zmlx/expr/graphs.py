"""Graphs: what callers of this package ask for, expressions in, one Graph out.

Comes in: expressions, statements before them, names and their types. Goes out: a Graph with one
input for each name and one output for each expression. The helper layer calls `parse_all`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from zmlx.expr.build import Rows, Value, cast
from zmlx.expr.errors import Source
from zmlx.expr.lower import Lowering, Names
from zmlx.trace.graph import Graph


def parse_all(
    expressions: Sequence[Source],
    inputs: Mapping[str, str],
    names: Names,
    *,
    prelude: Source | None = None,
    result: str | None = None,
    cover: Collection[str] | None = None,
) -> Graph:
    """A graph of inputs `inputs` (name -> dtype) and one output for each expression.

    An output is converted to the type `result`, where that is given, and has the shape that the
    inputs `cover` (None: all) broadcast to, whether it depends on them or not. With T float64, for
    references, all floats are. Raises ExpressionError and Unparsed.
    """
    lowering = Lowering(names)
    nodes = []
    for name, kind in inputs.items():
        if cover is None or name in cover:
            nodes.append(len(lowering.graph))
        lowering.input(name, kind)
    for alias, name in names.aliases:
        lowering.scope.setdefault(alias, lowering.scope[name])
    if prelude is not None and prelude.text.strip():
        lowering.statements(prelude)
    for source in expressions:
        value = lowering.expression(source)
        if result is not None:
            value = cast(lowering.F, value, result)
        lowering.graph.outputs.append(covering(lowering.F, value, nodes).node)
    return lowering.graph


def parse(
    expr: str,
    names: Mapping[str, str] | Sequence[str],
    *,
    compute: str = "float32",
    result: str | None = None,
    prelude: str = "",
    what: str = "expr",
    raw: Sequence[str] = (),
) -> Graph:
    """The graph of one C expression over `names`: name -> dtype, or names of float32 values.

    Inputs stand in the order of `names`; each is converted to `compute` (half types to float32)
    where the expression names it, and the value to `result` where that is given. `prelude` holds
    statements such as `float s = kk_sigmoid(x);`, `what` is how messages call the expression, and
    `raw` are names that mean something to the kernel around it but have no value here.

    Raises:
        ExpressionError: for wrong syntax, unknown names, wrong argument counts; with the column.
        Unparsed: for C that may be right but has no form in rows of the op table.
    """
    inputs = names if isinstance(names, Mapping) else dict.fromkeys(names, "float32")
    around = Names(compute, result or compute, frozenset(raw))
    before = Source(prelude, f"the prelude of {what}") if prelude else None
    return parse_all([Source(expr, what)], inputs, around, prelude=before, result=result)


def covering(F: Rows, value: Value, inputs: Sequence[int]) -> Value:
    """`value` in the shape of all inputs: where nothing of it depends on one, a choice does."""
    reached, todo = set(), [value.node]
    while todo:
        node = todo.pop()
        if node not in reached:
            reached.add(node)
            todo.extend(F.graph.operands(node))
    for node in inputs:
        if node not in reached:
            one = F.ones_like(Value(node, F.graph[node]["dtype"]))
            value = F.where(one, value, value)
    return value
