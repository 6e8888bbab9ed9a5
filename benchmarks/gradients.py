"""Gradient rows: a plain mx.grad of the fused function beside its peers (benchmarks.peers)."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from benchmarks.cases import CASES, Case, gradient
from benchmarks.harness import Bar, Result, Row, Settings, as_arrays, contest
from benchmarks.peers import INSIDE, LIGER, OUTSIDE, gradient_peers

SUITE = "gradients"
ON_GPU = (Bar("times", 1.5, OUTSIDE), Bar("times", 20, INSIDE))
LIGER_NOTE = "Liger-Kernel: its backward kernel alone, which also reads a cotangent of ones"


def rows(settings: Settings) -> list[Row]:
    """One row for each case and type that has a gradient's row."""
    return [
        Row(SUITE, f"gradient of {case.name} {dtype}", partial(backward, case, dtype))
        for case in CASES
        for dtype in case.gradient_dtypes
    ]


def backward(case: Case, dtype: str, settings: Settings) -> Result:
    """The gradients of sum(f) in all inputs; the cotangent is one number, which counts as none."""
    kind = getattr(mx, dtype)
    inputs = case.inputs(settings.elements, kind)
    peers = gradient_peers(case, inputs, settings)
    exact = [x.astype(mx.float32) for x in inputs]
    expected = as_arrays(gradient(case.fn, len(inputs))(*exact))
    mx.eval(expected)
    samples, absent = contest(peers, expected, kind, settings)
    return Result(
        SUITE,
        case.name,
        samples=samples,
        bars=bars(case, dtype, settings),
        bytes=sum(x.nbytes for x in inputs) + sum(x.size for x in expected) * kind.size,
        skipped=absent,
        note=LIGER_NOTE if LIGER in samples else "",
    )


def bars(case: Case, dtype: str, settings: Settings) -> tuple[Bar, ...]:
    """Ratios; in GB/s those of the card that they were set on."""
    made = list(ON_GPU) if settings.device == "gpu" else []
    if settings.device == "cpu" and case.cpu_gradient is not None:
        made.append(Bar("times", case.cpu_gradient, OUTSIDE))
    if "H200" in settings.card and dtype in case.gpu_gradient:
        made.append(Bar("GB/s", case.gpu_gradient[dtype]))
    return tuple(made)
