"""Taped programs: the graph that a program makes, copied by native code for equal shapes.

Comes in: a program's plan and the function that runs its steps. Goes out: the same function, which
for shapes that it has met before no longer runs Python for each step. zmlx.fuse.program calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx import switches
from zmlx.device import tuning
from zmlx.device.rules import any_traced, native_or_none
from zmlx.fuse.places import Places
from zmlx.fuse.plan import Native, Plan
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.views import Lifted
from zmlx.fuse.whole import WholeGradient
from zmlx.trace.calls import Flat
from zmlx.trace.graph import NUMBERS, OpaqueCall
from zmlx.trace.operands import arrays_in

# From inputs to results, and the values of all nodes.
Steps = Callable[[Sequence[Any]], tuple[list[mx.array], Sequence[Any]]]
_BUILTIN = ("nb_func", "nb_method")  # types of MLX's own functions


def taped(
    plan: Plan, runtime: Runtime, run: Steps, held: Sequence[mx.array],
    gradient: WholeGradient | None = None,
) -> Run | None:  # fmt: skip
    """The results of `run` by tapes; None where nothing is won by more than running its steps.

    `held` are arrays that it reads beside its inputs, as they are when it is called; `run` takes
    the inputs, and others in place of those behind them. Where MLX traces the call, the results are
    one op to it, of which `gradient`, if it is there, gives the gradients.
    """
    native = native_or_none()
    if native is None or _is_one_launch(plan):
        return None
    told = runtime.check or runtime.watched or runtime.folder is not None or switches.SANITIZE.on()
    slow = _plainly(run) if gradient is None else _stepwise(native, run, held, gradient)
    if told or not _repeats(plan):  # of each launch
        return None if gradient is None else slow
    return _Taped(run, slow, native.Tapes, held, gradient)


class _Taped:
    """`run`, by tapes; `slow` gives the same results without."""

    def __init__(
        self, run: Steps, slow: Run, tapes: Callable[[], Any], held: Sequence[mx.array],
        gradient: WholeGradient | None,
    ) -> None:  # fmt: skip
        self._run, self._slow, self._make, self._held = run, slow, tapes, held
        self._gradient = gradient
        self._tapes = tapes()
        tuning.depends(self)

    def forget(self) -> None:
        """Make every tape anew: kernels are launched otherwise now."""
        self._tapes = self._make()

    def __call__(self, inputs: Sequence[Any]) -> list[mx.array]:
        given, tapes = [*inputs, *self._held], self._tapes
        made: list[mx.array] | None = tapes(given)
        if made is not None:
            return made
        stand_ins = tapes.stand_ins(given, self._gradient is not None)
        if stand_ins is not None:
            made = self._recorded(tapes, given, stand_ins)
        return self._slow(inputs) if made is None else made

    def _recorded(
        self, tapes: Any, given: Sequence[Any], stand_ins: Sequence[Any]
    ) -> list[mx.array] | None:
        """The results for `given`, of a tape that is made now; None where none can be."""
        try:
            results, values = self._run(stand_ins)
            writer = None if self._gradient is None else self._gradient.of(values)
            tapes.learn(given, stand_ins, results, writer)
        except Exception:  # something looked at a value, or failed: the steps themselves say so
            return None
        made: list[mx.array] | None = tapes(given)
        return made


def _plainly(run: Steps) -> Run:
    return lambda inputs: run(inputs)[0]


def _stepwise(native: Any, run: Steps, held: Sequence[mx.array], gradient: WholeGradient) -> Run:
    """The results of `run`, which Python runs each time, as one op where MLX traces them."""

    def call(inputs: Sequence[Any]) -> list[mx.array]:
        results, values = run(inputs)
        arrays = [a for a in (*inputs, *held) if isinstance(a, mx.array)]
        one = results and all(isinstance(r, mx.array) for r in results)
        if not one or not any_traced(arrays):
            return results
        made: list[mx.array] = native.whole(arrays, results, gradient.of(values))
        return made

    return call


def _is_one_launch(plan: Plan) -> bool:
    """Whether all that runs is one kernel whose launch native code makes as it is."""
    return len(plan.steps) == 1 and not any(r.folds for r in plan.regions)


def _repeats(plan: Plan) -> bool:
    """Whether nothing but the shapes and numbers given decides what the steps make."""
    graph = plan.graph
    if any(graph.kind(node) in NUMBERS for node in graph.outputs):
        return False
    return all(_is_mlx(graph[s.node]) for s in plan.steps if isinstance(s, Native))


def _is_mlx(data: dict[str, Any]) -> bool:
    """Whether a node is nothing but functions of MLX, of its operands, or of their shapes."""
    return data["kind"] != "opaque" or (data["pure"] and _calls_mlx(data["call"]))


def _calls_mlx(call: OpaqueCall) -> bool:
    if any(True for _ in arrays_in((call.args, call.kwargs))):  # which may be written into
        return False
    if isinstance(call.fn, Lifted):
        return _calls_mlx(call.fn.call)
    fn = call.fn.fn if isinstance(call.fn, Flat) else call.fn
    return type(fn) is Places or type(fn).__name__ in _BUILTIN
