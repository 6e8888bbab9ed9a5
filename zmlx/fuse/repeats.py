"""Repeats: calls that are nothing but functions of MLX, of their operands or of their shapes.

Comes in: opaque calls. Goes out: whether they always do the same, and what two equal ones have in
common. zmlx.fuse.simplify merges equal ones, zmlx.fuse.taped makes their graph without Python.
"""

from __future__ import annotations

from typing import Any

from zmlx.fuse.places import Places
from zmlx.fuse.pulled import Pulled
from zmlx.fuse.views import Lifted, content_of
from zmlx.trace.calls import Flat, is_made_of_mlx
from zmlx.trace.graph import OpaqueCall
from zmlx.trace.operands import arrays_in

_BUILTIN = ("nb_func", "nb_method")  # types of MLX's own functions


def calls_mlx(call: OpaqueCall) -> bool:
    """Whether a call always does the same with equal operands."""
    if any(True for _ in arrays_in((call.args, call.kwargs))):  # which may be written into
        return False
    if isinstance(call.fn, Lifted):
        return calls_mlx(call.fn.call)
    if isinstance(call.fn, Pulled):
        return calls_mlx(call.fn.call)
    fn = call.fn.fn if isinstance(call.fn, Flat) else call.fn
    return type(fn) is Places or type(fn).__name__ in _BUILTIN or is_made_of_mlx(fn)


def key_of(call: OpaqueCall) -> Any:
    """What equal calls of whatever operands have in common; None where another may differ."""
    if not calls_mlx(call):
        return None
    fn = call.fn
    if isinstance(fn, Lifted):
        return ("lifted", fn.kind, *content_of(fn.call))
    if isinstance(fn, Pulled):
        return ("pulled", key_of(fn.call), fn.given, fn.moving, fn.places, fn.results)
    return ("call", *content_of(call))
