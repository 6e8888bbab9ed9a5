"""What the tests of the fuse layer share: comparisons, plans, counters of traces and kernels."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from zmlx.device.base import device_for_current_stream
from zmlx.fuse import region, table
from zmlx.fuse.program import Program
from zmlx.trace.graph import Graph, title


def numpy(array: mx.array) -> np.ndarray:
    """The values, exactly (bfloat16 as float32)."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


def flat(tree: Any) -> list[mx.array]:
    if isinstance(tree, mx.array):
        return [tree]
    items = tree.values() if isinstance(tree, dict) else tree
    return [leaf for item in items for leaf in flat(item)]


def close(got: Any, want: Any, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    """Trees of the same arrays: dtypes, shapes, and values up to rtol and atol * the largest."""
    got, want = flat(got), flat(want)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
        x, y = numpy(a).astype(np.float64), numpy(b).astype(np.float64)
        finite = np.abs(y[np.isfinite(y)])
        scale = max(1.0, finite.max()) if finite.size else 1.0
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol * scale)


def equal(got: Any, want: Any) -> None:
    """Trees of the same arrays, bit by bit; any NaN equals any NaN."""
    got, want = flat(got), flat(want)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
        x, y = numpy(a), numpy(b)
        if x.dtype.kind in "fc":
            x, y = np.where(np.isnan(x), np.nan, x), np.where(np.isnan(y), np.nan, y)
        differ = np.frombuffer(x.tobytes(), np.uint8) != np.frombuffer(y.tobytes(), np.uint8)
        assert not differ.any(), (x, y)


def on_gpu() -> bool:
    return mx.default_device().type == mx.DeviceType.gpu


def same_bits(got: Any, want: Any) -> None:
    """Equal; on a GPU up to two units, where MLX has other transcendental functions for halves
    and the compiler may contract products into fma, differently in each of a kernel's loops."""
    if not on_gpu():
        return equal(got, want)
    for mine, theirs in zip(flat(got), flat(want), strict=True):
        unit = {mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}.get(mine.dtype, 2.0**-20)
        close(mine, theirs, rtol=2 * unit, atol=2 * unit)


def program_of(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Program:
    """What a fused function (or a function, fused for this) runs for these arguments."""
    fused = fn if isinstance(fn, zmlx.FusedFunction) else zmlx.fuse(fn)
    return fused._table().entry(args, kwargs).program


def regions_of(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> list[list[str]]:
    """The ops of each region."""
    plan = program_of(fn, *args, **kwargs).plan
    return [[title(plan.graph[n]) for n in r.nodes] for r in plan.regions]


def natives_of(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:
    """What MLX runs, in order: row names, or labels of calls in brackets."""
    plan = program_of(fn, *args, **kwargs).plan
    return [name_of_node(plan.graph, step.node) for step in plan.natives]


def name_of_node(graph: Graph, node: int) -> str:
    data = graph[node]
    if data["kind"] == "op":
        return data["op"]
    if data["kind"] == "reduce":
        return f"[{data['op']}]"
    return f"[{data['call'].label}]" if data["kind"] == "opaque" else "[item]"


def primitives(*arrays: mx.array) -> list[str]:
    """The primitives that MLX would run to compute `arrays` (before they are evaluated)."""
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    return re.findall(r'label ="([^"]*)", shape=rectangle', text.getvalue())


def kernels(*arrays: mx.array) -> list[str]:
    """Those of them that are kernels of ours: MLX calls every one "CustomKernel" on a GPU."""
    return [n for n in primitives(*arrays) if n.startswith("zmlx_") or n == "CustomKernel"]


@dataclass
class Counts:
    """How often what is expensive happened."""

    traces: int = 0
    emits: int = 0
    builds: int = 0  # kernels handed to the compiler
    names: list[str] = field(default_factory=list)

    def taken(self) -> tuple[int, int, int]:
        return self.traces, self.emits, self.builds


@contextmanager
def counting() -> Any:
    """Count traces, emitted kernels and compiled kernels within the block."""
    counts = Counts()
    device: Any = device_for_current_stream()
    maker = "_libraries" if device.name == "host" else "_launcher"
    trace, emit, make = table.trace, region.emit, getattr(device, maker)

    def count_trace(*args: Any) -> Any:
        counts.traces += 1
        return trace(*args)

    def count_emit(*args: Any, **kwargs: Any) -> Any:
        counts.emits += 1
        return emit(*args, **kwargs)

    def count_made(kernels: Any) -> Any:
        counts.builds += len(kernels) if isinstance(kernels, list) else 1
        return make(kernels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "trace", count_trace)
        patch.setattr(region, "emit", count_emit)
        patch.setattr(device, maker, count_made)
        yield counts


def array(seed: int, *shape: int, dtype: mx.Dtype = mx.float32, scale: float = 1.5) -> mx.array:
    rng = np.random.default_rng(seed)
    return mx.array(rng.normal(0, scale, shape).astype(np.float32)).astype(dtype)
