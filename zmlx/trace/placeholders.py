"""Placeholders: arrays with a shape and a dtype that can never be evaluated.

All of them depend on one root: what mx.export_function hands to a function while it traces, kept
after that has ended (it traces inside any transformation, and where mx.compile is disabled). MLX
infers shapes and dtypes from them and raises when anything asks for a value; and whether an array
was computed from one is seen from its graph. The tracer is the caller.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence

import mlx.core as mx

ROOT = "zmlx_placeholder"
_LABEL = re.compile(r'label ="([^" ]*)')
_LOCK = threading.Lock()
_made: list[mx.array] = []


def _root() -> mx.array:
    if not _made:
        with _LOCK:  # two roots would hide from each other what depends on them
            if not _made:
                _made.append(_new_root())
    return _made[0]


def _new_root() -> mx.array:
    made: list[mx.array] = []

    def capture(array: mx.array) -> mx.array:
        made.append(array)
        return array

    with mx.stream(mx.cpu):
        mx.export_function(lambda item: None, capture, mx.zeros((), mx.bool_))
    return made[0]


def tied(array: mx.array) -> mx.array:
    """An array of the same shape and dtype that depends on the root."""
    return mx.depends([array], [_root()])[0]


def placeholders(specs: Sequence[tuple[tuple[int, ...], mx.Dtype]]) -> list[mx.array]:
    """One placeholder for each (shape, dtype)."""
    with mx.stream(mx.cpu):  # float64 exists there only
        return [tied(mx.zeros(shape, dtype)) for shape, dtype in specs]


def marked(shape: tuple[int, ...], dtype: mx.Dtype, mark: int) -> mx.array:
    """A placeholder that says which one it is to who reads MLX's graph (zmlx.trace.exported)."""
    with mx.stream(mx.cpu):
        tie = [_root(), mx.array(mark, mx.int64)]
        return mx.depends([mx.zeros(shape, dtype)], tie)[0]


def named_root() -> dict[str, mx.array]:
    """The root under the name that mx.export_to_dot shall give it."""
    return {ROOT: _root()}


def depends_on_one(array: mx.array) -> bool:
    """Whether the lazy `array` is computed from a placeholder."""
    return f'"{ROOT}" ->' in _graph_text(array)


def is_filled(array: mx.array) -> bool:
    """Whether `array` waits to be filled with one value, as mx.zeros_like(x) does."""
    return 'label ="Full"' in _graph_text(array)


def are_untouched(arrays: Sequence[mx.array]) -> bool:
    """Whether placeholders are still those that were made: MLX wrote nothing into them."""
    labels = _LABEL.findall(_graph_text(*arrays)) if arrays else []
    return set(labels) <= {"Broadcast", "Full", "Depends", "AsType"}


def _graph_text(*arrays: mx.array) -> str:
    text = io.StringIO()
    mx.export_to_dot(text, *arrays, **named_root())
    return text.getvalue()
