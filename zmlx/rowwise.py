"""Row-wise ops from C expressions: two reductions over each row, then every element written.

Comes in: the expressions. Goes out: a function of arrays; `map_reduce` is what users call. What the
expressions say is a fused function (zmlx.helpers.rowsteps), planned, derived, checked, tuned and
drawn as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from zmlx.fuse.api import FusedFunction
from zmlx.fuse.table import Options
from zmlx.helpers.rowspec import WHERE, Fold, RowSpec
from zmlx.helpers.rowsteps import row_function
from zmlx.helpers.spec import checked_compute
from zmlx.msl.spec import MAX_THREADS

__all__ = ["RowOp", "map_reduce"]

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
DEFAULT_GROUP = 256  # what `threadgroup` is where a launch is chosen by sizes


def map_reduce(
    *,
    name: str,
    d: int,
    pass1_init: str,
    pass1_update: str,
    pass1_reduce_op: str,
    pass2_init: str,
    pass2_update: str,
    pass2_reduce_op: str,
    write_expr: str | Sequence[str],
    input_names: Sequence[str] = ("inp",),
    output_names: Sequence[str] = ("out",),
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
    header: str = "",
) -> RowOp:
    """An op over rows of length `d`, the last axis of its first input; it returns a list.

    Pass 1 folds a row into s1: acc1 starts at `pass1_init`, becomes `pass1_update` for each
    element, and `pass1_reduce_op` joins the partial results `a` and `b` of threads. Pass 2 does the
    same for s2 and sees s1. Then `write_expr`, one expression for each output, gives every element.
    Reduce ops must be associative and commutative, and the inits neutral for them.

    Expressions see each input by its name, `x` (the first), `d`, and acc1 or acc2, s1, s2 where
    they exist; all are float32. `T` names the compute type (float32 if left out), `O` that of the
    outputs. Inputs are shaped like the first, or (d,), or (..., 1), or have one element. Outputs
    have the first input's shape and dtype. An empty `header` means msl.DEFAULT_HEADER.

    mx.grad, mx.jvp and mx.vmap pass, where the updates are `acc + f`, `acc * f`, `max(acc, f)` or
    `min(acc, f)` and zmlx.expr can read them; elsewhere a gradient is a DeriveError that says why.
    `threadgroup` bounds the threads of a GPU's group; 256 leaves the launch to the sizes.
    ValueError for errors in expressions, bad names, sizes, dtypes and threadgroups (a power of two
    from 1 to 1024).
    """
    writes = (write_expr,) if isinstance(write_expr, str) else tuple(write_expr)
    row = RowSpec(
        name=name,
        d=d,
        folds=(
            Fold(1, pass1_init, pass1_update, pass1_reduce_op),
            Fold(2, pass2_init, pass2_update, pass2_reduce_op),
        ),
        inputs=tuple(input_names),
        outputs=tuple(output_names),
        writes=writes,
        compute=checked_compute(compute_dtype, name, WHERE),
        header=header,
        folding=threadgroup,
    )
    row.check()
    powers = isinstance(threadgroup, int) and 0 < threadgroup <= MAX_THREADS
    if not powers or threadgroup & (threadgroup - 1):
        what = f"threadgroup is {threadgroup!r}; give a power of two from 1 to {MAX_THREADS}"
        raise row.wrong(what)
    if compute_dtype is not None and compute_dtype not in FLOATS:
        raise row.wrong(f"compute_dtype is {compute_dtype!r}; give float32, float16 or bfloat16")
    return RowOp(row)


class RowOp:
    """A row-wise op; called with its inputs it gives a list of its outputs."""

    def __init__(self, row: RowSpec) -> None:
        self.row = row
        self.__name__ = row.name
        group = 0 if row.folding == DEFAULT_GROUP else row.folding
        self._fused = FusedFunction(row_function(row), Options(group=group))

    def __call__(self, *inputs: mx.array) -> list[mx.array]:
        self._check(inputs)
        found: list[mx.array] = self._fused(*inputs)
        return found

    def __repr__(self) -> str:
        return f"<row-wise op {self.row.name}{self.row.inputs} over rows of {self.row.d}>"

    def explain(self, *inputs: mx.array) -> Any:
        """What the op becomes for these inputs: see zmlx.explain."""
        self._check(inputs)
        return self._fused.explain(*inputs)

    def _check(self, inputs: Sequence[mx.array]) -> None:
        row = self.row
        if len(inputs) != len(row.inputs):
            raise row.wrong(f"{len(inputs)} arrays came for the inputs {row.inputs}")
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


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether `shape` broadcasts to `wanted`."""
    if len(shape) > len(wanted):
        return False
    tail = list(wanted)[len(wanted) - len(shape) :]
    return all(n in (1, m) for n, m in zip(shape, tail, strict=True))
