"""Kernels written by hand for the device tests: the contract's text alone, no emitter, no table."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from zmlx.device.base import device_named
from zmlx.dtypes import msl_type, value_type
from zmlx.msl.kernel import Arg, KernelSource

LOOP = "#ifndef ZMLX_LOOP\n#define ZMLX_LOOP\n#endif\n"


def kernel(
    stem: str,
    expressions: str | Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    ranks: Sequence[int] | None = None,
    header: str = "",
    exact: bool = False,
) -> KernelSource:
    """Outputs `expressions` in x0, x1, … over inputs of the given dtypes and ranks (default 1).

    The text computes each element's place from the shapes and strides it is given, so it also
    serves to see what a device presents.
    """
    ranks = list(ranks or [1] * len(inputs))
    rank = max(ranks)
    expressions = [expressions] if isinstance(expressions, str) else list(expressions)
    values = [f"const {value_type(d)} x{i}" for i, d in enumerate(inputs)]
    results = [f"thread {value_type(d)}& y{i}" for i, d in enumerate(outputs)]
    lines = "".join(
        f"  y{i} = {value_type(d)}({e});\n"
        for i, (d, e) in enumerate(zip(outputs, expressions, strict=True))
    )
    function = f"inline void element({', '.join(values + results)}) {{\n{lines}}}\n"
    return KernelSource(
        stem,
        tuple(Arg(f"in{i}", d, r) for i, (d, r) in enumerate(zip(inputs, ranks, strict=True))),
        tuple(Arg(f"out{i}", d, rank) for i, d in enumerate(outputs)),
        body=_dense(inputs, outputs) if rank == 1 else _general(inputs, outputs, ranks, rank),
        header=LOOP + header + function,
        rank=rank,
        exact=exact,
    )


def _element(inputs: Sequence[str], outputs: Sequence[str], places: Sequence[str]) -> str:
    text = "".join(
        f"  const {value_type(d)} x{i} = {value_type(d)}(in{i}[{places[i]}]);\n"
        for i, d in enumerate(inputs)
    )
    text += "".join(f"  {value_type(d)} y{i};\n" for i, d in enumerate(outputs))
    names = [f"x{i}" for i in range(len(inputs))] + [f"y{i}" for i in range(len(outputs))]
    text += f"  element({', '.join(names)});\n"
    return text + "".join(f"  out{i}[k] = {msl_type(d)}(y{i});\n" for i, d in enumerate(outputs))


_RANGE = (
    "const INDEX begin = INDEX(thread_position_in_grid.x) * INDEX(ELEMS);\n"
    "const INDEX stop = metal::min(begin + INDEX(ELEMS), total);\n"
)


def _dense(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    """Rank 1: sizes and strides read at run time; a loop that vectorises where strides are one."""
    count = range(len(inputs))
    size = " : ".join(f"in{i}_shape[0] != 1 ? INDEX(in{i}_shape[0])" for i in count) + " : INDEX(1)"
    text = f"const INDEX total = {size};\n{_RANGE}"
    text += "".join(
        f"const INDEX step{i} = in{i}_shape[0] == 1 ? INDEX(0) : INDEX(in{i}_strides[0]);\n"
        for i in count
    )
    unit = _element(inputs, outputs, ["k"] * len(inputs))
    strided = _element(inputs, outputs, [f"k * step{i}" for i in count])
    loop = "ZMLX_LOOP\nfor (INDEX k = begin; k < stop; ++k) {\n"
    condition = " && ".join(f"step{i} == 1" for i in count)
    return f"{text}if ({condition}) {{\n{loop}{unit}}}\n}} else {{\n{loop}{strided}}}\n}}\n"


def _general(inputs: Sequence[str], outputs: Sequence[str], ranks: Sequence[int], rank: int) -> str:
    text = ""
    for d in range(rank):
        own = [(i, d - rank + r) for i, r in enumerate(ranks) if d - rank + r >= 0]
        size = " : ".join(f"in{i}_shape[{o}] != 1 ? INDEX(in{i}_shape[{o}])" for i, o in own)
        text += f"const INDEX n{d} = {size} : INDEX(1);\n"
    text += f"const INDEX total = {' * '.join(f'n{d}' for d in range(rank))};\n{_RANGE}"
    text += "for (INDEX k = begin; k < stop; ++k) {\n  INDEX rest = k;\n"
    for d in reversed(range(rank)):
        text += f"  const INDEX c{d} = rest % n{d};\n  rest /= n{d};\n"
    places = []
    for i, r in enumerate(ranks):
        terms = [
            f"(in{i}_shape[{o}] == 1 ? INDEX(0) : c{o + rank - r} * INDEX(in{i}_strides[{o}]))"
            for o in range(r)
        ]
        places.append(" + ".join(terms) or "0")
    return text + _element(inputs, outputs, places) + "}\n"


def run(source: KernelSource, *arrays: mx.array) -> list[mx.array]:
    return device_named("host").build([source])[0](arrays)


def numpy_of(array: mx.array) -> np.ndarray:
    """The values of `array`; half types as float32."""
    if array.dtype in (mx.bfloat16, mx.float16):
        array = array.astype(mx.float32)
    return np.array(array)
