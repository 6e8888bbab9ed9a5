"""Tracebacks: what an error that leaves ZMLX shows: the user's lines, and not ours between them.

Comes in: an error on its way to the caller. Goes out: the same, its traceback without ZMLX's own
frames, so that the line of the fused function comes right behind the line that called it. An error
with no line of the user's and no words of ours is a defect, and keeps all. zmlx.fuse.api calls it.
"""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from zmlx.errors import PlanError
from zmlx.switches import TRACEBACK
from zmlx.trace.locate import is_own

E = TypeVar("E", bound=BaseException)


def shortened(error: E) -> E:
    """`error`, to be raised again."""
    if TRACEBACK.on():
        return error
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if _is_told(link):
            link.__traceback__ = _users(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error


def _is_told(error: BaseException) -> bool:
    """Whether the error is about the user's code: raised under a line of it, or of
    a layer of MLX's that it has, or in our words.
    """
    if isinstance(error, PlanError):
        return False
    step, inside = error.__traceback__, False
    while step is not None:
        own = is_own(step.tb_frame.f_code.co_filename)
        if inside and not own:
            return True
        inside, step = inside or own, step.tb_next
    return str(error).startswith("[zmlx.")


def _users(step: TracebackType | None) -> TracebackType | None:
    if step is None:
        return None
    rest = _users(step.tb_next)
    if is_own(step.tb_frame.f_code.co_filename):
        return rest
    return TracebackType(rest, step.tb_frame, step.tb_lasti, step.tb_lineno)
