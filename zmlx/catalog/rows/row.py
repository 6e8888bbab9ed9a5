"""What a row of the catalog's table says about a function, and its arrays drawn at random.

A row is all that a new function needs beside itself: tests, the sanitizer, the Metal check, CUDA's
compiler, docs/KERNELS.md, `python -m zmlx catalog` and the benchmarks read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

Sizes = Mapping[str, int]
ROW = 4096  # columns of a benchmark's rows
_FLOATS: dict[str, Callable[[Any], Any]] = {
    "normal": lambda x: x,
    "positive": lambda x: np.abs(x) + 0.1,
    "negative": lambda x: -np.abs(x) - 0.1,
    "share": lambda x: 1 / (1 + np.exp(-x)),
    "unit": lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True),
}
_INTEGERS = {
    "bytes": (mx.uint8, 0, 256), "signed bytes": (mx.int8, -128, 128), "mask": (mx.bool_, 0, 2),
    "bits": (mx.uint8, 0, 2), "codes": (mx.uint8, 0, 127), "words": (mx.uint32, 0, 2**32),
}  # fmt: skip


@dataclass(frozen=True)
class Array:
    """An argument: its name, its shape in named sizes ("b d", "b 2*d", "3 3 c"), how it is drawn.

    Floats are "normal", "positive", "negative", a "share" of one, or "unit" rows of length 1.
    "below n" are indices into the axis n; "mask", "bytes", "signed bytes", "words" of 32 bits,
    "bits" and "codes", which are bytes up to 126, are what they say.
    """

    name: str
    shape: str
    draw: str = "normal"

    @property
    def floats(self) -> bool:
        return self.draw in _FLOATS

    def sized(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple([prod(_size(n, sizes) for n in axis.split("*")) for axis in self.axes])

    @property
    def axes(self) -> list[str]:
        return self.shape.split()

    def drawn(self, sizes: Sizes, kind: mx.Dtype, seed: int) -> mx.array:
        shape, numbers = self.sized(sizes), np.random.default_rng(seed)
        if self.draw.startswith("below "):
            high = _size(self.draw.removeprefix("below "), sizes)
            return mx.array(numbers.integers(0, max(1, high), size=shape).astype(np.uint32))
        if self.floats:
            found = _FLOATS[self.draw](numbers.normal(size=shape))
            return mx.array(found.astype(np.float32)).astype(kind)
        of, low, high = _INTEGERS[self.draw]
        return mx.array(numbers.integers(low, high, size=shape).astype(np.int32)).astype(of)


@dataclass(frozen=True)
class Row:
    """A function: `module.name`, what it takes, what it computes.

    `exact(xp, *arrays)` is the textbook's formula, over NumPy's float64 and over MLX's ops alike;
    `plain`, if given, is another way for MLX, which a user would write. `options` are the arguments
    after the arrays; `factory` those of the first call, where the function is a factory. `fixed`
    names float arrays without a gradient. `odd` are sizes to be tried beside `sizes`, `large` the
    sizes for a number of elements, `bars` the H200's in GB/s (float32, bfloat16).
    """

    name: str
    arrays: tuple[Array, ...]
    formula: str
    exact: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    factory: Mapping[str, Any] | None = None
    sizes: Sizes = field(default_factory=lambda: {"b": 3, "d": 36})
    odd: Sequence[Sizes] = ({"b": 2, "d": 1}, {"b": 5, "d": 7}, {"b": 2, "d": 333})
    large: Callable[[int], Sizes] = lambda n: {"b": max(1, n // ROW), "d": min(n, ROW)}
    fixed: tuple[str, ...] = ()
    plain: Callable[..., Any] | None = None
    source: str = ""
    large_options: Mapping[str, Any] | None = None  # of a benchmark, where `options` have its sizes
    random: bool = False  # MLX's own way draws other numbers
    by_hand: bool = False  # Metal text beside the function, not a fused function
    wide: bool = False  # the result is float32, whatever the arrays are
    bars: tuple[float, float] | None = None
    pull_bars: tuple[float, float] | None = None  # of all gradients

    @property
    def module(self) -> str:
        return self.name.partition(".")[0]

    @cached_property
    def function(self) -> Any:
        return getattr(import_module(f"zmlx.catalog.{self.module}"), self.name.partition(".")[2])

    @property
    def differentiable(self) -> list[int]:
        """Which arrays have a gradient."""
        return [i for i, a in enumerate(self.arrays) if a.floats and a.name not in self.fixed]

    def drawn(
        self, kind: mx.Dtype = mx.float32, sizes: Sizes | None = None, seed: int = 0
    ) -> list[mx.array]:
        sizes = self.sizes if sizes is None else sizes
        return [a.drawn(sizes, kind, seed + i) for i, a in enumerate(self.arrays)]

    def run(self, *arrays: mx.array, **more: Any) -> list[mx.array]:
        """The call, as a list of arrays."""
        f = self.function
        if self.factory is not None:
            f = f(**self.factory)
        found = f(*arrays, **self.options, **more)
        return [found] if isinstance(found, mx.array) else list(found)

    def wanted(self, arrays: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
        """What comes out of NumPy arrays: float64 numbers, or integers."""
        with np.errstate(all="ignore"):
            found = self.exact(np, *arrays)
        return list(found) if isinstance(found, tuple) else [found]

    def in_ops(self, *arrays: mx.array) -> list[mx.array]:
        """The same by MLX's ops."""
        found = (self.plain or self._exactly)(*arrays)
        return list(found) if isinstance(found, tuple) else [found]

    def _exactly(self, *arrays: mx.array) -> Any:
        return self.exact(mx, *arrays)


def _size(name: str, sizes: Sizes) -> int:
    return int(name) if name.isdigit() else sizes[name]


def arrays(text: str) -> tuple[Array, ...]:
    """Arrays from "x: b d, targets: b below d": name, shape, how it is drawn if not "normal"."""
    found = []
    for part in text.split(","):
        name, _, rest = part.strip().partition(":")
        shape, draw = rest.strip(), "normal"
        for kind in (*_FLOATS, *sorted(_INTEGERS, reverse=True)):  # "signed bytes" before "bytes"
            if shape.endswith(kind):
                shape, draw = shape.removesuffix(kind).strip(), kind
        if " below " in f" {shape}":
            shape, _, size = f" {shape}".partition(" below ")
            draw = f"below {size}"
        found.append(Array(name, shape.strip(), draw))
    return tuple(found)
