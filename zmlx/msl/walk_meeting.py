"""What threads of a group exchange of their running values: shuffles, and threadgroup memory.

Comes in: folds that meet at one time. Goes out: text, for zmlx.msl.walk.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.msl import walk_text as text
from zmlx.msl.walk_parts import indent, join_of, spot
from zmlx.ops.reductions import REDUCTIONS

MOST_AT_ONCE = 8  # values of a type that a thread has in threadgroup memory
Fold = tuple[str, str, str]  # op, type, the name of the running value


def shared_memory(meetings: Sequence[Sequence[Fold]], lines: Sequence[Sequence[Fold]]) -> list[str]:
    """Threadgroup memory for what a row's threads and a group's lines join, and a thread's place
    in it, where there is any such meeting.
    """
    declared = [
        form.format(kind=k, count=n, turn=turn(lines))
        for form, found in ((text.SHARED, meetings), (text.LINES, lines))
        for k, n in sorted(_most(found).items())
    ]
    return [*declared, *text.MEETING.splitlines()] if declared else []


def turn(lines: Sequence[Sequence[Fold]]) -> int:
    """How many values of each sink a group's lines join at one time: 1, 2, 4 or 8."""
    most = max(_most(lines).values(), default=1)
    return 1 << max(0, (MOST_AT_ONCE // most).bit_length() - 1)


def _most(meetings: Sequence[Sequence[Fold]]) -> dict[str, int]:
    """How many values of each type meet at one time, at most."""
    most: dict[str, int] = {}
    for meeting in meetings:
        kinds = [kind for _, kind, _ in meeting]
        kinds += ["int" for op, _, _ in meeting if REDUCTIONS[op].index]
        most.update({k: max(most.get(k, 0), kinds.count(k)) for k in kinds})
    return most


class Slots:
    """Places in threadgroup memory, counted for each type."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def next(self, kind: str) -> int:
        taken = self._taken[kind] = self._taken.get(kind, -1) + 1
        return taken


def fast_join(op: str, kind: str) -> str:
    """The text that joins a and b, by one instruction where a GPU has it."""
    return f"kk_{op}(a, b)" if op in ("max", "min") and kind == "float" else join_of(op)


def near(op: str, kind: str, total: str, count: str, value: str = "") -> str:
    """`total` of what neighbouring threads bring as `value`, else as their own `total`."""
    if REDUCTIONS[op].index:
        return f"kk_near_{op}_{kind}({total}, {spot(total)}, {count});"
    return f"{total} = kk_near_{op}_{kind}({value or total}, {count});"


def near_text(op: str, kind: str) -> str:
    """The function that does so."""
    name, hit = f"{op}_{kind}", join_of(op)
    if not REDUCTIONS[op].index:
        return text.NEAR.format(kind=kind, op=name, join=fast_join(op, kind))
    names = {"a": "value", "spot_a": "place", "b": "other", "spot_b": "there"}
    found = text.FOUND.format(kind=kind, hit=hit, **names).splitlines()
    return text.NEAR_PLACE.format(op=name, kind=kind, found=indent(found, 4))
