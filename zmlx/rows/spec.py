"""RowSpec: a row-wise op as expressions of Metal Shading Language, and what they may name.

Comes in: texts of zmlx.rowwise.map_reduce and of the catalog. Goes out: RowSpec, from which
zmlx.rows.text writes the kernel and zmlx.rows.rules the derivatives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from zmlx.msl import DEFAULT_HEADER


@dataclass(frozen=True)
class Fold:
    """One reduction over a row: its result, where it starts, what an element adds, how two join."""

    result: str
    accumulator: str
    init: str
    update: str
    join: str  # of `a` and `b`; associative and commutative

    @property
    def used(self) -> bool:
        """False where no element changes the accumulator: the result is the init."""
        return self.update.strip() != self.accumulator


@dataclass(frozen=True)
class Output:
    """One array that the op gives: every element, or one element for each row."""

    name: str
    expr: str
    per_row: bool = False
    dtype: str | None = None  # that of the first input where absent


@dataclass(frozen=True)
class RowSpec:
    """All that decides what the op computes.

    The first input is the rows. Expressions see inputs and results of earlier passes as float32;
    `d` is the length of a row.
    """

    name: str
    inputs: tuple[str, ...]
    passes: tuple[tuple[Fold, ...], ...]  # the folds of one pass share a walk over the row
    outputs: tuple[Output, ...]
    header: str = DEFAULT_HEADER
    d: int | None = None  # the only length that rows may have; any where absent
    where: str = "rowwise"  # the part of zmlx that errors name
    alias: str = field(default="", compare=False)  # a second name of the first input

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        return tuple(fold for folds in self.passes for fold in folds)

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"[zmlx.{self.where}] {self.name!r}: {what}.")


def words(texts: Sequence[str]) -> frozenset[str]:
    """The identifiers in `texts`."""
    return frozenset(word for text in texts for word in re.findall(r"[A-Za-z_]\w*", text))
