"""Placeholders: arrays with a shape and a dtype that can never be evaluated.

They are what mx.compile hands to a function while it traces, kept after the trace has ended:
MLX infers shapes and dtypes from them, and raises when anything asks for a value. They are made on
a thread of their own, because inside a transformation of the caller mx.compile would not trace.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence

import mlx.core as mx

_PREFIX = "zmlx_placeholder_"


def placeholders(specs: Sequence[tuple[tuple[int, ...], mx.Dtype]]) -> list[mx.array]:
    """One placeholder for each (shape, dtype)."""
    made: list[mx.array] = []

    def capture(*arrays: mx.array) -> mx.array:
        made.extend(arrays)
        return arrays[0]

    def run() -> None:
        with mx.stream(mx.cpu):
            mx.compile(capture)(*[mx.zeros(shape, dtype) for shape, dtype in specs])

    if specs:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    return made


def _dot(array: mx.array, named: Sequence[mx.array]) -> str:
    """MLX's graph of `array` as DOT text, with `named` arrays under our names."""
    text = io.StringIO()
    mx.export_to_dot(text, array, **{f"{_PREFIX}{i}": p for i, p in enumerate(named)})
    return text.getvalue()


def depends_on(array: mx.array, sources: Sequence[mx.array]) -> bool:
    """Whether the lazy `array` is computed from any of `sources`."""
    return bool(sources) and _PREFIX in _dot(array, sources)


def mentions(array: mx.array, primitives: Sequence[str]) -> bool:
    """Whether MLX's graph of `array` holds one of these primitives."""
    text = _dot(array, ())
    return any(f'label ="{name}' in text for name in primitives)
