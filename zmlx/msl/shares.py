"""Shares: one division a row where a row is divided by its own sum.

Comes in: a region that zmlx.msl.schedule is about to cut into walks. Goes out: the same, where
e / sum(e), and whatever is divided by a sum of exponentials, is multiplied by 1 / sum(e) instead,
which all elements of a row share; an exponential divided by one number a row, which may be such a
sum that the forward pass saved, too. The inverse of a sum below 2^-126 would overflow: numerator
and sum are scaled by one power of two, unless a term of the sum is known to be 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zmlx.trace.graph import Graph
from zmlx.trace.passes import verified

_FAR = 2.0**64  # an inverse within it is exact to rounding, and so is a number scaled by it


@verified("shares")
def with_shares(region: Graph) -> Graph:
    """`region` with one division a row in place of one an element."""
    shared = {n for n in region if _is_shared(region, n)}
    return _Shares(region, shared).made() if shared else region


def _is_shared(region: Graph, node: int) -> bool:
    data = region[node]
    if data["kind"] != "op" or data["op"] != "divide":
        return False
    above, below = region.operands(node)
    if not _is_sum(region, below):
        exponential = region[above].get("op") == "exp"
        return (
            exponential and 1 in region[below]["shape"] and data["shape"] != region[below]["shape"]
        )
    terms = region[below]["operands"][0]
    return above == terms or region[terms].get("op") == "exp"


def _is_sum(region: Graph, node: int) -> bool:
    return region[node]["kind"] == "reduce" and bool(region[node]["op"] == "sum")


def _has_one(region: Graph, total: int) -> bool:
    """Whether `total` sums exponentials of differences to their own maximum: its terms lie in
    0 … 1, and one is 1 (or NaN)."""
    if not _is_sum(region, total):
        return False
    exponent = region.operands(region.operands(total)[0])
    difference = region[exponent[0]] if region[region.operands(total)[0]].get("op") == "exp" else {}
    if difference.get("op") != "subtract":
        return False
    value, most = difference["operands"]
    peak = region[most]
    return peak.get("op") == "max" and peak["kind"] == "reduce" and peak["operands"] == (value,)


class _Shares:
    def __init__(self, region: Graph, shared: set[int]) -> None:
        self.region, self.shared = region, shared
        self.graph = Graph()
        self.inverses: dict[int, tuple[int | None, int]] = {}

    def made(self) -> Graph:
        new = dict[int, int]()
        for node in self.region:
            data = self.region.attributes(node)
            operands = [new[o] for o in self.region.operands(node)]
            if node in self.shared:
                new[node] = self._product(self.region.operands(node)[1], operands, data)
            else:
                new[node] = self.graph.add(self.region.kind(node), operands, **data)
        self.graph.outputs = [new[n] for n in self.region.outputs]
        return self.graph

    def _product(self, total: int, operands: list[int], data: dict[str, Any]) -> int:
        above, below = operands
        if total not in self.inverses:
            self.inverses[total] = self._inverse(total, below, data)
        scale, inverse = self.inverses[total]
        if scale is not None:
            above = self._op("multiply", (above, scale), data)
        return self.graph.add("op", (above, inverse), **{**data, "op": "multiply"})

    def _inverse(self, total: int, below: int, like: Mapping[str, Any]) -> tuple[int | None, int]:
        """What both are multiplied by, if by anything, and the inverse of the sum so scaled."""
        row = {**like, "shape": self.graph[below]["shape"]}
        if _has_one(self.region, total):
            return None, self._op("reciprocal", (below,), row)
        one, far, near = (
            self.graph.add("const", dtype="float32", value=v) for v in (1.0, _FAR, 1 / _FAR)
        )
        size = self._op("abs", (below,), row)
        large, small = (
            self._op(op, (size, end), {**row, "dtype": "bool"})
            for op, end in (("greater", far), ("less", near))
        )
        scale = self._op("where", (small, far, self._op("where", (large, near, one), row)), row)
        return scale, self._op("reciprocal", (self._op("multiply", (below, scale), row),), row)

    def _op(self, op: str, operands: tuple[int, ...], like: Mapping[str, Any]) -> int:
        data = {k: like[k] for k in ("shape", "dtype", "at", "loc")}
        return self.graph.add("op", operands, op=op, **data)
