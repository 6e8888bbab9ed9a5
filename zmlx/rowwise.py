"""Row-wise ops from C expressions: two reductions over each row, then every element written.

Comes in: the expressions. Goes out: a function of arrays, one kernel launch each; `map_reduce` is
what users call. Its gradient is derived from the expressions, by zmlx.helpers.rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import config, metal
from zmlx.device.base import Launcher, device_for_current_stream
from zmlx.device.rules import differentiable
from zmlx.helpers.rows import RowRules, check_expressions
from zmlx.msl import DEFAULT_HEADER, reduction
from zmlx.msl.spec import MAX_THREADS
from zmlx.trace import intercept

__all__ = ["map_reduce"]

SIMDGROUP = 32
MAX_ROWS_Y = 32768  # CUDA has at most 65535 groups along y; more rows go on along z
COMPUTE = (mx.float32, mx.float16, mx.bfloat16)
# What expressions may not have as the name of an input: their own names, and the text's.
TAKEN = frozenset({"x", "a", "b", "d", "acc1", "acc2", "s1", "s2", "T", "O"})

RowOp = Callable[..., list[mx.array]]


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
    row = RowExpressions(
        name=name,
        d=d,
        passes=(
            Pass(pass1_init, pass1_update, pass1_reduce_op),
            Pass(pass2_init, pass2_update, pass2_reduce_op),
        ),
        writes=writes,
        inputs=tuple(input_names),
        outputs=tuple(output_names),
        header=header or DEFAULT_HEADER,
    )
    _check(row, threadgroup, compute_dtype)
    check_expressions(row)
    return _RowOp(row, threadgroup, compute_dtype or mx.float32)


@dataclass(frozen=True)
class Pass:
    """One reduction: where an accumulator starts, what an element does to it, how two join."""

    init: str
    update: str
    op: str


@dataclass(frozen=True)
class RowExpressions:
    """All that decides what the op computes."""

    name: str
    d: int
    passes: tuple[Pass, Pass]
    writes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    header: str

    @cached_property
    def kernel(self) -> metal.MetalKernel:
        """Built when first called, so that making an op is cheap."""
        return metal.kernel(
            name=self.name,
            input_names=[f"{name}_values" for name in self.inputs],
            output_names=self.outputs,
            source=source(self),
            header=self.header
            + "".join(reduction(f"kk_join{k}", p.op) for k, p in enumerate(self.passes, 1)),
        )


class _RowOp:
    """What map_reduce returns."""

    def __init__(self, row: RowExpressions, threadgroup: int, compute: mx.Dtype) -> None:
        self.row, self.threadgroup, self.compute = row, threadgroup, compute

    def __repr__(self) -> str:
        return f"<row-wise op {self.row.name}{self.row.inputs} over rows of {self.row.d}>"

    def __call__(self, *inputs: mx.array) -> list[mx.array]:
        tracer = intercept.current()
        if tracer is not None and tracer.sees(inputs):
            found: list[mx.array] = tracer.opaque(self.row.name, self, inputs, {})
            return found
        shape = self._checked(inputs)
        kind, count = inputs[0].dtype, len(self.row.outputs)
        if prod(shape) == 0:
            return [mx.zeros(shape, kind) for _ in range(count)]
        results = self._run([_laid_out(value, shape) for value in inputs])
        return [r.reshape(shape) for r in results]

    @cached_property
    def _run(self) -> Launcher:
        return differentiable(self._launch, RowRules(self.row, lambda arrays: self(*arrays)))

    def _launch(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        """One kernel over what `_laid_out` made of the inputs."""
        rows, d = arrays[0].shape
        kind, count = arrays[0].dtype, len(self.row.outputs)
        names = [f"{name}_form" for name in self.row.inputs[1:]]
        forms = [_form(a, d) for a in arrays[1:]]
        threads = self._threads()
        high = min(rows, MAX_ROWS_Y)
        return self.row.kernel(
            *arrays,
            template=[("T", self.compute), ("O", kind), *zip(names, forms, strict=True)],
            grid=(threads, high, -(-rows // high)),
            threadgroup=(threads, 1, 1),
            output_shapes=[(rows, d)] * count,
            output_dtypes=[kind] * count,
        )

    def _threads(self) -> int:
        """Threads for a row: no more than it has elements, rounded up."""
        if device_for_current_stream().takes_turns and not config.SANITIZE.on():
            return 1
        return min(self.threadgroup, max(SIMDGROUP, 1 << (self.row.d - 1).bit_length()))

    def _checked(self, inputs: Sequence[mx.array]) -> tuple[int, ...]:
        """The first input's shape, which the outputs get."""
        row = self.row
        if len(inputs) != len(row.inputs):
            raise _wrong(row, f"{len(inputs)} arrays came for the inputs {row.inputs}")
        for name, value in zip(row.inputs, inputs, strict=True):
            if not isinstance(value, mx.array):
                raise TypeError(str(_wrong(row, f"{name} is {type(value).__name__}, no mx.array")))
        first = inputs[0]
        if not mx.issubdtype(first.dtype, mx.floating) or first.dtype == mx.float64:
            raise _wrong(row, f"{row.inputs[0]} is {first.dtype}; give float32, float16, bfloat16")
        if first.ndim == 0 or first.shape[-1] != row.d:
            what = f"{row.inputs[0]} has shape {first.shape}; its last axis must be d = {row.d}"
            raise _wrong(row, what)
        for name, value in zip(row.inputs[1:], inputs[1:], strict=True):
            if not _fits(value.shape, first.shape):
                what = f"{name} has shape {value.shape}, which does not broadcast to {first.shape}"
                raise _wrong(row, what)
        return tuple(first.shape)


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    if len(shape) > len(wanted):
        return False
    tail = list(wanted)[len(wanted) - len(shape) :]
    return all(n in (1, m) for n, m in zip(shape, tail, strict=True))


def _laid_out(value: mx.array, shape: tuple[int, ...]) -> mx.array:
    """`value` as the kernel reads it: (rows, d), (rows, 1), (d,) or (1,)."""
    rows, d = prod(shape[:-1]), shape[-1]
    if value.shape == shape:
        return value.reshape(rows, d)
    if value.size == 1:
        return value.reshape(1)
    if value.shape[-1] == value.size == d:
        return value.reshape(d)
    if value.shape == (*shape[:-1], 1):
        return value.reshape(rows, 1)
    return mx.broadcast_to(value, shape).reshape(rows, d)


def _form(value: mx.array, d: int) -> int:
    """Bit 0: it differs from column to column; bit 1: from row to row."""
    return (2 if value.ndim == 2 else 0) + (1 if value.shape[-1] == d else 0)


_PLACE = """\
const uint kk_thread = thread_position_in_threadgroup.x;
const uint kk_threads = threads_per_threadgroup.x;
const uint kk_rows = uint({x}_shape[0]);
const uint kk_width = uint({x}_shape[1]);
const uint kk_row = threadgroup_position_in_grid.y
    + threadgroup_position_in_grid.z * {rows_y}u;
const ulong kk_first = ulong(kk_row) * kk_width;
const float d = float(kk_width);
threadgroup float kk_partials[32];
if (kk_row >= kk_rows) {{
  return;
}}
"""

_OTHER = """\
const ulong {first} =
    ({name}_form & 2) ? ulong(kk_row) * (({name}_form & 1) ? kk_width : 1u) : ulong(0);
"""

_PASS = """\
float acc{k} = {init};
for (uint kk_i = kk_thread; kk_i < kk_width; kk_i += kk_threads) {{
{loads}  acc{k} = {update};
}}
const float s{k} = kk_join{k}(acc{k}, kk_partials, kk_thread, kk_threads);
"""

_WRITE = """\
for (uint kk_i = kk_thread; kk_i < kk_width; kk_i += kk_threads) {{
{loads}{stores}}}
"""


def source(row: RowExpressions) -> str:
    """The kernel's body. A group of any number of threads computes a row."""
    first = f"{row.inputs[0]}_values"
    text = _PLACE.format(x=first, rows_y=MAX_ROWS_Y)
    for name in row.inputs[1:]:
        text += _OTHER.format(name=name, first=_first(name))
    for k, part in enumerate(row.passes, 1):
        loads = _loads(row, (part.update,))
        text += _PASS.format(k=k, init=part.init, loads=loads, update=part.update)
    stores = "".join(
        f"  {out}[kk_first + kk_i] = O({expr});\n"
        for out, expr in zip(row.outputs, row.writes, strict=True)
    )
    return text + _WRITE.format(loads=_loads(row, row.writes), stores=stores)


def _loads(row: RowExpressions, expressions: Sequence[str]) -> str:
    """The inputs that `expressions` name, as float32."""
    words = {word for e in expressions for word in re.findall(r"[A-Za-z_]\w*", e)}
    first, *others = row.inputs
    text = ""
    if words & {first, "x"}:
        text += f"  const float x = float({first}_values[kk_first + kk_i]);\n"
        text += f"  const float {first} = x;\n" if first != "x" else ""
    for name in others:
        if name in words:
            place = f"{_first(name)} + (({name}_form & 1) ? kk_i : 0u)"
            text += f"  const float {name} = float({name}_values[{place}]);\n"
    return text


def _first(name: str) -> str:
    return f"kk_{name}_first"


def _check(row: RowExpressions, threadgroup: int, compute: mx.Dtype | None) -> None:
    if not isinstance(row.d, int) or row.d < 1:
        raise _wrong(row, f"d is {row.d!r}; give the length of the last axis, from 1 on")
    if not _power_of_two(threadgroup):
        what = f"threadgroup is {threadgroup!r}; give a power of two from 1 to {MAX_THREADS}"
        raise _wrong(row, what)
    if compute is not None and compute not in COMPUTE:
        raise _wrong(row, f"compute_dtype is {compute!r}; give float32, float16 or bfloat16")
    if not row.inputs or not row.outputs:
        raise _wrong(row, "it has no input or no output; name one of each")
    names = [*row.inputs, *row.outputs]
    for name in (row.name, *names):
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise _wrong(row, f"{name!r} is no identifier")
    for name in names[1:] if names[0] == "x" else names:
        if name in TAKEN or name.startswith("kk_"):
            raise _wrong(row, f"the name {name!r} is taken; choose another")
    if len(set(names)) < len(names):
        raise _wrong(row, f"a name occurs twice in {names}")
    if len(row.writes) != len(row.outputs):
        what = f"{len(row.writes)} expressions to write for the outputs {row.outputs}; give one"
        raise _wrong(row, f"{what} for each")
    texts = [*row.writes, *(t for p in row.passes for t in (p.init, p.update, p.op))]
    if any(not isinstance(text, str) or not text.strip() for text in texts):
        raise _wrong(row, f"an expression is empty among {texts}")


def _power_of_two(n: Any) -> bool:
    return isinstance(n, int) and 1 <= n <= MAX_THREADS and n & (n - 1) == 0


def _wrong(row: RowExpressions, what: str) -> ValueError:
    return ValueError(f"[zmlx.rowwise] {row.name!r}: {what}.")
