"""Cases for the deep tests of norms, softmax and what transformers are made of: rows of the table.

tests/catalog/test_table.py goes over all rows; these functions are tried harder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from tests.catalog import exact
from zmlx.catalog.rows import ROWS, Row
from zmlx.catalog.rows import formulas as textbook

KINDS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# Half a unit in the last place of the type, and what float32 arithmetic adds.
RTOL = {"float32": 3e-6, "float16": 2.0**-11 + 5e-6, "bfloat16": 2.0**-8 + 5e-6}
ATOL = 2e-6  # of the largest element: sums over a row may cancel
SIZES = (1, 2, 7, 33, 128, 1000, 4096)


LETTERS = {"b d": "x", "b 2*d": "X", "d": "w", "2*d": "W"}


@dataclass(frozen=True)
class Case:
    """A row whose arrays are x, as large as the result, X with twice its row, and w, W one such
    row."""

    row: Row

    @property
    def name(self) -> str:
        return self.row.name.partition(".")[2]

    @property
    def takes(self) -> str:
        return "".join(LETTERS[a.shape] for a in self.row.arrays)

    @property
    def threads(self) -> bool:
        return "threadgroup" in inspect.signature(self.row.function).parameters

    def call(self, *arrays: mx.array, **options: Any) -> Any:
        return self.row.function(*arrays, **self.row.options, **options)

    def plain(self, *arrays: mx.array) -> Any:
        found = self.row.in_ops(*arrays)
        return found[0] if len(found) == 1 else found

    def shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes of the arrays for a result of this shape."""
        *lead, d = shape
        full = {"x": (*lead, d), "X": (*lead, 2 * d), "w": (d,), "W": (2 * d,)}
        return [full[letter] for letter in self.takes]

    def arrays(self, shape: Sequence[int], kind: mx.Dtype, seed: int = 0) -> list[mx.array]:
        return [drawn(s, kind, seed + i) for i, s in enumerate(self.shapes(shape))]

    def run(self, *arrays: mx.array, **options: Any) -> list[mx.array]:
        return listed(self.call(*arrays, **options))

    def exact(self, arrays: Sequence[mx.array]) -> list[np.ndarray]:
        return self.row.wanted([wide(a) for a in arrays])

    def pulled(self, arrays: Sequence[mx.array], g: Sequence[mx.array]) -> list[np.ndarray]:
        """Exact gradients of all arrays."""
        return exact.PULL[self.name]([wide(a) for a in arrays], [wide(c) for c in g])

    @property
    def drops(self) -> bool:
        return "dropout" in self.name


def listed(found: Any) -> list[mx.array]:
    return [found] if isinstance(found, mx.array) else list(found)


def drawn(shape: Sequence[int], kind: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape)).astype(kind)


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


def close(
    found: mx.array,
    wanted: np.ndarray,
    kind: str,
    more: float = 1.0,
    what: str = "",
    terms: float = 1.0,
) -> None:
    """`terms` is the size of what was added up or subtracted, where the result is smaller."""
    assert found.shape == wanted.shape and found.dtype == KINDS[kind], what
    limit = more * ATOL * max(terms, np.abs(wanted).max(initial=0.0))
    np.testing.assert_allclose(wide(found), wanted, more * RTOL[kind], limit, err_msg=what)


# -- the same with MLX's ops ----------------------------------------------------------------------
def rms(x: mx.array, w: Any = 1.0) -> mx.array:
    return textbook.rms(mx, x, w)


def layer(x: mx.array, gamma: Any = 1.0, beta: Any = 0.0) -> mx.array:
    return textbook.layer(mx, x, gamma, beta)


def silu(z: mx.array) -> mx.array:
    return textbook.silu(mx, z)


def gated(act: Callable[[mx.array], mx.array], x: mx.array, bias: Any = 0.0) -> mx.array:
    a, b = mx.split(x + bias, 2, -1)
    return act(a) * b


def log_softmax(x: mx.array) -> mx.array:
    return textbook.log_softmax(mx, x)


NAMES = (
    *("softmax_lastdim", "log_softmax_lastdim", "softmax_grad", "log_softmax_grad", "rmsnorm"),
    *("rmsnorm_grad", "rms_norm_no_weight", "layernorm", "layer_norm_no_weight"),
    *("layer_norm_dropout", "swiglu", "geglu", "bias_swiglu", "bias_geglu", "dropout"),
    *("rms_norm_dropout", "rmsnorm_residual", "layernorm_residual", "fused_add_rmsnorm"),
    "fused_add_layernorm",
)
_BY_NAME = {row.name.partition(".")[2]: row for row in ROWS.values()}
CASES = {name: Case(_BY_NAME[name]) for name in NAMES}
PULLED = {name: CASES[name] for name in exact.PULL}  # those that are no backward pass themselves
