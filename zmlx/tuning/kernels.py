"""Kernels that can be tuned: what zmlx.autotune asks of one, and elementwise ones as such.

Comes in: the event of a launch. Goes out: a Tunable, or None for a kernel that nothing is to be
tuned of. Kernels that fold rows bring their own (zmlx.fuse.tuned.RowTuning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import mlx.core as mx

from zmlx.device import tuning, watch
from zmlx.device.gpu import GpuLauncher
from zmlx.fuse.tuned import RowTuning
from zmlx.tuning.report import Setting


class Tunable(Protocol):
    """One kernel over arrays of one size; a setting is two numbers, which `words` names."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int:
        """Of which settings are kept for a class; 0 where nothing runs."""

    @property
    def key(self) -> str:
        """The name under which settings are kept."""

    @property
    def words(self) -> tuple[str, str]: ...
    def setting(self) -> Setting:
        """How it is launched now."""

    def settings(self) -> Sequence[Setting]:
        """How it might be."""

    def launched(self, arrays: Sequence[mx.array], setting: Setting) -> Sequence[mx.array]:
        """Its results, launched so."""

    def valid(self, kept: Sequence[int]) -> bool:
        """Whether what was kept is a setting of it."""

    def adopt(self, setting: Setting) -> None:
        """Launch it so from now on."""


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A kernel over elements: how many a thread takes, how many threads form a group."""

    event: watch.Event
    launcher: GpuLauncher
    words = ("elements", "threadgroup")

    @property
    def name(self) -> str:
        return self.event.name

    @property
    def size(self) -> int:
        """Elements of each output."""
        return self.launcher.output_size(self.event.inputs)

    @property
    def key(self) -> str:
        return tuning.kernel_key(self.event.name, self.event.digest)

    def setting(self) -> Setting:
        return self.launcher.setting(self.size)

    def settings(self) -> list[Setting]:
        return list(product(tuning.ELEMENTS, tuning.THREADGROUPS))

    def launched(self, arrays: Sequence[mx.array], setting: Setting) -> Sequence[mx.array]:
        return self.launcher.with_setting(*setting)(arrays)

    def valid(self, kept: Sequence[int]) -> bool:
        return tuning.valid(tuple(kept))

    def adopt(self, setting: Setting) -> None:
        self.launcher.adopt(self.size, *setting)


def tunable(event: watch.Event) -> Tunable | None:
    """The kernel of a launch; None for one written by hand, and on a CPU."""
    if not event.fused:
        return None
    if isinstance(event.launcher, RowTuning):
        return event.launcher
    return Elementwise(event, event.launcher) if isinstance(event.launcher, GpuLauncher) else None
