"""Deciding: whether a kind of calls of a patched module runs fused: tried, then measured.

Comes in: a part and a call. Goes out: a Decision. What was measured is kept in zmlx.autotune's
store, by device, module, weights' shapes and class of sizes. zmlx.models.part asks, once a
kind of calls.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import Counter
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

import zmlx
from zmlx import log, switches
from zmlx.device import tuning
from zmlx.device.base import current_name
from zmlx.errors import CheckError, DeviceError, SanitizeError
from zmlx.fuse.entry import Entry
from zmlx.models import breaks
from zmlx.models.part import PIECES, PLAIN, WHOLE, Decision, Key, Part, part_of, refusal, swap
from zmlx.models.standing import StandIn, copied, gradient_of, standing_in
from zmlx.ops.definitions import PRODUCTS
from zmlx.trace.calls import keeping_random_state
from zmlx.trace.graph import Graph, title
from zmlx.tuning import timing

ROUNDS = 9
MOST_S = 0.5  # that measuring one kind of calls may take, about
_KEPT = (PLAIN, WHOLE, PIECES)  # as numbers from 1 on in the store
_VIEWS = frozenset({  # cost nothing when computed twice
    "getitem", "reshape", "transpose", "swapaxes", "moveaxis", "expand_dims", "squeeze", "flatten",
    "unflatten", "split", "broadcast_to", "stop_gradient", "T", "item", "size", "count",
})  # fmt: skip


def decide(part: Part, module: nn.Module, key: Key, args: Any, kwargs: Any) -> Decision:
    """How calls of this kind run from now on."""
    part.examples.setdefault(key, described(args, kwargs))
    part.seen = weakref.ref(module)
    kept = _kept(part, key) if part.options.measure else None
    if kept is not None and kept.way is not PIECES:
        return kept
    with keeping_random_state():
        try:
            stand_in = standing_in(module, args, kwargs)
        except Exception as error:  # Python does not copy all: locks, files
            return Decision(PLAIN, f"nothing is tried without a copy: {refusal(error)}")
        possible = _possible(part, key, stand_in)
        if possible.way is PLAIN or not part.options.measure:
            return possible
        if kept is not None:
            return kept._replace(arrays=possible.arrays, lone=possible.lone)
        return _measured(part, key, stand_in, possible)


def _possible(part: Part, key: Key, stand_in: StandIn) -> Decision:
    """What can be fused, whether or not it pays; tried on copies."""
    ways = [(WHOLE, False)]
    if key.mode == "cache":
        ways = [(PIECES, True), (PIECES, False)]
        if _may_be_state(stand_in):
            ways.insert(0, (WHOLE, True))
    reason = ""
    for way, arrays in ways:
        entries, below = list[Entry](), list[Any]()
        try:
            mx.eval(_tried(part, way, arrays, stand_in.fresh(), entries, below))
        except (SanitizeError, CheckError, DeviceError):
            raise
        except (Exception, breaks.Touched) as error:
            reason = refusal(error)
            continue
        lone = tuple([i for i, entry in enumerate(entries) if way is PIECES and _is_lone(entry)])
        joined = [entry for i, entry in enumerate(entries) if i not in lone]
        if not any(entry.program.plan.regions for entry in joined):
            return Decision(PLAIN, "nothing joins here: MLX has a kernel for each call")
        twice = _twice(entries)
        if twice:
            return Decision(PLAIN, f"in pieces it would {twice} twice")
        if way is PIECES:
            part.below[key] = next(shapes for i, shapes in enumerate(below) if i not in lone)
        elif arrays:
            part.examples[key] = list(stand_in.args), stand_in.kwargs
        return Decision(way, "not measured", arrays, lone)
    return Decision(PLAIN, reason)


def _tried(
    part: Part, way: str, arrays: bool, stand_in: StandIn, entries: list[Entry], below: list[Any]
) -> Any:
    module, args, kwargs = stand_in.module, stand_in.args, stand_in.kwargs
    if way is WHOLE:
        entry = part.whole.entry(module, *args, **kwargs)
        if entry.trace.plain:
            raise TypeError(entry.trace.exported or "it is traced as plain MLX")
        if arrays:
            _keeps_its_sizes(part, stand_in)
            entry = part.whole.entry(module, *args, **kwargs)  # of a state that is no longer empty
        entries.append(entry)
        return []

    def pieces(module: Any, results: Any, holed: Any, named: Any) -> Any:
        entries.append(part.pieces.entry(module, list(results), holed, named))
        below.append(_shaped(list(results)))
        return part.pieces(module, results, holed, named)

    call = breaks.given(args, kwargs, arrays)
    return [leaf for _, leaf in tree_flatten([breaks.run(part.plain, pieces, module, call)])]


def _keeps_its_sizes(part: Part, stand_in: StandIn) -> None:
    """Raise where the objects that a call is given grow: Python runs quicker with those.

    One trace, and one tape, serve all calls with a recurrent state.
    """
    told: list[str] = []
    for _ in range(3):
        result = part.whole(stand_in.module, *stand_in.args, **stand_in.kwargs)
        mx.eval([leaf for _, leaf in tree_flatten([result]) if isinstance(leaf, mx.array)])
        told.append("; ".join(f"{a.dtype}{a.shape}" for a in _state(stand_in)))
    if told[1] != told[2]:
        raise TypeError("it looks into an object that grows")


def _may_be_state(stand_in: StandIn) -> bool:
    """Whether the objects hold arrays and count nothing, as a recurrent state does."""
    plain = (mx.array, str, bool, type(None))
    found = [leaf for _, leaf in tree_flatten(_objects(stand_in))]
    return all(isinstance(leaf, plain) for leaf in found)


def _state(stand_in: StandIn) -> list[mx.array]:
    return [a for _, a in tree_flatten(_objects(stand_in)) if isinstance(a, mx.array)]


def _objects(stand_in: StandIn) -> list[Any]:
    """What the objects among a call's arguments hold; themselves, where that cannot be told."""
    given = (*stand_in.args, *stand_in.kwargs.values())
    return [getattr(a, "__dict__", a) for a in given if not breaks.is_data(a)]


def _twice(entries: list[Entry]) -> str:
    """What several pieces would do where the whole does it once, in words.

    Each piece runs the layer's Python from its start; only what is not needed is left out.
    """
    if len(entries) < 2:
        return ""
    if any(entry.trace.updates or entry.trace.writes for entry in entries):
        return "write what it writes"
    whole = calls_of(entries[-1].trace.graph, list(entries[-1].trace.graph))
    pieces: Counter[str] = Counter()
    for entry in entries:
        plan = entry.program.plan
        pieces += calls_of(plan.graph, [native.node for native in plan.natives])
        pieces += Counter(name for name, _ in entry.program.written.calls if name in PRODUCTS)
    more = pieces - whole
    return f"compute {', '.join(sorted(more))}" if more else ""


def calls_of(graph: Graph, nodes: list[int]) -> Counter[str]:
    """The calls of MLX among `nodes` that compute something, by name."""
    names = [title(graph[n]) for n in nodes if graph.kind(n) == "opaque"]
    return Counter(name for name in names if name not in _VIEWS)


def _is_lone(entry: Entry) -> bool:
    """Whether a piece is one call or op, which MLX runs as well, and Python starts sooner."""
    graph = entry.trace.graph
    works = [n for n in graph if graph.kind(n) in ("op", "reduce", "opaque")]
    return sum(title(graph[n]) not in _VIEWS for n in works) <= 1


# -- measuring ------------------------------------------------------------------------------------
def _measured(part: Part, key: Key, stand_in: StandIn, possible: Decision) -> Decision:
    """Plain MLX and fused by turns, forward, or with the gradient where the call is in one."""
    if switches.SANITIZE.on() or switches.CHECK.on():
        return possible
    plain = StandIn(unpatched_copy(stand_in.module), stand_in.args, stand_in.kwargs).fresh()
    ways = {
        PLAIN: (partial(part.run, Decision(PLAIN, "")), plain),
        possible.way: (partial(part.run, possible), stand_in.fresh()),
    }
    builds: dict[str, timing.Build] = {}
    for way, (call, given) in ways.items():
        if key.mode == "gradient":
            builds[way] = gradient_of(call, given)
        else:
            builds[way] = partial(call, given.module, given.args, given.kwargs)
    try:
        spent = sum(min(timing.run_ms(build), timing.run_ms(build)) for build in builds.values())
        rounds = max(3, min(ROUNDS, int(1000 * MOST_S / max(spent, 1e-3))))
        found = timing.medians(builds, rounds, f"patch {part.plain_class.__name__}")
    except (RuntimeError, ValueError) as error:  # what MLX raises for arrays without values
        log.logger("zmlx.models").info("not measured: %s", error)
        return possible
    decision = _chosen(possible, found[PLAIN], found[possible.way])
    kept = (_KEPT.index(decision.way) + 1, _micro(decision.plain_ms), _micro(decision.fused_ms))
    tuning.STORE.keep(tuning.identity(current_name()), _name(part, key), key.size, kept)
    return decision


def _chosen(possible: Decision, plain: float, fused: float) -> Decision:
    times = f"{plain / fused:.2f} x, {fused:.3g} ms"
    if fused <= plain:
        return possible._replace(why=f"measured: {times}", plain_ms=plain, fused_ms=fused)
    return Decision(PLAIN, f"does not pay: {times}", plain_ms=plain, fused_ms=fused)


def _micro(milliseconds: float) -> int:
    return max(1, round(1000 * milliseconds))


def _kept(part: Part, key: Key) -> Decision | None:
    """What an earlier search found for calls of this kind."""
    found = tuning.STORE.find(tuning.identity(current_name()), _name(part, key)).get(key.size)
    if found is None or len(found) != 3 or not 1 <= found[0] <= len(_KEPT):
        return None
    plain, fused = found[1] / 1000, found[2] / 1000
    way = _KEPT[found[0] - 1]
    return _chosen(Decision(PIECES if way is PLAIN else way, ""), plain, fused)._replace(way=way)


def _name(part: Part, key: Key) -> str:
    cls = part.plain_class
    told = (part.signature, part.options.numerics, str(key.dtype), key.width, zmlx.__version__)
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:24]
    return f"patch {cls.__module__}.{cls.__qualname__} {key.mode} {digest}"


def signature_of(module: nn.Module) -> str:
    """What modules share for which one measurement serves: shapes and types of all weights."""
    leaves = tree_flatten(module.parameters())
    return "; ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in leaves if hasattr(a, "dtype"))


def described(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments with only shapes and types of their arrays; holes for objects."""

    def told(index: int, value: Any) -> Any:
        if not breaks.is_data(value):
            return breaks.hole(index, type(value))
        return _shaped(value)

    named = {name: told(len(args) + i, value) for i, (name, value) in enumerate(kwargs.items())}
    return [told(i, value) for i, value in enumerate(args)], named


def _shaped(value: Any) -> Any:
    return tree_map(lambda x: Shaped(x.shape, x.dtype) if isinstance(x, mx.array) else x, value)


class Shaped:
    """An array of an example call."""

    def __init__(self, shape: tuple[int, ...], dtype: mx.Dtype) -> None:
        self.shape, self.dtype = shape, dtype

    def made(self) -> mx.array:
        return mx.zeros(self.shape, self.dtype)


def unpatched_copy(module: nn.Module) -> nn.Module:
    """A copy of plain classes, over the same weights."""
    memo = {id(a): a for m in module.modules() for _, a in tree_flatten(dict(m))}
    made: nn.Module = copied(module, module, memo)
    for inner in made.modules():
        part = part_of(inner)
        if part is not None:
            swap(inner, part.plain_class)
    return made
