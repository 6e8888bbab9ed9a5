"""What the tests of models share: which architectures run in which tier, how trees are compared."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from architectures import NAMES, tokens
from mlx.utils import tree_flatten

SMALL = ("llama", "gemma2", "mamba2")  # of the default tier; the exhaustive one takes the others
EVERY = [pytest.param(n, marks=() if n in SMALL else pytest.mark.exhaustive) for n in NAMES]


def arrays(tree: Any) -> dict[str, mx.array]:
    return {name: leaf for name, leaf in tree_flatten(tree) if isinstance(leaf, mx.array)}


def assert_near(got: Any, expected: Any, tolerance: float = 3e-6) -> None:
    """Trees of equal shapes and types; an array differs by `tolerance` of its largest value.

    Where all of an array is small beside the tree's largest values (gradients that cancel), a
    thousandth of those counts as its largest value.
    """
    got, expected = arrays(got), arrays(expected)
    assert got.keys() == expected.keys() and expected
    largest = {name: mx.abs(a.astype(mx.float32)).max().item() for name, a in expected.items()}
    least = max(largest.values()) / 1000
    for name, array in expected.items():
        assert (got[name].shape, got[name].dtype) == (array.shape, array.dtype), name
        apart = mx.abs(got[name].astype(mx.float32) - array.astype(mx.float32)).max().item()
        assert apart <= tolerance * max(largest[name], least), (name, apart, largest[name])


def assert_same(got: Any, expected: Any) -> None:
    """Trees of equal arrays, to the bit."""
    got, expected = arrays(got), arrays(expected)
    assert got.keys() == expected.keys() and expected
    for name, array in expected.items():
        assert got[name].dtype == array.dtype and mx.array_equal(got[name], array), name


def batch(length: int = 7, rows: int = 2, seed: int = 0) -> tuple[mx.array, mx.array]:
    """Tokens and the (start, end) of each row, as mlx-lm's trainer makes them."""
    return tokens(length, rows, seed), mx.array([[1, length - 1 - row] for row in range(rows)])
