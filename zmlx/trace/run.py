"""Running a function once over proxies: `trace(fn, call)` returns a Trace.

Comes in: the function and a Call (the flattened arguments and captured state). Goes out: a graph
and the recipes to rebuild what the function returned and wrote. zmlx.fuse.table is the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any

import mlx.core as mx

from zmlx.errors import LostTraceError, TraceError
from zmlx.trace import intercept, leaks, locate, type_name
from zmlx.trace.calls import keeping_random_state, moved
from zmlx.trace.claims import Claim, free, wait_for
from zmlx.trace.endings import random_state
from zmlx.trace.graph import Graph
from zmlx.trace.kinds import items, refill, same_content
from zmlx.trace.machines import StandIn
from zmlx.trace.memos import Memos
from zmlx.trace.moment import settle
from zmlx.trace.passes import verified
from zmlx.trace.reader import Reader, places
from zmlx.trace.recipe import UNCHANGED, Recipes, Update, Write
from zmlx.trace.scalars import SIZES, ScalarProxy, Specialize, Token, given_number
from zmlx.trace.sizes import Decision, Sizes
from zmlx.trace.state import State
from zmlx.trace.static import Static
from zmlx.trace.tracer import Capture, Tracer
from zmlx.trace.tree import ARRAY, CONTENT, NUMBER, OBJECT, SAME, WEAK, Leaves
from zmlx.trace.unflatten import Source, restored, unflatten
from zmlx.trace.unseen import within_export

PATIENCE = 60.0  # seconds
_STUCK = (
    "[zmlx.trace] another thread has traced a function over the same object or captured state for "
    f"{PATIENCE:.0f} seconds. Does it wait for this thread? Call the fused function once before."
)

_NO_VALUE = (  # what C code says of an array without a value
    "without a primitive", "during function transformations", "NULL without setting an exception",
)  # fmt: skip
_READ_ONLY = re.compile("read-?only", re.IGNORECASE)
_ENTERED = (OBJECT, CONTENT, WEAK, list, dict)  # that count as objects of a call
# What C code says of a number that is none yet; JSON's encoder asks for its class, and is lied to.
_REFUSALS = (ScalarProxy.__name__, "std::bad_cast", "is not JSON serializable")


@dataclass
class Call:
    """One call's arguments and captured state, flattened by zmlx.trace.tree.flatten_call."""

    leaves: Leaves
    structure: Any  # of args, kwargs and states
    given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})  # the arguments, to be named

    def held(self) -> list[Hashable]:
        """What names each object that a trace of the call puts its proxies into."""
        return [id(value) for value in self.leaves.passed]

    def waits(self) -> bool:
        """Whether another thread's trace had its proxies in these objects; returns when it ended.

        The call then lets go of what it has read, which that trace would take for a leak.
        """
        held = self.held()
        if free(held):
            return False
        self.leaves, self.structure = Leaves(), ()
        if not wait_for(held, PATIENCE):
            raise TraceError(_STUCK)
        return True


@dataclass(frozen=True)
class Trace:
    """What one run of a function recorded."""

    graph: Graph
    result: Any  # the recipe of the returned tree
    updates: tuple[Update, ...]  # of the call's objects
    writes: tuple[Write, ...]  # of its arrays
    captures: tuple[Capture, ...]
    decisions: tuple[Decision, ...]  # sizes and ints that it holds for, where some were read
    static_numbers: frozenset[int] = frozenset()  # numbers whose value the trace is made for
    notes: tuple[tuple[int, str], ...] = ()  # (opaque node, why it is not elementwise)
    written_numbers: frozenset[int] = frozenset()  # those of objects that the function wrote
    personal: bool = False  # it holds for the very objects of its call only
    plain: str = ""  # why the function must run as plain MLX, unfused
    exported: str = ""  # why and where parts of it come from mx.export_function
    reads: tuple[tuple[Token, str], ...] = ()  # numbers whose value was read, and the line
    values_read: tuple[mx.array, ...] = ()  # captured arrays whose values it holds for
    wrote: tuple[str, ...] = ()  # names of plain values that are no arguments: see Memos.wrote
    simple: Graph | None = None  # simplified, where patterns were looked for (zmlx.fuse.patterns)
    fired: tuple[Any, ...] = ()  # those that are replaced in it

    def settled(self) -> bool:
        """Evaluate captured arrays: a lazy one waits on a stream of the thread that made it.

        False where that was another thread than this one.
        """
        try:
            intercept.original("eval")([self.graph[c.node]["value"] for c in self.captures])
        except RuntimeError:
            return False
        return True


Rewrite = Callable[[Trace, Sizes], Trace]


def trace(
    fn: Callable[..., Any], call: Call, static: frozenset[int] = frozenset(),
    rewrite: Rewrite | None = None,
) -> Trace:  # fmt: skip
    """Run `fn` over proxies for the arrays of `call` and return what it did.

    `rewrite` gets the trace while sizes are known as expressions, and returns what it makes of it.
    A Python number whose value is read becomes static, as those at the positions `static` are from
    the start, and the function is run again. Raises TraceError where the function needs values,
    leaves the tracer's sight, or keeps a traced array.
    """
    with Claim(call.held(), PATIENCE) as alone:
        if not alone:
            raise TraceError(_STUCK)
        return _traced(fn, call, static, rewrite)


@verified("trace")
def _traced(
    fn: Callable[..., Any], call: Call, static: frozenset[Token], rewrite: Rewrite | None
) -> Trace:
    """As trace; where an array gets lost, once more with wrappers all over memory, and reading."""
    try:
        return _numbers_found(fn, call, static, rewrite)
    except LostTraceError:
        return _numbers_found(fn, call, static, rewrite, reading=True)


def _numbers_found(
    fn: Callable[..., Any], call: Call, static: frozenset[Token], rewrite: Rewrite | None = None,
    reading: bool = False,
) -> Trace:  # fmt: skip
    around, depth = leaks.Surroundings(fn), intercept.depth()
    reads, memos = dict[Token, str](), Memos(fn, around, call.leaves.passed)
    while True:
        tracer = Tracer(static=static, reading=reading)
        try:
            run = partial(_run, tracer, fn, call, around)
            found: Trace = within_export(run) if reading else run()
            found = found if rewrite is None else rewrite(found, tracer.sizes)
            tracer.sizes.forget()
            settle(tracer.moments)
            if memos.settle(tracer):
                continue
            return replace(found, reads=tuple(reads.items()), wrote=memos.wrote())
        except Specialize as need:
            memos.restore(again=True)
            if need.tracer is not tracer or need.tokens <= static:
                raise
            reads.update(dict.fromkeys(need.tokens - static, need.loc))
            static |= need.tokens
        except (TypeError, ValueError, RuntimeError, AttributeError, TraceError) as error:
            refused = _refused(error, tracer, call)
            memos.restore(again=isinstance(error, TraceError) or not refused <= static)
            if refused <= static:
                raise
            static |= refused
        except BaseException:
            memos.restore()
            raise
        finally:
            tracer.finished = True
            intercept.unwind(depth)


def _refused(error: Exception, tracer: Tracer, call: Call) -> frozenset[Token]:
    """What may not be traced, as `error` says: gradients; sizes that C code refused, then all."""
    if isinstance(error, TraceError):
        return frozenset(tracer.gradients)
    if not any(sign in str(error) for sign in _REFUSALS):
        return frozenset()
    return frozenset({SIZES} if tracer.sizes.made else range(len(call.leaves.numbers)))


def _run(tracer: Tracer, fn: Callable[..., Any], call: Call, around: leaks.Surroundings) -> Trace:
    with _recorded(tracer, call) as (args, kwargs, proxies):
        intercept.show_everywhere(None if tracer.reading else fn)
        intercept.show_places(type_name.places([*around.values, *call.leaves.passed]))
        intercept.show_places(places(around.places()))
        tracer.older = around.known
        try:
            result = _result(tracer, fn, args, kwargs)
        except (RuntimeError, TypeError, ValueError, SystemError) as error:
            explained = _explained(error, tracer.lent) or tracer.refused  # NumPy hides it
            if explained is None:
                raise
            raise explained from error
        _look_back(tracer)
        tracer.unseen.refuse_writes(tracer.living.found())
        try:
            recipes = Recipes(tracer, around.known, proxies)
            recipe, updates = recipes.all(result)
            writes = tuple(
                Write(i, recipes.output(proxy).index)
                for i, (proxy, first) in enumerate(zip(proxies, tracer.first_nodes, strict=True))
                if proxy.node != first
            )
        except TraceError as error:
            raise type(error)(_named(str(error), fn, call, tracer.static)) from None
    return Trace(
        tracer.graph,
        recipe,
        updates,
        writes,
        tuple(tracer.captures),
        tuple(tracer.sizes.decisions),
        frozenset([token for token in tracer.static if type(token) is int]),
        tuple(tracer.notes),
        _written_numbers(call, updates),
        tracer.personal,
        exported=tracer.unseen.why(locate.of_function(fn)),
        values_read=tuple(tracer.values_read.values()),
    )


def _result(tracer: Tracer, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What `fn` returns; raises LostTraceError where it drew random numbers out of sight."""
    key = random_state()[0]
    attributes = dict(getattr(fn, "__dict__", {}))
    with keeping_random_state():
        result = fn(*args, **kwargs)
        if moved(key):
            raise tracer.refuse(
                "random numbers were drawn where zmlx could not see it.",
                "Call mx.random.normal (say) through its module.",
                LostTraceError,
            )
    if type(fn) is FunctionType and not same_content(attributes, fn.__dict__):
        now = dict(fn.__dict__)
        refill(fn.__dict__, attributes)
        name = next(n for n in {**now, **attributes} if now.get(n) is not attributes.get(n))
        what, way_out = attribute_set(name)
        raise TraceError(f"[zmlx.trace] {locate.of_function(fn)}: {what} {way_out}")
    return result


def attribute_set(name: str) -> tuple[str, str]:
    """Why a trace must not set an attribute of its function, and the way out."""
    return (
        f"`{name}` of a fused function is set, which would happen at the first call only.",
        "Keep it in a dict or an object that is an argument, or that inputs= and outputs= name.",
    )


def whole(fn: Callable[..., Any], call: Call, why: str) -> Trace:
    """`fn` as one call that MLX runs, for the report of a function that runs as plain MLX."""

    def as_call(*args: Any, **kwargs: Any) -> Any:
        tracer = intercept.current()
        assert tracer is not None
        try:
            return tracer.state.run(tracer, name, fn, args, kwargs, why=why, runs_always=True)
        finally:
            around.restore()

    name = getattr(fn, "__name__", type(fn).__name__)
    static, around = frozenset(call.leaves.soft), leaks.Surroundings(fn)
    return replace(_numbers_found(as_call, call, static), plain=why)


def _written_numbers(call: Call, updates: Sequence[Update]) -> frozenset[int]:
    """The numbers of objects that `updates` give a new value."""
    if not updates:
        return frozenset()
    written = {
        (update.index, update.part, key)
        for update in updates
        for key, item in items(update.content)
        if item is not UNCHANGED
    }
    places = _number_places(call.structure)
    return frozenset(position for place, position in places.items() if place in written)


def _number_places(structure: Any) -> dict[tuple[int, int, Any], int]:
    """The positions of the numbers that live in objects, by (object, part, key)."""
    found: dict[tuple[int, int, Any], int] = {}
    objects = numbers = 0

    def walk(item: Any, place: Any = None) -> None:
        nonlocal objects, numbers
        if item is ARRAY or item[0] in (Static, SAME, Reader, StandIn):
            return
        if item[0] is NUMBER:
            if place is not None:
                found[place] = numbers
            numbers += 1
            return
        index, objects = objects, objects + (item[0] in _ENTERED)
        if item[0] is CONTENT:
            return
        if item[0] is WEAK:
            walk(item[2])
            return
        if item[0] is OBJECT:
            for part, pairs in enumerate(item[2]):
                for key, inner in pairs:
                    walk(inner, (index, part, key.value if type(key) is Static else key))
        else:
            for inner in item[1]:
                walk(inner[1] if item[0] is dict else inner)

    args, kwargs, states = structure
    for item in (*args, *[item for _, item in kwargs], *states):
        walk(item)
    return found


@contextmanager
def _recorded(tracer: Tracer, call: Call) -> Iterator[Any]:
    """Within the block calls are recorded; yields what to call the function with, and proxies.

    An array that is passed twice is one proxy.
    """
    leaves = call.leaves
    proxies = tracer.array_inputs(leaves.arrays)
    tracer.sizes.given = leaves.numbers
    numbers = [
        value if i in tracer.static else given_number(i, value, tracer)
        for i, value in enumerate(leaves.numbers)
    ]
    source = Source(iter(proxies), iter(numbers), leaves.objects)
    with intercept.recording(tracer), restored(leaves.objects):
        args, kwargs, states = call.structure
        given = [intercept.stand_in(unflatten(item, source)) for item in args]
        named = {key: intercept.stand_in(unflatten(item, source)) for key, item in kwargs}
        for state in states:
            unflatten(state, source)
        tracer.state = State.of(source.live, frozenset(leaves.copied))
        try:
            yield given, named, proxies
        finally:
            tracer.state = State()


def _look_back(tracer: Tracer) -> None:
    """Raise what the function was told while it ran, in case it caught it and went on."""
    if tracer.refused is not None:
        raise tracer.refused
    if not tracer.wanted <= tracer.static:
        raise Specialize(tracer.wanted, tracer)


def _explained(error: Exception, lent: bool) -> TraceError | None:
    """MLX's refusal to evaluate a placeholder, and NumPy's to take or write one, in the user's
    terms; `lent` says that NumPy got the memory of an array made inside, to read.
    """
    text = str(error)
    if lent and _READ_ONLY.search(text):
        return TraceError(
            f"[zmlx.trace] {locate.of_error(error)}: NumPy writes into an array that is made "
            "inside, which would happen at the first call only. Write with MLX (y[...] = value), "
            "or into NumPy's copy, np.array(y)."
        )
    what = "something read an array's value, which a trace has not."
    if "__array_ufunc__" in text:
        what = "a NumPy function was called on a traced array."
    elif not any(sign in text for sign in _NO_VALUE):
        return None
    explained = LostTraceError(
        f"[zmlx.trace] {locate.of_error(error)}: {what} Do it outside of the fused function."
    )
    explained.needs_values = True
    return explained


def _named(message: str, fn: Callable[..., Any], call: Call, static: frozenset[Token]) -> str:
    """`message` about an array that was returned or stored, with the line that made it.

    The function runs once more, watched line by line.
    """
    tracer = Tracer(static=static)
    watch = locate.Watch(call.leaves.objects)
    try:
        with _recorded(tracer, call) as (args, kwargs, _), locate.watching(watch):
            fn(*args, **kwargs)
    except (Exception, Specialize):  # it raised what it raised before, or went another way
        pass
    finally:
        tracer.finished = True
    place = watch.found or locate.of_function(fn)
    return f"[zmlx.trace] {place}: {message.split(': ', 1)[1]}"
