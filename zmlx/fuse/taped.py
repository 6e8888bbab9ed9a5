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
from zmlx.device.rules import native_or_none
from zmlx.fuse.places import Places
from zmlx.fuse.plan import Native, Plan
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.views import Lifted
from zmlx.trace.calls import Flat
from zmlx.trace.graph import NUMBERS, OpaqueCall
from zmlx.trace.operands import arrays_in

_BUILTIN = ("nb_func", "nb_method")  # types of MLX's own functions


def taped(plan: Plan, runtime: Runtime, run: Run, held: Sequence[mx.array]) -> Run | None:
    """`run` by tapes; None where its steps may differ from call to call.

    `held` are arrays that it reads beside its inputs, as they are when it is called; `run` takes
    the inputs, and others in place of those behind them.
    """
    native = native_or_none()
    told = runtime.check or runtime.watched or runtime.folder is not None or switches.SANITIZE.on()
    if native is None or told:  # of each launch
        return None
    if _is_one_launch(plan) or not _repeats(plan):
        return None
    return _Taped(run, native.Tapes, held)


class _Taped:
    """`run`, by tapes."""

    def __init__(self, run: Run, tapes: Callable[[], Any], held: Sequence[mx.array]) -> None:
        self._run, self._make, self._held = run, tapes, held
        self._tapes = tapes()
        tuning.depends(self)

    def forget(self) -> None:
        """Make every tape anew: kernels are launched otherwise now."""
        self._tapes = self._make()

    def __call__(self, inputs: Sequence[Any]) -> list[mx.array]:
        given, tapes = [*inputs, *self._held], self._tapes
        made: list[mx.array] | None = tapes(given)
        if made is None and (stand_ins := tapes.stand_ins(given)) is not None:
            made = _recorded(tapes, given, stand_ins, self._run)
        return self._run(inputs) if made is None else made


def _recorded(
    tapes: Any, given: Sequence[Any], stand_ins: Sequence[Any], run: Run
) -> list[mx.array] | None:
    """The results for `given`, of a tape that is made now; None where none can be."""
    try:
        tapes.learn(given, stand_ins, run(stand_ins))
    except Exception:  # something looked at a value, or failed: the steps themselves say so
        return None
    made: list[mx.array] | None = tapes(given)
    return made


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
