"""Latency rows of calls that change: what new lengths and new Python numbers cost.

Counts come from fresh processes (benchmarks.child.changing) with empty caches: of kernels, what
compilers left on disk, or on a GPU what mx.fast was handed. benchmarks.latency lists these rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from benchmarks.child import changes, total
from benchmarks.fresh import child, private_caches
from benchmarks.harness import SUBJECT, Bar, Parted, Result, Settings, Skipped, failure
from benchmarks.peers import COMPILE
from zmlx.device.base import device_for_current_stream

SUITE = "latency"
COUNTS = {"lengths": 1000, "values": 100}
QUICK = 4
FEW = 5  # new numbers for which mx.compile builds kernels: each takes a compiler's run
MOST = {"lengths": 1, "values": 0}  # traces and kernels; numbers change after a first call


def rows() -> list[tuple[str, Callable[[Settings], Result]]]:
    return [
        ("1000 sequence lengths: traces", counted("lengths", "traces")),
        ("1000 sequence lengths: kernels", counted("lengths", "kernels")),
        ("a Python scalar that changes 100 times: traces", counted("values", "traces")),
        ("a Python scalar that changes 100 times: kernels", counted("values", "kernels")),
    ]


def counted(task: str, what: str) -> Callable[[Settings], Result]:
    """A row for one of the two counts."""

    def run(settings: Settings) -> Result:
        if reason := device_for_current_stream().unavailable():
            raise RuntimeError(reason)  # 0 kernels, and no success
        count = QUICK if settings.quick else COUNTS[task]
        samples = {SUBJECT: [float(found(task, "fuse", count, count, settings)[what])]}
        peer, absent = COMPILE, []
        if task == "values" and what == "kernels":
            count = min(count, FEW)
            peer = f"{COMPILE}, {count} values"
        try:
            samples[peer] = [float(theirs(task, what, count, settings))]
        except Exception as error:
            absent.append(Skipped(peer, failure(error)))
        bars = (Bar("at most", MOST[task]),)
        return Result(SUITE, "", what, samples, bars, skipped=tuple(absent))

    return run


def theirs(task: str, what: str, count: int, settings: Settings) -> float:
    """The count of mx.compile; only a count of kernels needs results where each compiles."""
    if what == "kernels" and mx.metal.is_available():
        raise RuntimeError("Metal's compiler leaves no files to count")
    evaluated = count if task == "lengths" or what == "kernels" else 0
    return float(found(task, "compile", count, evaluated, settings)[what])


def found(task: str, way: str, count: int, evaluated: int, settings: Settings) -> dict[str, Any]:
    """What a child counted, once its results agree with plain MLX."""
    words = [task, settings.device, way, str(count), str(evaluated)]
    with private_caches() as environment:
        answer: dict[str, Any] = child(words, environment)
    function, settled, calls = changes(task, count)
    expected = [total(function(*call)) for call in calls[: settled + evaluated]]
    for mine, wanted in zip(answer["sums"], expected, strict=True):
        if not abs(mine - wanted) <= 1e-4 * (1 + abs(wanted)):
            raise Parted(f"{way}: a result adds up to {mine}, in plain MLX to {wanted}")
    return answer
