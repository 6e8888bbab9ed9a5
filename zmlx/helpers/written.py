"""Written: an elementwise op as a hand-written kernel, for expressions that have no graph.

Comes in: an OpSpec. Goes out: `forward_kernel` and `pull_kernel`, functions from arrays of one
shape to arrays. zmlx.helpers.op calls them; zmlx.metal runs the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from zmlx import metal
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.runtime import Run
from zmlx.helpers.complaint import complaining, counted, stored
from zmlx.helpers.spec import OpSpec
from zmlx.msl.spec import Extent

_HEAD = """\
  const uint elem = thread_position_in_grid.x;
  uint zmlx_size = 1;
  for (int zmlx_d = 0; zmlx_d < {first}_ndim; ++zmlx_d) {{
    zmlx_size *= uint({first}_shape[zmlx_d]);
  }}
  if (elem >= zmlx_size) {{
    return;
  }}
"""

# The place of element `elem` in an array of any strides.
_PLACE = """\
  long zmlx_at_{name} = 0;
  {{
    uint zmlx_rest = elem;
    for (int zmlx_d = {name}_ndim - 1; zmlx_d >= 0; --zmlx_d) {{
      const uint zmlx_n = uint({name}_shape[zmlx_d]);
      zmlx_at_{name} += long(zmlx_rest % zmlx_n) * long({name}_strides[zmlx_d]);
      zmlx_rest /= zmlx_n;
    }}
  }}
"""


def forward_kernel(spec: OpSpec, output: str) -> Run:
    """The op itself; `output` is the type of the result."""
    lines = [_head(spec, spec.buffers), *_values(spec, zip(spec.names, spec.buffers, strict=True))]
    if spec.prelude_forward and spec.prelude:
        lines.append(counted(spec.prelude, "vjp_prelude"))
    lines.append(stored("out[elem]", spec.expr, spec.expr_name))
    return _run(spec, spec.forward_name, spec.buffers, ("out",), "".join(lines), output)


def pull_kernel(spec: OpSpec, output: str) -> Run:
    """The gradients that were given: (inputs, result, cotangent) -> one array for each of them."""
    buffers = (*spec.buffers, "out", "cotan")
    names = [*zip(spec.pull_inputs, spec.buffers, strict=True), ("g", "cotan")]
    if spec.sees_output:
        names.append(("y", "out"))
    results = [f"d{spec.names[i]}" for i in spec.given]
    lines = [_head(spec, buffers), *_values(spec, names)]
    if spec.prelude:
        lines.append(counted(spec.prelude, "vjp_prelude"))
    for (i, source), result in zip(spec.given.items(), results, strict=True):
        lines.append(stored(f"{result}[elem]", source.text, spec.pull_names[i]))
    return _run(spec, f"{spec.name}_bwd", buffers, results, "".join(lines), output)


def one_thread_each(array: mx.array) -> tuple[Extent, Extent]:
    """Grid and threadgroup that have one thread for each element of `array`."""
    threads = max(1, array.size)
    return (threads, 1, 1), (1 << min(9, threads.bit_length() - 1), 1, 1)


def _head(spec: OpSpec, buffers: Sequence[str]) -> str:
    places = "" if spec.contiguous else "".join(_PLACE.format(name=b) for b in buffers)
    return _HEAD.format(first=buffers[0]) + places


def _values(spec: OpSpec, names: object) -> list[str]:
    lines = []
    for name, buffer in names:  # type: ignore[attr-defined]
        at = "elem" if spec.contiguous else f"zmlx_at_{buffer}"
        lines.append(f"  const T {name} = (T){buffer}[{at}];\n")
        lines += [f"  const T {alias} = {name};\n" for alias, of in spec.aliases if of == name]
    return lines


def _run(
    spec: OpSpec, name: str, inputs: Sequence[str], outputs: Sequence[str], text: str, output: str
) -> Run:
    kernel = metal.kernel(
        name=name, input_names=inputs, output_names=outputs, source=text,
        header=spec.full_header, ensure_row_contiguous=spec.contiguous, cache=False,
    )  # fmt: skip
    template = [("T", dtype_of(spec.scope(output).held)), ("O", dtype_of(output))]
    kinds = [dtype_of(output)] * len(outputs)

    def run(arrays: Sequence[mx.array]) -> list[mx.array]:
        grid, threadgroup = one_thread_each(arrays[0])
        return kernel(
            *arrays, template=template, grid=grid, threadgroup=threadgroup,
            output_shapes=[arrays[0].shape] * len(outputs), output_dtypes=kinds,
        )  # fmt: skip

    texts = {spec.expr_name: spec.expr, "vjp_prelude": spec.prelude, "header": spec.header}
    texts |= {spec.pull_names[i]: source.text for i, source in spec.given.items()}
    return complaining(run, texts)
