"""Every function of the catalog under the sanitizer, with its derivatives, in each float type."""

from __future__ import annotations

import inspect

import mlx.core as mx
import pytest

from tests.sanitized.catalog_cases import (
    FLOATS,
    GROUPS,
    IN_TURN,
    NAMES,
    SOME,
    function,
    transformed,
)
from tests.sanitized.watching import Watch, watched_run
from zmlx.catalog.rows import ROWS

BY_MLX = ("argmax_lastdim", "max_lastdim", "min_lastdim", "add_bias")  # an op of MLX's alone


def check(name: str, kind: str, watch: Watch) -> None:
    for array in transformed(name, kind):
        mx.eval(array)
        assert mx.isfinite(array).all().item()
    watch.ran(0 if name.endswith(BY_MLX) else 1)


@watched_run
@pytest.mark.parametrize(("name", "kind"), IN_TURN)
def test_a_function(name: str, kind: str, watch: Watch) -> None:
    check(name, kind, watch)


@pytest.mark.exhaustive
@watched_run
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_function_in_every_type(name: str, kind: str, watch: Watch) -> None:
    check(name, kind, watch)


@watched_run
@pytest.mark.parametrize("name", SOME)
def test_small_groups_and_large_ones(name: str, watch: Watch) -> None:
    row = ROWS[name]
    taken = inspect.signature(row.function).parameters
    arrays = row.drawn(sizes=row.odd[-1] if row.odd else row.sizes)
    groups = GROUPS if "threadgroup" in taken else (None,)
    for threads in groups:
        mx.eval(function(name, threads)(*arrays))
    watch.ran(0 if name.endswith(BY_MLX) else 1)
