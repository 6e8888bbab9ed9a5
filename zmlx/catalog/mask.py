"""The mask that all dropout functions share.

Element i of an array is dropped iff u(seed, i) < p, where u is kk_uniform01 of zmlx.msl and i the
element's number in the array: three steps of a linear congruential generator and PCG's output
permutation (O'Neill 2014; Jarzynski and Olano, JCGT 9(3), 2020). Neither type nor launch nor device
changes it. Comes in: an array. Goes out: the numbers of its elements, in parts that are small
beside it, and the mask as MLX's ops over them. zmlx.catalog.formulas calls both.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import mlx.core as mx

from zmlx.device.rules import traces_shapeless
from zmlx.registry import forgets
from zmlx.trace import intercept

WIDE = 2**32  # elements beyond which numbers take 64 bits
KEPT = 2**16  # elements of a row whose numbers are kept for the next call


def places(x: mx.array) -> tuple[mx.array, ...]:
    """Arrays whose sum is the number of each element: of its row's first element, and in its row.

    In 32 bits, or of an array of more than 2**32 elements in 64.
    """
    tracer = intercept.current()
    if tracer is not None and tracer.sees(x):
        return _counted(x.shape)
    if traces_shapeless():
        return (_moving(x),)
    return _known(x.shape) if x.ndim == 0 or x.shape[-1] <= KEPT else _counted(x.shape)


def _counted(shape: tuple[Any, ...]) -> tuple[mx.array, ...]:
    """By sizes; those of a traced array are numbers known at call time."""
    *lead, width = shape or (1,)
    rows = prod(lead)
    kind = mx.uint64 if rows * width > WIDE else mx.uint32
    column = mx.arange(width, dtype=kind).reshape((1,) * len(lead) + (width,)[: len(shape)])
    return (mx.arange(rows, dtype=kind) * width).reshape((*lead, 1)[: len(shape)]), column


@lru_cache(maxsize=32)
def _known(shape: tuple[int, ...]) -> tuple[mx.array, ...]:
    with mx.stream(mx.cpu):
        made = _counted(shape)
        mx.eval(made)
    return made


forgets(_known.cache_clear)


def _moving(x: mx.array) -> mx.array:
    """Where sizes are still to come: counted along each axis."""
    found = mx.zeros((1,) * x.ndim, mx.uint32)
    for axis in range(x.ndim):
        along = mx.cumsum(mx.ones_like(x).astype(mx.uint32), axis) - 1
        found = found * (mx.max(along) + 1) + along
    return found


def uniform(seed: mx.array, *parts: mx.array) -> mx.array:
    """kk_uniform01(seed, i), float32 in [0, 1); the sum of `parts` is i."""
    index = sum(parts[1:], parts[0])
    low, high = index.astype(mx.uint32), None
    if index.dtype == mx.uint64:
        high = (index >> 32).astype(mx.uint32)
    x, z = _step(low), _step(seed.astype(mx.uint32))
    y = _INCREMENT if high is None else _step(high)  # of 0
    x, y, z = _products(x, y, z)
    x, y, z = (word ^ (word >> 16) for word in (x, y, z))
    x, y, z = _products(x, y, z)
    x = x ^ z
    x = ((x >> ((x >> 28) + 4)) ^ x) * 277803737
    bits = (x >> 22) ^ x
    return (bits >> 8).astype(mx.float32) * 2.0**-24


_INCREMENT = 1013904223


def _step(word: mx.array) -> mx.array:
    return word * 1664525 + _INCREMENT


def _products(x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
    x = x + y * z
    y = y + z * x
    return x, y, z + x * y
