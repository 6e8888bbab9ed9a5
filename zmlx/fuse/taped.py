"""Taped programs: the graph that a program makes, copied by native code for equal shapes.

Comes in: a program's plan and the function that runs its steps. Goes out: the same function, which
for shapes that it has met before no longer runs Python for each step. zmlx.fuse.program calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import mlx.core as mx

from zmlx import switches
from zmlx.device import tuning
from zmlx.device.rules import any_traced, native_or_none
from zmlx.fuse.plan import Native, Plan
from zmlx.fuse.repeats import calls_mlx
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.whole import WholeGradient
from zmlx.trace.graph import NUMBERS, Graph

# From inputs to results, and the values of all nodes.
Steps = Callable[[Sequence[Any]], tuple[list[mx.array], Sequence[Any]]]


class Recorded(NamedTuple):
    """Steps whose results MLX traces, and what gives their gradients."""

    run: Steps
    gradient: WholeGradient


def taped(
    plan: Plan, runtime: Runtime, run: Steps, held: Sequence[mx.array],
    traced: Callable[[], Recorded] | None = None,
) -> Run | None:  # fmt: skip
    """The results of `run` by tapes; None where nothing is won by more than running its steps.

    `held` are arrays that it reads beside its inputs, as they are when it is called; `run` takes
    the inputs, and others in place of those behind them. Where MLX traces the call, what `traced`
    gives runs in place of it, if that is there: the results are then one op to MLX.
    """
    native = native_or_none()
    if native is None or _is_one_launch(plan):
        return None
    told = runtime.check or runtime.watched or runtime.folder is not None or switches.SANITIZE.on()
    slow = _plainly(run) if traced is None else _Stepwise(native, run, held, traced)
    if told or not _repeats(plan):  # of each launch
        made = None if traced is None else slow
    else:
        made = _Taped(run, slow, native.Tapes, held, traced)
    unread = [] if traced is None else _unread(plan.graph)
    return partial(_without, made, unread) if unread and made is not None else made


def _unread(graph: Graph) -> list[int]:
    """The arrays among the inputs that nothing reads: weights of a module's other parts, say."""
    outputs = set(graph.outputs)
    return [
        i
        for i, n in enumerate(graph.inputs)
        if graph.kind(n) == "input" and n not in outputs and not graph.users(n)
    ]


def _without(run: Run, unread: Sequence[int], inputs: Sequence[Any]) -> list[mx.array]:
    """`run`, with no gradients for what nothing reads: MLX would add zeros for each."""
    if any_traced([inputs[i] for i in unread]):
        inputs = list(inputs)
        for i in unread:
            inputs[i] = mx.stop_gradient(inputs[i])
    return run(inputs)


class _Taped:
    """`run`, by tapes; `slow` gives the same results without."""

    def __init__(
        self, run: Steps, slow: Run, tapes: Callable[[], Any], held: Sequence[mx.array],
        traced: Callable[[], Recorded] | None,
    ) -> None:  # fmt: skip
        self._run, self._slow, self._make, self._held = run, slow, tapes, held
        self._make_traced = traced
        self._tapes = tapes()
        tuning.depends(self)

    def forget(self) -> None:
        """Make every tape anew: kernels are launched otherwise now."""
        self._tapes = self._make()

    def __call__(self, inputs: Sequence[Any]) -> list[mx.array]:
        held, tapes = self._held, self._tapes
        given = [*inputs, *held] if held else inputs
        made: list[mx.array] | None = tapes(given)
        if made is not None:
            return made
        stand_ins = tapes.stand_ins(given, self._make_traced is not None)
        if stand_ins is not None:
            made = self._recorded(tapes, given, stand_ins)
        return self._slow(inputs) if made is None else made

    def _recorded(
        self, tapes: Any, given: Sequence[Any], stand_ins: Sequence[Any]
    ) -> list[mx.array] | None:
        """The results for `given`, of a tape that is made now; None where none can be."""
        try:
            if self._traced is None or not any_traced(_arrays(given)):
                tapes.learn(given, stand_ins, self._run(stand_ins)[0])
            else:
                results, values = self._traced.run(stand_ins)
                tapes.learn(given, stand_ins, results, self._traced.gradient.of(values))
        except Exception:  # something looked at a value, or failed: the steps themselves say so
            return None
        made: list[mx.array] | None = tapes(given)
        return made

    @cached_property
    def _traced(self) -> Recorded | None:
        return None if self._make_traced is None else self._make_traced()


def _plainly(run: Steps) -> Run:
    return lambda inputs: run(inputs)[0]


class _Stepwise:
    """The results of `run`, which Python runs each time, as one op where MLX traces them."""

    def __init__(
        self, native: Any, run: Steps, held: Sequence[mx.array], traced: Callable[[], Recorded]
    ) -> None:
        self._native, self._run, self._held, self._make_traced = native, run, held, traced

    def __call__(self, inputs: Sequence[Any]) -> list[mx.array]:
        arrays = _arrays([*inputs, *self._held])
        if not any_traced(arrays):
            return self._run(inputs)[0]
        results, values = self._traced.run(inputs)
        if not results or not all(isinstance(r, mx.array) for r in results):
            return results
        made: list[mx.array] = self._native.whole(arrays, results, self._traced.gradient.of(values))
        return made

    @cached_property
    def _traced(self) -> Recorded:
        return self._make_traced()


def _arrays(given: Sequence[Any]) -> list[mx.array]:
    return [a for a in given if isinstance(a, mx.array)]


def _is_one_launch(plan: Plan) -> bool:
    """Whether all that runs is one kernel whose launch native code makes as it is."""
    return len(plan.steps) == len(plan.regions) == 1 and not plan.regions[0].folds


def _repeats(plan: Plan) -> bool:
    """Whether nothing but the shapes and numbers given decides what the steps make."""
    graph = plan.graph
    if any(graph.kind(node) in NUMBERS for node in graph.outputs):
        return False
    return all(_is_mlx(graph[s.node]) for s in plan.steps if isinstance(s, Native))


def _is_mlx(data: dict[str, Any]) -> bool:
    """Whether a node is nothing but functions of MLX, of its operands, or of their shapes."""
    return data["kind"] != "opaque" or (data["pure"] and calls_mlx(data["call"]))
