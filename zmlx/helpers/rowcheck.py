"""Row checks: whether the parts of a fold may be joined in any order, tried on a few numbers.

Comes in: a RowSpec whose expressions have been read. Goes out: nothing, or a ValueError that names
the argument and the numbers. zmlx.rowwise calls it when an op is made. What cannot be read is not
tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx

from zmlx.expr import Source, Unparsed, parse_all
from zmlx.fuse.replay import replay
from zmlx.helpers.rowspec import Fold, RowSpec

_ROW = (-1.7, 0.4, 2.3, -0.6, 3.1, 0.9)  # three parts of two elements
_OTHER = 0.7  # of all other values, but the length
_CLOSE = 1e-4
Numbers = list[float]
Evaluate = Callable[..., Numbers]


def check_folds(row: RowSpec) -> None:
    """ValueError for a fold whose result would depend on how many threads share a row."""
    for before, fold in enumerate(row.folds):
        try:
            parts = _Parts(row, before, fold)
        except Unparsed:
            continue
        if fold.used:
            parts.check()


class _Parts:
    """A fold over parts of a row."""

    def __init__(self, row: RowSpec, before: int, fold: Fold) -> None:
        self._row, self._fold = row, fold
        names = (fold.accumulator, *row.names(before))
        self._names = names
        self._update = _evaluated(row, fold.update, names)
        self._join = _evaluated(row, fold.join, ("a", "b"))
        (self._init,) = _evaluated(row, fold.init, ())()

    def check(self) -> None:
        """Raise where joining in another order gives something else."""
        fold, first, count = self._fold, _ROW[:2], len(_ROW) // 2
        starts = [self._init] * count
        parts = self._folded(self._folded(starts, _ROW[::2]), _ROW[1::2])
        if not all(math.isfinite(v) for v in parts):  # what they hold says nothing of joins
            parts = [*first, _ROW[2]]
        init, join = fold.argument("init"), fold.argument("reduce_op")
        a, b, c = ([v] for v in parts)
        left, right = self._join(self._join(a, b), c), self._join(a, self._join(b, c))
        self._same(left, right, f"{join} {fold.join!r} is not associative")
        self._same(self._join(a, b), self._join(b, a), f"{join} {fold.join!r} is not commutative")
        what = f"{init} {fold.init!r} is not neutral for {join}"
        for one, other in ((starts, parts), (parts, starts)):
            self._same(self._join(one, other), parts, what)
        if parts[0] != first[0]:
            both = self._folded(self._folded(a, _ROW[2:3]), _ROW[3:4])
            what = f"{join} {fold.join!r} does not join what {fold.argument('update')} folds"
            self._same(self._join(a, b), both, what)

    def _folded(self, accumulated: Numbers, elements: Sequence[float]) -> Numbers:
        """Each accumulator after one more element."""
        values: Mapping[str, Numbers] = {
            self._names[0]: accumulated, "x": list(elements), self._row.inputs[0]: list(elements),
            "d": [float(self._row.d)], "D": [float(self._row.d)],
        }  # fmt: skip
        return self._update(*[values.get(name, [_OTHER]) for name in self._names])

    def _same(self, found: Numbers, wanted: Numbers, what: str) -> None:
        for one, other in zip(found, wanted, strict=True):
            if math.isnan(one) or math.isnan(other) or one == other:
                continue
            near = _CLOSE * max(1.0, abs(one), abs(other))
            if math.isinf(near) or abs(one - other) > near:
                raise self._row.wrong(
                    f"{what}: tried on a few numbers, one order gives {one:.6g} and another "
                    f"{other:.6g}, so the result would depend on how many threads share a row"
                )


def _evaluated(row: RowSpec, text: str, names: Sequence[str]) -> Evaluate:
    """An expression as a function of numbers, one list for each of `names`."""
    graph = parse_all([Source(text)], dict.fromkeys(names, "float32"), row.scope)

    def run(*values: Numbers) -> Numbers:
        with mx.stream(mx.cpu):
            found = replay(graph, [mx.array(v, mx.float32) for v in values])[0]
            wide = max([1, *[len(v) for v in values]])
            numbers: Numbers = mx.broadcast_to(found.astype(mx.float32), (wide,)).tolist()
            return numbers

    return run
