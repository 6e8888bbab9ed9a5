"""What tests of refusals share: a function that must be refused, at the line that says so."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import pytest
from tracing import traced

from zmlx.errors import TraceError

X = mx.array([0.5, -1.0, 2.0])


def line_of(fn, text: str) -> str:
    """`<file>:n` of the only line of `fn` that holds `text`."""
    file = Path(fn.__code__.co_filename)
    source = file.read_text().splitlines()
    first = fn.__code__.co_firstlineno
    numbers = [i for i, line in enumerate(source, 1) if text in line and i >= first]
    return f"{file.name}:{numbers[0]}:"


def refused(fn, *args, marker: str = "# here", words: str = "", **kwargs) -> str:
    with pytest.raises(TraceError) as caught:
        traced(fn, *args, **kwargs)
    text = str(caught.value)
    assert text.startswith(f"[zmlx.trace] {line_of(fn, marker)}"), text
    assert re.search(words, text), text
    return text
