"""The demo's training runs: one model, one seed, several ways to run the same step.

In: a data set, the ways and a number of steps. Out: one Run per way (losses, times, weights).
The ways take turns step by step, so that a busy machine disturbs all alike. Called by zmlx.demo.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

import zmlx
from zmlx.demo import model

BATCH = 256


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: images (N, 64) in 0 to 1, classes one-hot (N, 10)."""

    train_x: mx.array
    train_y: mx.array
    test_x: mx.array
    test_y: mx.array


@dataclass(frozen=True)
class Way:
    """One way to run the training step; `numbers` makes of Python floats what the step takes."""

    name: str
    step: Callable[..., Any]
    numbers: Callable[[tuple[float, ...]], tuple[Any, ...]]


@dataclass
class Run:
    """What one way produced: losses and seconds per step, and its latest weights."""

    way: Way
    state: model.State
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """Median milliseconds of a step, without the first three (tracing, compiling)."""
        return 1e3 * statistics.median(self.seconds[3:] or self.seconds)


def load_digits(seed: int) -> Digits:
    """scikit-learn's digits, shuffled; one in five held out for the test."""
    from sklearn.datasets import load_digits as read

    digits = read()
    order = np.random.default_rng(seed).permutation(len(digits.data))
    x = (digits.data[order] / 16).astype(np.float32)
    y = np.eye(model.CLASSES, dtype=np.float32)[digits.target[order]]
    held = len(x) // 5
    parts = (x[held:], y[held:], x[:held], y[:held])
    return Digits(*(mx.array(part) for part in parts))


def ways() -> tuple[Way, Way, Way]:
    """Plain MLX, mx.compile and zmlx.fuse on the very same functions.

    mx.compile goes around the whole step, gradient included: the form in which it can fuse the
    backward pass. It would trace anew for each value of a Python number, so it gets the learning
    rate as arrays, as its documentation advises. zmlx.fuse takes the numbers as they are.
    """
    plain = model.make_step(model.loss, model.adamw)
    fused = model.make_step(zmlx.fuse(model.loss), zmlx.fuse(model.adamw))

    def as_arrays(numbers: tuple[float, ...]) -> tuple[mx.array, ...]:
        return tuple(mx.array(n) for n in numbers)

    return (
        Way("plain MLX", plain, tuple),
        Way("mx.compile", mx.compile(plain), as_arrays),
        Way("zmlx.fuse", fused, tuple),
    )


def batches(digits: Digits, seed: int, steps: int) -> list[tuple[mx.array, ...]]:
    """Images, targets, noise and contrast of every step; the same seed gives the same bits."""
    rng = np.random.default_rng(seed)
    made: list[tuple[mx.array, ...]] = []
    for _ in range(steps):
        pick = mx.array(rng.choice(len(digits.train_x), BATCH, replace=False))
        noise = mx.array(rng.standard_normal((BATCH, model.PIXELS), dtype=np.float32))
        contrast = mx.array(rng.standard_normal((BATCH, 1), dtype=np.float32))
        made.append((digits.train_x[pick], digits.train_y[pick], noise, contrast))
    mx.eval(made)
    return made


def train(
    digits: Digits,
    ways: Sequence[Way],
    *,
    steps: int,
    seed: int,
    width: int,
    on_step: Callable[[Run], None],
) -> list[Run]:
    """Train once per way, taking turns; `on_step` hears of every step."""
    runs = [Run(way, model.init(seed, width)) for way in ways]
    for index, batch in enumerate(batches(digits, seed, steps)):
        numbers = model.schedule(index, steps)
        for run in runs:
            advance(run, batch, numbers)
            on_step(run)
    return runs


def advance(run: Run, batch: tuple[mx.array, ...], numbers: tuple[float, ...]) -> None:
    """One step of one way, timed until every new value is there."""
    start = time.perf_counter()
    state = run.state
    value, *trees = run.way.step(
        state.params, state.first, state.second, batch, run.way.numbers(numbers)
    )
    mx.eval(value, *trees)
    run.seconds.append(time.perf_counter() - start)
    run.losses.append(value.item())
    run.state = model.State(*trees)


def accuracy(run: Run, digits: Digits) -> float:
    """Share of the held-out digits that the run's weights classify correctly."""
    answer = mx.argmax(model.logits(run.state.params, digits.test_x), axis=-1)
    return float(mx.mean(answer == mx.argmax(digits.test_y, axis=-1)).item())


def parting(run: Run, reference: Run) -> float:
    """Largest relative difference of two loss curves; inf where a value is not finite."""
    mine, theirs = np.array(run.losses), np.array(reference.losses)
    if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
        return float("inf")
    return float(np.max(np.abs(mine - theirs) / np.abs(theirs)))
