"""Differentiable ops from C expressions: `unary_from_expr`, `binary_from_expr`, `nary_from_expr`.

Comes in: an expression and, if wanted, its gradient. Goes out: a function of arrays for mx.grad,
mx.vjp, mx.jvp and mx.vmap. A gradient that is left out is derived. See docs/helpers.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx

from zmlx.helpers.agree import check_bodies, check_gradient
from zmlx.helpers.nary import NaryOp, NarySpec
from zmlx.helpers.op import ElementwiseOp
from zmlx.helpers.spec import (
    OpSpec,
    checked_compute,
    checked_expression,
    checked_header,
    checked_name,
    checked_names,
    checked_text,
    refuse_reserved,
)
from zmlx.registry import forgets, lists

__all__ = ["binary_from_expr", "nary_from_expr", "unary_from_expr"]

_WHERE = "autograd"


def unary_from_expr(
    *,
    name: str,
    fwd_expr: str,
    vjp_expr: str | None = None,
    compute_dtype: mx.Dtype | None = None,
    ensure_row_contiguous: bool = True,
    use_output: bool = True,
    header: str | None = "",
    vjp_prelude: str = "",
    check: bool = False,
) -> ElementwiseOp:
    """A differentiable op `f(x)`.

    Args:
        name: an identifier; kernels of their own are called <name>_fwd and <name>_bwd.
        fwd_expr: C over `x`, the element in the type `T`.
        vjp_expr: the gradient, over `g` (the cotangent), `x` and `y` (the result), and what
            `vjp_prelude` declares. None: derived from fwd_expr.
        compute_dtype: the type `T`; half types are held in float32. None is float32.
        ensure_row_contiguous: see zmlx.elementwise.unary.
        use_output: `x` and `y` can both be named whatever it says; where it is True, `vjp_prelude`
            may declare an `x` of its own.
        header: text before the kernel; empty means zmlx.msl.DEFAULT_HEADER.
        vjp_prelude: statements before vjp_expr, such as "T s = kk_sigmoid(x);".
        check: compare vjp_expr with the derived gradient and with finite differences, now.

    Returns:
        A function; its result has the shape and type of its input.

    Raises:
        ValueError: for wrong names and types, and for text with a slip, at its column.
        DeriveError: with check=True, where the gradient given is not the derivative. Calls raise
            it for a gradient that was neither given nor can be derived.
    """
    fields = _fields(name, fwd_expr, compute_dtype, ensure_row_contiguous, header, vjp_prelude)
    pulls = _pulls({"vjp_expr": vjp_expr}, name, vjp_prelude)
    if use_output and pulls and _declares(vjp_prelude, "x"):
        pulls["hidden"] = ("x",)
    if vjp_expr is None and vjp_prelude.strip():
        raise ValueError(
            f"[zmlx.{_WHERE}] {name!r}: vjp_prelude was given, but no vjp_expr that could use it. "
            "Give vjp_expr, or leave both out to have the gradient derived."
        )
    spec = OpSpec(names=("x",), buffers=("inp",), **fields, **pulls)
    return _checked(_op(spec, False), check)


def binary_from_expr(
    *,
    name: str,
    fwd_expr: str,
    vjp_lhs_expr: str | None = None,
    vjp_rhs_expr: str | None = None,
    compute_dtype: mx.Dtype | None = None,
    ensure_row_contiguous: bool = True,
    header: str | None = "",
    vjp_prelude: str = "",
    check: bool = False,
) -> ElementwiseOp:
    """A differentiable op `f(lhs, rhs)`; the inputs broadcast and must be of one type.

    Args:
        fwd_expr: C over `a` and `b`, and what `vjp_prelude` declares.
        vjp_lhs_expr: the gradient of `a`, over `a`, `b`, `g` and the result `y`; derived if None.
        vjp_rhs_expr: the gradient of `b`, likewise.
        vjp_prelude: statements before all three expressions; `g` is not known to them.

    The other arguments, and what is raised, are as for `unary_from_expr`.
    """
    fields = _fields(name, fwd_expr, compute_dtype, ensure_row_contiguous, header, vjp_prelude)
    given = {"vjp_lhs_expr": vjp_lhs_expr, "vjp_rhs_expr": vjp_rhs_expr}
    pulls = _pulls(given, name, vjp_prelude)
    spec = OpSpec(names=("a", "b"), buffers=("lhs", "rhs"), prelude_forward=True, **fields, **pulls)
    return _checked(_op(spec, True), check)


def nary_from_expr(
    *,
    name: str,
    fwd_source: str,
    bwd_source: str | None = None,
    input_names: Sequence[str],
    output_names: Sequence[str],
    compute_dtype: mx.Dtype | None = None,
    ensure_row_contiguous: bool = True,
    header: str | None = "",
    check: bool = False,
) -> NaryOp:
    """A differentiable op from whole kernel bodies, one thread for each element.

    Args:
        fwd_source: the body of the forward kernel, from buffers `input_names` to `output_names`.
            `T` is the compute type, `O` the type of the outputs.
        bwd_source: the body of the backward kernel: it also sees the cotangent as `cotan` (for
            several outputs one `cotan_<output>` each) and writes `d<name>` for each input. None:
            derived from fwd_source, where that is declarations, assignments and stores such as
            `out[elem] = ...;` with `elem` the thread's place; elsewhere gradients are refused.
        input_names: the names of the buffers that are read.
        output_names: the names of the buffers that are written.
        check: run both bodies now, and compare bwd_source with finite differences.

    The other arguments are as for `unary_from_expr`.

    Returns:
        A function of arrays of one shape. It returns one array, or a tuple for several outputs, of
        the shape and type of the first input.
    """
    checked_name(name, _WHERE)
    inputs = checked_names(input_names, "input_names", name, _WHERE)
    outputs = checked_names(output_names, "output_names", name, _WHERE)
    refuse_reserved([n for n in inputs if n not in ("elem",)], "input_names", name, _WHERE)
    refuse_reserved([n for n in outputs if n != "out"], "output_names", name, _WHERE)
    if bwd_source is not None:
        checked_text(bwd_source, "bwd_source", name, _WHERE)
    spec = NarySpec(
        name, inputs, outputs,
        checked_text(fwd_source, "fwd_source", name, _WHERE), bwd_source,
        checked_compute(compute_dtype, name, _WHERE), bool(ensure_row_contiguous),
        checked_header(header, name, _WHERE),
    )  # fmt: skip
    spec.check(_WHERE)
    op = _nary(spec)
    if check and bwd_source is not None:
        check_bodies(op)
    return op


def _fields(
    name: Any, expr: Any, compute: Any, contiguous: Any, header: Any, prelude: Any
) -> dict[str, Any]:
    checked_name(name, _WHERE)
    return {
        "name": name,
        "expr": checked_expression(expr, "fwd_expr", name, _WHERE),
        "expr_name": "fwd_expr",
        "suffix": "_fwd",
        "compute": checked_compute(compute, name, _WHERE),
        "contiguous": bool(contiguous),
        "header": checked_header(header, name, _WHERE),
        "prelude": checked_text(prelude, "vjp_prelude", name, _WHERE, empty=True),
    }


def _pulls(given: dict[str, str | None], name: str, prelude: str) -> dict[str, Any]:
    """The gradients given; those left out are derived."""
    texts = tuple(
        None if text is None else checked_expression(text, argument, name, _WHERE)
        for argument, text in given.items()
    )
    known = [text for text in texts if text is not None]
    if not known:
        return {}
    uses = any(re.search(r"\by\b", text) for text in (*known, prelude))
    sees = uses and re.search(r"\by\s*=(?!=)", prelude) is None
    return {"pulls": texts, "pull_names": tuple(given), "sees_output": sees}


def _declares(prelude: str, name: str) -> bool:
    """Whether statements declare `name`, as in `T x = ...;`."""
    return re.search(rf"\b[A-Za-z_]\w*\s+{name}\s*(=(?!=)|;|,)", prelude) is not None


def _checked(op: ElementwiseOp, check: bool) -> ElementwiseOp:
    if check and op.spec.pulls:
        check_gradient(op)
    return op


@lru_cache(maxsize=1024)
def _op(spec: OpSpec, same_dtype: bool) -> ElementwiseOp:
    op = ElementwiseOp(spec, _WHERE, same_dtype)
    lists(op, spec.forward_name, spec.names, ("out",), spec)
    if spec.given:
        gradients = [f"d{spec.names[i]}" for i in spec.given]
        lists(op, f"{spec.name}_bwd", (*spec.names, "cotan"), gradients, spec)
    return op


@lru_cache(maxsize=1024)
def _nary(spec: NarySpec) -> NaryOp:
    return NaryOp(spec, _WHERE)


forgets(_op.cache_clear)
forgets(_nary.cache_clear)
