"""Filling: the arguments of a call from its template and the values of its operands.

Comes in: a tree with Refs, as zmlx.trace.graph.OpaqueCall holds it. Goes out: a function that makes
the tree of values; what is the same at every call is made once. zmlx.fuse.program calls it for each
call that MLX runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from zmlx.trace.graph import Ref

Filler = Callable[[Sequence[Any]], Any]


def is_fixed(tree: Any) -> bool:
    """Whether an argument is the same at every call: without Refs, and nobody can write to it."""
    if type(tree) is tuple:
        return all(map(is_fixed, tree))
    if type(tree) is slice:
        return all(map(is_fixed, (tree.start, tree.stop, tree.step)))
    return not isinstance(tree, (Ref, list, dict))


def filler(template: Any) -> Filler:
    """From the operands' values to `template` with each Ref replaced by its operand's value."""
    kind = type(template)
    if is_fixed(template):
        return lambda _: template
    if kind is Ref:
        return itemgetter(template.position)
    if kind is slice:
        start, stop, step = map(filler, (template.start, template.stop, template.step))
        return lambda values: slice(start(values), stop(values), step(values))
    if kind is dict:
        makers = {key: filler(item) for key, item in template.items()}
        return lambda values: {key: make(values) for key, make in makers.items()}
    if kind in (list, tuple):
        items = [filler(item) for item in template]
        return lambda values: kind([make(values) for make in items])
    return lambda _: template
