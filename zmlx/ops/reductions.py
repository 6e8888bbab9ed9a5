"""REDUCTIONS: the table of reductions, one row each; the only place where their rules stand.

Read by the graph (types), replay (MLX's function), the derivatives (the rules), emitters (how
elements join) and the tests (NumPy reference). A reduction folds some axes of one operand and keeps
them with size one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zmlx import dtypes

# What a reduction returns: its operand's type; that type with small integers widened; bool, to
# which the elements are converted first; or the place of an element, counted in row-major order
# over the folded axes.
RESULTS = ("operand", "wide", "bool", "index")

# A rule is None where nothing flows, MLX where MLX's own derivative runs as a call, or a tree:
# ("op", row, *trees), ("reduce", row, tree), or a name: "x" and "out" are the operand and the
# result, "g" the cotangent or the tangent.
Rule = Any
MLX = "mlx"

_WIDER = {
    **dict.fromkeys(("bool", "int8", "int16"), "int32"),
    **dict.fromkeys(("uint8", "uint16"), "uint32"),
}
_HIT = ("op", "equal", "x", "out")
_SHARED = ("op", "multiply", ("op", "divide", "g", ("reduce", "sum", _HIT)), _HIT)
_NAN = "NaN wins; of equal ones the first stays"
_NAN_PLACE = "the first of equal ones; NaN wins; MLX folds one axis or all"


@dataclass(frozen=True)
class Reduction:
    """One reduction.

    `join` is an MSL expression over ``{a}``, what was folded so far, and ``{b}``, an element that
    comes later (or what was folded of such), both of the accumulator's type (`accumulates_in`).
    Where `index`, it is the condition under which the later element replaces the earlier one.
    """

    name: str  # of the row, and of MLX's function and method
    join: str
    result: str  # one of RESULTS
    first: str  # neutral element: "0", "1", "lowest", "highest" (of the type), "false", "true"
    pull: Rule  # the operand's gradient; shapes that are smaller than its are spread
    push: Rule  # the result's tangent
    ref: str  # NumPy expression in np, x and axes (a tuple); evaluated in float64
    empty: bool = True  # whether it has a value where no element is folded; else MLX raises
    source: str = ""

    def __post_init__(self) -> None:
        if self.result not in RESULTS:
            raise ValueError(f"reduction {self.name}: unknown result {self.result!r}")

    @property
    def index(self) -> bool:
        """Whether the result is a place and no value."""
        return self.result == "index"

    def dtype(self, operand: str) -> str:
        """The result's type for an operand of that type, as MLX has it."""
        if self.result == "wide":
            return _WIDER.get(operand, operand)
        return {"operand": operand, "bool": "bool", "index": "uint32"}[self.result]

    def accumulates_in(self, operand: str) -> str:
        """The type in which elements are joined: half types join in float32."""
        kind = operand if self.index else self.dtype(operand)
        return "float32" if kind in dtypes.HALVES else kind

    def neutral(self, dtype: str) -> bool | int | float:
        """What changes nothing when joined, for an accumulator of type `dtype`."""
        if self.first in ("false", "true"):
            return self.first == "true"
        if self.first in ("0", "1"):
            return float(self.first) if dtypes.is_float(dtype) else int(self.first)
        high = self.first == "highest"
        if dtype == "bool":
            return high
        if dtypes.is_float(dtype):
            return float("inf") if high else -float("inf")
        low, end = dtypes.integer_range(dtype)
        return end - 1 if high else low


REDUCTIONS: dict[str, Reduction] = {
    row.name: row
    for row in (
        Reduction(
            "sum", "{a} + {b}", "wide", "0", pull="g", push=("reduce", "sum", "g"),
            ref="np.sum(x, axis=axes, keepdims=True)",
        ),
        Reduction(
            "prod", "{a} * {b}", "wide", "1", pull=MLX, push=MLX,
            ref="np.prod(x, axis=axes, keepdims=True)",
            source="its derivative, the product of all others, is no fold: zeros may be among them",
        ),
        Reduction(
            "max", "({b} > {a} || {b} != {b}) ? {b} : {a}", "operand", "lowest",
            pull=_SHARED, push=MLX, ref="np.max(x, axis=axes, keepdims=True)", empty=False,
            source=f"{_NAN}; the gradient is shared equally at a tie, the tangent is the first's",
        ),
        Reduction(
            "min", "({b} < {a} || {b} != {b}) ? {b} : {a}", "operand", "highest",
            pull=_SHARED, push=MLX, ref="np.min(x, axis=axes, keepdims=True)", empty=False,
            source=f"{_NAN}; the gradient is shared equally at a tie, the tangent is the first's",
        ),
        Reduction(
            "all", "{a} && {b}", "bool", "true", pull=None, push=None,
            ref="np.all(x != 0, axis=axes, keepdims=True)",
        ),
        Reduction(
            "any", "{a} || {b}", "bool", "false", pull=None, push=None,
            ref="np.any(x != 0, axis=axes, keepdims=True)",
        ),
        Reduction(
            "argmax", "({b} > {a}) | (({b} != {b}) & ({a} == {a}))", "index", "lowest",
            pull=None, push=None, ref="places(np.argmax, x, axes)", empty=False, source=_NAN_PLACE,
        ),
        Reduction(
            "argmin", "({b} < {a}) | (({b} != {b}) & ({a} == {a}))", "index", "highest",
            pull=None, push=None, ref="places(np.argmin, x, axes)", empty=False, source=_NAN_PLACE,
        ),
    )
}  # fmt: skip
