"""Places in messages: the user's line, the function, and a notebook's cell."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from zmlx.errors import TraceError

CELL = "/tmp/ipykernel_7/96157946.py"
SOURCE = """
def inner(x):
    return x if x.sum() > 0 else -x

def outer(x):
    return inner(mx.exp(x))
"""


def defined() -> Any:
    """The functions of SOURCE, as a notebook's cell compiles them."""
    names: dict[str, Any] = {"mx": mx}
    exec(compile(SOURCE, CELL, "exec"), names)
    return names["outer"]


def test_a_refusal_names_file_line_and_function() -> None:
    with pytest.raises(TraceError) as caught:
        zmlx.fuse(defined())(mx.ones(3))
    assert str(caught.value).startswith("[zmlx.trace] 96157946.py:3: in inner: a branch on")


def test_a_notebook_s_cell_is_called_as_the_notebook_calls_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {CELL: ("Cell", "In[5]")}
    shell = SimpleNamespace(compile=SimpleNamespace(format_code_name=names.get))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with pytest.raises(TraceError, match=r"^\[zmlx.trace\] In\[5\]:3: "):
        zmlx.fuse(defined())(mx.ones(3))
    e = zmlx.explain(lambda x: mx.exp(x) * x, mx.ones(3))  # a file stays a file
    assert e.regions[0].line.startswith("test_places.py:")


@pytest.mark.parametrize("shell", [None, SimpleNamespace(), SimpleNamespace(compile=None)])
def test_without_a_notebook_the_file_is_named(monkeypatch: pytest.MonkeyPatch, shell: Any) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with pytest.raises(TraceError, match=r"^\[zmlx.trace\] 96157946.py:3: "):
        zmlx.fuse(defined())(mx.ones(3))
