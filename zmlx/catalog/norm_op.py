"""Norm: RMSNorm and LayerNorm in all their forms, from one set of expressions.

Comes in: what a norm adds first, which weights it has, whether it drops elements, whether it gives
the sum too. Goes out: an op whose forward pass is one kernel, and whose gradient is one for the
rows and one for the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import mlx.core as mx

from zmlx.catalog.dropout_op import DROPPED, dropped
from zmlx.fuse.function_rules import FunctionRules
from zmlx.rows.columns import ColumnSums
from zmlx.rows.op import RowOp
from zmlx.rows.rules import RowFunction, RowRules, row_function
from zmlx.rows.spec import Fold, Output, RowSpec, add

Arrays = Sequence[mx.array]
Passes = tuple[tuple[Fold, ...], ...]


@dataclass(frozen=True)
class Norm:
    """One norm. Inputs: x, the residual, the weights, eps, and p, keep, seed of the mask."""

    name: str
    centred: bool = False  # LayerNorm
    residual: bool = False
    weights: tuple[str, ...] = ()  # multiplied, then added
    dropout: bool = False
    keeps_sum: bool = False  # gives x + residual as its second output
    threadgroup: int = 256
    where: str = "norms"  # the module of the catalog, for errors

    @cached_property
    def op(self) -> RowOp:
        """Takes the inputs, gives one or two outputs of the shape of x."""
        rules: FunctionRules = RowRules(self._forward, self._rerun, self._pull)
        if self.dropout:
            rules = FunctionRules(self._dropped_function, self._pull)
        return RowOp(self._forward, self.threadgroup, rules=rules)

    # -- expressions ------------------------------------------------------------------------------
    @property
    def _value(self) -> str:
        return "(x + residual)" if self.residual else "x"

    @property
    def _inputs(self) -> tuple[str, ...]:
        mask = ("p", "keep", "seed") if self.dropout else ()
        return ("x", *(("residual",) if self.residual else ()), *self.weights, "eps", *mask)

    @property
    def _statistics(self) -> Passes:
        """The variance is that of the centred row; `shift` is what its mean lost in rounding."""
        value = self._value
        if not self.centred:
            return ((add("squares", f"{value} * {value}"),),)
        apart = f"({value} - total / d)"
        folds = (add("shift", apart), add("squares", f"{apart} * {apart}"))
        return ((add("total", value),), folds)

    @property
    def _scale(self) -> str:
        if not self.centred:
            return "metal::rsqrt(squares / d + eps)"
        # Of rows of a million elements, far from zero and all but equal, rounding may leave less
        # than nothing: the variance is at least a millionth of what the mean was off, squared.
        off = "(shift / d) * (shift / d)"
        variance, least = f"squares / d - {off}", f"{off} * 1e-6f"
        return f"metal::rsqrt(({variance} < {least} ? {least} : {variance}) + eps)"

    @property
    def _normed(self) -> str:
        centre = f"({self._value} - total / d - shift / d)" if self.centred else self._value
        return f"{centre} * {self._scale}"

    @cached_property
    def _forward(self) -> RowSpec:
        result = self._normed
        for sign, weight in zip("*+", self.weights, strict=False):
            result = f"{result} {sign} {weight}"
        if self.dropout:
            result = f"{DROPPED} ? 0.0f : ({result}) * keep"
        outputs = [Output("out", result), Output("total_out", self._value)]
        return RowSpec(
            self.name, self._inputs, self._statistics, tuple(outputs[: 1 + self.keeps_sum]),
            typed=frozenset({"seed"} if self.dropout else ()), where=self.where,
        )  # fmt: skip

    # -- derivatives ------------------------------------------------------------------------------
    @cached_property
    def _plain(self) -> Norm:
        """The norm without its mask."""
        return replace(self, name=f"{self.name}_plain", dropout=False)

    def _rerun(self, arrays: Arrays) -> list[mx.array]:
        return self.op(*arrays)

    @cached_property
    def _dropped_function(self) -> RowFunction:
        plain = row_function(self._plain._forward)

        def run(arrays: Arrays) -> list[mx.array]:
            (found,) = plain(arrays[:-3])
            return [dropped(found, *arrays[-3:])]

        return run

    @cached_property
    def backward(self) -> RowOp:
        """Takes the inputs without those of the mask, and the cotangents.

        Gives the gradient of a row and, for the weights, the numbers that normed it.
        """
        inputs = (*self._plain._inputs, "g", *(("g_sum",) if self.keeps_sum else ()))
        q = f"(g * {self.weights[0]})" if self.weights else "g"
        passes: Passes
        if self.centred:
            means = (add("mean_q", q), add("mean_qh", f"{q} * ({self._normed})"))
            passes = (*self._statistics, means)
            gradient = f"{self._scale} * ({q} - mean_q / d - ({self._normed}) * (mean_qh / d))"
        else:
            passes = ((*self._statistics[0], add("dot", f"{q} * {self._value}")),)
            part = f"({self._normed}) * (dot / d * {self._scale})"
            gradient = f"{self._scale} * ({q} - {part})"
        if self.keeps_sum:
            gradient += " + g_sum"
        outputs = [Output("dx", gradient), Output("scale", self._scale, True, "float32")]
        if self.centred:
            outputs.append(Output("centre", "total / d", True, "float32"))
            outputs.append(Output("rest", "shift / d", True, "float32"))
        row = RowSpec(f"{self.name}_backward", inputs, passes, tuple(outputs), where=self.where)
        return RowOp(row, self.threadgroup)

    @cached_property
    def _sums(self) -> ColumnSums:
        """The gradients of the weights."""
        value = self._value
        normed = f"({value} - centre - rest) * scale" if self.centred else f"{value} * scale"
        numbers = ("scale", "centre", "rest") if self.centred else ("scale",)
        residual = ("residual",) if self.residual else ()
        exprs = (f"g * ({normed})", "g")[: len(self.weights)]
        return ColumnSums(f"{self.name}_weights", ("x", *residual, "g", *numbers), exprs)

    def _pull(
        self, primals: Arrays, cotangents: Arrays, argnums: Sequence[int], outputs: Arrays
    ) -> dict[int, mx.array]:
        arrays = list(primals[:-3] if self.dropout else primals)
        g = dropped(cotangents[0], *primals[-3:]) if self.dropout else cotangents[0]
        terms = 2 if self.residual else 1
        if len({a.dtype for a in arrays[:terms]}) > 1:  # the wider one's gradient keeps its digits
            arrays[:terms] = [a.astype(mx.float32) for a in arrays[:terms]]
        dx, *numbers = self.backward(*arrays, g, *cotangents[1:])
        found = {i: dx.astype(primals[i].dtype) for i in range(terms)}
        # A weight that vmap has given a value for each row is left to the plain function.
        d = arrays[0].shape[-1]
        shared = [i for i in range(terms, terms + len(self.weights)) if primals[i].size == d]
        if any(i in shared for i in argnums):
            sums = self._sums([*arrays[:terms], g, *numbers])
            for i in shared:
                found[i] = sums[i - terms].reshape(primals[i].shape).astype(primals[i].dtype)
        return found
