"""Bodies of Metal kernels as text, from C expressions: pure functions of strings.

Comes in: expressions and sizes. Goes out: the `source` of zmlx.metal.kernel, to be launched with a
template T, the type of the output: results are cast to it. Every body guards its index, so a grid
may be larger than the array. `T` is also the type of the values that elementwise expressions see;
accumulators of rows are float32. Expressions over rows may name the row's length, `d` or `D`;
semicolons at the end of an expression are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zmlx.helpers.spec import unended, whole
from zmlx.msl.spec import MAX_THREADS

__all__ = [
    "ElementwiseSpec",
    "elementwise_binary_source",
    "elementwise_unary_source",
    "rowwise_mapreduce_source",
    "rowwise_parallel_reduction_source",
    "rowwise_reduction_source",
]


@dataclass(frozen=True)
class ElementwiseSpec:
    """An elementwise op in words: `expr` over `arity` inputs."""

    name: str
    expr: str
    arity: int
    input_names: tuple[str, ...]
    output_names: tuple[str, ...] = ("out",)


_SIZE = """\
uint size = 1;
for (int i = 0; i < {inp}_ndim; ++i) {{
  size *= uint({inp}_shape[i]);
}}
"""

_UNARY = """\
const uint elem = thread_position_in_grid.x;
if (elem < size) {{
  const T x = T({inp}[elem]);
  {out}[elem] = T({expr});
}}
"""

_BINARY = """\
const uint elem = thread_position_in_grid.x;
if (elem < size) {{
  const T a = T({lhs}[elem]);
  const T b = T({rhs}[elem]);
  const T x = a;
  {out}[elem] = T({expr});
}}
"""


def elementwise_unary_source(*, expr: str, inp: str = "inp", out: str = "out") -> str:
    """One thread for each element: `expr` of `x`."""
    return _SIZE.format(inp=inp) + _UNARY.format(expr=unended(expr), inp=inp, out=out)


def elementwise_binary_source(
    *, expr: str, lhs: str = "lhs", rhs: str = "rhs", out: str = "out"
) -> str:
    """One thread for each element: `expr` of `a` and `b` (`x` is `a`), of equal shapes."""
    return _SIZE.format(inp=lhs) + _BINARY.format(expr=unended(expr), lhs=lhs, rhs=rhs, out=out)


_ROW = """\
const uint row = thread_position_in_grid.x;
if (row < size / {d}u) {{
  const ulong first = ulong(row) * {d}u;
  float acc = {init};
  for (uint i = 0; i < {d}u; ++i) {{
    const float v = float({inp}[first + i]);
    acc = {reduce};
  }}
  {out}[row] = T({finalize});
}}
"""


def rowwise_reduction_source(
    *,
    reduce_expr: str,
    init_expr: str,
    finalize_expr: str,
    d: int,
    inp: str = "inp",
    out: str = "out",
) -> str:
    """One thread for each row of `d`: acc = `reduce_expr` of `acc` and `v`, then `finalize_expr`.

    The grid has a thread for each row, and the output a number. For reference: slow on a GPU.
    """
    d, _ = _sizes(d)
    init, reduce, finalize = map(unended, (init_expr, reduce_expr, finalize_expr))
    row = _ROW.format(reduce=reduce, init=init, finalize=finalize, d=d, inp=inp, out=out)
    return _lengths(d, (init, reduce, finalize), (inp, out)) + _SIZE.format(inp=inp) + row


_PLACE = """\
const uint lane = thread_position_in_threadgroup.x;
const uint row = threadgroup_position_in_grid.x;
const ulong first = ulong(row) * {d}u;
"""

# `{acc}` joins what the threads hold; the last barrier lets the next pass write `{scratch}`.
_PASS = """\
threadgroup float {scratch}[{tg}];
float {acc} = {init};
for (uint i = lane; i < {d}u; i += {tg}u) {{
  const float x = float({inp}[first + i]);
  {acc} = {update};
}}
{scratch}[lane] = {acc};
metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
for (uint far = {tg}u / 2u; far > 0u; far /= 2u) {{
  if (lane < far) {{
    const float a = {scratch}[lane];
    const float b = {scratch}[lane + far];
    {scratch}[lane] = {op};
  }}
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
}}
const float {result} = {scratch}[0];
"""

_STORE_ONE = """\
if (lane == 0u) {{
  {out}[row] = T({finalize});
}}
"""

_STORE_ALL = """\
for (uint i = lane; i < {d}u; i += {tg}u) {{
  const float x = float({inp}[first + i]);
  {out}[first + i] = T({write});
}}
"""


def rowwise_parallel_reduction_source(
    *,
    d: int,
    tg: int,
    init_expr: str,
    update_expr: str,
    reduce_op: str,
    finalize_expr: str,
    inp: str = "inp",
    out: str = "out",
    scratch: str = "buf",
) -> str:
    """One threadgroup of `tg` threads for each row of `d`, a power of two; a number for each row.

    acc = `update_expr` of `acc` and `x`; `reduce_op` joins `a` and `b`, must be associative and
    commutative, and `init_expr` must be neutral for it; `finalize_expr` sees `s`. Launch with grid
    (rows * tg, 1, 1) and threadgroup (tg, 1, 1).
    """
    d, tg = _sizes(d, tg)
    texts = init, update, op, finalize = [
        unended(text) for text in (init_expr, update_expr, reduce_op, finalize_expr)
    ]
    return (
        _lengths(d, texts, (inp, out, scratch))
        + _PLACE.format(d=d)
        + _PASS.format(
            scratch=scratch, tg=tg, acc="acc", init=init, d=d, inp=inp, update=update, op=op,
            result="s",
        )
        + _STORE_ONE.format(out=out, finalize=finalize)
    )  # fmt: skip


def rowwise_mapreduce_source(
    *,
    d: int,
    tg: int,
    pass1_init: str,
    pass1_update: str,
    pass1_reduce_op: str,
    pass2_init: str,
    pass2_update: str,
    pass2_reduce_op: str,
    write_expr: str,
    inp: str = "inp",
    out: str = "out",
    scratch1: str = "buf1",
    scratch2: str = "buf2",
) -> str:
    """Two reductions over each row of `d`, then every element of it written.

    `pass1_update` sees `acc1` and `x`, `pass2_update` `acc2`, `x` and `s1`, `write_expr` `x`, `s1`
    and `s2`. For the rest as rowwise_parallel_reduction_source.
    """
    d, tg = _sizes(d, tg)
    first = [unended(text) for text in (pass1_init, pass1_update, pass1_reduce_op)]
    second = [unended(text) for text in (pass2_init, pass2_update, pass2_reduce_op)]
    write = unended(write_expr)
    passes = ""
    for number, scratch, (init, update, op) in ((1, scratch1, first), (2, scratch2, second)):
        passes += _PASS.format(
            scratch=scratch, tg=tg, acc=f"acc{number}", init=init, d=d, inp=inp, update=update,
            op=op, result=f"s{number}",
        )  # fmt: skip
    return (
        _lengths(d, (*first, *second, write), (inp, out, scratch1, scratch2))
        + _PLACE.format(d=d)
        + passes
        + _STORE_ALL.format(d=d, tg=tg, inp=inp, out=out, write=write)
    )


def _lengths(d: int, texts: Sequence[str], taken: Sequence[str]) -> str:
    """The names of a row's length that `texts` use, as far as no buffer is called so."""
    words = set(re.findall(r"[A-Za-z_]\w*", " ".join(texts))) - set(taken)
    return "".join(f"constexpr uint {name} = {d}u;\n" for name in ("d", "D") if name in words)


def _sizes(d: Any, tg: Any = 1) -> tuple[int, int]:
    """The length of a row and the threads of a group, checked."""
    d, tg = whole(d), whole(tg)
    if not isinstance(d, int) or d < 1:
        raise ValueError(f"[zmlx.codegen] d is {d!r}; give a row length from 1 on.")
    if not isinstance(tg, int) or not 1 <= tg <= MAX_THREADS or tg & (tg - 1):
        raise ValueError(
            f"[zmlx.codegen] tg is {tg!r}; give a power of two from 1 to {MAX_THREADS}."
        )
    return d, tg
