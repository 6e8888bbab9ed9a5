"""Forward rows: each case and type beside plain MLX, mx.compile and NumExpr (on a GPU: PyTorch)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import mlx.core as mx

from benchmarks.cases import CASES, Case
from benchmarks.harness import SUBJECT, Bar, Peer, Result, Row, Settings, agree, measure, skipped
from benchmarks.peers import COMPILE, NUMEXPR, call_of, forward_peers

SUITE = "elementwise"


def rows(settings: Settings) -> list[Row]:
    """One row for each case and type; on a GPU the ceiling first."""
    made = [
        Row(SUITE, f"{case.name} {dtype}", partial(forward, case, dtype))
        for case in CASES
        for dtype in case.dtypes
    ]
    if settings.device == "gpu":
        made.insert(0, Row(SUITE, "the ceiling: one read, one write", ceiling))
    return made


def forward(case: Case, dtype: str, settings: Settings) -> Result:
    """A case's function, all contestants on the same arrays."""
    kind = getattr(mx, dtype)
    inputs = case.inputs(settings.elements, kind)
    peers = forward_peers(case, dtype, inputs, settings)
    expected = case.fn(*[x.astype(mx.float32) for x in inputs])
    mx.eval(expected)
    agree(peers, [expected], kind)
    return Result(
        SUITE,
        case.name,
        samples=measure(peers, settings),
        bars=bars(case, dtype, peers, settings),
        bytes=sum(x.nbytes for x in inputs) + expected.size * kind.size,
        skipped=skipped(peers),
    )


def bars(case: Case, dtype: str, peers: Sequence[object], settings: Settings) -> tuple[Bar, ...]:
    """The CPU's bars are ratios; the GPU's are GB/s and hold for the card they were set on."""
    made = []
    if settings.device == "cpu" and case.cpu is not None:
        made.append(Bar("times", case.cpu, COMPILE))
        if any(getattr(peer, "name", "") == NUMEXPR for peer in peers):
            made.append(Bar("times", 1, NUMEXPR))
    if "H200" in settings.card and dtype in case.gpu:
        made.append(Bar("GB/s", case.gpu[dtype]))
    return tuple(made)


def ceiling(settings: Settings) -> Result:
    """What the memory gives: MLX's own kernel that negates, float32."""
    mx.random.seed(0)
    x = mx.random.normal((settings.elements,))
    mx.eval(x)
    peers = [Peer("mx.negative", call_of(mx.negative, [x]))]
    note = f"the ceiling of {SUBJECT}: a copy"
    return Result(SUITE, "", samples=measure(peers, settings), bytes=2 * x.nbytes, note=note)
