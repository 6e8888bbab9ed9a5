"""Forward rows: each case and type beside its peers (benchmarks.peers)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial

import mlx.core as mx

from benchmarks.cases import CASES, Case
from benchmarks.harness import (
    MEAN,
    SUBJECT,
    Bar,
    Peer,
    Result,
    Row,
    Settings,
    contest,
    measure,
    skipped,
    tried,
)  # fmt: skip
from benchmarks.peers import COMPILE, NUMEXPR, call_of, forward_peers
from benchmarks.torch_peers import COPY, copy

SUITE = "elementwise"
MEAN_OF, MEAN_BAR = "bfloat16", 1.25  # times mx.compile on a GPU, geometric mean of the rows


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
    samples, absent = contest(peers, [expected], kind, settings)
    return Result(
        SUITE,
        case.name,
        samples=samples,
        bars=bars(case, dtype, [peer.name for peer in peers], settings),
        bytes=sum(x.nbytes for x in inputs) + expected.size * kind.size,
        skipped=absent,
    )


def bars(case: Case, dtype: str, peers: Sequence[str], settings: Settings) -> tuple[Bar, ...]:
    """Ratios; in GB/s those of the card that they were set on."""
    made = [Bar("times", 1, COMPILE)] if settings.device == "gpu" else []
    if settings.device == "cpu" and case.cpu is not None:
        made.append(Bar("times", case.cpu, COMPILE))
        if NUMEXPR in peers:
            made.append(Bar("times", 1, NUMEXPR))
    if "H200" in settings.card and dtype in case.gpu:
        made.append(Bar("GB/s", case.gpu[dtype]))
    return tuple(made)


def summary(results: Sequence[Result], settings: Settings) -> list[Result]:
    """One row more, of all bfloat16 rows together; none where some of them were not run."""
    wanted = [f"{case.name} {MEAN_OF}" for case in CASES if MEAN_OF in case.dtypes]
    rows = [r for r in results if r.suite == SUITE and r.name in wanted]
    if len(rows) < len(wanted):
        return []
    bars = (Bar("times", MEAN_BAR, COMPILE),) if settings.device == "gpu" else ()
    ratios = [r.ratios[COMPILE] for r in rows if COMPILE in r.ratios]
    if len(ratios) == len(rows):
        samples = {SUBJECT: [1.0], COMPILE: [statistics.geometric_mean(ratios)]}
        note = f"time relative to {SUBJECT}'s over {len(rows)} rows"
    else:
        samples, note = {}, f"{len(rows) - len(ratios)} of the {len(rows)} rows have no ratio"
    name = f"{MEAN_OF} rows, {MEAN}"
    return [Result(SUITE, name, "relative", samples, bars, note=note)]


def ceiling(settings: Settings) -> Result:
    """What the memory gives: MLX's own kernel that negates float32, and PyTorch's copy."""
    mx.random.seed(0)
    x = mx.random.normal((settings.elements,))
    mx.eval(x)
    peers = [Peer("mx.negative", call_of(mx.negative, [x])), tried(COPY, lambda: copy(x))]
    note = f"the ceiling of {SUBJECT}: a copy"
    return Result(
        SUITE, "", samples=measure(peers, settings), bytes=2 * x.nbytes, skipped=skipped(peers),
        note=note,
    )  # fmt: skip
