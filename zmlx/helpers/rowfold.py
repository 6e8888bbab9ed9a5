"""Folds with an operator of their own, as a kernel of the text they are: a number for each row.

Comes in: a RowSpec and one of its folds, which is none of the op table's reductions. Goes out: a
function from arrays of one shape to one of shape (..., 1). zmlx.helpers.rowsteps calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import mlx.core as mx

from zmlx import metal
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.runtime import Run
from zmlx.helpers.complaint import complaining, counted
from zmlx.helpers.rowspec import LENGTHS, Fold, RowSpec
from zmlx.helpers.spec import full_header
from zmlx.msl.default_header import reduction

_JOIN = "kk_row_join"
_MOST_Y = 32768  # CUDA has at most 65535 groups along y; more rows go on along z

_TEXT = """\
const uint kk_thread = thread_position_in_threadgroup.x;
const uint kk_threads = threads_per_threadgroup.x;
const uint kk_rows = uint({first}_shape[0]);
const uint kk_width = uint({first}_shape[1]);
const uint kk_group = threadgroup_position_in_grid.y + threadgroup_position_in_grid.z * {most}u;
const uint kk_row = (kk_group < kk_rows) ? kk_group : kk_rows - 1u;
{lengths}threadgroup float kk_partials[32];
float {acc} = {init};
for (uint kk_at = kk_thread; kk_at < kk_width; kk_at += kk_threads) {{
{values}  {acc} = (
{update}  );
}}
{acc} = {join}({acc}, kk_partials, kk_thread, kk_threads);
if (kk_thread == 0u && kk_group < kk_rows) {{
  zmlx_out[kk_row] = {acc};
}}
"""


def fold_kernel(row: RowSpec, fold: Fold, names: Sequence[str], output: mx.Dtype) -> Run:
    """The fold of arrays for `names`, the rows first; `output` is the type O."""
    buffers = [f"zmlx_in_{name}" for name in names]
    lines = [
        f"  const float {name} = float({buffer}[ulong(kk_row) * kk_width + kk_at]);\n"
        for name, buffer in zip(names, buffers, strict=True)
    ]
    if row.inputs[0] != "x":
        lines.append(f"  const float {row.inputs[0]} = x;\n")
    lengths = [f"const float {n} = float(kk_width);\n" for n in LENGTHS if n not in row.inputs]
    kernel = metal.kernel(
        name=f"{row.name}_{fold.result}", input_names=buffers, output_names=["zmlx_out"],
        source=_TEXT.format(
            first=buffers[0], most=_MOST_Y, acc=fold.accumulator, init=fold.init,
            lengths="".join(lengths), values="".join(lines), join=_JOIN,
            update=counted(fold.update, fold.argument("update")),
        ),
        header=full_header(row.own_header) + reduction(_JOIN, fold.join), cache=False,
    )  # fmt: skip
    template = [("T", dtype_of(row.compute)), ("O", output)]

    def run(arrays: Sequence[mx.array]) -> list[mx.array]:
        shape = arrays[0].shape
        rows, d = prod(shape[:-1]), shape[-1]
        threads = min(row.folding, 1 << (d - 1).bit_length())
        high = max(1, min(rows, _MOST_Y))
        flat = [mx.broadcast_to(a, shape).reshape(rows, d) for a in arrays]
        (found,) = kernel(
            *flat, template=template, grid=(threads, high, max(1, -(-rows // high))),
            threadgroup=(threads, 1, 1), output_shapes=[(rows, 1)], output_dtypes=[mx.float32],
        )  # fmt: skip
        return [found.reshape(*shape[:-1], 1)]

    texts = {fold.argument("init"): fold.init, fold.argument("update"): fold.update}
    return complaining(run, texts | {fold.argument("reduce_op"): fold.join, "header": row.header})
