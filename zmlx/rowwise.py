"""Row-wise ops from C expressions: two reductions over each row, then every element written.

Comes in: the expressions. Goes out: a function of arrays; `map_reduce` is what users call. What the
expressions say is a fused function (zmlx.helpers.rowsteps), planned, derived, checked, tuned and
drawn as any other.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from zmlx.fuse.api import FusedFunction
from zmlx.fuse.table import Options
from zmlx.helpers.rowcheck import check_folds
from zmlx.helpers.rowspec import WHERE, Fold, RowSpec
from zmlx.helpers.rowsteps import row_function
from zmlx.helpers.spec import checked_compute, unended, whole
from zmlx.msl.spec import MAX_THREADS
from zmlx.registry import lists

__all__ = ["RowOp", "map_reduce"]

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
DEFAULT_GROUP = 256  # what `threadgroup` is where a launch is chosen by sizes


def map_reduce(
    *,
    name: str,
    d: int,
    pass1_init: str | float,
    pass1_update: str,
    pass1_reduce_op: str,
    pass2_init: str | float | None = None,
    pass2_update: str | None = None,
    pass2_reduce_op: str | None = None,
    write_expr: str | Sequence[str],
    input_names: Sequence[str] = ("inp",),
    output_names: Sequence[str] = ("out",),
    row_outputs: Sequence[str] = (),
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
    header: str | None = "",
) -> RowOp:
    """An op over rows of length `d`, the last axis of its first input; it returns a list.

    Pass 1 folds a row into s1: acc1 starts at `pass1_init`, becomes `pass1_update` for each
    element, and `pass1_reduce_op` joins the partial results `a` and `b` of threads. Pass 2 does the
    same for s2 and sees s1; it may be left out. Then `write_expr`, one expression for each output,
    gives every element, or for outputs named in `row_outputs`, of shape (...), one number a row.
    Reduce ops must be associative and commutative, and the inits neutral for them, which is tried
    on a few numbers. An init may be a number.

    Expressions see each input by its name, `x` (the first), `d` and `D` (the length), and acc1 or
    acc2, s1, s2 where they exist; all are float32. `T` names the compute type (float32 if left
    out), `O` that of the outputs. Inputs are shaped like the first, or (d,), or (..., 1), or have
    one element; all but the first may be numbers. Outputs have the first input's shape and dtype.
    An empty `header` means msl.DEFAULT_HEADER.

    mx.grad, mx.jvp and mx.vmap pass, where the updates are `acc + f`, `acc * f`, `max(acc, f)` or
    `min(acc, f)` and zmlx.expr can read them; elsewhere a gradient is a DeriveError that says why.
    `threadgroup` bounds the threads of a GPU's group; 256 leaves the launch to the sizes.
    ValueError for errors in expressions, bad names, sizes, dtypes and threadgroups (a power of two
    from 1 to 1024).
    """
    passes = [(pass1_init, pass1_update, pass1_reduce_op)]
    second = (pass2_init, pass2_update, pass2_reduce_op)
    if any(part is not None for part in second):
        passes.append(second)  # type: ignore[arg-type]  # checked with the rest
    row = RowSpec(
        name=name, d=whole(d),
        folds=tuple([_fold(number, *parts) for number, parts in enumerate(passes, start=1)]),
        inputs=tuple(input_names), outputs=tuple(output_names), writes=_writes(write_expr),
        compute=checked_compute(compute_dtype, name, WHERE),
        header="" if header is None else header, row_outputs=tuple(row_outputs),
        folding=whole(threadgroup),
    )  # fmt: skip
    _check(row, None in passes[-1], compute_dtype)
    op = RowOp(row)
    lists(op, name, row.inputs, row.outputs, row)
    return op


def _check(row: RowSpec, gap: bool, compute_dtype: mx.Dtype | None) -> None:
    """ValueError for a row that no op has; `gap`: a part of a pass was left out."""
    if gap:
        what = "pass2_init, pass2_update and pass2_reduce_op, or none of them"
        raise row.wrong(f"a part of its second pass is missing; give {what}")
    row.check()
    group = row.folding
    if not isinstance(group, int) or not 0 < group <= MAX_THREADS or group & (group - 1):
        what = f"threadgroup is {group!r}; give a power of two from 1 to {MAX_THREADS}"
        raise row.wrong(what)
    if compute_dtype is not None and compute_dtype not in FLOATS:
        raise row.wrong(f"compute_dtype is {compute_dtype!r}; give float32, float16 or bfloat16")
    check_folds(row)


def _writes(write_expr: str | Sequence[str]) -> tuple[str, ...]:
    texts = (write_expr,) if isinstance(write_expr, str) else write_expr
    return tuple([unended(text) for text in texts])


def _fold(number: int, init: str | float, update: str, join: str) -> Fold:
    if isinstance(init, numbers.Real):
        init = f"{'-' * (init < 0)}INFINITY" if math.isinf(init) else f"{float(init)!r}f"
    return Fold(number, unended(init), unended(update), unended(join))


class RowOp:
    """A row-wise op; called with its inputs it gives a list of its outputs."""

    def __init__(self, row: RowSpec) -> None:
        self.row = row
        self.__name__ = row.name
        group = 0 if row.folding == DEFAULT_GROUP else row.folding
        self._fused = FusedFunction(row_function(row), Options(group=group))

    def __call__(self, *inputs: mx.array | float) -> list[mx.array]:
        found: list[mx.array] = self._fused(*self._checked(inputs))
        return found

    def __repr__(self) -> str:
        return f"<row-wise op {self.row.name}{self.row.inputs} over rows of {self.row.d}>"

    def explain(self, *inputs: mx.array | float) -> Any:
        """What the op becomes for these inputs: see zmlx.explain."""
        return self._fused.explain(*self._checked(inputs))

    def _checked(self, inputs: Sequence[Any]) -> Sequence[mx.array]:
        """The inputs as arrays."""
        row = self.row
        if len(inputs) != len(row.inputs):
            raise row.wrong(f"{len(inputs)} arrays came for the inputs {row.inputs}")
        inputs = [*inputs[:1], *[_as_array(value) for value in inputs[1:]]]
        for name, value in zip(row.inputs, inputs, strict=True):
            if not isinstance(value, mx.array):
                raise TypeError(str(row.wrong(f"{name} is {type(value).__name__}, no mx.array")))
        first, name = inputs[0], row.inputs[0]
        if first.dtype not in FLOATS:
            raise row.wrong(f"{name} is {first.dtype}; give float32, float16, bfloat16")
        if first.ndim == 0 or first.shape[-1] != row.d:
            wanted = f"its last axis must be d = {row.d}"
            raise row.wrong(f"{name} has shape {first.shape}; {wanted}")
        for other, value in zip(row.inputs[1:], inputs[1:], strict=True):
            if not _fits(value.shape, first.shape):
                what = f"{other} has shape {value.shape}, which does not broadcast to {first.shape}"
                raise row.wrong(what)
        return inputs


def _as_array(value: Any) -> Any:
    """A number as an array of one element; anything else as it is."""
    return mx.array(float(value)) if isinstance(value, numbers.Real) else value


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether `shape` broadcasts to `wanted`."""
    if len(shape) > len(wanted):
        return False
    tail = list(wanted)[len(wanted) - len(shape) :]
    return all(n in (1, m) for n, m in zip(shape, tail, strict=True))
