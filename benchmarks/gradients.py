"""Gradient rows: a plain mx.grad of the fused function beside what MLX's users write today.

mx.compile(mx.grad(f)) is the form in which MLX fuses a backward pass; mx.grad(mx.compile(f)) is the
one that most people write, and runs op by op.
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx

import zmlx
from benchmarks.cases import CASES, Case, gradient
from benchmarks.harness import (
    SUBJECT,
    Bar,
    Peer,
    Result,
    Row,
    Settings,
    agree,
    as_arrays,
    measure,
)
from benchmarks.peers import call_of

SUITE = "gradients"
OUTSIDE, INSIDE = "mx.compile(mx.grad(f))", "mx.grad(mx.compile(f))"


def rows(settings: Settings) -> list[Row]:
    """One row for each case and type that has a gradient's row."""
    return [
        Row(SUITE, f"gradient of {case.name} {dtype}", partial(backward, case, dtype))
        for case in CASES
        for dtype in case.gradient_dtypes
    ]


def backward(case: Case, dtype: str, settings: Settings) -> Result:
    """The gradients of sum(f) in all inputs."""
    kind = getattr(mx, dtype)
    inputs = case.inputs(settings.elements, kind)
    count = len(inputs)
    ways = {
        SUBJECT: gradient(zmlx.fuse(case.fn), count),
        OUTSIDE: mx.compile(gradient(case.fn, count)),
        INSIDE: gradient(mx.compile(case.fn), count),
    }
    peers = [Peer(name, call_of(f, inputs)) for name, f in ways.items()]
    expected = as_arrays(gradient(case.fn, count)(*[x.astype(mx.float32) for x in inputs]))
    mx.eval(expected)
    agree(peers, expected, kind)
    return Result(
        SUITE,
        case.name,
        samples=measure(peers, settings),
        bars=bars(case, dtype, settings),
        bytes=2 * sum(x.nbytes for x in inputs),
    )


def bars(case: Case, dtype: str, settings: Settings) -> tuple[Bar, ...]:
    made = []
    if settings.device == "cpu" and case.cpu_gradient is not None:
        made.append(Bar("times", case.cpu_gradient, OUTSIDE))
    if "H200" in settings.card and dtype in case.gpu_gradient:
        made.append(Bar("GB/s", case.gpu_gradient[dtype]))
    return tuple(made)
