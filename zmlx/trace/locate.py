"""Locations: the user's line behind a call, an error or a lost array. The tracer is the caller."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import mlx.core as mx

from zmlx.trace.operands import arrays_in
from zmlx.trace.paths import leaves
from zmlx.trace.placeholders import depends_on_one
from zmlx.trace.proxy import Proxy

_OWN = (os.path.dirname(os.path.dirname(__file__)) + os.sep, os.path.dirname(mx.__file__) + os.sep)
_RUN = os.path.join(os.path.dirname(__file__), "run.py")
NAMED_DEEP = 4  # containers inside one another in which an array still has a name
_VISIBLE = (os.path.join(_OWN[0], "demo") + os.sep,)


def is_users(filename: str) -> bool:
    return not filename.startswith(_OWN) or filename.startswith(_VISIBLE)


def is_own(filename: str) -> bool:
    """Whether that file is ZMLX's."""
    return filename.startswith(_OWN[0]) and not filename.startswith(_VISIBLE)


def _line(filename: str, line: int) -> str:
    return f"{_cell(filename) or os.path.basename(filename)}:{line}"


def _cell(filename: str) -> str:
    """What a notebook calls a cell whose code has that file name, "In[3]"; "" for real files."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    name_of = getattr(getattr(shell, "compile", None), "format_code_name", None)
    found = name_of(filename) if name_of is not None else None
    return str(found[1]) if found else ""


def here() -> str:
    """`file.py:12` of the innermost running line outside ZMLX and MLX, inside the traced call."""
    frame = _frame()
    return _line(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""


def where() -> str:
    """The same as an error's message begins: `file.py:12: in f: `."""
    frame = _frame()
    if frame is None:
        return ": "
    return f"{_line(frame.f_code.co_filename, frame.f_lineno)}: in {frame.f_code.co_name}: "


def _frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != _RUN:
        if is_users(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def is_named(array: mx.array) -> bool:
    """Whether the user's running code reaches `array` by a global or a closure: it was there."""
    frame = _frame()
    while frame is not None and frame.f_code.co_filename != _RUN:
        code, held = frame.f_code, frame.f_locals
        values = [held.get(name) for name in code.co_freevars]
        values += [frame.f_globals.get(name) for name in code.co_names]
        if any(leaf is array for value in values for _, leaf in leaves(value, "", NAMED_DEEP)):
            return True
        frame = frame.f_back
    return False


def of_error(error: BaseException) -> str:
    """The innermost line outside ZMLX and MLX that `error` passed."""
    found, step = "", error.__traceback__
    while step is not None:
        if is_users(step.tb_frame.f_code.co_filename):
            found = _line(step.tb_frame.f_code.co_filename, step.tb_lineno)
        step = step.tb_next
    return found


def of_function(fn: Callable[..., Any]) -> str:
    """Where `fn` is defined."""
    fn = getattr(fn, "__func__", fn)
    if "__signature__" in getattr(fn, "__dict__", {}):  # zmlx's own, in place of a partial
        fn = getattr(fn, "__wrapped__", fn)
    code = getattr(fn, "__code__", None) or getattr(type(fn).__call__, "__code__", None)
    return _line(code.co_filename, code.co_firstlineno) if code is not None else ""


class Watch:
    """A sys.settrace function that finds the line where an array left the tracer's sight."""

    def __init__(self, containers: Sequence[Any]) -> None:
        self.containers = containers
        self.found = ""
        self._seen: dict[int, Any] = {}
        self._lines: dict[FrameType, int] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename  # a `with` of ours runs lines of contextlib
        return self._step if is_users(name) and name != contextlib.__file__ else None

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "return":
            self._check([argument], frame, frame.f_lineno)
        self._check(list(frame.f_locals.values()), frame, self._lines.get(frame, frame.f_lineno))
        self._lines[frame] = frame.f_lineno
        return self._step

    def _check(self, values: list[Any], frame: FrameType, line: int) -> None:
        for array in arrays_in([values, *self.containers]):
            if type(array) is Proxy or id(array) in self._seen or self.found:
                continue
            self._seen[id(array)] = array
            if depends_on_one(array):
                self.found = _line(frame.f_code.co_filename, line)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Within the block `watch` sees every line that runs."""
    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
