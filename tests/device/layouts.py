"""Arrays in every layout, and the sum that tells whether a kernel read them in order."""

from __future__ import annotations

import mlx.core as mx
import numpy as np


def values(*shape: int) -> mx.array:
    return mx.arange(int(np.prod(shape)), dtype=mx.float32).reshape(shape)


def expected(*arrays: mx.array) -> np.ndarray:
    """x0 + 3*x1 + 9*x2 …: small whole numbers, so that the sum is exact."""
    return np.asarray(sum(np.array(a) * np.float32(3**i) for i, a in enumerate(arrays)))


def random_view(generator: np.random.Generator, shape: list[int]) -> mx.array:
    """An array of `shape`, some sizes replaced by one, in some layout."""
    sizes = [1 if generator.random() < 0.2 else n for n in shape]
    order = generator.permutation(len(sizes)).tolist()
    steps = [int(generator.choice([1, 1, 2, -1])) for _ in sizes]
    base = values(*[sizes[d] * abs(steps[d]) for d in order])
    view = base.transpose(*np.argsort(order).tolist())
    view = view[tuple(slice(None, None, s) for s in steps)]
    return mx.broadcast_to(view, shape) if generator.random() < 0.2 else view
