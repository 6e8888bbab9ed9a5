"""Reads: a gradient's graph, and what it reads of the forward pass.

zmlx.fuse.backward makes a Backward, zmlx.fuse.saved chooses what it reads, zmlx.fuse.whole runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zmlx.fuse.cuts import Layout
from zmlx.trace.graph import NUMBERS, Graph

Shape = tuple[int, ...]
Told = Callable[[Mapping[int, Layout]], int]
# Of a call: for each operand, by position, the results (0 where it gives one) that depend on it.
Links = Callable[[int], Mapping[int, Sequence[int]]]


def given_arrays(graph: Graph) -> list[int]:
    """What the op of a whole function is given, in order: its inputs that are arrays, and what the
    function has captured, which MLX may be transforming.
    """
    inputs = [node for node in graph.inputs if graph.kind(node) not in NUMBERS]
    return [*inputs, *[node for node in graph if graph.kind(node) == "array"]]


@dataclass(frozen=True)
class Read:
    """An input of a backward graph: the value of a node of the forward graph.

    Or its size along an axis, or a number told from how slices lie in it.
    """

    node: int
    size: int | None = None
    told: Told | None = None

    @property
    def is_number(self) -> bool:
        return self.size is not None or self.told is not None


@dataclass(frozen=True, eq=False)
class Backward:
    """Inputs of `graph`: the cotangents of the outputs used, in order, then `reads`.

    Outputs: the gradients of the arrays `found`, by their positions in `given_arrays`. `copies`:
    where in `graph` stand values of the forward graph's nodes that are computed again, or could be.
    """

    graph: Graph
    seeds: range
    reads: tuple[Read, ...]
    found: tuple[int, ...]
    copies: Mapping[int, int]
    moved: tuple[int, ...] = ()  # nodes that are cotangents, beside the seeds
