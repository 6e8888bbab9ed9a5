"""Row-wise ops from C expressions: two reductions over each row, then every element written.

Comes in: the expressions. Goes out: a function of arrays, one kernel launch each; `map_reduce` is
what users call. zmlx.rows writes the kernel and derives the gradient from the expressions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import mlx.core as mx

from zmlx.msl import DEFAULT_HEADER
from zmlx.rows.op import RowOp, check_launch
from zmlx.rows.rules import check_expressions
from zmlx.rows.spec import Fold, Output, RowSpec

__all__ = ["map_reduce"]

# What expressions may not have as the name of an input: their own names, and the text's.
TAKEN = frozenset({"x", "a", "b", "d", "acc1", "acc2", "s1", "s2", "T", "O"})


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
    ValueError for errors in expressions, bad names, sizes, dtypes and threadgroups (a power of two
    from 1 to 1024).
    """
    writes = (write_expr,) if isinstance(write_expr, str) else tuple(write_expr)
    row = RowSpec(
        name=name,
        d=d,
        passes=(
            (Fold("s1", "acc1", pass1_init, pass1_update, pass1_reduce_op),),
            (Fold("s2", "acc2", pass2_init, pass2_update, pass2_reduce_op),),
        ),
        inputs=tuple(input_names),
        outputs=tuple(map(Output, output_names, writes)),
        header=header or DEFAULT_HEADER,
        alias="x",
    )
    _check(row, tuple(output_names), writes)
    check_launch(row, threadgroup, compute_dtype)
    check_expressions(row)
    return RowOp(row, threadgroup, compute_dtype or mx.float32)


def _check(row: RowSpec, outputs: tuple[str, ...], writes: tuple[str, ...]) -> None:
    if not isinstance(row.d, int) or row.d < 1:
        raise row.wrong(f"d is {row.d!r}; give the length of the last axis, from 1 on")
    if not row.inputs or not outputs:
        raise row.wrong("it has no input or no output; name one of each")
    names = [*row.inputs, *outputs]
    for name in (row.name, *names):
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise row.wrong(f"{name!r} is no identifier")
    for name in names[1:] if names[0] == "x" else names:
        if name in TAKEN or name.startswith("kk_"):
            raise row.wrong(f"the name {name!r} is taken; choose another")
    if len(set(names)) < len(names):
        raise row.wrong(f"a name occurs twice in {names}")
    if len(writes) != len(outputs):
        raise row.wrong(
            f"{len(writes)} expressions to write for the outputs {outputs}; give one for each"
        )
    texts = [*writes, *(t for fold in row.folds for t in (fold.init, fold.update, fold.join))]
    if any(not isinstance(text, str) or not text.strip() for text in texts):
        raise row.wrong(f"an expression is empty among {texts}")
