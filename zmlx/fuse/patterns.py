"""Patterns: parts of graphs for which something better is known than what the generator makes.

A pattern is written as plain functions of MLX's ops, its spellings, over arrays and numbers with
names; what replaces it is a function of the same names. The way of a traced graph:

1. zmlx.trace.run.trace calls `rewriting(...)` when the function has run, while the sizes of its
   arrays are still known as expressions. Nothing happens where no pattern can fire: numerics="mlx",
   ZMLX_PATTERNS=0, sizes that are still to come.
2. The graph is simplified. A pattern is looked at only where the graph has the ops that it `needs`;
   its spellings are traced when first needed, for the float types that the graph holds and one or
   two leading axes, and kept (zmlx.fuse.spellings).
3. Each node that may be a spelling's last one is tried (zmlx.fuse.matching): operands are followed
   in order, in both where an op takes either; calls are compared in one form (zmlx.fuse.forms), so
   that `swapaxes(-1, -2)` is `transpose(0, 1, 3, 2)`. Numbers and arrays that the spelling names
   stand for whatever is there. A value in the middle that something else reads ends the match.
4. What was found must pass the pattern's `where`, and its device must be one on which it pays.
   Sizes stay symbolic: where a slice is cut at a place that only the example says is the half, the
   trace is told to hold where it is (a Decision); an array's size that no input tells ends it.
5. zmlx.fuse.replaced puts the replacement in place: as one call that MLX runs, which may choose by
   its sizes; or `inline`, traced, so that its ops join what stands beside them.

The new graph, or the simplified one where nothing is replaced, is lifted, written out and planned
as any other, and derived as any other. The graph as traced stays in the Trace, for reports.
`nearly` tells, for reports only, where a pattern was almost found and why not.
zmlx.catalog.patterns fills the table when a graph is first looked at; users do with
`zmlx.fuse.pattern`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from zmlx import switches
from zmlx.device.base import current_name, device_for_current_stream
from zmlx.fuse.matched import Match, Miss, Subject
from zmlx.fuse.matching import match
from zmlx.fuse.replaced import with_replaced
from zmlx.fuse.settled import Settling, too_few
from zmlx.fuse.simplify import simplified, simplify
from zmlx.fuse.spellings import DEVICES, FLOATS, Pattern
from zmlx.log import logger
from zmlx.trace.graph import Graph, title

if TYPE_CHECKING:
    from zmlx.trace.run import Trace
    from zmlx.trace.sizes import Sizes

_log = logger("zmlx.fuse")
_PROVIDERS = ["zmlx.catalog.patterns"]  # loaded when a graph is first looked at
_LOADING = threading.RLock()
_local = threading.local()  # `allowed`: patterns that fire within `allowing`
_BY_NAME = {"host": "cpu", "metal": "metal", "cuda": "cuda"}  # by zmlx.device's names
NEARLY = 0.5  # of a spelling's nodes must be there, if a near miss is told


# -- the table ------------------------------------------------------------------------------------
_table: list[Pattern] = []


def table() -> list[Pattern]:
    """Every pattern, in the order in which they are tried."""
    with _LOADING:
        from importlib import import_module

        while _PROVIDERS:
            import_module(_PROVIDERS.pop())
        return list(_table)


def pattern(
    name: str,
    *spellings: Callable[..., Any],
    by: Callable[..., Any],
    arrays: Mapping[str, str],
    numbers: Mapping[str, float] | None = None,
    types: Sequence[Mapping[str, str]] = ({},),
    floats: Sequence[str] = FLOATS,
    where: Callable[[Match], str] | None = None,
    even: str = "", least: tuple[str, int] | None = None,
    devices: Mapping[str, str] | Sequence[str] = DEVICES,
    inline: bool = True, needs: Sequence[str] = (), root: tuple[str, int] | None = None,
    leads: Sequence[int] = (0, 1, 2), sizes: Mapping[str, int] | None = None,
    doc: str = "", proof: str = "",
) -> Pattern:  # fmt: skip
    """Have fused functions compute what `spellings` say by `by` wherever they say it.

    Register before the functions are first called: what is traced stays as it is.

    Args:
        name: what reports call it; one that is there already is replaced.
        spellings: functions of MLX's ops over arrays and numbers, by parameter names of `arrays`
            and `numbers`, in all the forms that are to be found.
        by: called with the same names, it returns what the spellings return.
        arrays: for each array the letters of its axes: "*SD" has any leading axes, "~*LS" any shape
            that broadcasts to that, 1 is an axis of one. A letter is one size.
        numbers: for each number that may be any, an example of it, a float.
        types: for arrays that have another type than the float type that all share: a type's name,
            or "integer"; several dicts where several are right.
        floats: the float types for which it holds.
        where: is given the match and returns why it must not be replaced, or "".
        even: letters of sizes that must be even.
        least: letters ("*LS") and the product of their sizes from which on it pays on a CPU.
        devices: of "cpu", "metal" and "cuda" those on which it fires; a dict says why it pays.
        inline: `by` is traced in place, over the sizes of any call, so that its ops share kernels
            with others; else it is called as it is, and may choose by its arrays' sizes.
        needs: ops ("matmul") without which no graph can hold it: it is not looked for there.
        leads: how many leading axes "*" stands for.
        sizes: for letters whose sizes must fit (heads that share others), an example, even and
            large; no two letters have the same.
        root: the op of its result, and that one's axes beside leading ones, looked for at first.

    Returns:
        The Pattern; `zmlx.fuse.patterns.remove` takes it out of the table.

    Raises:
        ValueError: where a device, a letter, a type or a parameter's name is none.
    """
    told = devices if isinstance(devices, Mapping) else dict.fromkeys(devices, "")
    made = Pattern(
        name, tuple(spellings), by, dict(arrays), dict(numbers or {}), tuple(types), tuple(floats),
        where or _always, even, least, dict(told), inline, tuple(needs), tuple(leads), root,
        dict(sizes or {}), doc, proof,
    )  # fmt: skip
    made.check()
    with _LOADING:
        names = [known.name for known in table()]
        place = names.index(name) if name in names else len(names)
        _table[place : place + 1] = [made]
    return made


def remove(which: Pattern) -> None:
    """Take a pattern out of the table."""
    with _LOADING:
        _table[:] = [known for known in _table if known is not which]


def allow(name: str, *devices: str) -> Pattern:
    """Have the pattern `name` fire on these devices, and no others, from now on.

    Raises:
        ValueError: where there is no such pattern or device.
    """
    with _LOADING:
        for place, known in enumerate(table()):
            if known.name == name:
                told = {device: known.devices.get(device, "") for device in devices}
                made = replace(known, devices=told, _made={})
                made.check()
                _table[place] = made
                return made
    raise ValueError(f"[zmlx.patterns] no pattern is called {name!r}; see docs/patterns.md.")


@contextmanager
def allowing(*names: str) -> Iterator[None]:
    """Within the block these patterns fire in traces of this thread, on every device."""
    before = getattr(_local, "allowed", ())
    _local.allowed = names
    try:
        yield
    finally:
        _local.allowed = before


def _fires(known: Pattern, here: str) -> bool:
    return here in known.devices or known.name in getattr(_local, "allowed", ())


def _always(found: Match) -> str:
    return ""


# -- finding --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fired:
    """A pattern that was replaced: what it was made of, the line of its last op, and by what."""

    name: str
    loc: str
    ops: tuple[str, ...]
    by: str


@dataclass(frozen=True)
class Nearly:
    """A pattern that was almost there, and why it was not replaced."""

    name: str
    loc: str
    why: str


def rewriting(given: Sequence[Any]) -> Callable[[Trace, Sizes], Trace] | None:
    """What replaces patterns in a trace of a call with these numbers; None where none may fire,
    as where no kernel can run.
    """
    able = switches.PATTERNS.on() and device_for_current_stream().unavailable() is None
    return partial(_rewritten, given=given) if able else None


def _rewritten(found: Trace, sizes: Sizes, given: Sequence[Any]) -> Trace:
    there = {title(found.graph[n]) for n in found.graph}
    if not any(there.issuperset(known.needs) for known in table()):
        return found
    rewritten = simplified(found.graph)
    subject = Subject(rewritten.graph, given)
    behind = {new: old for old, new in rewritten.places.items()}
    settle = Settling(subject, sizes, behind)
    matches, _ = _found(subject, settle.holds)
    graph = rewritten.graph
    if matches:  # what takes their place may compute what stands beside it
        graph = simplify(with_replaced(graph, matches))
    fired = tuple([_fired(m) for m in matches])
    for one in fired:
        _log.info("pattern %s at %s: %s", one.name, one.loc, one.by)
    decisions = (*found.decisions, *settle.decisions)
    return replace(found, simple=graph, fired=fired, decisions=decisions)


def nearly(graph: Graph, given: Sequence[Any]) -> list[Nearly]:
    """Where in a traced graph patterns are almost found, and why they are not."""
    off = not switches.PATTERNS.on()
    return [] if off else _found(Subject(simplify(graph), given), too_few, tell=True)[1]


def there(graph: Graph, given: Sequence[Any]) -> list[Fired]:
    """What a traced graph says that would be replaced for the example's sizes and this device."""
    off = not switches.PATTERNS.on()
    found = [] if off else _found(Subject(simplify(graph), given), too_few)[0]
    return list(map(_fired, found))


def standing_for(graph: Graph) -> dict[int, str]:
    """Why a call that took a pattern's place is there, by id of the call."""
    names = {id(known.by): known.name for known in _table if not known.inline}
    calls = [graph[n]["call"] for n in graph if graph.kind(n) == "opaque"]
    return {id(c): f"takes the place of the pattern {names[id(c.fn)]}" for c in calls
            if id(c.fn) in names}  # fmt: skip


def _found(
    subject: Subject, holds: Callable[[Match], str], tell: bool = False
) -> tuple[list[Match], list[Nearly]]:
    """The matches, no two of which share a node; with `tell`, near misses too."""
    chosen: list[Match] = []
    misses: dict[tuple[str, int], tuple[Any, Miss]] = {}
    taken: set[int] = set()
    here = _BY_NAME[current_name()]
    for known in table():
        if not all(name in subject.by_title for name in known.needs):
            continue
        if not _fires(known, here) and not tell:
            continue
        for spelling in known.variants(subject.ends):
            if not spelling.needed <= subject.by_title.keys():
                continue
            for root in subject.by_title[spelling.titles[spelling.root]]:
                if root in taken:
                    continue
                found = match(subject, spelling, root, tell)
                if isinstance(found, Match):
                    found = _allowed(found, here, taken) or _held(found, holds) or found
                if isinstance(found, Match):
                    chosen.append(found)
                    taken |= found.inner | set(found.outputs)
                elif found.found >= max(min(2, spelling.working), NEARLY * spelling.working):
                    close = found.closeness(spelling.working)
                    before = misses.get((known.name, root))
                    if before is None or before[0] < close:
                        misses[known.name, root] = close, found
    told = [
        Nearly(name, subject.graph[root]["loc"], miss.why)
        for (name, root), (_, miss) in misses.items()
        if root not in taken
    ]
    return chosen, told


def _allowed(found: Match, here: str, taken: set[int]) -> Miss | None:
    """What keeps a match from being replaced."""
    known, all_of_it = found.spelling.pattern, len(found.state.nodes)
    if not _fires(known, here):
        return Miss(all_of_it, f"it does not pay on this device ({here})")
    why = known.where(found)
    if why:
        return Miss(all_of_it, why)
    if taken & (found.inner | set(found.outputs)):
        return Miss(all_of_it, "a part of it belongs to another pattern")
    return Miss(all_of_it, _ORDER) if not _ordered(found) else None


_ORDER = "one of its results is read before all that it reads is there"


def _held(found: Match, holds: Callable[[Match], str]) -> Miss | None:
    why = holds(found)
    return Miss(len(found.state.nodes), why) if why else None


def _ordered(found: Match) -> bool:
    """Whether everything that reads a result comes after all that the match reads."""
    graph, inside = found.subject.graph, found.inner | set(found.outputs)
    readers = [n for o in found.outputs for n in graph.users(o) if n not in inside]
    reads = list(found.arrays.values())
    reads += [what for kind, what in found.numbers.values() if kind == "node"]
    return all(reader > max(reads, default=-1) for reader in readers)


def _fired(found: Match) -> Fired:
    graph, known = found.subject.graph, found.spelling.pattern
    nodes = sorted(found.inner | set(found.outputs))
    ops = tuple([title(graph[n]) for n in nodes])
    doc = known.doc or getattr(known.by, "__name__", "")
    return Fired(known.name, graph[max(found.outputs)]["loc"], ops, doc)
