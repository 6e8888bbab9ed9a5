"""Agreement: whether a gradient that was given is the derivative of what it was given for.

Comes in: an op. Goes out: nothing, or a DeriveError that names the point where the two part.
zmlx.autograd calls it for check=True.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from zmlx.errors import DeriveError
from zmlx.fuse.replay import replay
from zmlx.helpers.nary import NaryOp
from zmlx.helpers.op import ElementwiseOp
from zmlx.trace.graph import Graph

# Off the usual kinks (whole numbers); an input after the first takes them in another order.
_POINTS = (-3.3, -2.1, -1.37, -0.83, -0.46, -0.11, 0.07, 0.31, 0.52, 0.77, 1.19, 1.83, 2.6, 3.7)
_COTANGENT = 0.75  # not 1, so that a forgotten g shows
_EXACT_STEP, _EXACT_LIMIT = 2.0**-9, 1e-3  # MLX computes some float64 functions in float32
_SINGLE_STEP, _SINGLE_LIMIT = 2.0**-6, 2e-2  # of a kernel that computes in float32

Values = list[list[float]]  # one list of numbers for each input


def check_gradient(op: ElementwiseOp) -> None:
    """Compare the given gradients with the derived ones and with finite differences."""
    spec, points = op.spec, _points(len(op.spec.names))
    graph = None if op.reason is not None else op.graph(["float64"] * len(points))
    found = _found(op, points, [_COTANGENT], [*spec.given])
    numeric, limit = _truth(op, graph, points, [_COTANGENT])
    derived = None if graph is None else _derived(graph, points, [_COTANGENT])
    report = _Report(op.where, spec.name, spec.names, spec.expr_name, f"g = {_COTANGENT}", points)
    for i in spec.given:
        report.compare(spec.pull_names[i], i, found, numeric, derived, limit)
    report.finish()


def check_bodies(op: NaryOp) -> None:
    """Compare the gradients that a backward body writes with the same."""
    spec, points = op.spec, _points(len(op.spec.inputs))
    cotangents = [_COTANGENT * (-1.5) ** k for k in range(len(spec.outputs))]
    graph = None if op.reason is not None else op.graph(["float64"] * len(points))
    found = _found(op, points, cotangents, range(len(spec.inputs)))
    numeric, limit = _truth(op, graph, points, cotangents)
    derived = None if graph is None else _derived(graph, points, cotangents)
    pairs = zip(spec.cotangents, cotangents, strict=True)
    seeds = ", ".join(f"{name} = {value}" for name, value in pairs)
    report = _Report(op.where, spec.name, spec.inputs, "fwd_source", seeds, points)
    for i, name in enumerate(spec.gradients):
        report.compare(f"{name} of bwd_source", i, found, numeric, derived, limit)
    report.finish()


@dataclass
class _Report:
    """Where two gradients part, for one op at one set of points."""

    where: str
    op: str
    names: Sequence[str]
    forward: str  # the argument that is differentiated
    seeds: str
    points: Values
    compared: int = 0

    def compare(
        self,
        what: str,
        i: int,
        found: dict[int, list[float]],
        numeric: Values,
        derived: Values | None,
        limit: float,
    ) -> None:
        """Raise where `what`, the gradient of input i, is off by more than `limit`."""
        for k, truth in enumerate(numeric[i]):
            if not math.isfinite(truth):
                continue
            self.compared += 1
            if not abs(found[i][k] - truth) <= limit * (1 + abs(truth)):
                at = ", ".join(
                    f"{n} = {p[k]}" for n, p in zip(self.names, self.points, strict=True)
                )
                more = "" if derived is None else f", the derived gradient {derived[i][k]:.6g}"
                raise DeriveError(
                    f"[zmlx.{self.where}] {what} of {self.op!r} is not the gradient of "
                    f"{self.forward}: at {at}, {self.seeds} it gives {found[i][k]:.6g}, "
                    f"finite differences {truth:.6g}{more}. Correct it"
                    f"{'' if derived is None else ', or leave it out'}."
                )

    def finish(self) -> None:
        """Raise where nothing could be compared."""
        if not self.compared:
            raise DeriveError(
                f"[zmlx.{self.where}] {self.op!r}: {self.forward} is finite at none of the points "
                f"{_POINTS[0]} to {_POINTS[-1]} that check=True tries. Use check=False."
            )


def _points(count: int) -> Values:
    return [_rotated(i) for i in range(count)]


def _found(
    op: ElementwiseOp | NaryOp, points: Values, cotangents: Sequence[float], which: Sequence[int]
) -> dict[int, list[float]]:
    """What mx.vjp says of the inputs `which`; it calls the gradients that were given."""
    arrays = [mx.array(p, mx.float32) for p in points]
    seeds = [mx.full(arrays[0].shape, c) for c in cotangents]

    def call(*moving: mx.array) -> Any:
        at = dict(zip(which, moving, strict=True))
        return op(*[at.get(i, a) for i, a in enumerate(arrays)])

    gradients = mx.vjp(call, [arrays[i] for i in which], seeds)[1]
    return {i: _numbers(d) for i, d in zip(which, gradients, strict=True)}


def _truth(
    op: ElementwiseOp | NaryOp, graph: Graph | None, points: Values, cotangents: Sequence[float]
) -> tuple[Values, float]:
    """(finite differences, how far a right gradient may be off from them)."""
    if graph is not None:

        def exact(values: Values) -> Values:
            return [_numbers(o) for o in _replayed(graph, values)]

        return _differences(exact, points, cotangents, _EXACT_STEP), _EXACT_LIMIT

    def kernel(values: Values) -> Values:
        outputs = op(*[mx.array(v, mx.float32) for v in values])
        return [_numbers(o) for o in (outputs if isinstance(outputs, tuple) else (outputs,))]

    one_by_one = isinstance(op, NaryOp)  # its elements may depend on one another
    differences = _single_differences if one_by_one else _differences
    return differences(kernel, points, cotangents, _SINGLE_STEP), _SINGLE_LIMIT


def _derived(graph: Graph, points: Values, cotangents: Sequence[float]) -> Values:
    from zmlx.derive.accumulate import derive_vjp

    derivative = derive_vjp(graph)
    seeds = [[c] * len(points[0]) for c in cotangents]
    found = dict(zip(derivative.targets, _replayed(derivative.graph, points + seeds), strict=True))
    zeros = [0.0] * len(points[0])
    return [_numbers(found[i]) if i in found else zeros for i in range(len(points))]


def _replayed(graph: Graph, values: Values) -> list[mx.array]:
    """The outputs of a float64 graph, which only the CPU computes."""
    with mx.stream(mx.cpu):
        results = replay(graph, [mx.array(v, mx.float64) for v in values])
        mx.eval(results)
    return results


def _differences(
    run: Callable[[Values], Values], points: Values, cotangents: Sequence[float], step: float
) -> Values:
    """Central differences by each input, all elements moved at once; NaN where not finite."""
    found = []
    for i, column in enumerate(points):
        above, below = ([x + s for x in column] for s in (step, -step))
        up = run([*points[:i], above, *points[i + 1 :]])
        down = run([*points[:i], below, *points[i + 1 :]])
        found.append(
            [
                sum(
                    c * (u[k] - d[k]) / (2 * step)
                    for c, u, d in zip(cotangents, up, down, strict=True)
                )
                for k in range(len(column))
            ]
        )
    return found


def _single_differences(
    run: Callable[[Values], Values], points: Values, cotangents: Sequence[float], step: float
) -> Values:
    """Central differences, one element moved after the other, all elements of results counted."""
    found: Values = []
    for i, column in enumerate(points):
        found.append([])
        for k in range(len(column)):
            moved = []
            for s in (step, -step):
                other = [*column[:k], column[k] + s, *column[k + 1 :]]
                moved.append(run([*points[:i], other, *points[i + 1 :]]))
            found[i].append(
                sum(
                    c * (u - d) / (2 * step)
                    for c, ups, downs in zip(cotangents, *moved, strict=True)
                    for u, d in zip(ups, downs, strict=True)
                    if u != d and (u == u or d == d)
                )
            )
    return found


def _rotated(index: int) -> list[float]:
    shift = 5 * index % len(_POINTS)
    return [*_POINTS[shift:], *_POINTS[:shift]]


def _numbers(array: mx.array) -> list[float]:
    numbers: list[float] = array.tolist()
    return numbers
