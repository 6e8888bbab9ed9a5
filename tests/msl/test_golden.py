"""Golden texts of kernels with sums, and golden plans.

They show what a change of reductions changes; see test_text.py for how they are rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from derive_cases import record
from msl_cases import GOLDEN, as_it_was

import zmlx
from tests.rowwise_cases import RMSNORM, op
from zmlx.derive.accumulate import derive_vjp
from zmlx.device.base import NEVER_ALONE
from zmlx.device.texts import metal_written
from zmlx.fuse.dumped import plan_text
from zmlx.fuse.lift import lift
from zmlx.fuse.plan import plan
from zmlx.fuse.simplify import simplify
from zmlx.msl.schedule import schedule
from zmlx.msl.walk import alone_kernel, walk_kernel
from zmlx.trace.graph import Graph, folded_shape

SUMS = {"rows": (0,), "columns": (1,), "both": (0, 1)}  # axes
x, row = mx.ones((4, 64)), mx.ones((64,))


def rms_norm(x: mx.array, weight: mx.array) -> mx.array:
    return x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + 1e-5) * weight


def softmax(x: mx.array) -> mx.array:
    e = mx.exp(x - mx.max(x, axis=-1, keepdims=True))
    return e / mx.sum(e, axis=-1, keepdims=True)


def squared_error(a: mx.array, b: mx.array) -> mx.array:
    return mx.mean((a - b) ** 2)


def gated(x: mx.array, gate: mx.array, up: mx.array, down: mx.array) -> mx.array:
    a = x @ gate
    return (a * mx.sigmoid(a) * (x @ up)) @ down + x


def rope(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    a, b = mx.split(x, 2, axis=-1)
    return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def traced(fn: Callable[..., Any], *arrays: mx.array) -> Graph:
    with zmlx.config(device="replay"):  # nothing is compiled
        return zmlx.fuse(fn).entry(*arrays).trace.graph


def gradient() -> Graph:
    """Of a bias and a weight, which rows share: sums over rows that the region adds up."""
    region = record(
        lambda F, x, bias, weight: F.multiply(F.tanh(F.add(x, bias)), weight),
        ((4, 64), "float32"), ((64,), "float32"), ((64,), "float32"),
    )  # fmt: skip
    return derive_vjp(region).graph


PLANS: dict[str, Callable[[], Graph]] = {
    "rms_norm": lambda: traced(rms_norm, x, row),
    "softmax": lambda: traced(softmax, x),
    "squared_error": lambda: traced(squared_error, x, x + 1),
    "gated": lambda: traced(gated, x, *[mx.ones((64, 64)) for _ in range(3)]),
    "rope": lambda: traced(rope, x, row[:32], row[32:]),
    "gradient": gradient,
    "map_reduce": lambda: traced(op(RMSNORM, 64), x, row),
}


@pytest.mark.parametrize("alone", [False, True], ids=["group", "alone"])
@pytest.mark.parametrize("name", SUMS)
def test_kernels_that_cut_columns_are_as_they_were(name: str, alone: bool) -> None:
    region = record(
        lambda F, x, y: F.multiply(F.sigmoid(x), y), ((5, 6), "float32"), ((1, 6), "float32")
    )
    (value,), axes = region.outputs, SUMS[name]
    shape = folded_shape((5, 6), axes)
    end = region.add("reduce", (value,), op="sum", axes=axes, dtype="float32", shape=shape, loc="")
    region.outputs = [value, end] if name == "rows" else [end]
    cut = schedule(region, keep=False, cut=True)
    spec = alone_kernel(cut) if alone else walk_kernel(cut, cut, registers=True)
    as_it_was(f"sums/{name}_{'alone' if alone else 'group'}.metal", metal_written(spec))


@pytest.mark.smoke
@pytest.mark.parametrize("name", PLANS)
def test_plans_are_as_they_were(name: str) -> None:
    """Of a device for which no op deserves a kernel of its own, as on a GPU."""
    made = plan(lift(simplify(PLANS[name]())), NEVER_ALONE, sums=name == "gradient")
    text = plan_text(made)
    as_it_was(f"plans/{name}.txt", re.sub(r"  \S+\.py:\d+$", "", text, flags=re.MULTILINE) + "\n")


def test_no_golden_file_is_left_over() -> None:
    wanted = {f"sums/{n}_{how}.metal" for n in SUMS for how in ("group", "alone")}
    wanted |= {f"plans/{n}.txt" for n in PLANS}
    found = [p for folder in ("sums", "plans") for p in (GOLDEN / folder).iterdir()]
    assert {p.relative_to(GOLDEN).as_posix() for p in found} == wanted
