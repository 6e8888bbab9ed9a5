"""Writes docs/accuracy.md, errors against float64: `python docs/generate_accuracy.py`.

tests/fuse/test_accuracy.py holds every row to what the page promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import zmlx

PAGE = Path(__file__).with_name("accuracy.md")
ROWS, COLUMNS, EPS = 16, 4096, 1e-5
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
INTRODUCTION = f"""\
# How close reductions are to float64

Written by `python docs/generate_accuracy.py` on a CPU; other devices add up in other orders. Each
function is written in plain MLX ops over {ROWS} rows of {COLUMNS}, and compared with the same in
float64 over the same inputs: the largest error, divided by the largest value, for plain MLX and for
the fused function. A test holds each fused error to twice the plain one, or to four units in the
last place of the result's type where plain MLX is better than that. "far" are rows with mean 1000
and deviation 0.01.

| function | rows | float32: MLX | fused | float16: MLX | fused | bfloat16: MLX | fused |
|---|---|--:|--:|--:|--:|--:|--:|"""
Function = Callable[[Any, Any], Any]  # of mx or np, and an array


def _mean(m: Any, x: Any) -> Any:
    return m.mean(x, axis=-1, keepdims=True)


def _lse(m: Any, x: Any) -> Any:
    top = m.max(x, axis=-1, keepdims=True)
    return m.log(m.sum(m.exp(x - top), axis=-1, keepdims=True)) + top


def _softmax(m: Any, x: Any) -> Any:
    e = m.exp(x * 0.5 - m.max(x * 0.5, axis=-1, keepdims=True))
    return e / m.sum(e, axis=-1, keepdims=True)


def _layer_norm(m: Any, x: Any) -> Any:
    return (x - _mean(m, x)) / m.sqrt(m.var(x, axis=-1, keepdims=True) + EPS)


def _columns(m: Any, x: Any) -> Any:
    low = x - m.mean(x, axis=0, keepdims=True)
    return low / m.sqrt(m.mean(low * low, axis=0, keepdims=True) + EPS)


FUNCTIONS: dict[str, Function] = {
    "sum of x·x": lambda m, x: m.sum(x * x, axis=-1),
    "mean of \\|x\\|": lambda m, x: m.mean(m.abs(x), axis=-1),
    "max of x·0.7": lambda m, x: m.max(x * 0.7, axis=-1),
    "min of x·0.7": lambda m, x: m.min(x * 0.7, axis=-1),
    "prod of 1 + x/100": lambda m, x: m.prod(1 + x / 100, axis=-1),
    "var": lambda m, x: m.var(x * 1.5, axis=-1),
    "std": lambda m, x: m.std(x * 1.5, axis=-1),
    "logsumexp": _lse,
    "softmax": _softmax,
    "log-softmax": lambda m, x: x - _lse(m, x),
    "rms norm": lambda m, x: x / m.sqrt(_mean(m, x * x) + EPS),
    "layer norm": _layer_norm,
    "L2 norm of x": lambda m, x: m.sqrt(m.sum(x * x, axis=-1)),
    "norm over the first axis": _columns,
    "mean of all of (x−1)²": lambda m, x: m.mean((x - 1) * (x - 1)),
    "column sums of x·x": lambda m, x: m.sum(x * x, axis=0),
}
FAR: dict[str, Function] = {
    "mean of x − 999": lambda m, x: m.mean(x - 999, axis=-1),
    "var": lambda m, x: m.var(x * 1.0, axis=-1),
    "layer norm": _layer_norm,
    "norm over the first axis": _columns,
    "E[x²]−E[x]²": lambda m, x: m.mean(x * x, axis=-1) - m.mean(x, axis=-1) ** 2,
}


@dataclass(frozen=True)
class Row:
    name: str
    far: bool
    dtype: str
    plain: float
    fused: float


def rows() -> Iterator[Row]:
    """Every function, over both kinds of rows, in each type."""
    draw = np.random.default_rng(0).normal(size=(ROWS, COLUMNS))
    for far, functions in ((False, FUNCTIONS), (True, FAR)):
        numbers = 1000 + 0.01 * draw if far else draw
        for name, function in functions.items():
            for dtype, kind in DTYPES.items():
                if far and dtype != "float32":  # all of a row is one number
                    continue
                x = mx.array(numbers.astype(np.float32)).astype(kind)
                exact = function(np, np.array(x.astype(mx.float32)).astype(np.float64))
                plain = lambda x, f=function: f(mx, x)  # noqa: E731
                errors = [_error(f(x), exact) for f in (plain, zmlx.fuse(plain))]
                yield Row(name, far, dtype, *errors)


def _error(got: mx.array, exact: np.ndarray) -> float:
    apart = np.abs(np.array(got.astype(mx.float32)).astype(np.float64) - exact)
    error = float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max() / np.abs(exact).max())
    return error if np.isfinite(error) else float("inf")


def page() -> str:
    """The text of docs/accuracy.md."""
    found: dict[tuple[str, bool], list[str]] = {}
    for row in rows():
        cells = found.setdefault((row.name, row.far), [])
        cells += ["inf" if np.isinf(e) else f"{e:.1e}" for e in (row.plain, row.fused)]
    lines = []
    for (name, far), cells in found.items():
        cells += ["–"] * (6 - len(cells))
        lines.append(f"| {name} | {'far' if far else 'normal'} | {' | '.join(cells)} |")
    return "\n".join([INTRODUCTION, *lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page())
