"""Places: the positions along an axis, as an array that kernels read beside a row's elements.

Called with any array that has the axis; zmlx.fuse.inline writes an index into a row with it.
"""

from __future__ import annotations

import mlx.core as mx

from zmlx.trace.graph import Graph


def are_places(graph: Graph, node: int) -> bool:
    """Whether an array's elements are where they stand along its only axis longer than one."""
    return graph.kind(node) == "opaque" and isinstance(graph[node]["call"].fn, Places)


class Places:
    """0, 1, 2, … along an axis, counted from the last one; of type int32.

    `behind` axes of size one follow, as many as the rows have that it stands beside.
    """

    def __init__(self, axis: int, behind: int) -> None:
        self.axis, self.behind = axis, behind

    def __call__(self, x: mx.array) -> mx.array:
        found = mx.arange(x.shape[self.axis], dtype=mx.int32)
        return found.reshape(-1, *[1] * self.behind)
