"""Sites: the traces for one key (structure, ranks, dtypes, sizes of one).

They differ in what those traces found out that they depend on: exact sizes, numbers whose value was
read, arrays that are one and the same, the very objects of a call. zmlx.fuse.table makes sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.fuse.decided import Decided
from zmlx.trace.exprs import Number, positions
from zmlx.trace.tree import Leaves

if TYPE_CHECKING:
    from zmlx.fuse.entry import Entry
    from zmlx.trace.scalars import Token

NO_LEAVES = Leaves()  # of a call with nothing but arrays


MOST_WRITTEN = 256  # sets of numbers whose texts are kept


@dataclass(eq=False)
class Site:
    """The entries for one key, told apart by what their traces depend on beyond it."""

    decided: Decided | None = None  # the sizes and ints whose values traces read
    personal: bool = False  # entries hold for their call's objects only
    static: frozenset[int] = frozenset()  # numbers whose value a trace was made for
    read: frozenset[int] = frozenset()  # of those, the ones whose value a trace asked for
    by_value: frozenset[int] = frozenset()  # ints that each trace was decided by the value of
    lines: dict[Token, str] = field(default_factory=dict)  # which line read them
    moving: frozenset[int] = frozenset()  # numbers of objects that change from call to call
    entries: dict[Any, Entry] = field(default_factory=dict)
    _last: tuple[Number, ...] = ()
    _told: tuple[frozenset[int], tuple[Number, ...], tuple[str, ...]] = (frozenset(), (), ())
    _written: dict[tuple[int, ...], tuple[tuple[Number, ...], tuple[str, ...]]] = field(
        default_factory=dict
    )

    def of(self, arrays: Sequence[mx.array]) -> Entry | None:
        """The entry of a call with nothing but arrays."""
        if self.decided is not None or self.static or self.personal:
            return self.find(arrays, (), NO_LEAVES)
        return self.entries.get((pattern(arrays) if len(arrays) > 1 else None) or ())

    def find(
        self, arrays: Sequence[mx.array], numbers: Sequence[Number], leaves: Leaves
    ) -> Entry | None:
        entry = self.entries.get(self.key(arrays, numbers, leaves))
        return None if entry is None or (self.personal and entry.gone()) else entry

    def static_for(self, leaves: Leaves) -> frozenset[int]:
        """Which numbers a new trace is made for: those of objects, until they are seen to move."""
        if self._last:
            self.moving |= {i for i in leaves.soft if leaves.numbers[i] != self._last[i]}
        return (frozenset(leaves.soft) - self.moving) | self.read

    def add(self, entry: Entry, leaves: Leaves) -> None:
        """Keep `entry`; where it depends on more than earlier ones, those are traced again."""
        trace = entry.trace
        self.read |= trace.static_numbers - (frozenset(leaves.soft) - self.moving)
        self.lines.update(dict(trace.reads))
        for decision in trace.decisions:
            if type(decision.value) is not bool:
                read = positions(decision.expr)
                self.by_value |= read
                self.lines.update(dict.fromkeys(read, decision.loc))
        self.moving |= trace.written_numbers & frozenset(leaves.soft)
        self._last = tuple(leaves.numbers)
        depends = (
            self.personal or trace.personal,
            trace.static_numbers,
        )
        if depends != (self.personal, self.static):
            self.entries.clear()
            self.personal, self.static = depends
        entry.own(leaves if trace.personal else None)
        key = self._start(leaves.arrays, leaves.numbers, leaves)
        if trace.decisions and self.decided is None:
            self.decided = Decided()
        if self.decided is not None:
            key = self.decided.add(key, trace.decisions)
            self.decided.keep(list(self.entries))
        self.entries[key] = entry

    def key(self, arrays: Sequence[mx.array], numbers: Sequence[Number], leaves: Leaves) -> Any:
        start = self._start(arrays, numbers, leaves)
        return start if self.decided is None else self.decided.path(start, arrays, numbers)

    def _start(
        self, arrays: Sequence[mx.array], numbers: Sequence[Number], leaves: Leaves
    ) -> tuple[Any, ...]:
        """The key as far as it does not depend on sizes."""
        apart = leaves.apart or len(arrays) < 2
        same = None if apart else pattern(arrays)  # Python may ask: `if key is query`
        if not (self.static or self.personal):
            return same or ()
        return (
            self._values(numbers),
            tuple(map(id, leaves.passed)) if self.personal else None,
            same,
        )

    def _values(self, numbers: Sequence[Number]) -> tuple[str, ...]:
        """The numbers that traces are made for, each told from others of equal value."""
        static, last, values = self._told
        if static is self.static and len(last) == len(numbers) and all(map(is_, last, numbers)):
            return values
        kept = tuple([numbers[i] for i in sorted(self.static)])
        ids = tuple(map(id, kept))  # of instances that call by turns, each with numbers of its own
        found = self._written.get(ids)
        if found is None:
            if len(self._written) >= MOST_WRITTEN:
                self._written = {}
            found = self._written[ids] = kept, tuple(map(repr, kept))
        self._told = self.static, tuple(numbers), found[1]
        return found[1]


def pattern(arrays: Sequence[mx.array]) -> tuple[int, ...] | None:
    """For each array the first position of the same one; None where all are different."""
    if len(arrays) == 2:
        return (0, 0) if arrays[0] is arrays[1] else None
    if len(arrays) == 3:
        a, b, c = arrays
        if a is not b and b is not c and a is not c:
            return None
    ids = list(map(id, arrays))
    return None if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))
