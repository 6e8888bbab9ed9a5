"""User rows: sixteen whole functions (benchmarks.user_cases), forward and gradient, in three sizes.

A gradient row measures a plain mx.grad of the fused function, the gradient of the fused loss and
MLX's own ways to the same. Geometric means of the ratios stand below the rows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.utils as tree

import zmlx
from benchmarks.harness import MEAN, SUBJECT, Bar, Peer, Result, Row, Settings, contest
from benchmarks.peers import COMPILE, EAGER, INSIDE, OUTSIDE, call_of
from benchmarks.user_cases import USERS, UserCase

SUITE = "users"
SIZES = {"small": 2**8, "middle": 2**15, "large": 2**21}
AROUND = "mx.grad(zmlx.fuse(loss))"
READY = "mx.grad around ready arrays"
LAUNCHES = {"small": 200, "middle": 20, "large": 1}  # a sample of small arrays wants many calls
Ways = Sequence[tuple[str, Callable[..., Any]]]
SLOWER = {"small": 1 / 1.3, "middle": 1.0, "large": 1.0}  # times the peer's speed, at least


def rows(settings: Settings) -> list[Row]:
    made = []
    for size in SIZES:
        for case in USERS:
            made.append(Row(SUITE, f"{case.name}, {size}", partial(forward, case, size)))
            if case.wrt:
                name = f"gradient of {case.name}, {size}"
                made.append(Row(SUITE, name, partial(backward, case, size)))
    return made


def forward(case: UserCase, size: str, settings: Settings) -> Result:
    """The function itself."""
    ways = ((SUBJECT, zmlx.fuse(case.fn)), (COMPILE, mx.compile(case.fn)), (EAGER, case.fn))
    return _row(case, size, lambda inputs: ways, case.fn, settings)


def backward(case: UserCase, size: str, settings: Settings) -> Result:
    """The gradients in `case.wrt`."""
    loss = case.loss_of(case.fn)

    def slope(f: Callable[..., mx.array]) -> Callable[..., Any]:
        return mx.grad(f, argnums=case.wrt)

    def ways(inputs: Sequence[Any]) -> Ways:
        made = (
            (SUBJECT, slope(case.loss_of(zmlx.fuse(case.fn)))),
            (OUTSIDE, mx.compile(slope(loss))),
            (INSIDE, slope(case.loss_of(mx.compile(case.fn)))),
            (AROUND, slope(zmlx.fuse(loss))),
        )
        least = (READY, slope(case.loss_of(ready(case, inputs))))
        return (*made, least) if size == "small" else made

    return _row(case, size, ways, slope(loss), settings)


def ready(case: UserCase, inputs: Sequence[Any]) -> Callable[..., Any]:
    """A custom function whose values and gradients for `inputs` are there already: what MLX takes
    around any kernel with a gradient of its own."""
    y = case.fn(*inputs)
    slopes = leaves(mx.grad(case.loss_of(case.fn), argnums=case.wrt)(*inputs))
    given = list(inputs)
    for place, slope in zip(case.wrt, slopes, strict=True):
        given[place] = slope
    mx.eval(y, given)
    found = mx.custom_function(lambda *args: y)
    found.vjp(lambda primals, cotangents, outputs: tuple(given))
    return found


def _row(
    case: UserCase,
    size: str,
    ways: Callable[[Sequence[Any]], Ways],
    plain: Callable[..., Any],
    settings: Settings,
) -> Result:
    """All who agree with `plain`; the second of `ways(inputs)` is the peer that counts."""
    count = min(SIZES[size], settings.elements)
    inputs = case.inputs(count)
    times = 1 if settings.quick else LAUNCHES[size]
    expected = leaves(plain(*inputs))
    mx.eval(expected)
    found = ways(inputs)
    peers = [Peer(name, flat(call_of(f, inputs))) for name, f in found]
    terms = max(array.size for array in leaves(list(inputs)))
    samples, absent = contest(peers, expected, mx.float32, settings, times, terms)
    bar = Bar("times", SLOWER[size], found[1][0])
    return Result(SUITE, case.name, samples=samples, bars=(bar,), skipped=absent)


def flat(call: Callable[[], Any]) -> Callable[[], list[mx.array]]:
    return lambda: leaves(call())


def leaves(result: Any) -> list[mx.array]:
    """The arrays of a result."""
    return [array for _, array in tree.tree_flatten(result)]


def summary(results: Sequence[Result], settings: Settings) -> list[Result]:
    """Geometric means over the functions: a row for each size, forward and gradient."""
    means = []
    for size in SIZES:
        for prefix, peer in (("", COMPILE), ("gradient of ", OUTSIDE)):
            cases = [case for case in USERS if case.wrt or not prefix]
            names = {f"{prefix}{case.name}, {size}" for case in cases}
            found = [r for r in results if r.suite == SUITE and r.name in names]
            ratios = [r.ratios[peer] for r in found if peer in r.ratios]
            if len(ratios) < len(names):
                continue
            samples = {SUBJECT: [1.0], peer: [statistics.geometric_mean(ratios)]}
            note = f"time relative to {SUBJECT}'s over {len(ratios)} functions"
            name = f"{prefix or 'forward of '}all functions, {size}, {MEAN}"
            means.append(Result(SUITE, name, "relative", samples, note=note))
    return means
