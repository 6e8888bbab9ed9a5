"""Agreement: whether a gradient that was given is the derivative of what it was given for.

Comes in: an op. Goes out: nothing, or a DeriveError that names the point where the two part.
zmlx.autograd calls it for check=True.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from zmlx.errors import DeriveError
from zmlx.fuse.replay import replay
from zmlx.helpers.op import ElementwiseOp
from zmlx.trace.graph import Graph

# Off the usual kinks (whole numbers); an input after the first takes them in another order.
_POINTS = (-3.3, -2.1, -1.37, -0.83, -0.46, -0.11, 0.07, 0.31, 0.52, 0.77, 1.19, 1.83, 2.6, 3.7)
_COTANGENT = 0.75  # not 1, so that a forgotten g shows
_EXACT_STEP, _EXACT_LIMIT = 2.0**-9, 1e-3  # MLX computes some float64 functions in float32
_SINGLE_STEP, _SINGLE_LIMIT = 2.0**-6, 2e-2  # of a kernel that computes in float32

Values = list[list[float]]  # one list of numbers for each input


def check_gradient(op: ElementwiseOp) -> None:
    """Compare the given gradient with the derived one and with finite differences."""
    spec = op.spec
    points = [_rotated(i) for i in range(len(spec.names))]
    arrays = [mx.array(p, mx.float32) for p in points]
    given = _given(op, arrays)
    derived, numeric, limit = _references(op, points)
    compared = 0
    for i, argument in enumerate(spec.pull_names):
        for k, truth in enumerate(numeric[i]):
            if not math.isfinite(truth):
                continue
            compared += 1
            if not abs(given[i][k] - truth) <= limit * (1 + abs(truth)):
                at = ", ".join(f"{n} = {p[k]}" for n, p in zip(spec.names, points, strict=True))
                symbolic = "" if derived is None else f", the derived gradient {derived[i][k]:.6g}"
                raise DeriveError(
                    f"[zmlx.{op.where}] {argument} of {spec.name!r} is not the gradient of "
                    f"{spec.expr_name}: at {at}, g = {_COTANGENT} it gives {given[i][k]:.6g}, "
                    f"finite differences {truth:.6g}{symbolic}. Correct it, or leave it out."
                )
    if not compared:
        raise DeriveError(
            f"[zmlx.{op.where}] {spec.name!r}: {spec.expr_name} is finite at none of the points "
            f"{_POINTS[0]} to {_POINTS[-1]} that check=True tries. Use check=False."
        )


def _given(op: ElementwiseOp, arrays: Sequence[mx.array]) -> Values:
    cotangent = mx.full(arrays[0].shape, _COTANGENT)
    gradients = mx.vjp(op, list(arrays), [cotangent])[1]
    return [_numbers(d) for d in gradients]


def _references(op: ElementwiseOp, points: Values) -> tuple[Values | None, Values, float]:
    """(derived gradients, finite differences, how far a right one may be off)."""
    if op.reason is not None:

        def kernel(values: Values) -> list[float]:
            return _numbers(op(*[mx.array(v, mx.float32) for v in values]))

        return None, _differences(kernel, points, _SINGLE_STEP), _SINGLE_LIMIT
    graph = op.graph(["float64"] * len(points))

    def exact(values: Values) -> list[float]:
        return _numbers(_replayed(graph, values)[0])

    numeric = _differences(exact, points, _EXACT_STEP)
    return _derived(graph, points), numeric, _EXACT_LIMIT


def _derived(graph: Graph, points: Values) -> Values:
    from zmlx.derive.accumulate import derive_vjp

    derivative = derive_vjp(graph)
    seeds = [[_COTANGENT] * len(points[0])]
    found = dict(zip(derivative.targets, _replayed(derivative.graph, points + seeds), strict=True))
    zeros = [0.0] * len(points[0])
    return [_numbers(found[i]) if i in found else zeros for i in range(len(points))]


def _replayed(graph: Graph, values: Values) -> list[mx.array]:
    """The outputs of a float64 graph, which only the CPU computes."""
    with mx.stream(mx.cpu):
        results = replay(graph, [mx.array(v, mx.float64) for v in values])
        mx.eval(results)
    return results


def _differences(run: Callable[[Values], list[float]], points: Values, step: float) -> Values:
    """g times the central difference by each input; NaN where one side is not finite."""
    found = []
    for i, column in enumerate(points):
        above, below = ([x + s for x in column] for s in (step, -step))
        up = run([*points[:i], above, *points[i + 1 :]])
        down = run([*points[:i], below, *points[i + 1 :]])
        found.append([_COTANGENT * (u - d) / (2 * step) for u, d in zip(up, down, strict=True)])
    return found


def _rotated(index: int) -> list[float]:
    shift = 5 * index % len(_POINTS)
    return [*_POINTS[shift:], *_POINTS[:shift]]


def _numbers(array: mx.array) -> list[float]:
    numbers: list[float] = array.tolist()
    return numbers
