"""Derivatives of row-wise ops, from their expressions: what mx.grad, mx.jvp and mx.vmap ask.

Comes in: a RowSpec. Goes out: `RowRules` for zmlx.device.rules. An update such as `acc1 + f(x)` is
taken apart into a reduction of MLX and an elementwise op of ours; the reductions and the
expressions written make the same function as the kernel, which MLX differentiates to any order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from zmlx import elementwise
from zmlx.device.base import Launcher
from zmlx.device.rules import differentiable, or_ops
from zmlx.errors import DeriveError
from zmlx.expr import Names, Source, Unparsed, parse_all, split_update
from zmlx.fuse.function_rules import FunctionRules, Pull
from zmlx.msl import DEFAULT_HEADER
from zmlx.rows.spec import Fold, RowSpec

Arrays = Sequence[mx.array]
RowFunction = Callable[[Arrays], list[mx.array]]
Scope = dict[str, mx.array]
Step = Callable[[Scope], mx.array]

# Rows of the op table that join two numbers: the reduction, the join itself, what is neutral.
_REDUCTIONS: dict[str, tuple[Callable[..., mx.array], Callable[..., mx.array], float]] = {
    "add": (mx.sum, mx.add, 0.0),
    "multiply": (mx.prod, mx.multiply, 1.0),
    "maximum": (mx.max, mx.maximum, float("-inf")),
    "minimum": (mx.min, mx.minimum, float("inf")),
}
_WORD = re.compile(r"[A-Za-z_]\w*")


def check_expressions(row: RowSpec) -> None:
    """Raise ExpressionError for an expression that is wrong, with the column."""
    own = row.header.replace(DEFAULT_HEADER, "")
    scope = Names(header=frozenset(_WORD.findall(own)))
    for text, names, what in _expressions(row):
        source = Source(text, f"{what} of {row.name!r}")
        try:
            parse_all([source], dict.fromkeys(names, "float32"), scope)
        except Unparsed:  # right C, perhaps; a gradient will be refused
            continue


def _expressions(row: RowSpec) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Each expression with the names that it may use, and what a user calls it."""
    known: tuple[str, ...] = (*_values(row), "d")
    for k, folds in enumerate(row.passes, 1):
        for fold in folds:
            yield fold.init, (), f"pass{k}_init"
            yield fold.update, (*known, fold.accumulator), f"pass{k}_update"
            yield fold.join, ("a", "b"), f"pass{k}_reduce_op"
        known = (*known, *(fold.result for fold in folds))
    for output in row.outputs:
        yield output.expr, known, "write_expr"


def row_function(row: RowSpec) -> RowFunction:
    """The op as a function of MLX; DeriveError where the expressions do not say one."""
    results: tuple[str, ...] = ()
    passes: list[tuple[str, Step]] = []
    for k, folds in enumerate(row.passes, 1):
        passes += [(fold.result, _reduction(row, fold, f"pass{k}", results)) for fold in folds]
        results = (*results, *(fold.result for fold in folds))
    writes = [(o, _step(row, "write_expr", o.expr, results)) for o in row.outputs]

    def run(arrays: Arrays) -> list[mx.array]:
        scope = {n: a.astype(mx.float32) for n, a in zip(row.inputs, arrays, strict=True)}
        if row.alias:
            scope[row.alias] = scope[row.inputs[0]]
        scope["d"] = mx.array(float(arrays[0].shape[-1]))
        for result, reduced in passes:
            scope[result] = reduced(scope)
        shape = arrays[0].shape
        found = []
        for output, write in writes:
            kind = getattr(mx, output.dtype) if output.dtype else arrays[0].dtype
            wide = write(scope).astype(kind)
            found.append(wide[..., :1] if output.per_row else mx.broadcast_to(wide, shape))
        return found

    return run


def op_of(launch: Launcher, rules: FunctionRules) -> Launcher:
    """`launch` with `rules`; where the device runs no kernels, their function, after a warning.

    What `launch` gives must be the outputs of one kernel, nothing that MLX makes of them.
    """
    return or_ops(differentiable(launch, rules), lambda arrays: rules.function()(arrays))


class RowRules(FunctionRules):
    """Those of the row-wise op `run`; its function is read from the expressions of `row`."""

    def __init__(self, row: RowSpec, run: RowFunction, pull: Pull | None = None) -> None:
        super().__init__(None, pull)
        self._row, self._run = row, run

    def function(self) -> RowFunction:
        if self._function is None:
            self._function = row_function(self._row)
        return self._function

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        """Rows are independent: an axis that is mapped joins the leading ones."""
        size = next(x.shape[axis] for x, axis in zip(inputs, axes, strict=True) if axis >= 0)
        first, axis = inputs[0], axes[0]
        if axis < 0:
            whole = mx.broadcast_to(first, (size, *first.shape))
        else:
            whole = mx.moveaxis(first, axis, 0)
        arrays = [whole]
        for other, axis in zip(inputs[1:], axes[1:], strict=True):
            if axis >= 0:
                other = mx.moveaxis(other, axis, 0)
                ones = (1,) * (whole.ndim - other.ndim)
                other = other.reshape(size, *ones, *other.shape[1:])
            arrays.append(other)
        return self._run(arrays)


def _reduction(row: RowSpec, fold: Fold, what: str, results: tuple[str, ...]) -> Step:
    """A fold as a function of the values known before it, to numbers of shape (..., 1)."""
    start = _start(row, what, fold)
    if not fold.used:
        return lambda scope: mx.broadcast_to(start, (*scope[row.inputs[0]].shape[:-1], 1))
    acc = fold.accumulator
    try:
        found = split_update(fold.update, acc, f"{what}_update of {row.name!r}")
        joined = split_update(fold.join, "a", f"{what}_reduce_op of {row.name!r}")
    except Unparsed as problem:
        raise _refusal(row, str(problem)) from None
    if found is None:
        raise _refusal(row, f"{what}_update {fold.update!r} is no {acc} + f, max({acc}, f), ...")
    kind, rest = found
    if joined != (kind, "b"):
        raise _refusal(row, f"{what}_reduce_op {fold.join!r} is not the {kind} of {what}_update")
    reduce, join, neutral = _REDUCTIONS[kind]
    if kind in ("add", "multiply") and start != neutral:
        raise _refusal(row, f"{what}_init {fold.init!r} is not {neutral}, neutral for {kind}")
    term = _step(row, f"{what}_update", rest, results)

    def run(scope: Scope) -> mx.array:
        wide = mx.broadcast_to(term(scope), scope[row.inputs[0]].shape)
        whole = reduce(wide, axis=-1, keepdims=True)
        return whole if start == neutral else join(whole, start)

    return run


def _start(row: RowSpec, what: str, fold: Fold) -> Any:
    text = fold.init.replace("metal::", "").strip().strip("()").replace(" ", "")
    text = text.replace("MAXFLOAT", "3.40282347e38").replace("FLT_MAX", "3.40282347e38")
    for number in (text, text.rstrip("fF")):
        try:
            return float(number)
        except ValueError:
            continue
    raise _refusal(row, f"{what}_init {fold.init!r} is no plain number")


def _step(row: RowSpec, what: str, text: str, more: Sequence[str]) -> Step:
    """One expression as an elementwise op over the values that it names."""
    used = set(_WORD.findall(text))
    first = row.alias or row.inputs[0]
    names = (first, *[n for n in (*_values(row), "d", *more) if n in used and n != first])
    header = row.header if row.header != DEFAULT_HEADER else ""
    op = elementwise.map(
        name=f"{row.name}_{what}",
        expr=text,
        input_names=names,
        compute_dtype=mx.float32,
        header=header,
    )
    if op.reason is not None:
        raise _refusal(row, op.reason)
    return lambda scope: op(*[scope[name] for name in names])


def _values(row: RowSpec) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*row.inputs, *((row.alias,) if row.alias else ()))))


def _refusal(row: RowSpec, why: str) -> DeriveError:
    return DeriveError(
        f"[zmlx.{row.where}] {row.name!r} has no gradient: {why}. Write both passes as acc + f, "
        "acc * f, max(acc, f) or min(acc, f), in what zmlx can read."
    )
