"""Graph: a traced function, a region or a derivative, as data over a networkx DiGraph.

Node ids are ints that grow in creation order, which is always a topological order.

Node attributes (all of them, for every node):
  kind    "input"   an array that the caller passes; `index` is its position
          "scalar"  a Python number that the caller passes, a run-time kernel argument; `index` likewise
          "const"   a Python number fixed in the text; `value`
          "array"   an array captured when the trace was made; `value`
          "op"      an elementwise op of the table; `op` names its row
          "opaque"  anything else, run by MLX; `call` is an OpaqueCall
          "item"    one output of a multi-output opaque node; `index` is its position
  shape   tuple of ints seen when tracing (sizes are an example, only ones and ranks are meant)
  dtype   MLX name of the result, e.g. "bfloat16"; for weak Python numbers the type they adopt
  at      "op" only: the type that the operands are converted to before computing
  loc     "file.py:12" of the user's line, or ""

Edge attribute: `positions`, the operand positions at which the source feeds the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from zmlx.errors import PlanError

Scalar = bool | int | float | complex


@dataclass(frozen=True)
class Ref:
    """Stands in an OpaqueCall's arguments for the value of operand number `position`."""

    position: int


@dataclass(frozen=True, eq=False)
class OpaqueCall:
    """A call that MLX runs: `fn(*args, **kwargs)` with each Ref replaced by an operand's value."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    label: str = ""  # how reports call it, e.g. "matmul"
    outputs: int = 0  # 0: one array; n > 0: a flat sequence of n arrays, read through "item" nodes


class Graph:
    """A directed acyclic graph of array values with named inputs and outputs."""

    def __init__(self) -> None:
        self.nx = nx.DiGraph()
        self.inputs: list[int] = []  # ids of "input" and "scalar" nodes, by index
        self.outputs: list[int] = []

    # -- building ---------------------------------------------------------------------------------
    def add(
        self,
        kind: str,
        operands: Sequence[int] = (),
        *,
        shape: tuple[int, ...] = (),
        dtype: str = "float32",
        loc: str = "",
        **attributes: Any,
    ) -> int:
        """Append a node fed by `operands` (ids, in order; repeats allowed) and return its id."""
        node = self.nx.number_of_nodes()
        if any(not 0 <= o < node for o in operands):
            raise PlanError(f"[zmlx.trace] node {node} uses an unknown operand: {list(operands)}")
        self.nx.add_node(
            node,
            kind=kind,
            operands=tuple(operands),
            shape=tuple(shape),
            dtype=dtype,
            loc=loc,
            **attributes,
        )
        for position, operand in enumerate(operands):
            if self.nx.has_edge(operand, node):
                self.nx.edges[operand, node]["positions"] += (position,)
            else:
                self.nx.add_edge(operand, node, positions=(position,))
        if kind in ("input", "scalar"):
            self.nx.nodes[node]["index"] = len(self.inputs)
            self.inputs.append(node)
        return node

    # -- reading ----------------------------------------------------------------------------------
    def __getitem__(self, node: int) -> dict[str, Any]:
        return self.nx.nodes[node]

    def __len__(self) -> int:
        return self.nx.number_of_nodes()

    def __iter__(self) -> Iterator[int]:
        """All ids in topological order."""
        return iter(range(len(self)))

    def operands(self, node: int) -> tuple[int, ...]:
        return self.nx.nodes[node]["operands"]

    def users(self, node: int) -> list[int]:
        return sorted(self.nx.successors(node))

    def kind(self, node: int) -> str:
        return self.nx.nodes[node]["kind"]
