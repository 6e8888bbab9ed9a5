"""Decided: which of the traces of one key fits a call, where sizes or ints steered Python.

A trace holds where the sizes and ints that its function asked for have the values they had: its
decisions, in the order in which it asked. Of two traces the first decision is the same question,
and as long as the answers are, so is the next. A Site (zmlx.fuse.entry) asks for the path of a
call: the answers, up to the trace's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from zmlx.trace.exprs import Compute, Numbering, computed
from zmlx.trace.sizes import Decision

Path = tuple[Any, ...]
_SPARE = 64  # questions kept beyond those that entries need


class Decided:
    """The questions of the traces kept, by the answers before them."""

    def __init__(self) -> None:
        self._asks: dict[Path, tuple[int, Compute]] = {}
        self._numbering = Numbering()

    def path(self, start: Path, arrays: Sequence[Any], numbers: Sequence[Any]) -> Path:
        """The answers of a call, after `start`; a call that cannot answer has a path of its own."""
        path = start
        while (ask := self._asks.get(path)) is not None:
            try:
                path = (*path, *ask[1](arrays, numbers))
            except (ArithmeticError, ValueError) as error:  # the function will say so
                return (*path, type(error))
        return path

    def add(self, start: Path, decisions: Sequence[Decision]) -> Path:
        """Ask what this trace asked; returns its path."""
        path = start
        for decision in decisions:
            question = self._numbering.of(decision.expr)
            found = self._asks.get(path)
            if found is None or found[0] != question:
                self._asks[path] = (question, computed((decision.expr,)))
            path = (*path, decision.value)
        self._asks.pop(path, None)  # the function has changed its mind; this is its newest
        return path

    def keep(self, paths: Iterable[Path]) -> None:
        """Forget questions on the way to no entry, where there are many."""
        if len(self._asks) > _SPARE:
            used = {path[:n] for path in paths for n in range(len(path))}
            if len(self._asks) > len(used) + _SPARE:
                self._asks = {path: ask for path, ask in self._asks.items() if path in used}
