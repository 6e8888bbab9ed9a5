"""What the modules of the catalog share: checks with clear errors, numbers as arrays, the mask.

Every check raises ValueError (TypeError for what is no array) that names the function, the
argument, what came and what was wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, cast

import mlx.core as mx

from zmlx.msl.spec import MAX_THREADS
from zmlx.registry import forgets
from zmlx.rows.op import FLOATS, valid


class Call:
    """One call of a catalog function: its name, for errors."""

    def __init__(self, module: str, function: str) -> None:
        self.module, self.function = module, function

    def wrong(self, argument: str, came: object, wanted: str) -> ValueError:
        return ValueError(
            f"[zmlx.{self.module}] {self.function}: {argument} is {came}; give {wanted}."
        )

    def array(self, argument: str, value: object) -> mx.array:
        """A float32, float16 or bfloat16 array."""
        if not isinstance(value, mx.array):
            raise TypeError(str(self.wrong(argument, type(value).__name__, "an mx.array")))
        if value.dtype not in FLOATS:
            raise self.wrong(argument, value.dtype, "float32, float16 or bfloat16")
        return value

    def rows(self, argument: str, value: object) -> mx.array:
        """An array whose last axis is a row of one element at least."""
        found = self.array(argument, value)
        if found.ndim == 0 or found.shape[-1] == 0:
            wanted = "an array with a last axis of 1 element at least"
            raise self.wrong(argument, f"of shape {found.shape}", wanted)
        return found

    def shaped(self, argument: str, value: object, shape: Sequence[int]) -> mx.array:
        """An array of exactly this shape."""
        found = self.array(argument, value)
        if found.shape != tuple(shape):
            raise self.wrong(argument, f"of shape {found.shape}", f"shape {tuple(shape)}")
        return found

    def number(self, argument: str, value: Any, low: float, high: float) -> float:
        """A number in [low, high), of Python or NumPy."""
        plain = isinstance(value, Real) and not isinstance(value, bool)
        found = _as_float(value) if plain else math.nan
        if not low <= found < high:
            raise self.wrong(argument, repr(value), f"a number from {low:g} on, below {high:g}")
        return found

    def seed(self, value: object) -> mx.array:
        """An integer of 32 bits, or an array of one, as the kernel takes it."""
        if isinstance(value, mx.array):
            if value.size != 1 or not mx.issubdtype(value.dtype, mx.integer):
                wanted = "a whole number, or an array of one"
                raise self.wrong("seed", f"{value.dtype} of shape {value.shape}", wanted)
            return value.reshape(1).astype(mx.uint32)
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or not 0 <= int(cast(Any, value)) < 2**32:
            raise self.wrong("seed", repr(value), "a whole number from 0 on, below 2**32")
        return mx.array([int(cast(Any, value))], dtype=mx.uint32)

    def eps(self, value: object) -> mx.array:
        """What is added before a root, as kernels take it."""
        return number_array(self.number("eps", value, 0.0, float("inf")))

    def mask(self, p: object, seed: object) -> tuple[mx.array, mx.array, mx.array]:
        """p, 1 / (1 - p) and the seed, as kernels with a mask take them."""
        drops = self.number("p", p, 0.0, 1.0)
        return number_array(drops), number_array(1.0 / (1.0 - drops)), self.seed(seed)

    def launch(self, threadgroup: Any, compute_dtype: object) -> int:
        """The threads of a group, and a compute type that exists: all compute in float32."""
        whole = isinstance(threadgroup, int) and not isinstance(threadgroup, bool)
        if not (whole and valid((1, threadgroup))):
            wanted = f"a power of two from 1 to {MAX_THREADS}"
            raise self.wrong("threadgroup", repr(threadgroup), wanted)
        self.compute(compute_dtype)
        return int(threadgroup)

    def compute(self, compute_dtype: object) -> None:
        """None, or one of the types in which kernels of the peer computed."""
        if compute_dtype is not None and compute_dtype not in FLOATS:
            wanted = "None, float32, float16 or bfloat16"
            raise self.wrong("compute_dtype", repr(compute_dtype), wanted)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


@lru_cache(maxsize=256)
def number_array(value: float) -> mx.array:
    """A run-time number of a kernel; the same array each time, as it never changes."""
    with mx.stream(mx.cpu):
        made = mx.array([value], dtype=mx.float32)
        mx.eval(made)
    return made


forgets(number_array.cache_clear)
