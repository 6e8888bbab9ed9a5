"""A call of every public function of the catalog, as its row of the table says.

Tests run them under the sanitizer and show them to the Metal check and to CUDA's compiler. What
they should compute is in tests/catalog.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from zmlx.catalog.rows import ROWS

NAMES = sorted(ROWS)
FLOATS = ("float32", "float16", "bfloat16")
GROUPS = (32, 256)  # threads of a group, where a function lets its caller say
DEEP = ("softmax", "norms", "transformer")
# In the default tier: kernels by hand, and what transformers are made of, each in one type.
SOME = [name for name in NAMES if ROWS[name].by_hand or ROWS[name].module in DEEP]
IN_TURN = [(name, FLOATS[i % len(FLOATS)]) for i, name in enumerate(SOME)]


def function(name: str, threadgroup: int | None = None) -> Callable[..., list[mx.array]]:
    """The call, as a function from arrays to a list of them."""
    more = {} if threadgroup is None else {"threadgroup": threadgroup}
    return partial(ROWS[name].run, **more)


def drawn(name: str, kind: str) -> list[mx.array]:
    return ROWS[name].drawn(getattr(mx, kind))


def pulled(name: str, run: Callable[..., list[mx.array]], *arrays: mx.array) -> list[mx.array]:
    """The gradients of all arrays that have one, and nothing where there is none."""
    places = ROWS[name].differentiable
    if not places:
        return []

    def of(*moved: mx.array) -> list[mx.array]:
        given = dict(zip(places, moved, strict=True))
        found = run(*[given.get(i, a) for i, a in enumerate(arrays)])
        return [o for o in found if mx.issubdtype(o.dtype, mx.floating)]

    seeds = [mx.cos(mx.arange(o.size)).reshape(o.shape).astype(o.dtype) for o in of(
        *[arrays[i] for i in places])]  # fmt: skip
    return mx.vjp(of, [arrays[i] for i in places], seeds)[1]


def transformed(name: str, kind: str, threadgroup: int | None = None) -> list[mx.array]:
    """The value, the gradients of all inputs, their gradients, and the value mapped."""
    run, arrays = function(name, threadgroup), drawn(name, kind)
    found, places = [*run(*arrays), *pulled(name, run, *arrays)], ROWS[name].differentiable

    def slopes(*moved: mx.array) -> list[mx.array]:
        given: dict[int, Any] = dict(zip(places, moved, strict=True))
        return pulled(name, run, *[given.get(i, a) for i, a in enumerate(arrays)])

    if places:
        moved = [arrays[i] for i in places]
        found += mx.vjp(slopes, moved, [mx.ones_like(a) for a in moved])[1]
    return found + mx.vmap(run)(*[mx.stack([a, a]) for a in arrays])
