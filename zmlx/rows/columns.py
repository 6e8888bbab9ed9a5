"""ColumnSums: sums over the rows of an array, as gradients of what all rows share need them.

Comes in: expressions over inputs of the forms that zmlx.rows knows. Goes out: an op that gives for
each expression the float32 sum over all rows, of shape (d,). A kernel adds up blocks of rows, MLX
the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx

from zmlx import elementwise, metal
from zmlx.device.base import Launcher, device_for_current_stream
from zmlx.fuse.function_rules import FunctionRules
from zmlx.msl import DEFAULT_HEADER
from zmlx.rows import layout
from zmlx.rows.launches import Launches, Prepared
from zmlx.rows.rules import op_of
from zmlx.rows.text import MAX_GROUPS_Y, values

MAX_BLOCK = 128  # rows that one thread adds up: few enough that float32 keeps its digits
THREADS_WANTED = 2**17  # on a GPU, while blocks are not shorter than MIN_BLOCK
MIN_BLOCK = 8
GROUP = 128  # threads
HOST_COLUMNS = 16  # of a thread of the CPU: what it reads of a row is one line of its cache


@dataclass(frozen=True)
class ColumnSums:
    """Takes its inputs, the first of shape (rows, d); gives one (d,) for each expression."""

    name: str
    inputs: tuple[str, ...]
    exprs: tuple[str, ...]
    header: str = DEFAULT_HEADER

    def __call__(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        if arrays[0].size == 0:
            return [mx.zeros(arrays[0].shape[1:]) for _ in self.exprs]
        return [part.sum(axis=0) for part in self._parts(arrays)]

    @cached_property
    def _parts(self) -> Launcher:
        """Sums of blocks of rows, each of shape (blocks, d)."""
        return op_of(Launches(self._prepared), FunctionRules(self._plain))

    def _plain(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        rows, d = arrays[0].shape
        how = _blocks(rows, d)
        wide = [a.astype(mx.float32) for a in arrays]
        found = []
        for k, expr in enumerate(self.exprs):
            term = elementwise.map(
                name=f"{self.name}_{k}", expr=expr, input_names=self.inputs,
                compute_dtype=mx.float32, header=self.header,
            )(*wide)  # fmt: skip
            padded = mx.pad(
                mx.broadcast_to(term, (rows, d)), ((0, how.count * how.rows - rows), (0, 0))
            )
            found.append(padded.reshape(how.count, how.rows, d).sum(axis=1))
        return found

    def _prepared(self, arrays: Sequence[mx.array]) -> Prepared:
        how = _blocks(*arrays[0].shape)
        d = arrays[0].shape[1]
        forms = [(f"{n}_form", layout.form(a, d)) for n, a in zip(self.inputs, arrays, strict=True)]
        return self._kernel, self._kernel.prepared(
            arrays,
            template=[("COLS", how.columns), ("BLOCK", how.rows), *forms],
            grid=(how.across, *layout.stacked(how.count)),
            threadgroup=(min(how.across, how.threads), 1, 1),
            output_shapes=[(how.count, d)] * len(self.exprs),
            output_dtypes=[mx.float32] * len(self.exprs),
        )

    @cached_property
    def _kernel(self) -> metal.MetalKernel:
        return metal.kernel(
            name=self.name,
            input_names=[values(name) for name in self.inputs],
            output_names=[f"sum{k}" for k in range(len(self.exprs))],
            source=self._source(),
            header=self.header,
        )

    def _source(self) -> str:
        numbers = range(len(self.exprs))
        adds = [f"      kk_sum{k}[kk_c] += {expr};\n" for k, expr in enumerate(self.exprs)]
        return _TEXT.format(
            x=values(self.inputs[0]),
            groups=MAX_GROUPS_Y,
            starts="".join(f"float kk_sum{k}[COLS];\n" for k in numbers),
            zeros="".join(f"  kk_sum{k}[kk_c] = 0.0f;\n" for k in numbers),
            loads="".join(_LOAD.format(name=name, values=values(name)) for name in self.inputs),
            adds="".join(adds),
            stores="".join(f"    sum{k}[kk_to] = kk_sum{k}[kk_c];\n" for k in numbers),
        )


@dataclass(frozen=True)
class _Blocks:
    """How rows are cut: `count` blocks of `rows`; `across` threads, of `columns` each, for one."""

    rows: int
    count: int
    columns: int
    across: int
    threads: int  # of a group


def _blocks(rows: int, d: int) -> _Blocks:
    alone = device_for_current_stream().takes_turns
    columns = HOST_COLUMNS if alone else 1
    across = -(-d // columns)
    block = max(MIN_BLOCK, min(MAX_BLOCK, rows * across // THREADS_WANTED))
    return _Blocks(block, -(-rows // block), columns, across, 1 if alone else GROUP)


# Forms as in zmlx.rows.text.
_LOAD = """\
      const ulong kk_{name}_row = ({name}_form & 2) ? ulong(kk_row) : ulong(0);
      const float {name} = float({values}[
          ({name}_form & 1) ? kk_{name}_row * kk_width + kk_column : kk_{name}_row]);
"""
_TEXT = """\
const uint kk_rows = uint({x}_shape[0]);
const uint kk_width = uint({x}_shape[1]);
const uint kk_block = thread_position_in_grid.y + thread_position_in_grid.z * {groups}u;
const uint kk_begin = kk_block * uint(BLOCK);
const uint kk_end = (kk_rows - kk_begin < uint(BLOCK)) ? kk_rows : kk_begin + uint(BLOCK);
const uint kk_left = thread_position_in_grid.x * uint(COLS);
if (kk_begin >= kk_rows) {{
  return;
}}
{starts}for (uint kk_c = 0; kk_c < uint(COLS); ++kk_c) {{
{zeros}}}
for (uint kk_row = kk_begin; kk_row < kk_end; ++kk_row) {{
  for (uint kk_c = 0; kk_c < uint(COLS); ++kk_c) {{
    const uint kk_column = kk_left + kk_c;
    if (kk_column < kk_width) {{
{loads}{adds}    }}
  }}
}}
for (uint kk_c = 0; kk_c < uint(COLS); ++kk_c) {{
  const uint kk_column = kk_left + kk_c;
  if (kk_column < kk_width) {{
    const ulong kk_to = ulong(kk_block) * kk_width + kk_column;
{stores}  }}
}}
"""
