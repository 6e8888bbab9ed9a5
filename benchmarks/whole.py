"""Whole rows: blocks of models, a physics-informed loss, optimizers (benchmarks.whole_cases).

The peers are mx.compile, plain MLX and torch.compile, on a CPU too; each row's note has the number
of launches that MLX makes for the subject and for its peers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

import zmlx
from benchmarks import torch_whole
from benchmarks.harness import (
    SUBJECT,
    Bar,
    Peer,
    Result,
    Row,
    Settings,
    as_arrays,
    contest,
    tried,
)
from benchmarks.peers import COMPILE, EAGER, call_of
from benchmarks.torch_peers import TORCH
from benchmarks.whole_cases import WHOLE, Whole, pullback
from zmlx.device.rules import lazily

SUITE = "whole"
SIZES = {"cpu": 2**18, "gpu": 2**24}  # numbers in the large arrays
QUICK = 2**10
# Primitives of MLX's that launch nothing: other views of what is in memory.
VIEWS = {
    *("AsStrided", "Broadcast", "BroadcastAxes", "Depends", "ExpandDims", "Flatten", "Reshape"),
    *("Slice", "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten"),
}
Function = Callable[..., Any]


def rows(settings: Settings) -> list[Row]:
    """Each case, and the pullbacks of those that have one."""
    made = [Row(SUITE, case.name, partial(forward, case)) for case in WHOLE]
    pulled = [case for case in WHOLE if case.pulled]
    return made + [Row(SUITE, f"pullback of {c.name}", partial(backward, c)) for c in pulled]


def forward(case: Whole, settings: Settings) -> Result:
    """The function itself."""
    return _row(case, lambda f: f, case.inputs(_size(settings)), False, settings)


def backward(case: Whole, settings: Settings) -> Result:
    """The gradients in all inputs, for a cotangent that is given."""
    return _row(case, pullback, case.given(_size(settings)), True, settings)


def _size(settings: Settings) -> int:
    return QUICK if settings.quick else SIZES[settings.device]


def _row(
    case: Whole,
    form: Callable[[Function], Function],
    inputs: list[mx.array],
    pulled: bool,
    settings: Settings,
) -> Result:
    ways = (
        (SUBJECT, form(zmlx.fuse(case.fn))),
        (COMPILE, mx.compile(form(case.fn))),
        (EAGER, form(case.fn)),
    )
    peers = [Peer(name, call_of(f, inputs)) for name, f in ways]
    torch = tried(TORCH, lambda: torch_whole.peer(case.name, inputs, pulled))
    expected = as_arrays(form(case.fn)(*inputs))
    mx.eval(expected)
    terms = max(array.size for array in inputs)
    samples, absent = contest([*peers, torch], expected, mx.float32, settings, terms=terms)
    counts = ", ".join(f"{name} {launches(f, inputs)}" for name, f in ways)
    bar = Bar("times", 1, COMPILE)
    return Result(SUITE, case.name, samples=samples, bars=(bar,), skipped=absent,
                  note=f"launches: {counts}")  # fmt: skip


def launches(f: Function, inputs: list[mx.array]) -> int:
    """How many primitives a call leaves to be computed, views left out."""
    text = io.StringIO()
    with lazily():
        results = as_arrays(f(*inputs))
        mx.export_to_dot(text, *results)
    found = re.findall(r'label ="([^"]*)", shape=rectangle', text.getvalue())
    return len([name for name in found if name not in VIEWS])
