"""Every function of the catalog under the sanitizer, with its derivatives, in each float type."""

from __future__ import annotations

import inspect
from importlib import import_module

import mlx.core as mx
import pytest

from tests.sanitized.catalog_cases import CALLS, FLOATS, GROUPS, NAMES, function, transformed
from tests.sanitized.watching import Watch, watched_run


@pytest.mark.smoke
def test_every_function_has_a_call() -> None:
    assert set(NAMES) <= CALLS.keys(), "add the new ones to tests/sanitized/catalog_cases.py"


@watched_run
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_function(name: str, kind: str, watch: Watch) -> None:
    for array in transformed(name, kind):
        mx.eval(array)
        assert mx.isfinite(array).all().item()
    watch.ran(2)


@watched_run
@pytest.mark.parametrize("name", NAMES)
def test_small_groups_and_large_ones(name: str, watch: Watch) -> None:
    module, _, called = name.partition(".")
    taken = inspect.signature(getattr(import_module(f"zmlx.catalog.{module}"), called)).parameters
    if "threadgroup" not in taken:
        mx.eval(function(name)(*_odd(name)))
    for threads in GROUPS if "threadgroup" in taken else ():
        mx.eval(function(name, threads)(*_odd(name)))
    watch.ran()


def _odd(name: str) -> list[mx.array]:
    """Rows that no pack divides, longer than a group of 32 threads takes in one go."""
    shapes = CALLS[name][0]
    return [mx.ones([n if n < 36 else n // 36 * 333 for n in shape]) for shape in shapes]
