"""Steps: a row-wise op as a function of MLX's reductions and of elementwise ops.

Comes in: a RowSpec. Goes out: `row_function`, which zmlx.rowwise fuses: expressions that can be
read become nodes, updates such as `acc1 + f(x)` a reduction of an elementwise op. An expression
that cannot be read is a kernel of its own text, and so is a fold with an operator of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from zmlx.expr import Source, Unparsed, parse_all, split_update
from zmlx.fuse.replay import count
from zmlx.helpers.op import ElementwiseOp
from zmlx.helpers.op import refusing as refused
from zmlx.helpers.rowfold import fold_kernel
from zmlx.helpers.rowspec import LENGTHS, WHERE, Fold, RowSpec, words
from zmlx.trace import intercept, reductions

Scope = dict[str, mx.array]
Step = Callable[[Scope], mx.array]

# Rows of the op table that join two numbers: the reduction, and what is neutral.
_REDUCTIONS: dict[str, tuple[Callable[..., mx.array], float]] = {
    "add": (lambda v: mx.sum(v, -1, keepdims=True), 0.0),
    "multiply": (lambda v: mx.prod(v, -1, keepdims=True), 1.0),
    "maximum": (lambda v: mx.max(v, -1, keepdims=True), -math.inf),
    "minimum": (lambda v: mx.min(v, -1, keepdims=True), math.inf),
}


def row_function(row: RowSpec) -> Callable[..., list[mx.array]]:
    """The op as a function of its inputs: a list of its outputs."""
    folds = [(fold, _folding(row, k, fold)) for k, fold in enumerate(row.folds)]
    count_ = len(row.folds)
    writes = [
        ElementwiseOp(row.step(text, "write_expr", count_, once), WHERE)
        for text, once in zip(row.writes, row.row_writes, strict=True)
    ]

    def run(*arrays: mx.array) -> list[mx.array]:
        scope = dict(zip(("x", *row.inputs[1:]), arrays, strict=True))
        scope = dict.fromkeys(LENGTHS, _length(arrays[0])) | scope
        for fold, step in folds:
            scope[fold.result] = step(scope)
        outputs = [write(*[scope[name] for name in write.spec.names]) for write in writes]
        return [
            _once(row, output, arrays[0]) if once else output
            for output, once in zip(outputs, row.row_writes, strict=True)
        ]

    run.__name__ = run.__qualname__ = row.name
    return run


def _once(row: RowSpec, output: mx.array, x: mx.array) -> mx.array:
    """A number for each row, of shape (..., 1), as an output."""
    if output.shape[-1] != 1:
        raise row.wrong(
            "an output of row_outputs has as many numbers a row as an input that it names"
        )
    return mx.squeeze(output, -1).astype(x.dtype)


def _length(x: mx.array) -> mx.array:
    """The length of a row, known when a kernel runs."""
    tracer = intercept.current()
    if tracer is not None and tracer.sees(x):
        return reductions.counted(tracer, x, (x.ndim - 1,))
    found = count(x, (-1,))
    return found if isinstance(found, mx.array) else mx.array(float(found))


def _folding(row: RowSpec, before: int, fold: Fold) -> Step:
    """A fold as a function of the values known before it, to numbers of shape (..., 1)."""
    start = _start(row, fold)
    if not fold.used and start is not None:
        return lambda scope: mx.array(start)
    kind, rest, why = _taken_apart(row, fold, start)
    if why:
        return _as_text(row, before, fold, why)
    term = ElementwiseOp(row.step(rest, fold.argument("update"), before), WHERE)
    reduce, neutral = _REDUCTIONS[kind]
    extreme = math.isinf(neutral)
    assert start is not None

    def run(scope: Scope) -> mx.array:
        values = scope | {"x": scope["x"].astype(mx.float32)}
        terms = term(*[values[name] for name in term.spec.names])
        if extreme:  # C's max and min leave a NaN out, and begin at the init
            terms = mx.where(terms == terms, terms, start)
        return reduce(terms) if start == neutral else _joined(kind, reduce(terms), start)

    return run


def _joined(kind: str, whole: mx.array, start: float) -> mx.array:
    return mx.maximum(whole, start) if kind == "maximum" else mx.minimum(whole, start)


def _taken_apart(row: RowSpec, fold: Fold, start: float | None) -> tuple[str, str, str]:
    """(reduction, what is reduced, ""), or why the fold is none: ("", "", why)."""
    acc, update, join = fold.accumulator, fold.argument("update"), fold.argument("reduce_op")
    if start is None:
        return "", "", f"{fold.argument('init')} {fold.init!r} is no plain number"
    if "O" in words(fold.update):
        return "", "", f"{update} {fold.update!r} names O, the type of the outputs"
    try:
        found = split_update(fold.update, acc, f"{update} of {row.name!r}")
        joined = split_update(fold.join, "a", f"{join} of {row.name!r}")
    except Unparsed as problem:
        return "", "", str(problem)
    if found is None:
        return "", "", f"{update} {fold.update!r} is no {acc} + f, max({acc}, f), ..."
    kind, rest = found
    if joined != (kind, "b"):
        return "", "", f"{join} {fold.join!r} is not the {kind} of {update}"
    neutral = _REDUCTIONS[kind][1]
    if kind in ("add", "multiply") and start != neutral:
        what = f"{fold.argument('init')} {fold.init!r} is not {neutral}, neutral for {kind}"
        return "", "", what
    return kind, rest, ""


def _start(row: RowSpec, fold: Fold) -> float | None:
    """The number that a fold begins with; None where it is no plain one."""
    try:
        graph = parse_all([Source(fold.init)], {}, row.scope)
    except Unparsed:
        return None
    data = graph[graph.outputs[0]]
    if data["kind"] != "const" or math.isnan(data["value"]):
        return None
    return float(data["value"])


def _as_text(row: RowSpec, before: int, fold: Fold, why: str) -> Step:
    """The fold as a kernel, which has no derivative."""
    used = words(f"{fold.update} {fold.init}")
    first, lengths = row.inputs[0], [n for n in LENGTHS if n not in row.inputs]
    names = ("x", *[n for n in row.names(before) if n in used and n not in ("x", first, *lengths)])
    runs: dict[mx.Dtype, Callable[[Sequence[mx.array]], list[mx.array]]] = {}

    def fold_of(*arrays: mx.array) -> mx.array:
        kind = arrays[0].dtype
        if kind not in runs:
            runs[kind] = refused(fold_kernel(row, fold, names, kind), str(row.refusal(why)))
        shape = arrays[0].shape
        return runs[kind]([mx.broadcast_to(a, shape) for a in arrays])[0]

    def run(scope: Scope) -> mx.array:
        arrays = [scope[name] for name in names]
        tracer = intercept.current()
        if tracer is None or not tracer.sees(arrays):
            return fold_of(*arrays)
        found: mx.array = tracer.opaque(f"{row.name}_{fold.result}", fold_of, arrays, {})
        return found

    return run
