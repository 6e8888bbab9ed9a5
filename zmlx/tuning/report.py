"""What zmlx.autotune gives back: TunedKernel and TuneReport, and how a winner is chosen.

Callers: zmlx.tuning.fused, for what zmlx.fuse generates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from zmlx.tuning.notebook import table_html

ROUNDS = 9
WORTH = 0.97  # a setting wins if it takes at most this share of the default's time
Setting = tuple[int, int]  # what its two numbers are, TunedKernel.words says


@dataclass(frozen=True)
class TunedKernel:
    """What was found for one kernel and one class of sizes."""

    name: str
    size: int  # elements of an output, or of all rows
    before: Setting
    after: Setting
    timings_ms: dict[Setting, float]  # medians; empty where the winner was known from disk
    rejected: dict[Setting, str]  # settings that failed or changed a result
    words: tuple[str, str] = ("elements", "threadgroup")

    def __str__(self) -> str:
        setting = f"{self.words[0]} {self.after[0]}, {self.words[1]} {self.after[1]}"
        words = f"{self.name}, {self.size} elements: {setting}"
        if not self.timings_ms:
            return f"{words} (kept from an earlier search)"
        was, now = self.timings_ms[self.before], self.timings_ms[self.after]
        return f"{words}, {now:.4f} ms (before: {self.before[0]}, {self.before[1]}, {was:.4f} ms)"


@dataclass(frozen=True, repr=False)
class TuneReport:
    """What zmlx.autotune found: a TunedKernel for each kernel and size, and why there may be none.

    `note` is empty where kernels were tuned.
    """

    device: str
    kernels: list[TunedKernel] = field(default_factory=list)
    note: str = ""

    def __str__(self) -> str:
        lines = [f"zmlx.autotune on {self.device}: {self.note or f'{len(self.kernels)} kernels'}"]
        return "\n".join([*lines, *(f"  {kernel}" for kernel in self.kernels)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        title, *kernels = str(self).splitlines()
        return table_html(title, ("kernels",) if kernels else (), [(k.strip(),) for k in kernels])


def best_of(timings: dict[Setting, float], before: Setting) -> Setting:
    """The fastest setting, or the one before where that is hardly slower."""
    best = min(timings, key=lambda setting: timings[setting])
    return best if timings[best] <= WORTH * timings[before] else before


def has_values(arrays: Sequence[mx.array]) -> bool:
    """False for placeholders of mx.compile and mx.vmap, which nothing can be measured with."""
    try:
        mx.eval(list(arrays))
    except (RuntimeError, ValueError):
        return False
    return True
