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

from zmlx.catalog.mask import places
from zmlx.device.rules import sizes_to_come
from zmlx.fuse.api import FusedFunction
from zmlx.fuse.table import Options
from zmlx.msl.spec import MAX_THREADS
from zmlx.registry import forgets

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
INTEGERS = (
    *(mx.uint32, mx.int32, mx.int64, mx.uint64),
    *(mx.uint8, mx.uint16, mx.int8, mx.int16),
)
DEFAULT_GROUP = 256  # what `threadgroup` is where a launch is chosen by sizes


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

    def known(self, value: mx.array) -> mx.array:
        """An array whose sizes are no examples: what is computed depends on them."""
        if sizes_to_come([value]):
            raise ValueError(
                f"[zmlx.{self.module}] {self.function}: its result depends on sizes, which are "
                "still to come under mx.compile(..., shapeless=True). Leave shapeless out."
            )
        return value

    def shaped(self, argument: str, value: Any, shape: Sequence[int]) -> mx.array:
        """An array of exactly this shape."""
        plain = type(value) is mx.array and value.dtype in FLOATS  # a call less
        found = value if plain else self.array(argument, value)
        if found.shape != tuple(shape):
            raise self.wrong(argument, f"of shape {found.shape}", f"shape {tuple(shape)}")
        return found

    def integers(
        self, argument: str, value: object, kinds: Sequence[mx.Dtype] = INTEGERS
    ) -> mx.array:
        """An array of one of these types, integers of up to 64 bits if none are given."""
        if not isinstance(value, mx.array):
            raise TypeError(str(self.wrong(argument, type(value).__name__, "an mx.array")))
        if value.dtype not in kinds:
            named = " or ".join(str(k).removeprefix("mlx.core.") for k in kinds)
            raise self.wrong(argument, value.dtype, named)
        return value

    def of_shape(self, argument: str, value: mx.array, shape: Sequence[int]) -> mx.array:
        """An array, of any type, of exactly this shape."""
        if value.shape != tuple(shape):
            raise self.wrong(argument, f"of shape {value.shape}", f"shape {tuple(shape)}")
        return value

    def broadcast(
        self, argument: str, value: mx.array, other: str, beside: mx.array
    ) -> tuple[int, ...]:
        """The shape to which both broadcast."""
        pairs = zip(reversed(value.shape), reversed(beside.shape), strict=False)
        if any(n != m and 1 not in (n, m) for n, m in pairs):
            wanted = f"a shape that broadcasts with {other}'s, {beside.shape}"
            raise self.wrong(argument, f"of shape {value.shape}", wanted)
        longer, shorter = sorted((value.shape, beside.shape), key=len, reverse=True)
        padded = (1,) * (len(longer) - len(shorter)) + tuple(shorter)
        return tuple(m if n == 1 else n for n, m in zip(longer, padded, strict=True))

    def of_rank(self, argument: str, value: mx.array, rank: int, axes: str) -> mx.array:
        """An array of that many axes."""
        if value.ndim != rank:
            raise self.wrong(argument, f"of shape {value.shape}", f"{rank} axes, {axes}")
        return value

    def scalar(self, argument: str, value: Any, rank: int) -> mx.array:
        """A number, or a float array of one element, as an array of that rank."""
        if isinstance(value, mx.array):
            if value.size != 1 or value.dtype not in FLOATS:
                came = f"{value.dtype} of shape {value.shape}"
                raise self.wrong(argument, came, "a number, or a float array of one element")
            return value.reshape((1,) * rank)
        return number_array(self.number(argument, value, -math.inf, math.inf), rank)

    def number(self, argument: str, value: Any, low: float, high: float) -> float:
        """A number in [low, high), of Python or NumPy."""
        found = value if type(value) is float else _as_float(value)
        if not low <= found < high:
            raise self.wrong(argument, repr(value), f"a number from {low:g} on, below {high:g}")
        return found

    def seed(self, value: object, rank: int) -> mx.array:
        """An integer of 32 bits, or an array of one, as functions with a mask take it."""
        if type(value) is int and 0 <= value < 2**32:  # a call less
            return _seed_array(value, rank)
        if isinstance(value, mx.array):
            if value.size != 1 or not mx.issubdtype(value.dtype, mx.integer):
                wanted = "a whole number, or an array of one"
                raise self.wrong("seed", f"{value.dtype} of shape {value.shape}", wanted)
            return value.reshape((1,) * rank).astype(mx.uint32)
        whole = type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))
        if not whole or not 0 <= int(cast(Any, value)) < 2**32:
            raise self.wrong("seed", repr(value), "a whole number from 0 on, below 2**32")
        return _seed_array(int(cast(Any, value)), rank)

    def eps(self, value: Any, beside: mx.array) -> mx.array:
        """What is added before a root, as kernels take it: of the rank of `beside`."""
        plain = type(value) is float and 0.0 <= value < math.inf  # a call less
        return number_array(
            value if plain else self.number("eps", value, 0.0, math.inf), beside.ndim
        )

    def mask(self, p: Any, seed: object, beside: mx.array) -> tuple[mx.array, ...]:
        """p, 1 / (1 - p), the seed, and the places of elements."""
        plain = type(p) is float and 0.0 <= p < 1.0  # a call less
        drops, rank = p if plain else self.number("p", p, 0.0, 1.0), beside.ndim
        return *_kept_and_share(drops, rank), self.seed(seed, rank), *places(beside)

    def launched(
        self, formula: FusedFunction, threadgroup: Any, compute_dtype: object
    ) -> FusedFunction:
        """`formula` in groups of that many threads; the compute type changes nothing."""
        self.threads(threadgroup, compute_dtype)
        return formula if threadgroup == DEFAULT_GROUP else _grouped(formula, threadgroup)

    def threads(self, threadgroup: Any, compute_dtype: object = None) -> None:
        """A threadgroup's size, and a compute type or None."""
        whole = isinstance(threadgroup, int) and not isinstance(threadgroup, bool)
        if not (whole and 0 < threadgroup <= MAX_THREADS and not threadgroup & (threadgroup - 1)):
            wanted = f"a power of two from 1 to {MAX_THREADS}"
            raise self.wrong("threadgroup", repr(threadgroup), wanted)
        if compute_dtype is not None:
            self.compute(compute_dtype)

    def result(self, compute_dtype: object) -> mx.Dtype:
        """The type of the result where `compute_dtype` says it: float32 if None."""
        self.compute(compute_dtype)
        return mx.float32 if compute_dtype is None else cast(mx.Dtype, compute_dtype)

    def whole(self, argument: str, value: Any, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        right = isinstance(value, Integral) and not isinstance(value, bool)
        if not right or not low <= int(value) <= high:
            raise self.wrong(argument, repr(value), f"a whole number from {low} to {high}")
        return int(value)

    def compute(self, compute_dtype: object) -> None:
        """None, or one of the types that may be asked for."""
        if compute_dtype is not None and compute_dtype not in FLOATS:
            wanted = "None, float32, float16 or bfloat16"
            raise self.wrong("compute_dtype", repr(compute_dtype), wanted)


def _seed_array(value: int, rank: int) -> mx.array:
    """An array of that rank, of one op."""
    nested: Any = value
    for _ in range(rank):
        nested = [nested]
    return mx.array(nested, dtype=mx.uint32)


def _as_float(value: Any) -> float:
    """A real number as one of Python; NaN for what is none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


@lru_cache(maxsize=256)
def _grouped(formula: FusedFunction, threadgroup: int) -> FusedFunction:
    """`formula`, whose kernels over rows have groups of at most so many threads."""
    return FusedFunction(formula.__wrapped__, Options(group=threadgroup))


@lru_cache(maxsize=256)
def number_array(value: float, rank: int = 1) -> mx.array:
    """A run-time number of a kernel; the same array each time, as it never changes."""
    with mx.stream(mx.cpu):
        made = mx.array([value], dtype=mx.float32).reshape((1,) * rank)
        mx.eval(made)
    return made


@lru_cache(maxsize=256)
def _kept_and_share(drops: float, rank: int) -> tuple[mx.array, mx.array]:
    """p, and what is kept is multiplied by."""
    return number_array(drops, rank), number_array(1.0 / (1.0 - drops), rank)


forgets(_grouped.cache_clear)
forgets(number_array.cache_clear)
forgets(_kept_and_share.cache_clear)
