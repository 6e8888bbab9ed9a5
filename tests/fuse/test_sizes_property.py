"""Random programs that use sizes in every way, called with many lengths in turn on one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zmlx

Values = list[Any]  # arrays of rank 2 that a program has made so far; the first are its arguments
Step = Callable[[Values], Any]
CALLS = ((4, 6), (2, 3), (5, 6), (4, 1), (1, 6), (7, 2), (3, 3), (2, 3), (9, 4))  # sizes of x


def _number(kind: int, x: Any) -> Any:
    rows, columns = x.shape
    return (
        lambda: columns,
        lambda: rows // 2 + 1,
        lambda: -(-x.size // 4),
        lambda: 3 - rows % 3,
        lambda: (columns + 2) * rows - 1,
        lambda: len(x.shape) + rows,
    )[kind % 6]()


def _slices(kind: int, x: Any) -> Any:
    rows, columns = x.shape
    return (
        lambda: x[: rows // 2 + 1],
        lambda: x[:, : columns - columns // 2],
        lambda: x[rows - 1 :],
        lambda: x[::-1, 1 - columns :] if kind > 6 else x[::-1],
        lambda: x[:, -columns:],
        lambda: x[rows // 2],
    )[kind % 6]()


def _shaped(kind: int, x: Any) -> Any:
    rows, columns = x.shape
    return (
        lambda: x.reshape(columns, rows),
        lambda: x.reshape(rows * columns, 1),
        lambda: x.reshape(1, -1),
        lambda: mx.transpose(x).reshape(x.shape),
        lambda: mx.unflatten(x.reshape(-1), 0, x.shape),
        lambda: mx.broadcast_to(x[:1], (rows + 1, columns)),
        lambda: mx.concatenate([x, x[: rows // 2]], axis=0),
        lambda: mx.pad(x, [(0, rows), (0, 1)]),
        lambda: mx.repeat(x, 2, axis=kind % 2),
        lambda: x @ x.T,
        lambda: mx.tril(x, k=columns - rows),
        lambda: mx.softmax(x, axis=-1),
        lambda: mx.cumsum(x, axis=0),
        lambda: mx.split(x, [columns // 2], axis=1)[1],
        lambda: x[mx.arange(rows) // 2],
    )[kind % 15]()


def _made(kind: int, x: Any) -> Any:
    rows, columns = x.shape
    return (
        lambda: x + mx.arange(columns) / columns,
        lambda: x * mx.full((rows, 1), 0.5),
        lambda: mx.zeros((rows, columns)) + x.sum() / x.size,
        lambda: x + mx.eye(rows, columns),
        lambda: mx.where(mx.arange(rows)[:, None] >= mx.arange(columns), x, -1.0),
        lambda: x * mx.array([columns, 1.5])[0],
        lambda: x - x.mean(axis=0, keepdims=True) * rows,
        lambda: mx.linspace(0, 1, columns) * x,
    )[kind % 8]()


def _steered(kind: int, x: Any) -> Any:
    rows, columns = x.shape
    return (
        lambda: x * 2 if rows > 3 else x + 1,
        lambda: x / 3 if columns == rows else -x,
        lambda: x * max(rows, 4),
        lambda: x if x.shape == (4, 6) else x * 0.5,
        lambda: sum([x[i : i + 1] for i in range(min(rows, 3))], x),
        lambda: x * {True: 0.5, False: 2.0}[bool(columns % 2)],
    )[kind % 6]()


def _two(x: Any) -> Any:
    """A result of rank 2, not too large, that stays near one."""
    x = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x.reshape(1, -1)
    return mx.tanh(x[:20, :20])


def program(steps: list[tuple[int, int, int]]) -> Callable[..., Any]:
    """A function of arrays; each step is (form, kind, which array)."""

    def run(x: Any, y: Any) -> Any:
        made: Values = [mx.sin(x), mx.cos(y)]
        sizes: Values = []
        for form, kind, place in steps:
            a = made[place % len(made)]
            if form == 0:
                number = _number(kind, a)
                sizes.append(number)
                made.append(_two(a * 0.1 + number / (number + 7)))
            else:
                step = (_slices, _shaped, _made, _steered)[form - 1]
                made.append(_two(step(kind, a)))
        return [*made[2:], sizes, made[-1].shape]

    return run


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 5)), min_size=1, max_size=6
)
STEERING = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 60), st.integers(0, 5)), min_size=1, max_size=6
)


def agree(got: Any, wanted: Any) -> None:
    if isinstance(wanted, list):
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            agree(a, b)
    elif isinstance(wanted, mx.array):
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        np.testing.assert_allclose(np.array(got), np.array(wanted), rtol=2e-5, atol=2e-5)
    else:
        assert got == wanted and type(got) is type(wanted)


def arguments(rows: int, columns: int) -> tuple[mx.array, mx.array]:
    draw = np.random.default_rng(rows * 31 + columns)
    x, y = (draw.normal(size=s).astype(np.float32) for s in ((rows, columns), (columns, rows)))
    return mx.array(x), mx.array(y)


def called(steps: list[tuple[int, int, int]]) -> Any:
    """The fused function after calls of all sizes, each compared with the plain one."""
    plain = program(steps)
    fused = zmlx.fuse(plain)
    for sizes in (*CALLS, *CALLS[:3]):
        try:
            wanted = plain(*arguments(*sizes))
        except (ValueError, IndexError, ZeroDivisionError):
            continue
        agree(fused(*arguments(*sizes)), wanted)
    return fused


REPLAYED = pytest.mark.filterwarnings("ignore:.*ZMLX_DEVICE=replay:RuntimeWarning")


def replayed(steps: list[tuple[int, int, int]]) -> Any:
    """As `called`, without kernels: what is compiled makes no difference to a trace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZMLX_DEVICE", "replay")
        return called(steps)


def keys() -> int:
    return len({tuple(n == 1 for n in sizes) for sizes in CALLS})


@REPLAYED
@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_programs_that_use_sizes_are_traced_once_for_each_key(steps: list[tuple[int, int, int]]):
    assert replayed(steps).cache_info().misses <= keys()


@REPLAYED
@settings(max_examples=60, deadline=None)
@given(STEERING)
def test_programs_that_sizes_steer_give_what_plain_ones_give(steps: list[tuple[int, int, int]]):
    replayed(steps)


@REPLAYED
def test_a_branch_on_a_size_that_came_through_a_number():
    """The array's only tie to the argument is the number that it was made with."""
    replayed([(0, 32, 5), (1, 47, 5), (3, 7, 3), (4, 29, 4)])


@pytest.mark.exhaustive
@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_programs_that_use_sizes_run_as_kernels(steps: list[tuple[int, int, int]]):
    assert called(steps).cache_info().misses <= keys()
