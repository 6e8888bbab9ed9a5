"""Shortened: a derivative's graph in fewer operations and walks.

Comes in: what the chain rule left. Goes out: a graph of the same values but for rounding. All that
plans a derivative calls it, but for numerics="mlx", which promises bits.
"""

from __future__ import annotations

from collections.abc import Collection

from zmlx.derive.distributed import distributed
from zmlx.derive.factor import factored
from zmlx.fuse.simplify import simplify
from zmlx.trace.graph import Graph


def shortened(graph: Graph, seeds: Collection[int] = (), moved: Collection[int] = ()) -> Graph:
    """`graph` factored, and with sums that wait for others of their row taken apart.

    `seeds` are the positions of the inputs that are cotangents or tangents, `moved` further nodes.
    """
    found = factored(graph, seeds, moved)
    simple = simplify(found)
    apart = distributed(simple)
    return found if apart is simple else apart
