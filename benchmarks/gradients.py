"""Gradient rows: a plain mx.grad of the fused function beside its peers (benchmarks.peers).

The gradient of a sum reads one number as its cotangent; in a pullback row it is an array like the
function's result, as inside a network.
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from benchmarks.cases import CASES, Case, gradient, pullback
from benchmarks.harness import Bar, Result, Row, Settings, as_arrays, contest
from benchmarks.peers import INSIDE, LIGER, OUTSIDE, PULLED, gradient_peers, pullback_peers

SUITE = "gradients"
ON_GPU = (Bar("times", 1.5, OUTSIDE), Bar("times", 20, INSIDE))
LIGER_NOTE = "Liger-Kernel: its backward kernel alone, which also reads a cotangent of ones"


def rows(settings: Settings) -> list[Row]:
    """One row for each case and type; on a GPU also the pullbacks that Liger-Kernel has."""
    kinds = {"gradient": (backward, CASES)}
    if settings.device == "gpu":
        kinds["pullback"] = (pulled, tuple(case for case in CASES if case.liger))
    return [
        Row(SUITE, f"{kind} of {case.name} {dtype}", partial(run, case, dtype))
        for kind, (run, cases) in kinds.items()
        for case in cases
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


def pulled(case: Case, dtype: str, settings: Settings) -> Result:
    """The gradients in all inputs for a given cotangent, which counts among what is read."""
    kind = getattr(mx, dtype)
    inputs = case.inputs(settings.elements, kind)
    cotangent = mx.random.normal(case.fn(*inputs).shape).astype(kind)
    given = [*inputs, cotangent]
    mx.eval(given)
    peers = pullback_peers(case, given, settings)
    expected = as_arrays(pullback(case.fn)(*[x.astype(mx.float32) for x in given]))
    mx.eval(expected)
    samples, absent = contest(peers, expected, kind, settings)
    made = [Bar("times", 1.5, PULLED)] if settings.device == "gpu" else []
    if "H200" in settings.card and dtype in case.gpu_pullback:
        made.append(Bar("GB/s", case.gpu_pullback[dtype]))
    return Result(
        SUITE,
        case.name,
        samples=samples,
        bars=tuple(made),
        bytes=sum(x.nbytes for x in given) + sum(x.size for x in expected) * kind.size,
        skipped=absent,
    )


def bars(case: Case, dtype: str, settings: Settings) -> tuple[Bar, ...]:
    """Ratios; in GB/s those of the card that they were set on."""
    made = list(ON_GPU) if settings.device == "gpu" else []
    if settings.device == "cpu" and case.cpu_gradient is not None:
        made.append(Bar("times", case.cpu_gradient, OUTSIDE))
    if "H200" in settings.card and dtype in case.gpu_gradient:
        made.append(Bar("GB/s", case.gpu_gradient[dtype]))
    return tuple(made)
