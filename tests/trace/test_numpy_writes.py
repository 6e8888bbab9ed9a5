"""NumPy and arrays made inside a traced function: reads are right, writes are told."""

from __future__ import annotations

import inspect
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from zmlx.errors import TraceError

X = mx.array([1.0, 2.0, 3.0])


def a_view(x: Any) -> Any:
    y = mx.zeros((3,))
    np.array(y, copy=False)[:] = 5  # here
    return x + y


def a_view_later(x: Any) -> Any:
    y = mx.arange(3.0)
    view, product = np.asarray(y), x * y
    view[0] = 7  # here
    return product, y


def in_place(x: Any) -> Any:
    y = mx.full((3,), 2.0) * 2
    view = np.asarray(y)
    view += 1  # here
    return x * y


def memory(x: Any) -> Any:
    y = mx.array([1.0, 2.0, 3.0])
    memoryview(y)[0] = 4.0  # here
    return x * y


def copied_to(x: Any) -> Any:
    y = mx.ones_like(mx.zeros((3,)))
    np.copyto(np.array(y, copy=False), np.arange(3.0))  # here
    return x * y


def sorted_in_place(x: Any) -> Any:
    y = mx.array([3.0, 1.0, 2.0])
    np.asarray(y).sort()  # here
    return x * y


@pytest.mark.parametrize("fn", [a_view, a_view_later, in_place, memory, copied_to, sorted_in_place])
def test_a_write_by_numpy_is_told(fn: Any) -> None:
    lines, first = inspect.getsourcelines(fn)
    line = first + next(i for i, text in enumerate(lines) if "# here" in text)
    with pytest.raises(TraceError, match=rf"test_numpy_writes.py:{line}: NumPy writes") as caught:
        zmlx.fuse(fn)(X)
    assert "y[...] = value" in str(caught.value)


READS: dict[str, Any] = {
    "a copy that is written": lambda x: x * mx.array(written(np.array(mx.arange(3.0)))),
    "a view": lambda x: x * float(np.asarray(mx.arange(3.0) + 1).sum()),
    "bytes": lambda x: x * mx.array(np.frombuffer(bytes(mx.ones((3,))), np.float32)),
    "memory": lambda x: x * memoryview(mx.ones((3,)))[1],
    "a list": lambda x: x * mx.array(np.asarray(mx.eye(3)).tolist())[0],
}


def written(array: Any) -> Any:
    array[0] = 9
    return array


@pytest.mark.parametrize("case", READS)
def test_reads_of_what_is_made_inside_are_right(case: str) -> None:
    fused = zmlx.fuse(READS[case])
    for x in (X, X * 2):
        assert fused(x).tolist() == READS[case](x).tolist()


VALUES: dict[str, Any] = {
    "a whole array": lambda x: put(np.zeros(3, np.float32), ..., x),
    "an element": lambda x: put(np.zeros(3, np.float32), 1, x[1]),
    "a list": lambda x: put(np.zeros(3, np.float32), ..., [x[0], x[1], 2.0]),
    "memory": lambda x: x * memoryview(x)[0],
    "a copy": lambda x: mx.array(np.array(x)),
}


def put(array: Any, index: Any, value: Any) -> Any:
    array[index] = value
    return mx.array(array)


@pytest.mark.parametrize("case", VALUES)
def test_numpy_gets_no_value_of_a_traced_array(case: str) -> None:
    VALUES[case](X)
    with pytest.raises(TraceError, match=r"test_numpy_writes.py:\d+: .* outside"):
        zmlx.fuse(VALUES[case])(X)
