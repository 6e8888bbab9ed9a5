"""Checking: ZMLX_CHECK=1 runs each region as MLX ops as well, and raises where the two part.

Comes in: a region's graph and its launcher. Goes out: a launcher that evaluates both and compares
them element by element. Under a transformation there are no values to compare, so zmlx.fuse.region
asks for it on plain calls only.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from zmlx.device.base import Launcher
from zmlx.dtypes import TOLERANCES
from zmlx.errors import CheckError
from zmlx.fuse.replay import replay, replay_fp32
from zmlx.ops.reductions import REDUCTIONS
from zmlx.trace.graph import Graph
from zmlx.trace.operands import name_of

Arrays = Sequence[mx.array]
# Both ways are accurate to a few units in the last place for each op, and ops amplify that; what
# this must catch is a wrong kernel, not a wrong rounding.
RELATIVE, OF_LARGEST = 1e-3, 1e-5


def checked(graph: Graph, launch: Launcher, exact: bool, name: str) -> Launcher:
    """`launch`, but a result that differs from the MLX ops raises CheckError."""

    def run(arrays: Arrays) -> list[mx.array]:
        got = launch(arrays)
        wanted = (replay if exact else replay_fp32)(graph, arrays)
        for index, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
            _compare(mine, theirs, exact, f"{name}, output {index}")
        return got

    return run


def checked_folds(graph: Graph, launch: Launcher, name: str) -> Launcher:
    """`launch` of a region that folds, checked likewise.

    A sum may err by what its terms have, however small it is itself; a place may be that of an
    element that is as large.
    """
    folds = [n for n in graph.outputs if graph.kind(n) == "reduce"]
    places = [n for n in folds if REDUCTIONS[graph[n]["op"]].index]
    ends = [n for n in folds if graph[n]["op"] == "sum"] + places
    terms = Graph()
    terms.nx, terms.inputs = graph.nx, graph.inputs
    terms.outputs = [graph.operands(n)[0] for n in ends]

    def run(arrays: Arrays) -> list[mx.array]:
        got, wanted = launch(arrays), replay_fp32(graph, arrays)
        values = dict(zip(ends, replay_fp32(terms, arrays), strict=True)) if ends else {}
        for index, node in enumerate(graph.outputs):
            pair, size = (got[index], wanted[index]), None
            if node in places:
                pair = tuple([_found(values[node], graph[node]["axes"], p) for p in pair])
            elif node in values:
                size = mx.abs(values[node].astype(mx.float32)).sum(graph[node]["axes"])
            _compare(*pair, False, f"{name}, output {index}", size)
        return got

    return run


def _found(values: mx.array, axes: tuple[int, ...], places: mx.array) -> mx.array:
    """Those of `values` that stand at `places`, counted over `axes`, which `places` keeps."""
    rows = tuple([d for d in range(values.ndim) if d not in axes])
    apart = values.transpose(*rows, *axes).reshape(*[values.shape[d] for d in rows], -1)
    found = mx.take_along_axis(apart, places.reshape(*apart.shape[:-1], 1), axis=-1)
    return found.reshape(places.shape)


def same(launch: Launcher, plain: Launcher, exact: bool, name: str) -> Launcher:
    """`launch`, checked likewise against `plain`, another way to the same results."""

    def run(arrays: Arrays) -> list[mx.array]:
        got, wanted = launch(arrays), plain(arrays)
        for index, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
            _compare(mine, theirs, exact, f"{name}, output {index}")
        return got

    return run


def _compare(
    got: mx.array, wanted: mx.array, exact: bool, what: str, terms: mx.array | None = None
) -> None:
    if got.size == 0:
        return
    with mx.stream(mx.cpu):
        error, allowed = _distance(got, wanted, exact)
        if terms is not None:
            allowed = allowed + OF_LARGEST * terms.reshape(-1).astype(mx.float64)
        worst = int(mx.argmax(error - allowed).item())
        if error[worst].item() <= allowed[worst].item():
            return
        place, rest = [], worst
        for size in reversed(got.shape):
            place.append(rest % size)
            rest //= size
        values = [a.reshape(-1)[worst].item() for a in (got, wanted)]
    raise CheckError(
        f"[zmlx.check] {what}: kernel and MLX ops part, worst at {tuple(reversed(place))}: "
        f"kernel {values[0]!r}, MLX {values[1]!r} ({got.dtype}, shape {got.shape}). "
        "Please report it, with the function."
    )


def _distance(got: mx.array, wanted: mx.array, exact: bool) -> tuple[mx.array, mx.array]:
    """Flat (error, what is allowed), in float64; inf where only one is NaN or infinite."""
    a, b = got.reshape(-1).astype(mx.float64), wanted.reshape(-1).astype(mx.float64)
    same = (a == b) | (mx.isnan(a) & mx.isnan(b))
    finite = mx.isfinite(a) & mx.isfinite(b)
    error = mx.where(same, 0.0, mx.where(finite, mx.abs(a - b), mx.inf))
    dtype = name_of(got.dtype)
    if exact or dtype not in TOLERANCES:
        return error, mx.zeros_like(error)
    size = mx.where(mx.isfinite(b), mx.abs(b), 0.0)
    tolerance = TOLERANCES[dtype]
    relative = max(RELATIVE, 4 * tolerance.rtol)
    return error, relative * size + OF_LARGEST * mx.max(size) + tolerance.atol
