"""Timing: what zmlx.autotune and zmlx.profile share: contestants by turns, equal results, a copy.

Comes in: callables that build lazy arrays. Goes out: medians in milliseconds, whether results
agree, and the speed at which a device copies.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import mlx.core as mx

from zmlx import dtypes
from zmlx.fuse.api import fuse
from zmlx.trace.operands import name_of

Build = Callable[[], Any]  # arrays, or a tree of them, not yet evaluated
Key = TypeVar("Key", bound=Hashable)

SAMPLE_MS = 1.0  # short launches are timed several at once, so that a sample lasts this long
MOST_AT_ONCE = 64
LONG_S = 2.0  # a search that takes longer shows how far it is
ADDED_OTHERWISE = 64  # times the tolerance of a type, see dtypes.TOLERANCES
COPY_ELEMENTS, COPY_ROUNDS = 2**24, 7
_copies: dict[str, float] = {}  # GB/s by device


def run_ms(build: Build, times: int = 1) -> float:
    """Milliseconds of one of `times` launches that are evaluated together."""
    mx.synchronize()
    started = time.perf_counter()
    mx.eval([build() for _ in range(times)])
    mx.synchronize()
    return 1000 * (time.perf_counter() - started) / times


def medians(builds: Mapping[Key, Build], rounds: int, what: str) -> dict[Key, float]:
    """The median time of each, in milliseconds; they take turns, and each round starts elsewhere.

    All have run before: nothing is compiled here. `what` stands beside the progress bar.
    """
    keys = list(builds)
    once = {key: run_ms(builds[key]) for key in keys}
    times = max(1, min(MOST_AT_ONCE, int(SAMPLE_MS / max(1e-6, min(once.values())))))
    samples: dict[Key, list[float]] = {key: [] for key in keys}
    expected = sum(once.values()) * times * rounds / 1000
    turns = [(turn + i) % len(keys) for turn in range(rounds) for i in range(len(keys))]
    for i in tracked(turns, what, expected > LONG_S):
        samples[keys[i]].append(run_ms(builds[keys[i]], times))
    return {key: statistics.median(taken) for key, taken in samples.items()}


def tracked(items: Sequence[int], what: str, long: bool) -> Iterable[int]:
    """`items`, behind a progress bar where that is of use: a long search, on a terminal."""
    if not long or not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, console=Console(stderr=True), transient=True)


def difference(got: Sequence[mx.array], wanted: Sequence[mx.array], exact: bool) -> str | None:
    """Where two results part, in words; None where they agree.

    Integers have to be equal, floats too where `exact`, in every bit; else floats may differ by
    rounding, as sums added in another order do: by a share of the largest value.
    """
    for i, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            return f"output {i} is {mine.dtype}{mine.shape} and {theirs.dtype}{theirs.shape}"
        apart = _parts_exactly(mine, theirs) if exact else _parts(mine, theirs)
        if apart.any().item():
            place = int(mx.argmax(apart.astype(mx.int32)).item())
            values = [x.reshape(-1)[place].item() for x in (mine, theirs)]
            return f"output {i} at flat index {place} is {values[0]!r} and {values[1]!r}"
    return None


def _parts_exactly(mine: mx.array, theirs: mx.array) -> mx.array:
    bits = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}[mine.dtype.size]
    return (mine.view(bits) != theirs.view(bits)).reshape(-1)


def _parts(mine: mx.array, theirs: mx.array) -> mx.array:
    name = name_of(mine.dtype)
    if not dtypes.is_float(name) or mine.size == 0:
        return (mine != theirs).reshape(-1)
    # Half types are rounded once, at the end; what is added in float32 is rounded at each step.
    share = dtypes.TOLERANCES[name].rtol * (1 if name in dtypes.HALVES else ADDED_OTHERWISE)
    with mx.stream(mx.cpu):
        a, b = (x.reshape(-1).astype(mx.float64) for x in (mine, theirs))
        finite = mx.isfinite(a) & mx.isfinite(b)
        largest = mx.max(mx.where(finite, mx.abs(b), 0.0))
        same = (a == b) | (mx.isnan(a) & mx.isnan(b))
        return ~mx.where(finite, mx.abs(a - b) <= share * largest, same)


def copy_gb_per_s() -> float:
    """GB/s of the current device where each element is read once and written once.

    Measured when first asked for: the better of a kernel of ours and of MLX's own.
    """
    device = str(mx.default_device())
    if device not in _copies:
        x = mx.ones(COPY_ELEMENTS)
        ways: dict[str, Build] = {"mlx": lambda: -x}
        function = fuse(lambda x: 1.0 - mx.abs(x)).entry(x).program.functions[0]
        launch = function.specialized([x.shape]).launcher
        if launch is not None:
            ways["zmlx"] = lambda: launch([x])
        mx.eval(x, [build() for build in ways.values()])
        best = min(medians(ways, COPY_ROUNDS, "copy bandwidth").values())
        _copies[device] = 2 * x.nbytes / best / 1e6
    return _copies[device]
