"""Emission: an elementwise region becomes one KernelSource.

Comes in: a Graph of input, scalar, const and op nodes whose shapes carry the broadcast pattern
(which dimensions are one). Goes out: the MSL text. Values are held in float32 for every float
type and rounded once, at the outputs; with exact=True they are rounded after every op.

The text computes ELEMS consecutive output elements a thread. Sizes and strides are read at run
time, so one kernel serves every size of the same ranks and the same dimensions of one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from zmlx import dtypes
from zmlx.errors import EmitError
from zmlx.msl.helpers import helper_text
from zmlx.msl.kernel import Arg, KernelSource
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph

LOOP_MACRO = "#ifndef ZMLX_LOOP\n#define ZMLX_LOOP\n#endif\n"
MAX_BUFFERS = 31  # Metal's limit for one kernel


def emit(region: Graph, exact: bool = False) -> KernelSource:
    """The kernel that computes `region`'s outputs from its inputs.

    Arrays come first (in0, in1, …), then run-time scalars (s0, …) as arrays of one element.
    Raises EmitError for a region that no kernel can compute.
    """
    arrays = [n for n in region.inputs if region.kind(n) == "input"]
    scalars = [n for n in region.inputs if region.kind(n) == "scalar"]
    rank = max((len(region[n]["shape"]) for n in [*arrays, *region.outputs]), default=0)
    _check(region, arrays, scalars)
    ops = tuple(region[n]["op"] for n in region if region.kind(n) == "op")
    inputs = [
        Arg(f"in{i}", region[n]["dtype"], len(region[n]["shape"])) for i, n in enumerate(arrays)
    ]
    inputs += [Arg(f"s{i}", scalar_type(region[n]["dtype"]), 1) for i, n in enumerate(scalars)]
    outputs = [Arg(f"out{i}", region[n]["dtype"], rank) for i, n in enumerate(region.outputs)]
    helpers = [h for op in dict.fromkeys(ops) for h in OPS[op].helpers]
    header = LOOP_MACRO + helper_text(helpers) + _function(region, arrays, scalars, exact)
    return KernelSource(
        stem="_".join(dict.fromkeys(ops)) or "copy",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        header=header,
        body=_body(region, arrays, len(scalars), rank),
        rank=rank,
        exact=exact,
        ops=ops,
    )


def scalar_type(dtype: str) -> str:
    """The type in which a run-time Python number reaches a kernel that adopts it as `dtype`."""
    return "float32" if dtypes.value_type(dtype) == "float" else dtype


def _check(region: Graph, arrays: Sequence[int], scalars: Sequence[int]) -> None:
    buffers = len(arrays) + len(scalars) + len(region.outputs)
    if buffers > MAX_BUFFERS:
        raise EmitError(f"[zmlx.emit] {buffers} buffers in one region; Metal allows {MAX_BUFFERS}.")
    for node in region:
        if not dtypes.has_msl(region[node]["dtype"]):
            raise EmitError(f"[zmlx.emit] node {node}: MSL has no {region[node]['dtype']}.")
    if not arrays:
        raise EmitError("[zmlx.emit] a region without array inputs has no size.")


# -- the function of one element ------------------------------------------------------------------
def _function(region: Graph, arrays: Sequence[int], scalars: Sequence[int], exact: bool) -> str:
    names: dict[int, str] = {}
    parameters = []
    for prefix, nodes in (("x", arrays), ("p", scalars)):
        for i, node in enumerate(nodes):
            names[node] = f"{prefix}{i}"
            parameters.append(f"{dtypes.value_type(region[node]['dtype'])} {prefix}{i}")
    for i, node in enumerate(region.outputs):
        parameters.append(f"thread {dtypes.value_type(region[node]['dtype'])}& y{i}")
    lines = []
    for node in region:
        data = region[node]
        if data["kind"] == "const":
            names[node] = literal(data["value"], data["dtype"])
        elif data["kind"] == "op":
            names[node] = f"t{node}"
            lines.append(
                f"  const {dtypes.value_type(data['dtype'])} t{node} = {_operation(region, node, names, exact)};"
            )
    lines += [f"  y{i} = {names[node]};" for i, node in enumerate(region.outputs)]
    return f"inline void zmlx_region({', '.join(parameters)}) {{\n" + "\n".join(lines) + "\n}\n"


def _operation(region: Graph, node: int, names: dict[int, str], exact: bool) -> str:
    data = region[node]
    spec, at = OPS[data["op"]], data["at"]
    operands = region.operands(node)
    kinds = [at] * len(operands)
    if spec.operands == "select":
        kinds[0] = "bool"
    values = [
        _converted(names[o], region[o]["dtype"], kind, exact)
        for o, kind in zip(operands, kinds, strict=True)
    ]
    if data["op"] == "astype":
        return _converted(values[0], at, data["dtype"], rounded=True)
    holes = dict(zip("xyz", values, strict=False), T=dtypes.value_type(at))
    text = expression(spec, at).format(**holes)
    if exact and dtypes.value_type(data["dtype"]) == "float":
        return _rounded(text, data["dtype"])
    return text


def expression(spec: Any, at: str) -> str:
    """The row's MSL expression for operands of type `at`."""
    texts = {"float": spec.msl, "bool": spec.msl_bool}
    text = texts.get(dtypes.value_type(at), spec.msl_int)
    if text == "" and at == "bool":
        text = spec.msl_int
    if text == "":
        text = spec.msl
    if text is None:
        raise EmitError(f"[zmlx.emit] {spec.name} has no MSL form for {at}.")
    return text


def _converted(value: str, source: str, target: str, rounded: bool) -> str:
    """`value` of MLX type `source` as the value type of `target`."""
    have, want = dtypes.value_type(source), dtypes.value_type(target)
    if have != want:
        value = f"({value} != {have}(0))" if want == "bool" else f"{want}({value})"
    if rounded and want == "float" and source != target:
        return _rounded(value, target)
    return value


def _rounded(value: str, dtype: str) -> str:
    """`value` (a float) rounded to the float type `dtype`."""
    return value if dtype == "float32" else f"float({dtypes.msl_type(dtype)}({value}))"


def literal(value: bool | int | float, dtype: str) -> str:
    """`value` as an exact MSL literal of the value type of `dtype`."""
    kind = dtypes.value_type(dtype)
    if kind == "bool":
        return "true" if value else "false"
    if kind != "float":
        return _integer(int(value), kind)
    value = float(value)
    if math.isnan(value):
        return "NAN"
    try:
        value = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        value = math.copysign(math.inf, value)
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = f"{value:.9g}"
    text = text if any(c in text for c in ".e") else text + ".0"
    return f"{text}f" if math.copysign(1.0, value) > 0 else f"({text}f)"


def _integer(value: int, kind: str) -> str:
    if kind in ("long", "ulong"):
        if value == -(2**63):
            return "(-9223372036854775807L - 1L)"
        text = f"{value}{'UL' if kind == 'ulong' else 'L'}"
    else:
        text = f"{value}u" if value > 2**31 - 1 else str(value)
    return f"{kind}({text})"


# -- the loop over elements -----------------------------------------------------------------------
def _body(region: Graph, arrays: Sequence[int], scalars: int, rank: int) -> str:
    shapes = [_aligned(region[n]["shape"], rank) for n in arrays]
    sizes, dense = _sizes(region, arrays, rank), []
    lines = [f"const INDEX n{d} = {sizes[d]};" for d in range(rank)]
    lines += [f"const INDEX total = {' * '.join(f'n{d}' for d in range(rank)) or '1'};"]
    for i, node in enumerate(arrays):
        own = len(region[node]["shape"])
        for d in range(rank):
            if shapes[i][d] != 1:
                lines.append(f"const INDEX in{i}_step{d} = in{i}_strides[{d - rank + own}];")
        if rank and shapes[i][-1] != 1:
            dense.append(f"in{i}_step{rank - 1} == 1")
    for i in range(scalars):
        lines.append(f"const {_value(region, i)} p{i} = s{i}[0];")
    lines += _loop(region, arrays, shapes, rank, dense)
    return "\n".join(lines) + "\n"


def _value(region: Graph, index: int) -> str:
    scalars = [n for n in region.inputs if region.kind(n) == "scalar"]
    return dtypes.value_type(region[scalars[index]]["dtype"])


def _aligned(shape: Sequence[int], rank: int) -> list[int]:
    return [1] * (rank - len(shape)) + list(shape)


def _sizes(region: Graph, arrays: Sequence[int], rank: int) -> list[str]:
    """For each dimension of the iteration space, where its size is read."""
    sizes = ["1"] * rank
    for i, node in reversed(list(enumerate(arrays))):
        shape = region[node]["shape"]
        for d, size in enumerate(shape):
            if size != 1:
                sizes[d + rank - len(shape)] = f"in{i}_shape[{d}]"
    return sizes


def _loop(
    region: Graph,
    arrays: Sequence[int],
    shapes: Sequence[Sequence[int]],
    rank: int,
    dense: list[str],
) -> list[str]:
    inner = f"n{rank - 1}" if rank else "1"
    lines = [
        "const INDEX begin = INDEX(thread_position_in_grid.x) * INDEX(ELEMS);",
        "const INDEX stop = metal::min(begin + INDEX(ELEMS), total);",
        "for (INDEX i = begin; i < stop;) {",
    ]
    if rank:
        lines += ["  INDEX rest = i;"]
        for d in range(rank - 1, 0, -1):
            lines += [f"  const INDEX c{d} = rest % n{d};", f"  rest /= n{d};"]
        lines += ["  const INDEX c0 = rest;"]
    column = f"c{rank - 1}" if rank else "0"
    lines += [f"  const INDEX run = metal::min(stop - i, INDEX({inner}) - INDEX({column}));"]
    for i, shape in enumerate(shapes):
        terms = [f"c{d} * in{i}_step{d}" for d in range(rank) if shape[d] != 1]
        lines.append(f"  const INDEX at{i} = {' + '.join(terms) or '0'};")
    strided = _inner_loop(region, arrays, shapes, rank, unit=False)
    if dense:
        lines += [f"  if ({' && '.join(dense)}) {{"]
        lines += _inner_loop(region, arrays, shapes, rank, unit=True)
        lines += ["  } else {", *strided, "  }"]
    else:
        lines += strided
    return [*lines, "  i += run;", "}"]


def _inner_loop(
    region: Graph, arrays: Sequence[int], shapes: Sequence[Sequence[int]], rank: int, unit: bool
) -> list[str]:
    before, loads, calls, stores = [], [], [], []
    for i, (node, shape) in enumerate(zip(arrays, shapes, strict=True)):
        kind = dtypes.value_type(region[node]["dtype"])
        moves = bool(rank) and shape[-1] != 1
        step = "k" if unit else f"k * in{i}_step{rank - 1}"
        load = f"const {kind} x{i} = {kind}(in{i}[at{i}{' + ' + step if moves else ''}]);"
        (loads if moves else before).append(load)
        calls.append(f"x{i}")
    scalars = [n for n in region.inputs if region.kind(n) == "scalar"]
    calls += [f"p{i}" for i in range(len(scalars))]
    for i, node in enumerate(region.outputs):
        dtype = region[node]["dtype"]
        loads.append(f"{dtypes.value_type(dtype)} y{i};")
        calls.append(f"y{i}")
        stores.append(f"out{i}[i + k] = {dtypes.msl_type(dtype)}(y{i});")
    body = [*loads, f"zmlx_region({', '.join(calls)});", *stores]
    return [
        *[f"    {line}" for line in before],
        "    ZMLX_LOOP",
        "    for (INDEX k = 0; k < run; ++k) {",
        *[f"      {line}" for line in body],
        "    }",
    ]
