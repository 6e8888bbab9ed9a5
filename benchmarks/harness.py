"""The harness: contestants that take turns, medians, bars, and whether each was met.

Comes in: Rows, which the suites (elementwise, gradients, latency, training) make. Goes out:
Results, which benchmarks.report shows and writes. Nothing here knows what is measured.
"""

from __future__ import annotations

import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import mlx.core as mx

SUBJECT = "zmlx.fuse"
MEAN = "geometric mean"  # ends the names of rows that sum up others
PER_SECOND = {"s": 1.0, "ms": 1e3, "µs": 1e6}  # units of time; other units are counts
WARM_UP = 2  # calls of each contestant before the first that counts
MOST_WORDS = 200  # letters of a failure in the report
SAMPLE_S = 0.02  # a sample lasts as long, as far as MOST_LAUNCHES are enough for it
MOST_LAUNCHES = 50  # on a GPU
BUDGET_S = 60.0  # a row stops after this long, once it has MIN_ROUNDS
MIN_ROUNDS = 3


@dataclass(frozen=True)
class Settings:
    """What a run is asked for."""

    device: str = "cpu"  # cpu or gpu, as MLX names them
    card: str = ""  # the device's own name
    quick: bool = False  # tiny sizes: that every row runs, not how fast
    rounds: int = 9
    clock: Callable[[], float] = time.perf_counter

    @property
    def elements(self) -> int:
        """Elements of the large arrays."""
        if self.quick:
            return 2**12
        return 2**24 if self.device == "cpu" else 2**27

    @property
    def most_launches(self) -> int:
        """Calls in one timed sample at most: several on a GPU, where the wait at the end counts."""
        return 1 if self.device == "cpu" or self.quick else MOST_LAUNCHES


@dataclass(frozen=True)
class Peer:
    """A contestant: `call` builds a result, `submit` starts its evaluation, `wait` ends it."""

    name: str
    call: Callable[[], Any]
    submit: Callable[[Any], Any] = mx.async_eval
    wait: Callable[[], Any] = mx.synchronize


@dataclass(frozen=True)
class Skipped:
    """A contestant that is not there, and how to get it."""

    name: str
    reason: str


@dataclass(frozen=True)
class Bar:
    """What the subject has to reach: times a peer's speed, at most so much, or GB/s at least."""

    kind: Literal["times", "at most", "GB/s"]
    limit: float
    peer: str = ""  # of kind "times"

    def text(self, unit: str) -> str:
        """The bar in words, for a row in `unit`."""
        if self.kind == "times":
            return f">= {self.limit:g}x {self.peer}"
        return f"<= {self.limit:g} {unit}" if self.kind == "at most" else f">= {self.limit:g} GB/s"


@dataclass(frozen=True)
class Verdict:
    """A bar, what was measured of it, and whether it was met; None where it cannot be told."""

    bar: Bar
    measured: float | None
    met: bool | None


@dataclass(frozen=True)
class Result:
    """What one row measured: samples of every contestant, in `unit`."""

    suite: str
    name: str
    unit: str = "ms"
    samples: dict[str, list[float]] = field(default_factory=dict)
    bars: tuple[Bar, ...] = ()
    bytes: int | None = None  # each input read once, each output written once
    skipped: tuple[Skipped, ...] = ()
    note: str = ""
    error: str = ""  # why the row has no figures

    @property
    def medians(self) -> dict[str, float]:
        return {name: statistics.median(taken) for name, taken in self.samples.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """How many times each peer's median is the subject's: above 1, the subject is better.

        None at all where the subject's is 0.
        """
        medians = self.medians
        mine = medians.pop(SUBJECT, None)
        if not mine or self.error:
            return {}
        return {name: theirs / mine for name, theirs in medians.items()}

    @property
    def bandwidths(self) -> dict[str, float]:
        """GB/s of every contestant, where the row moves a known number of bytes."""
        if self.bytes is None or self.unit not in PER_SECOND:
            return {}
        scale = PER_SECOND[self.unit]
        return {name: self.bytes / (m / scale) / 1e9 for name, m in self.medians.items() if m}

    @property
    def verdicts(self) -> list[Verdict]:
        return [self._verdict(bar) for bar in self.bars]

    def _verdict(self, bar: Bar) -> Verdict:
        if bar.kind == "times":
            measured = self.ratios.get(bar.peer)
        elif bar.kind == "GB/s":
            measured = self.bandwidths.get(SUBJECT)
        else:
            measured = self.medians.get(SUBJECT)
        if measured is None or self.error:
            return Verdict(bar, None, None)
        met = measured <= bar.limit if bar.kind == "at most" else measured >= bar.limit
        return Verdict(bar, measured, met)


@dataclass(frozen=True)
class Row:
    """A measurement that can be run: `run` takes the settings and gives the Result."""

    suite: str
    name: str
    run: Callable[[Settings], Result]


class Absent(Exception):
    """A contestant that cannot be had on this machine; the words say why."""


class Parted(Exception):
    """Two contestants computed different things, so that their times say nothing."""


def run_rows(
    rows: Iterable[Row], settings: Settings, on_row: Callable[[Row], None] = lambda row: None
) -> list[Result]:
    """Every row's result; a row that fails becomes a Result with `error`, and the next one runs."""
    results = []
    for row in rows:
        on_row(row)
        try:
            result = replace(row.run(settings), suite=row.suite, name=row.name)
        except Exception:  # whatever it is, it belongs into the report
            result = Result(row.suite, row.name, error=traceback.format_exc(limit=-4))
        results.append(result)
        mx.clear_cache()
    return results


def contest(
    contestants: Sequence[Peer | Skipped],
    expected: Sequence[mx.array],
    dtype: mx.Dtype,
    settings: Settings,
    launches: int | None = None,
    terms: int = 0,
    exact: Callable[[], Sequence[mx.array]] | None = None,
) -> tuple[dict[str, list[float]], tuple[Skipped, ...]]:
    """Samples of all who compute `expected`, of `launches` calls each; who has none, and why.

    `terms` is the size of the largest input, where results may be sums over it. Plain MLX's float32
    may be what is off, where terms cancel: the subject that parts from it has to be `exact()`.

    A peer that fails or parts does not take the row with it; the subject does.
    """

    def judged(contestant: Peer | Skipped) -> Peer | Skipped:
        try:
            return fitted(contestant, expected, dtype, terms)
        except Parted:
            if exact is None:
                raise
            return fitted(contestant, exact(), dtype, terms)

    fit = [judged(contestant) for contestant in contestants]
    failed: list[Skipped] = []
    samples = measure(fit, settings, launches=launches, failed=failed)
    return samples, (*skipped(fit), *failed)


def measure(
    contestants: Sequence[Peer | Skipped],
    settings: Settings,
    unit: str = "ms",
    launches: int | None = None,
    failed: list[Skipped] | None = None,
) -> dict[str, list[float]]:
    """Samples by contestant: warm-up, then rounds in which all take turns (A B A B ...).

    A sample is the time of `launches` calls up to the end of the last, divided by their number;
    left out, as many as a sample wants, by each contestant's own speed. Peers that raise go into
    `failed` and lose their samples; without it, they end the row.
    """
    peers = {c.name: c for c in contestants if isinstance(c, Peer)}
    samples: dict[str, list[float]] = {name: [] for name in peers}
    counts = dict.fromkeys(peers, 1)

    def everybody() -> Iterator[tuple[str, float]]:
        for name, peer in list(peers.items()):
            try:
                yield name, _sample(peer, counts[name], settings.clock)
            except Exception as error:
                if failed is None or name == SUBJECT:
                    raise
                failed.append(Skipped(name, failure(error)))
                del peers[name], samples[name]

    for _ in range(WARM_UP):
        for name, taken in everybody():
            wanted = int(SAMPLE_S / taken) if taken else settings.most_launches
            counts[name] = max(1, min(settings.most_launches, wanted))
    if launches is not None:
        counts = dict.fromkeys(peers, launches)
    start = settings.clock()
    for done in range(settings.rounds):
        if done >= MIN_ROUNDS and settings.clock() - start > BUDGET_S:
            break
        for name, taken in everybody():
            samples[name].append(taken * PER_SECOND[unit])
    return samples


def _sample(peer: Peer, launches: int, clock: Callable[[], float]) -> float:
    """Seconds for one call, results freed within the time, as they are in a user's loop."""
    start = clock()
    for _ in range(launches):
        peer.submit(peer.call())
    peer.wait()
    return (clock() - start) / launches


def tried(name: str, make: Callable[[], Peer]) -> Peer | Skipped:
    """The peer that `make` makes, or why there is none."""
    try:
        return make()
    except Absent as error:
        return Skipped(name, str(error))
    except Exception as error:
        return Skipped(name, failure(error))


def failure(error: Exception) -> str:
    """What went wrong, in one line of the report."""
    words = str(error).strip().splitlines() or [""]
    return f"failed: {type(error).__name__}: {words[0][:MOST_WORDS]}"


def skipped(contestants: Sequence[Peer | Skipped]) -> tuple[Skipped, ...]:
    return tuple(c for c in contestants if isinstance(c, Skipped))


# -- agreement ------------------------------------------------------------------------------------
CANCELLED = 100.0  # of a bound, for what is left of terms as large as the largest value
TOLERANCES = {mx.float32: 1e-4, mx.float16: 5e-3, mx.bfloat16: 4e-2}


def fitted(
    contestant: Peer | Skipped, expected: Sequence[mx.array], dtype: mx.Dtype, terms: int = 0
) -> Peer | Skipped:
    """The contestant if it agrees with `expected`; a peer that does not, as Skipped."""
    try:
        agree([contestant], expected, dtype, terms)
    except Exception as error:
        if contestant.name == SUBJECT:
            raise
        return Skipped(contestant.name, failure(error))
    return contestant


def agree(
    contestants: Sequence[Peer | Skipped],
    expected: Sequence[mx.array],
    dtype: mx.Dtype,
    terms: int = 0,
) -> None:
    """Raise Parted unless every contestant's results are `expected` (float32), rounding aside.

    The tolerance is that of `dtype` rounded after every op, which is how plain MLX computes. A
    result smaller than the largest, or than the `terms` of the largest input, is a sum: its terms'
    errors add up as in a random walk. Where terms cancel, the error is that of the largest ones.
    """
    bound = TOLERANCES[dtype]
    largest = max(terms, *[wanted.size for wanted in expected])
    for peer in contestants:
        if isinstance(peer, Skipped):
            continue
        found = as_arrays(peer.call())
        if len(found) != len(expected):
            raise Parted(f"{peer.name}: {len(found)} results, expected {len(expected)}")
        for index, (mine, wanted) in enumerate(zip(found, expected, strict=True)):
            shares = math.sqrt(largest / max(1, wanted.size))
            bounds = bound, bound * shares * max(1.0, _largest(wanted) / CANCELLED)
            _agree(f"{peer.name}, result {index}", mine, wanted, dtype, bounds)


def _largest(array: mx.array) -> float:
    """The largest finite value, by size."""
    finite = mx.where(mx.isfinite(array), mx.abs(array).astype(mx.float32), 0.0)
    return float(mx.max(finite).item()) if array.size else 0.0


def _agree(
    who: str, mine: mx.array, wanted: mx.array, dtype: mx.Dtype, bounds: tuple[float, float]
) -> None:
    """`bounds`: relative and absolute. Places and bits are of no float type."""
    dtype = dtype if mx.issubdtype(wanted.dtype, mx.floating) else wanted.dtype
    if mine.shape != wanted.shape or mine.dtype != dtype:
        raise Parted(f"{who}: {mine.dtype}{list(mine.shape)}, expected {dtype}{list(wanted.shape)}")
    value, (relative, absolute) = mine.astype(mx.float32), bounds
    if not mx.allclose(value, wanted, rtol=relative, atol=absolute, equal_nan=True).item():
        worst = mx.max(mx.abs(value - wanted)).item()
        raise Parted(
            f"{who}: differs from plain MLX in float32 by up to {worst}, allowed {absolute:g}"
        )


def as_arrays(result: Any) -> list[mx.array]:
    """One result or several, of MLX, NumPy or PyTorch, as MLX arrays."""
    if isinstance(result, (list, tuple)):
        return [array for item in result for array in as_arrays(item)]
    if isinstance(result, mx.array):
        return [result]
    if hasattr(result, "detach"):  # PyTorch; NumPy has no bfloat16
        whole = result.detach().float().cpu().numpy()
        return [mx.array(whole).astype(getattr(mx, str(result.dtype).removeprefix("torch.")))]
    made = mx.array(result)
    if str(result.dtype) not in str(made.dtype):  # MLX makes float32 of float64
        raise Parted(f"a peer computed in {result.dtype}, which is not {made.dtype}")
    return [made]
