"""Inside: what runs in a call that MLX makes, such as a gradient taken in a fused function.

Comes in: the opaque calls of a trace that runs under `looking`. Goes out: for each an Inside: the
fused kernels that it launches, forward and backward, and the kernels of MLX's own, read from MLX's
graph of the results. zmlx.fuse.explain shows them.
"""

from __future__ import annotations

import gc
import io
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from zmlx import switches
from zmlx.device import watch
from zmlx.fuse.reports import Value
from zmlx.trace import calls, intercept
from zmlx.trace.operands import arrays_in, name_of

_TRANSFORMED = type(mx.grad(abs))
_CALL_BACK = ("vjp", "jvp")
_KERNELS = """
    Abs Add ArcCos ArcCosh ArcSin ArcSinh ArcTan ArcTan2 ArcTanh AsType BitwiseAnd BitwiseOr
    BitwiseXor BitwiseInvert LeftShift RightShift Ceil Conjugate Cos Cosh Divide DivMod Equal Erf
    ErfInv Exp Expm1 Floor Greater GreaterEqual Less LessEqual Log Log2 Log10 Log1p LogAddExp
    LogicalAnd LogicalNot LogicalOr Maximum Minimum Multiply NaNEqual Negative NotEqual Power Real
    Imag Remainder Round Rsqrt Select Sigmoid Sign Sin Sinh Sqrt Square Subtract Tan Tanh"""
_IDLE = """
    AsStrided Broadcast Copy CustomTransforms Depends ExpandDims Flatten Full Reshape Squeeze
    StopGradient Transpose Unflatten Whole"""
_UNNAMED = "CustomKernel"
_ELEMENTWISE, _NO_WORK = frozenset(_KERNELS.split()), frozenset(_IDLE.split())


@dataclass(frozen=True)
class Launch:
    """One kernel of ours that a call launches: of which function, over which arrays."""

    kernel: str
    function: str  # "loss.region0"; ".vjp" is its gradient; "" where it was written by hand
    ops: tuple[str, ...]
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]

    @property
    def bytes(self) -> int:
        return sum(value.bytes for value in (*self.reads, *self.writes))


@dataclass(frozen=True)
class Inside:
    """What one call runs, built for the example's shapes and not evaluated."""

    launches: tuple[Launch, ...]
    unseen: int  # kernels of ours in a graph that mx.compile kept: theirs is no launch
    elementwise: dict[str, int]  # kernels of MLX's own, by primitive
    others: dict[str, int]  # what else MLX runs that is work: matmuls, sums, copies of slices
    plain: int | None  # elementwise kernels with fusion off; None where that cannot be told

    @property
    def kernels(self) -> int:
        """Elementwise kernels that run, fused ones included."""
        return len(self.launches) + self.unseen + sum(self.elementwise.values())

    @property
    def bytes(self) -> int:
        """What the fused kernels read and write."""
        return sum(launch.bytes for launch in self.launches)


def runs_python(fn: Callable[..., Any]) -> bool:
    """Whether `fn`, of an opaque call, calls Python back: there is something to look into."""
    fn = calls.unwrapped(fn)
    if isinstance(fn, (_TRANSFORMED, mx.custom_function)):
        return True
    return getattr(fn, "__name__", "") in (*_CALL_BACK, "_unbound")


def why_whole(fn: Callable[..., Any], inside: Inside) -> str:
    """Why a call that calls Python back is not fused as a whole, and what to do."""
    what = _transformation(calls.unwrapped(fn))
    if inside.launches or inside.unseen:
        return f"{what} inside: MLX runs it; what is fused in it is listed"
    if inside.elementwise:
        return f"{what} inside; nothing in it is fused: fuse its function"
    return f"{what} inside; nothing elementwise runs in it"


def _transformation(fn: Any) -> str:
    name = str(getattr(fn, "__name__", ""))
    if name in _CALL_BACK:
        return f"mx.{name}"
    if isinstance(fn, mx.custom_function):
        return "mx.custom_function"
    if type(fn) is not _TRANSFORMED:
        return "a fused function of other numerics"
    held = gc.get_referents(fn)[1:]  # what MLX's wrapper keeps beside its type
    if len(held) == 1:
        return "mx.grad"
    return "mx.compile" if held[:2] == [None, None] else "mx.vmap or mx.compile"


class Look:
    """A watcher of launches and of opaque calls, on the thread that made it."""

    def __init__(self) -> None:
        self.found: dict[int, Inside] = {}  # by id of the OpaqueCall
        self._events: list[watch.Event] = []
        self._thread = threading.get_ident()

    def launched(self, event: watch.Event) -> None:
        if threading.get_ident() == self._thread:
            self._events.append(event)

    def called(
        self, call: Any, again: Callable[[], Any], given: Sequence[mx.array], result: Any
    ) -> None:
        """An opaque call was traced: `result` is what it gave for the arrays `given`."""
        events, self._events = self._events, []
        if events or runs_python(call.fn):
            self.found[id(call)] = _inside(events, again, given, result)


@contextmanager
def looking() -> Iterator[Look]:
    """Within the block, traces of this thread tell what runs inside their opaque calls."""
    look = Look()
    watch.start(look)
    try:
        with calls.observed_by(look.called):
            yield look
    finally:
        watch.stop(look)


def _inside(
    events: Sequence[watch.Event], again: Callable[[], Any], given: Sequence[mx.array], result: Any
) -> Inside:
    found = _primitives(arrays_in(result), given)
    launches = [_launch(event) for event in _alive(events, found)]
    ours = Counter(event.name for event in events)
    unnamed = found.pop(_UNNAMED, 0) - sum(launch.kernel not in found for launch in launches)
    found.update({_UNNAMED: unnamed} if unnamed > 0 else {})
    rest = {n: c - ours[n] for n, c in found.items() if n.startswith("zmlx_") and c > ours[n]}
    elementwise = {n: c for n, c in found.items() if _is_elementwise(n)}
    others = {
        n: c
        for n, c in found.items()
        if n not in elementwise and n not in _NO_WORK and n not in ours and n not in rest
    }
    plain = _plain(again, given)
    return Inside(tuple(launches), sum(rest.values()), elementwise, others, plain)


def _alive(events: Sequence[watch.Event], found: Mapping[str, int]) -> Iterator[watch.Event]:
    """The launches that the results need, in order: the last ones of each kernel.

    MLX's graph has the names of kernels on the CPU; on a GPU it has one name for all.
    """
    left = Counter(found)
    needed: list[watch.Event] = []
    for event in reversed(events):
        name = event.name if event.name in found else _UNNAMED
        if left[name] > 0:
            left[name] -= 1
            needed.append(event)
    return reversed(needed)


def _plain(again: Callable[[], Any], given: Sequence[mx.array]) -> int | None:
    """Elementwise kernels of the call with fusion off."""
    with switches.config(fuse=False):
        found = _primitives(arrays_in(again()), given)
    if any(name.startswith("zmlx_") for name in found):  # a graph that mx.compile has kept
        return None
    return sum(count for name, count in found.items() if _is_elementwise(name))


def _is_elementwise(name: str) -> bool:
    return name in _ELEMENTWISE or name.startswith("Compiled")


def _launch(event: watch.Event) -> Launch:
    reads, writes = tuple(map(_value, event.inputs)), tuple(map(_value, event.outputs))
    return Launch(event.name, event.function, event.ops, reads, writes)


def _value(array: mx.array) -> Value:
    return Value(name_of(array.dtype), tuple(mx.array.shape.fget(array)))


# -- MLX's graph ----------------------------------------------------------------------------------
_NODE = re.compile(r'^\{ (\d+) \[label ="([^"]*)"')
_EDGE = re.compile(r'^"?([^"]*?)"? -> "?([^"]*?)"?$')


def _primitives(results: Iterable[mx.array], given: Sequence[mx.array]) -> Counter[str]:
    """How often each primitive stands between the arrays `given` and `results`."""
    text = io.StringIO()
    ends = {f"zmlx_result{i}": array for i, array in enumerate(results)}
    stops = {f"zmlx_given{i}": array for i, array in enumerate(given)}
    if not ends:
        return Counter()
    intercept.original("export_to_dot")(text, *ends.values(), **{**ends, **stops})
    labels: dict[str, str] = {}
    sources: dict[str, list[str]] = {}
    for line in text.getvalue().splitlines():
        if node := _NODE.match(line):
            labels[node[1]] = node[2]
        elif edge := _EDGE.match(line):
            sources.setdefault(edge[2], []).append(edge[1])
    reached, waiting = set(stops), list(ends)
    while waiting:
        at = waiting.pop()
        if at not in reached:
            reached.add(at)
            waiting += sources.get(at, [])
    return Counter(labels[node] for node in reached if node in labels)
