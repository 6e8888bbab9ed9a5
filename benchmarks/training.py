"""The demo's training step: plain MLX, mx.compile and zmlx.fuse on the very same functions."""

from __future__ import annotations

from benchmarks.harness import SUBJECT, Bar, Parted, Result, Row, Settings
from benchmarks.peers import COMPILE, EAGER
from zmlx.demo import CURVE_TOLERANCE, model
from zmlx.demo import train as training

SUITE = "training"
WARM_UP = 3  # steps: tracing, compiling, and the first use of new memory
NAMES = {"plain MLX": EAGER, "mx.compile": COMPILE, "zmlx.fuse": SUBJECT}


def rows(settings: Settings) -> list[Row]:
    return [Row(SUITE, "the demo's training step", train)]


def train(settings: Settings) -> Result:
    """The ways take turns step by step, each on its own weights; their losses have to agree."""
    steps, width = (6, 32) if settings.quick else (WARM_UP + 5 * settings.rounds, model.WIDTH)
    runs = training.train(
        training.load_digits(0),
        training.ways(),
        steps=steps,
        seed=0,
        width=width,
        on_step=lambda run: None,
    )
    for run in runs[1:]:
        gap = training.parting(run, runs[0])
        if not gap <= CURVE_TOLERANCE:
            raise Parted(f"{run.way.name}: losses differ from plain MLX by {gap:.1e}")
    # The subject first, as in every row.
    samples = {NAMES[r.way.name]: [1e3 * s for s in r.seconds[WARM_UP:]] for r in reversed(runs)}
    # Faster than mx.compile: a ratio of exactly one does not happen.
    bars = (Bar("times", 1.5, EAGER), Bar("times", 1, COMPILE))
    note = f"median of {steps - WARM_UP} steps, width {width}, batch {training.BATCH}"
    return Result(SUITE, "", samples=samples, bars=bars, note=note)
