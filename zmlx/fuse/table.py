"""Tables: a fused function's traces, found by what a call passes, made where none fits.

A Table holds for one setting of the switches (fusing, checking, device). zmlx.fuse.api calls it
with the arguments of each call.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zmlx import switches
from zmlx.device import signature
from zmlx.device.rules import any_traced, sizes_to_come
from zmlx.errors import LostTraceError
from zmlx.fuse import dumped
from zmlx.fuse.entry import Entry, PlainEntry
from zmlx.fuse.met import Met
from zmlx.fuse.patterns import rewriting
from zmlx.fuse.program import Program, make_program
from zmlx.fuse.rebound import surroundings
from zmlx.fuse.runtime import Runtime
from zmlx.fuse.site import NO_LEAVES, Site
from zmlx.fuse.told import changes, described
from zmlx.log import logger
from zmlx.trace import claims
from zmlx.trace.claims import Claim
from zmlx.trace.paths import Names, names, path_to
from zmlx.trace.run import Call, Rewrite, Trace, trace, whole
from zmlx.trace.sizes import Decision
from zmlx.trace.static import statics
from zmlx.trace.tree import Leaves, NumpyArgument, flatten_call

_log = logger("zmlx.fuse")
_clock = itertools.count(1)
_running = threading.local()  # `exact`: numerics of the thread's traces, innermost last
MANY_VALUES = 8  # traces that differ in what Python numbers are; then a warning says so
PATIENCE = 60.0  # seconds; then a thread makes a trace that another one seems not to finish


@dataclass(frozen=True)
class Options:
    """What `zmlx.fuse(...)` was asked for."""

    inputs: Any = None
    outputs: Any = None
    exact: bool = False  # numerics="mlx"
    cache_size: int = 128
    group: int = 0  # threads of a group at most, where a kernel folds rows; 0: by sizes


def tracing_exactly() -> bool | None:
    """Whether the innermost running trace is for numerics="mlx"; None where none runs."""
    exact = getattr(_running, "exact", None)
    return exact[-1] if exact else None


class Table:
    """Entries by key; at most `options.cache_size` of them."""

    def __init__(
        self, fn: Callable[..., Any], name: str, options: Options, watched: bool = False
    ) -> None:
        self.fn, self.name, self.options = fn, name, options
        self.signature = signature.fastest()
        self.runtime = Runtime(
            options.exact, switches.CHECK.on(), self.signature, make_program, watched,
            group=options.group,
        )  # fmt: skip
        self.hits = self.misses = 0
        self.size = 0
        self._full = False  # the bound was passed, and told
        self._values_told = False  # that a number's values make traces
        self._renewals = 0  # traces made as something else than the arguments changed
        self._sites: dict[Any, Site] = {}
        self._last: dict[str, str] = {}
        self._states = _states(options)
        self._met = Met(self._states)

    # A method has no slot: calling an object takes Python longer.
    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The function's result for these arguments."""
        if not kwargs and not self._states:
            key = self.signature(args)  # None unless all are arrays
            site = self._sites.get(key) if key is not None else None
            entry = site.of(args) if site is not None else None
            if entry is not None and not (entry.around is not None and entry.around.moved()):
                self.hits += 1
                entry.used = next(_clock)
                return entry.call(args, (), ())
        found, leaves = self._met_before(args, kwargs)
        if found is None:
            call, key = self._settled(args, kwargs)
            found, leaves = self._entry(call, key), call.leaves
            if type(key) is tuple:
                self._met.note(call)
        if found.around is not None and found.around.moved():
            call, key = self._settled(args, kwargs)
            found, leaves = self._renewed(found, call, key), call.leaves
        if found.trace.plain:
            return self.fn(*args, **kwargs)
        return found.call(leaves.arrays, leaves.numbers, leaves.objects)

    def _met_before(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Entry | None, Leaves]:
        """The entry and the leaves of a call that is like an earlier one."""
        before = claims.ended()
        found = self._met.find(args, kwargs, self._sites)
        if found is None or not claims.quiet(before):  # proxies may stand in its objects
            return None, NO_LEAVES
        site, leaves = found
        entry = site.find(leaves.arrays, leaves.numbers, leaves)
        if entry is not None:
            self.hits += 1
            entry.used = next(_clock)
        return entry, leaves

    def entry(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        """The entry that a call with these arguments uses, made if need be."""
        call, key = self._settled(args, kwargs)
        return self._entry(call, key)

    def leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Leaves:
        """The arrays and numbers of a call."""
        return self._call(args, kwargs)[0].leaves

    def names(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Names:
        """What the arrays and numbers of a call are called in the function."""
        leaves = self.leaves(args, kwargs)
        return names(self.fn, args, kwargs, leaves.arrays, leaves.numbers, self.options.inputs)

    # -- the general way --------------------------------------------------------------------------
    def _settled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Any]:
        """The call, read while no other thread's trace has its proxies in the same objects."""
        while True:
            before = claims.ended()
            call, key = self._call(args, kwargs)
            if claims.quiet(before) or not (call.waits() or claims.ended() != before):
                break
        call.given = (args, kwargs)
        return call, key

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Any]:
        try:
            leaves, structure = flatten_call(args, kwargs, self._states)
        except NumpyArgument as error:
            (array,) = error.args
            path = path_to(self.fn, args, kwargs, array)
            raise TypeError(
                f"[zmlx.fuse] {self.name}: {path} is a NumPy array of shape {array.shape}, "
                f"{array.dtype}. Pass mx.array(it)."
            ) from None
        call = Call(leaves, structure)
        if not kwargs and not self._states:
            key = self.signature(args)
            if key is not None:
                return call, key
        return call, (structure, self.signature(leaves.arrays))

    def _entry(self, call: Call, key: Any) -> Entry:
        entry = self._found(call, key)
        if entry is None:
            with Claim([(id(self), key)], PATIENCE):  # one thread makes it, the others wait
                entry = self._found(call, key)
                if entry is None:
                    return self._traced(call, key)
        self.hits += 1
        entry.used = next(_clock)
        return entry

    def _found(self, call: Call, key: Any) -> Entry | None:
        site, leaves = self._sites.get(key), call.leaves
        return None if site is None else site.find(leaves.arrays, leaves.numbers, leaves)

    def _renewed(self, entry: Entry, call: Call, key: Any) -> Entry:
        """The trace again, as something else than its arguments has changed; told when often."""
        assert entry.around is not None
        changed = ", ".join(entry.around.changes()) or "a captured array"
        _log.info("%s: %s has changed, which it reads", self.name, changed)
        made = self._traced(call, key)
        if made.around is not None:  # not those that MLX transforms
            self._tell_renewed("reads %s, which is no argument of it and has changed", changed)
        return made

    def _tell_renewed(self, why: str, names: str) -> None:
        """Warn where what is no argument has made many traces."""
        self._renewals += 1
        if self._renewals == MANY_VALUES:
            _log.warning(
                f"%s {why} %d times: each change makes a new trace. Pass it, or name what holds "
                "it in inputs=.",
                self.name,
                names,
                MANY_VALUES,
            )

    def _tell_written(self, names: Sequence[str]) -> None:
        written = ", ".join(names)
        _log.info("%s: writes %s, which is no argument of it: not cached", self.name, written)
        self._tell_renewed("writes %s, which is no argument of it, and did so", written)

    def _traced(self, call: Call, key: Any) -> Entry:
        self.misses += 1
        self._report(call)
        site = self._sites.get(key) or Site()
        exact = _running.__dict__.setdefault("exact", [])
        exact.append(self.options.exact)
        try:
            recorded = self._recorded(call, site)
        finally:
            exact.pop()
        kind = PlainEntry if recorded.plain else Entry
        captures = [c.array for c in recorded.captures]
        runtime = dumped.opened(self.runtime, self.name, recorded.graph)
        if sizes_to_come([*call.leaves.arrays, *captures]):
            runtime = replace(runtime, apart=True)
        with runtime.making():
            simple = None if runtime.apart else recorded.simple
            graph = recorded.graph if simple is None else simple
            program = Program(graph, runtime, self.name, is_simple=simple is not None)
        entry = kind(recorded, program, next(_clock))
        if isinstance(entry, PlainEntry):
            entry.fn = self.fn
        if any_traced(captures):
            _log.info("%s: captures arrays that MLX is transforming: not cached", self.name)
            return entry
        if recorded.wrote:
            self._tell_written(recorded.wrote)
            return entry
        if not recorded.settled():
            _log.info("%s: captures arrays that wait on another thread: not cached", self.name)
            return entry
        read = [array for array in recorded.values_read if not any_traced([array])]
        around = surroundings(
            self.fn,
            [*captures, *read],
            call.leaves.objects,
            [s.value for s in statics(call.structure)],
        )
        entry.around = around if around and not recorded.plain else None
        self._tell(call, recorded.decisions)
        self._sites[key] = site
        site.add(entry, call.leaves)
        self._tell_values(call, site)
        self._evict()
        return entry

    def _recorded(self, call: Call, site: Site) -> Trace:
        """The trace; of a function that no trace can follow, one call that is never made."""
        try:
            found = trace(self.fn, call, site.static_for(call.leaves), self._rewriting(call))
        except LostTraceError as lost:
            if lost.needs_values:
                raise
            why = str(lost).partition(": ")[2] or str(lost)
            _log.info("%s runs as plain MLX: %s", self.name, lost)
            return whole(self.fn, call, f"all of it runs as plain MLX: {why}")
        if found.exported:
            _log.info("%s: %s", self.name, found.exported)
        return found

    def _rewriting(self, call: Call) -> Rewrite | None:
        """What replaces patterns; not where bits count, nor sizes are still to come."""
        off = self.options.exact or sizes_to_come(call.leaves.arrays)
        return None if off else rewriting(call.leaves.numbers)

    def _evict(self) -> None:
        """Drop entries whose objects have gone, and those not called for longest, to the bound.

        The bound counts for each object apart, where traces hold for one object only.
        """
        for key in [k for k in self._sites if any(s.gone for s in statics(k))]:
            del self._sites[key]
        self._met.forget()
        counts: dict[Any, int] = {}
        held = [
            (entry, key, inner)
            for key, site in self._sites.items()
            for inner, entry in site.entries.items()
        ]
        for entry, key, inner in sorted(held, key=lambda h: -h[0].used):
            count = counts[entry.owner] = counts.get(entry.owner, 0) + 1
            if entry.gone() or count > self.options.cache_size:
                self._warn_once(count)
                site = self._sites.get(key)  # another thread may have dropped it meanwhile
                if site is not None:
                    site.entries.pop(inner, None)
                if site is not None and not site.entries:
                    self._sites.pop(key, None)
        self.size = sum(len(site.entries) for site in self._sites.values())

    def _warn_once(self, count: int) -> None:
        if count > self.options.cache_size and not self._full:
            self._full = True
            _log.warning(
                "%s: more than cache_size=%d kinds of calls; those not called for longest are "
                "traced again. Give zmlx.fuse a larger cache_size, or pass what varies as arrays "
                "or numbers.",
                self.name,
                self.options.cache_size,
            )

    def _tell(self, call: Call, decisions: Sequence[Decision]) -> None:
        """Log the sizes and ints that the new trace holds for, and the lines that asked."""
        if decisions and _log.isEnabledFor(logging.INFO):
            leaves, state = call.leaves, self.options.inputs
            called = names(self.fn, *call.given, leaves.arrays, leaves.numbers, state)
            for decision in decisions:
                _log.info("%s: only where %s", self.name, decision.told(called))

    def _tell_values(self, call: Call, site: Site) -> None:
        """Warn once where the values of numbers have made many traces."""
        numbers = [i for i in sorted(site.read | site.by_value) if i in site.lines]
        if self._values_told or not numbers or len(site.entries) < MANY_VALUES:
            return
        self._values_told = True
        leaves, state = call.leaves, self.options.inputs
        called = names(self.fn, *call.given, leaves.arrays, leaves.numbers, state)
        for i in numbers:
            _log.warning(
                "%s is traced anew for each value of %s, %d times by now, as %s reads its value "
                "(range, an axis, a key). Make it an array of one number (mx.array) where it "
                "only meets arrays, or fuse the parts of the function that do not read it.",
                self.name,
                called.number(i),
                len(site.entries),
                site.lines[i],
            )

    def _report(self, call: Call) -> None:
        """Log that a trace is made, and what differs from the one before."""
        if not _log.isEnabledFor(logging.INFO):  # the words cost more than small traces
            return
        leaves, state = call.leaves, self.options.inputs
        now = described(self.fn, *call.given, leaves.arrays, leaves.numbers, state)
        if not self._last:
            _log.info("%s: traced", self.name)
        else:
            changed = changes(self._last, now) or "evicted before"
            _log.info("%s: traced again; %s", self.name, changed)
        self._last = now


def _states(options: Options) -> tuple[Any, ...]:
    """The captured containers, each once; a tuple of them as its items."""
    found: dict[int, Any] = {}
    for named in (options.inputs, options.outputs):
        for state in named if type(named) is tuple else () if named is None else (named,):
            found.setdefault(id(state), state)
    return tuple(found.values())
