"""Functions of MLX that only C code holds: no wrapper can be put in their place."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import mlx.core as mx


def hide(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called by C code that keeps it to itself."""
    return lru_cache(maxsize=0)(function)


def _hidden(module: Any) -> SimpleNamespace:
    kind = type(mx.exp)
    return SimpleNamespace(**{k: hide(v) for k, v in vars(module).items() if type(v) is kind})


HIDDEN = _hidden(mx)  # mlx.core, hidden
for _name in ("random", "fast", "linalg", "fft"):
    setattr(HIDDEN, _name, _hidden(getattr(mx, _name)))
