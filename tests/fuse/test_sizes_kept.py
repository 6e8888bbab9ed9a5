"""Sizes that Python keeps or writes down: a table's key, JSON, a pickle get the number itself."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable

import mlx.core as mx
import pytest

import zmlx

pytestmark = pytest.mark.usefixtures("on_cpu")

MEMO: dict[int, int] = {}


@functools.lru_cache
def remembered(length: int) -> int:
    return length + 1


SIZED: dict[str, Callable[[int], int]] = {
    "lru_cache": remembered,
    "json": lambda n: len(json.dumps({"n": n})),
    "pickle": lambda n: pickle.loads(pickle.dumps(n)),
    "memo": lambda n: MEMO.setdefault(n, n + 3),
}


@pytest.mark.parametrize("name", SIZED)
def test_what_keeps_or_writes_a_size_gets_the_number(name: str) -> None:
    take = SIZED[name]
    fused = zmlx.fuse(lambda x: x * take(x.shape[0]))
    for length in (7, 120, 7, 3):
        x = mx.ones((length,))
        assert mx.array_equal(fused(x), x * take(length))


def test_a_size_may_be_a_key_of_the_result() -> None:
    fused = zmlx.fuse(lambda x: {x.shape[0]: x * 2})
    for length in (7, 3):
        (key,) = fused(mx.ones((length,)))
        assert type(key) is int and key == length
