"""What the emitter's tests share: kernels of graphs, built in one go, and what MLX would see."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from derive_cases import mx_dtype, record

from zmlx import dtypes
from zmlx.device.base import Launcher, device_named
from zmlx.device.metal import MetalDevice
from zmlx.msl.emit import emit
from zmlx.msl.kernel import KernelSource
from zmlx.ops.infer import infer
from zmlx.ops.spec import OpSpec
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph

FLOATS = ("float32", "float16", "bfloat16")
TYPES = (*FLOATS, *dtypes.INTEGERS, "bool")
GOLDEN = Path(__file__).parent / "golden"
WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


def as_it_was(name: str, text: str) -> None:
    """The golden file `name` says `text`; UPDATE_GOLDEN=1 writes it."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8") == text


def build(graphs: Sequence[Graph], exact: bool = False) -> list[Launcher]:
    """Launchers of all graphs' kernels, from one run of the compiler."""
    return device_named("host").build([emit(g, exact) for g in graphs])


def run(graph: Graph, *arrays: mx.array, exact: bool = False) -> list[mx.array]:
    return build([graph], exact)[0](arrays)


def scalar(value: float, dtype: str = "float32") -> mx.array:
    """A Python number as it reaches a kernel."""
    return mx.array([value], dtype=mx_dtype(dtype))


def row_graph(spec: OpSpec, types: Sequence[str], target: str | None = None) -> Graph | None:
    """One op over vectors of the given types; None where MLX refuses them."""
    try:
        infer(spec.name, list(types), target)
    except ValueError:
        return None
    extra = (target,) if target else ()
    return record(lambda F, *xs: getattr(F, spec.name)(*xs, *extra), *[((4,), d) for d in types])


def row_types(spec: OpSpec, dtype: str) -> list[str]:
    return ["bool" if spec.name == "where" and i == 0 else dtype for i in range(spec.arity)]


def rows() -> list[OpSpec]:
    return [s for s in OPS.values() if s.name != "astype"]


def same_bits(got: mx.array, want: mx.array) -> np.ndarray:
    """Elementwise: equal bits, or NaN on both sides."""
    assert got.dtype == want.dtype and got.shape == want.shape, (got.dtype, want.dtype)
    if got.size == 0:
        return np.ones(got.shape, bool)
    if got.ndim == 0:
        got, want = got.reshape(1), want.reshape(1)
    word = WORDS[got.dtype.size]
    equal = got.astype(word) == want.astype(word) if got.dtype == mx.bool_ else (
        got.view(word) == want.view(word)
    )  # fmt: skip
    if mx.issubdtype(got.dtype, mx.floating):
        equal = equal | (mx.isnan(got) & mx.isnan(want))
    return np.array(equal)


# -- what MLX would make of it --------------------------------------------------------------------
def traced(source: KernelSource, *arrays: mx.array) -> dict[str, Any]:
    """The custom kernel primitive that a launch on Metal records: inputs, outputs, arguments."""
    events: list[dict[str, Any]] = []
    launcher = MetalDevice().build([source])[0]
    mx.export_function(events.append, lambda *a: launcher(a), *arrays)
    (primitive,) = [e for e in events if e["type"] == "primitive" and e["name"] == "CustomKernel"]
    return primitive


def metal_text(primitive: dict[str, Any]) -> str:
    return next(a for a in primitive["arguments"] if isinstance(a, str) and "[[kernel]]" in a)


def signature(primitive: dict[str, Any]) -> list[str]:
    """The parameters of the kernel function, in order."""
    text = metal_text(primitive)
    start = text.index("[[kernel]] void")
    inside = text[text.index("(", start) + 1 : text.index(") {", start)]
    return [line.strip().rstrip(",") for line in inside.strip().splitlines()]


def slots_of(source: KernelSource) -> int:
    """Buffers, counted over the body's text as mx.fast.metal_kernel looks for the names."""
    count = len(source.inputs) + len(source.outputs)
    for arg in source.inputs:
        for suffix in ("shape", "strides", "ndim"):
            count += bool(arg.rank and re.search(rf"{arg.name}_{suffix}", source.body))
    return count
