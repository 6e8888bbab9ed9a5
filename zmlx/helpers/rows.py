"""Derivatives of row-wise ops, from their expressions: what mx.grad, mx.jvp and mx.vmap ask.

Comes in: the RowExpressions of zmlx.rowwise. Goes out: `RowRules` for zmlx.device.rules. An update
such as `acc1 + f(x)` is taken apart into a reduction of MLX and an elementwise op of ours; the two
reductions and the expressions written make the same function as the kernel, which MLX
differentiates to any order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx import elementwise
from zmlx.errors import DeriveError
from zmlx.expr import Names, Source, Unparsed, parse_all, split_update
from zmlx.msl import DEFAULT_HEADER

if TYPE_CHECKING:
    from zmlx.rowwise import Pass, RowExpressions

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


def check_expressions(row: RowExpressions) -> None:
    """Raise ExpressionError for an expression that is wrong, with the column."""
    values = (*_values(row), "d")
    texts: list[tuple[str, tuple[str, ...], str]] = []
    for k, part in enumerate(row.passes, 1):
        before = [f"s{j}" for j in range(1, k)]
        texts.append((part.init, (), f"pass{k}_init"))
        texts.append((part.update, (*values, *before, f"acc{k}"), f"pass{k}_update"))
        texts.append((part.op, ("a", "b"), f"pass{k}_reduce_op"))
    texts += [(write, (*values, "s1", "s2"), "write_expr") for write in row.writes]
    own = row.header.replace(DEFAULT_HEADER, "")
    scope = Names(header=frozenset(_WORD.findall(own)))
    for text, names, what in texts:
        source = Source(text, f"{what} of {row.name!r}")
        try:
            parse_all([source], dict.fromkeys(names, "float32"), scope)
        except Unparsed:  # right C, perhaps; a gradient will be refused
            continue


def row_function(row: RowExpressions) -> RowFunction:
    """The op as a function of MLX; DeriveError where the expressions do not say one."""
    passes = [_reduction(row, k) for k in range(1, len(row.passes) + 1)]
    writes = [_step(row, "write_expr", text, ("s1", "s2")) for text in row.writes]

    def run(arrays: Arrays) -> list[mx.array]:
        scope = {n: a.astype(mx.float32) for n, a in zip(row.inputs, arrays, strict=True)}
        scope["x"] = scope[row.inputs[0]]
        scope["d"] = mx.array(float(row.d))
        for k, reduced in enumerate(passes, 1):
            scope[f"s{k}"] = reduced(scope)
        return [write(scope).astype(arrays[0].dtype) for write in writes]

    return run


class RowRules:
    """How the transformations of MLX go through the kernel `run` of a row-wise op."""

    def __init__(self, row: RowExpressions, run: RowFunction) -> None:
        self._row, self._run = row, run
        self._function: RowFunction | None = None

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        pairs = zip(cotangents, outputs, strict=True)
        seeds = [mx.zeros_like(o) if c is None else c.astype(o.dtype) for c, o in pairs]
        moving = [primals[i] for i in argnums]
        return mx.vjp(self._moved(primals, argnums), moving, seeds)[1]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        moving = [primals[i] for i in argnums]
        return mx.jvp(self._moved(primals, argnums), moving, list(tangents))[1]

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

    def _moved(self, primals: Arrays, argnums: Sequence[int]) -> Callable[..., list[mx.array]]:
        if self._function is None:
            self._function = row_function(self._row)
        function = self._function

        def run(*moving: mx.array) -> list[mx.array]:
            arrays = list(primals)
            for i, array in zip(argnums, moving, strict=True):
                arrays[i] = array
            return function(arrays)

        return run


def _reduction(row: RowExpressions, k: int) -> Step:
    """Pass number k as a function of the values known before it, to numbers of shape (..., 1)."""
    part, what = row.passes[k - 1], f"pass{k}"
    start = _start(row, what, part)
    if part.update.strip() == f"acc{k}":  # a pass that is not used
        return lambda scope: mx.broadcast_to(start, (*scope["x"].shape[:-1], 1))
    try:
        found = split_update(part.update, f"acc{k}", f"{what}_update of {row.name!r}")
        joined = split_update(part.op, "a", f"{what}_reduce_op of {row.name!r}")
    except Unparsed as problem:
        raise _refusal(row, str(problem)) from None
    if found is None:
        raise _refusal(row, f"{what}_update {part.update!r} is no acc{k} + f, max(acc{k}, f), ...")
    kind, rest = found
    if joined != (kind, "b"):
        raise _refusal(row, f"{what}_reduce_op {part.op!r} is not the {kind} of {what}_update")
    reduce, join, neutral = _REDUCTIONS[kind]
    if kind in ("add", "multiply") and start != neutral:
        raise _refusal(row, f"{what}_init {part.init!r} is not {neutral}, neutral for {kind}")
    term = _step(row, f"{what}_update", rest, tuple(f"s{j}" for j in range(1, k)))

    def run(scope: Scope) -> mx.array:
        whole = reduce(term(scope), axis=-1, keepdims=True)
        return whole if start == neutral else join(whole, start)

    return run


def _start(row: RowExpressions, what: str, part: Pass) -> Any:
    text = part.init.replace("metal::", "").strip().strip("()").replace(" ", "")
    text = text.replace("MAXFLOAT", "3.40282347e38").replace("FLT_MAX", "3.40282347e38")
    for number in (text, text.rstrip("fF")):
        try:
            return float(number)
        except ValueError:
            continue
    raise _refusal(row, f"{what}_init {part.init!r} is no plain number")


def _step(row: RowExpressions, what: str, text: str, more: Sequence[str]) -> Step:
    """One expression as an elementwise op over the values that it names."""
    used = set(_WORD.findall(text))
    names = ("x", *[n for n in (*_values(row), "d", *more) if n in used and n != "x"])
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


def _values(row: RowExpressions) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*row.inputs, "x")))


def _refusal(row: RowExpressions, why: str) -> DeriveError:
    return DeriveError(
        f"[zmlx.rowwise] {row.name!r} has no gradient: {why}. Write both passes as acc + f, "
        "acc * f, max(acc, f) or min(acc, f), in what zmlx can read."
    )
