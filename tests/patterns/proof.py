"""What the tests of patterns share: a replacement fires, and is as near to float64 as plain MLX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

import zmlx

Function = Callable[..., Any]
UNIT = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


def normal(*shape: int, dtype: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def fired(fn: Function, *args: Any) -> list[str]:
    """The patterns that are replaced in a function."""
    return [one.name for one in zmlx.explain(fn, *args).fired]


def near(fn: Function, *args: Any) -> dict[str, str]:
    """Why patterns are not replaced in a function in which none is."""
    report = zmlx.explain(fn, *args)
    assert not report.fired
    return {one.name: one.why for one in report.nearly}


def alike(fused: Function, fn: Function, *args: Any) -> None:
    """The results of `fused` are as near to float64 as those of `fn` in plain MLX, give or take."""
    exact = [_wide(a) for a in args]
    with mx.stream(mx.cpu):
        wanted = list(map(_numbers, _listed(fn(*exact))))
    for got, plain, want in zip(_listed(fused(*args)), _listed(fn(*args)), wanted, strict=True):
        assert got.shape == plain.shape and got.dtype == plain.dtype
        error, limit = _apart(got, want), _apart(plain, want)
        unit = UNIT.get(str(got.dtype).rpartition(".")[2], 0.0)
        assert error <= 1.5 * limit + unit * (1 + np.abs(want).max(initial=0.0)), (error, limit)


def proved(fn: Function, name: str, *args: Any, wanted: Sequence[int] = (0,)) -> None:
    """`name` fires in `fn`; values, gradients of the `wanted`, tangents and maps are right."""
    assert name in fired(fn, *args)
    fused = zmlx.fuse(fn)
    alike(fused, fn, *args)
    arrays = list(wanted)
    alike(*[gradient(f, arrays) for f in (fused, fn)], *args)
    alike(*[tangent(f, arrays) for f in (fused, fn)], *args)
    alike(*[mapped(f) for f in (fused, fn)], *args)


def gradient(f: Function, arrays: Sequence[int]) -> Function:
    """The gradients of a sum that weighs every element otherwise."""

    def weighed(*args: Any) -> mx.array:
        found = _listed(f(*args))
        parts = [v if v.dtype == mx.float64 else v.astype(mx.float32) for v in found]
        return sum(((mx.sin(v) * 0.5 + v) ** 2).sum() for v in parts)  # type: ignore[return-value]

    found: Function = mx.grad(weighed, argnums=list(arrays))
    return found


def tangent(f: Function, arrays: Sequence[int]) -> Function:
    def along(*args: Any) -> list[mx.array]:
        def of(*moved: mx.array) -> list[mx.array]:
            given = dict(zip(arrays, moved, strict=True))
            return _listed(f(*[given.get(i, a) for i, a in enumerate(args)]))

        moved = [args[i] for i in arrays]
        return mx.jvp(of, moved, [mx.cos(v) for v in moved])[1]

    return along


def mapped(f: Function) -> Function:
    """Over a new first axis of the first argument."""

    def run(first: mx.array, *rest: Any) -> Any:
        several = mx.stack([first, first * 0.5])
        return mx.vmap(lambda v: f(v, *rest))(several)

    return run


def _listed(result: Any) -> list[mx.array]:
    return [result] if isinstance(result, mx.array) else list(result)


def _wide(value: Any) -> Any:
    floating = isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
    return value.astype(mx.float64, stream=mx.cpu) if floating else value


def _numbers(value: mx.array) -> Any:
    return np.array(value if value.dtype == mx.float64 else value.astype(mx.float32)).astype(float)


def _apart(value: mx.array, wanted: Any) -> float:
    return float(np.abs(_numbers(value) - wanted).max(initial=0.0))
