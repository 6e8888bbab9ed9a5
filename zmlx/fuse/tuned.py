"""Tuned rows: how the kernels that fold rows are launched, by rule, as asked, or as was found.

Comes in: the kernel and the geometry for one combination of sizes (zmlx.fuse.walked). Goes out: a
geometry; and RowTuning, by which zmlx.autotune tries others: how many threads share a row, how
many rows lie side by side in a group. Searched for on GPUs only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.device import tuning
from zmlx.device.base import GridLauncher, current_name
from zmlx.msl import geometry
from zmlx.msl.geometry import Geometry

if TYPE_CHECKING:
    from zmlx.fuse.walked import Made

Setting = tuple[int, int]
WORDS = ("threads of a row", "rows of a group")


@dataclass(frozen=True, eq=False)
class RowTuning:
    """A kernel that folds rows, for one combination of sizes, as zmlx.autotune sees it."""

    made: Made
    run: GridLauncher
    words = WORDS

    @property
    def name(self) -> str:
        return self.made.spec.name

    @property
    def size(self) -> int:
        """Elements of all rows."""
        return prod(self.made.layout.sizes)

    @property
    def key(self) -> str:
        """The name under which settings are kept."""
        return _key(self.made)

    def setting(self) -> Setting:
        return _setting(self.made.geometry)

    def settings(self) -> list[Setting]:
        """Those to try."""
        made = self.made
        return geometry.shared(made.plan, made.layout.sizes, made.geometry)

    def launched(self, arrays: Sequence[mx.array], setting: Setting) -> list[mx.array]:
        """The results under a setting; ValueError for one that the kernel cannot have."""
        found = _asked(self.made, setting)
        if found is None:
            raise ValueError(f"[zmlx.autotune] {self.name} has no setting {setting}.")
        other = replace(self.made, geometry=found)
        return other.finished(self.run(arrays, other.launch))

    def valid(self, kept: Sequence[int]) -> bool:
        """Whether a setting from disk is one that the kernel takes."""
        return len(kept) == 2 and (kept[0], kept[1]) in self.settings()

    def adopt(self, setting: Setting) -> None:
        """Nothing: launches look up what is kept."""


def tuned(made: Made) -> Made:
    """`made`, launched as a search for such rows has found."""
    if made.geometry.cut or made.geometry.room or made.plan.across:
        return made
    size = tuning.size_class(prod(made.layout.sizes))
    kept = tuning.STORE.find(tuning.identity(current_name()), _key(made)).get(size, ())
    if len(kept) != 2 or any(n & (n - 1) for n in kept):
        return made
    found = _asked(made, (kept[0], kept[1]))
    return made if found is None else replace(made, geometry=found)


def _asked(made: Made, setting: Setting) -> Geometry | None:
    if setting == _setting(made.geometry):
        return made.geometry
    return geometry.asked(made.plan, made.layout.sizes, made.geometry, *setting)


def _setting(found: Geometry) -> Setting:
    return found.threads, found.lines


def _key(made: Made) -> str:
    """Text, length of rows, and the types in memory decide what is fastest."""
    region: Any = made.plan.region
    kinds = [region[n]["dtype"] for n in (*region.inputs, *region.outputs)]
    return tuning.kernel_key(made.spec.name, made.spec.digest, (made.layout.sizes[-1], *kinds))
