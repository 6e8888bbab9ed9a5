"""Expressions: C text of kernels read as graphs, so that it can be fused and differentiated."""

from zmlx.expr.body import parse_body
from zmlx.expr.errors import ExpressionError, Source, Unparsed
from zmlx.expr.graphs import parse, parse_all
from zmlx.expr.lower import Names
from zmlx.expr.update import split_update

__all__ = [
    "ExpressionError",
    "Names",
    "Source",
    "Unparsed",
    "parse",
    "parse_all",
    "parse_body",
    "split_update",
]
