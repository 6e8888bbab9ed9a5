"""Rotary position embedding (Su et al., arXiv:2104.09864): pairs of a row turned by angles.

Results have x's shape and type; arithmetic is float32, rounded once. Everything is differentiable
in x, cos and sin, to any order. `rope_append` puts turned keys, and values, into caches;
`rope_axes` turns by places of several axes, as models of images do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx

from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, root, wide
from zmlx.registry import forgets

__all__ = [
    "apply_gqa_rope",
    "apply_rope",
    "apply_rope_interleaved",
    "qk_norm_rope",
    "rope_append",
    "rope_at",
    "rope_axes",
]

MODULE = "rope"


# -- formulas -------------------------------------------------------------------------------------
def _turned(v: mx.array, c: mx.array, s: mx.array) -> mx.array:
    a, b = mx.split(v, 2, -1)
    return mx.concatenate([a * c - b * s, a * s + b * c], -1)


@fused
def _halves(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return _turned(wide(x), wide(cos), wide(sin)).astype(x.dtype)


@fused
def _heads(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return _turned(wide(x), wide(cos)[:, None, :], wide(sin)[:, None, :]).astype(x.dtype)


@fused
def _pairs(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    v, c, s = wide(x), wide(cos), wide(sin)
    a, b = v[..., ::2], v[..., 1::2]
    return mx.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape).astype(x.dtype)


@fused
def _at(x: mx.array, offset: mx.array, base: mx.array, scale: mx.array) -> mx.array:
    """Angles are made on the way: (offset + row) * scale * base**(-2j/D)."""
    half = x.shape[-1] // 2
    place = mx.arange(x.shape[-2]).astype(mx.float32)[:, None] + offset
    turns = mx.exp(mx.arange(half).astype(mx.float32) * (-mx.log(base) / half))
    angle = place * scale * turns
    return _turned(wide(x), mx.cos(angle), mx.sin(angle)).astype(x.dtype)


@fused
def _by_axes(x: mx.array, positions: mx.array, turns: mx.array) -> mx.array:
    """A pair's angle is the sum over axes of place times turn, of which one at most is not 0."""
    angle = wide(positions[0])[..., None] * turns[0]
    for axis in range(1, turns.shape[0]):
        angle = angle + wide(positions[axis])[..., None] * turns[axis]
    angle = angle[..., None, :, :]
    return _turned(wide(x), mx.cos(angle), mx.sin(angle)).astype(x.dtype)


@fused
def _normed(x: mx.array, weight: mx.array, cos: mx.array, sin: mx.array, eps: mx.array) -> mx.array:
    v = wide(x)
    normed = v * root(v, eps) * wide(weight)
    return _turned(normed, wide(cos), wide(sin)).astype(x.dtype)


# -- functions ------------------------------------------------------------------------------------
def apply_rope(
    x: mx.array, cos: mx.array, sin: mx.array, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """Element j of a row is turned with element j + D/2, by the angle of its place.

    Args:
        x: (..., S, D), D even; float32, float16 or bfloat16.
        cos, sin: (S, D/2), of the angles.
        compute_dtype: accepted for the contract; all arithmetic is float32.

    Returns:
        x's shape and dtype: x_j c_j - x_(j+D/2) s_j, and x_j s_j + x_(j+D/2) c_j.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    found: mx.array = _halves(*_checked("apply_rope", x, cos, sin, compute_dtype))
    return found


def apply_rope_interleaved(
    x: mx.array, cos: mx.array, sin: mx.array, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """Element 2i of a row is turned with element 2i + 1; otherwise as apply_rope."""
    found: mx.array = _pairs(*_checked("apply_rope_interleaved", x, cos, sin, compute_dtype))
    return found


def apply_gqa_rope(
    x: mx.array,
    cos: mx.array,
    sin: mx.array,
    *,
    n_kv_heads: int,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """apply_rope for every head of x (B, S, H, D), whose places lie along axis 1.

    `n_kv_heads` only has to divide H; values do not depend on it.
    """
    call = Call(MODULE, "apply_gqa_rope")
    call.compute(compute_dtype)
    x = _even(call, call.of_rank("x", call.rows("x", x), 4, "(B, S, H, D)"))
    heads = call.whole("n_kv_heads", n_kv_heads, 1, 2**31 - 1)
    if x.shape[2] % heads:
        raise call.wrong("n_kv_heads", str(heads), f"a divisor of the {x.shape[2]} heads")
    found: mx.array = _heads(x, *_angles(call, cos, sin, x.shape[1], x.shape[-1]))
    return found


def rope_at(
    x: mx.array,
    offset: int | mx.array = 0,
    *,
    base: float = 10000.0,
    scale: float = 1.0,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """apply_rope at places offset, offset + 1, ..., with angles place * scale * base**(-2j/D).

    Args:
        x: (..., S, D), D even.
        offset: the place of the first row: a number, or an array of one, such as the length of a
            cache; it reaches the kernel at run time, and so do `base` and `scale`.

    Returns:
        x's shape and dtype, as mx.fast.rope with traditional=False; otherwise as apply_rope.
    """
    call = Call(MODULE, "rope_at")
    call.compute(compute_dtype)
    x = call.known(_even(call, call.rows("x", x)))
    if x.ndim < 2:
        raise call.wrong("x", f"of shape {x.shape}", "an array with axes (..., S, D)")
    if isinstance(offset, mx.array) and mx.issubdtype(offset.dtype, mx.integer):
        offset = offset.astype(mx.float32)
    numbers = [call.scalar(n, v, 1) for n, v in (("offset", offset), ("base", base))]
    found: mx.array = _at(x, *numbers, call.scalar("scale", scale, 1))
    return found


def rope_append(
    keys: mx.array,
    values: mx.array,
    k: mx.array,
    v: mx.array,
    offset: int | mx.array,
    *,
    base: float = 10000.0,
    scale: float = 1.0,
    compute_dtype: mx.Dtype | None = None,
) -> tuple[mx.array, mx.array]:
    """The caches with rope_at(k, offset) and v in their rows offset, offset + 1, ...

    The results are arrays of their own; where nobody else holds a cache, its memory is used again.

    Args:
        keys, values: (..., C, D), D even in keys: the caches.
        k, v: (..., S, D), S <= C, of the caches' leading axes, rows and types.
        offset: a number from 0 to C - S, or an integer array of one element. One that is out of
            range, which only the device knows, makes the rows that are written NaN. Under mx.vmap
            it is one for all examples.
        base, scale: as in rope_at.

    Returns:
        (keys, values), differentiable in all four arrays; otherwise as rope_at.
    """
    call = Call(MODULE, "rope_append")
    keys, values = call.rows("keys", keys), call.rows("values", values)
    k, v = call.rows("k", k), call.rows("v", v)
    for name, cache, other, new in (("k", keys, "keys", k), ("v", values, "values", v)):
        if cache.ndim < 2 or new.dtype != cache.dtype:
            wanted = f"axes (..., C, D) and the type of {name}, {new.dtype}"
            raise call.wrong(other, f"{cache.dtype} of shape {cache.shape}", wanted)
        *lead, most, width = cache.shape
        if new.ndim != cache.ndim or not 1 <= new.shape[-2] <= most:
            raise call.wrong(name, f"of shape {new.shape}", f"1 to {most} rows for {other}")
        call.shaped(name, new, (*lead, new.shape[-2], width))
    if values.shape[:-1] != keys.shape[:-1] or v.shape[-2] != k.shape[-2]:
        wanted = f"leading axes {keys.shape[:-1]}, and as many new rows"
        raise call.wrong("values", f"of shape {values.shape}", wanted)
    last = keys.shape[-2] - k.shape[-2]
    turned = rope_at(k, offset, base=base, scale=scale, compute_dtype=compute_dtype)
    start, wrong = _start(call, offset, last)
    return _put(keys, turned, start, wrong), _put(values, v, start, wrong)


def _start(call: Call, offset: Any, last: int) -> tuple[mx.array, mx.array | None]:
    """The first row to be written, and NaN or 0 where only the device knows whether it is right."""
    if not isinstance(offset, mx.array):
        return mx.array([call.whole("offset", offset, 0, last)], mx.int32), None
    if offset.size != 1 or not mx.issubdtype(offset.dtype, mx.integer):
        came = f"{offset.dtype} of shape {offset.shape}"
        raise call.wrong("offset", came, "a whole number, or an array of one")
    first = offset.reshape(1).astype(mx.int32)
    start = mx.clip(first, 0, last)  # beyond its end MLX would write into other memory
    return start, mx.where(first == start, 0.0, mx.nan)


def _put(cache: mx.array, new: mx.array, start: mx.array, wrong: mx.array | None) -> mx.array:
    if wrong is not None:
        new = new + wrong.astype(new.dtype)
    # Under mx.vmap of the cache alone MLX would take the new rows for mapped ones.
    new = mx.where(mx.array(False), cache[..., : new.shape[-2], :], new)
    return mx.slice_update(cache, new, start, axes=(cache.ndim - 2,))


def rope_axes(
    x: mx.array,
    positions: mx.array,
    sections: Sequence[int],
    *,
    base: float = 10000.0,
    restart: bool = False,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """apply_rope by places along several axes: each axis turns a section of the pairs.

    Pair j of a row, x_j and x_(j+D/2), belongs to one section; its angle is the place along that
    section's axis times base**(-2j/D), as in Qwen2-VL's language model (time, height, width). With
    `restart` the i-th pair of a section of n turns by base**(-i/n): each axis has all frequencies,
    as in vision towers (height, width).

    Args:
        x: (..., H, S, D), D even.
        positions: (A, ..., S), integers: places along A axes, for all H heads alike.
        sections: A whole numbers that add up to D/2.
        base: a positive number.

    Returns:
        x's shape and dtype, differentiable in x; otherwise as apply_rope. A kernel is compiled for
        each number of axes.
    """
    call = Call(MODULE, "rope_axes")
    call.compute(compute_dtype)
    x = call.known(_even(call, call.rows("x", x)))
    if x.ndim < 3:
        raise call.wrong("x", f"of shape {x.shape}", "an array with axes (..., H, S, D)")
    if not isinstance(restart, bool):
        raise call.wrong("restart", repr(restart), "True or False")
    half, counts = x.shape[-1] // 2, tuple(sections)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in counts)
    if not counts or not whole or sum(counts) != half:
        raise call.wrong("sections", repr(sections), f"whole numbers that add up to {half}")
    shape = (len(counts), *x.shape[:-3], x.shape[-2])
    positions = call.of_shape("positions", call.integers("positions", positions), shape)
    number = call.number("base", base, 0.0, float("inf"))
    if number == 0.0:
        raise call.wrong("base", repr(base), "a positive number")
    found: mx.array = _by_axes(x, positions, _turns(counts, number, restart))
    return found


@lru_cache(maxsize=64)
def _turns(sections: tuple[int, ...], base: float, restart: bool) -> mx.array:
    """(A, D/2): what each pair turns by for a place along each axis."""
    rows, first, half = [], 0, sum(sections)
    for n in sections:
        own = [base ** (-i / n if restart else -(first + i) / half) for i in range(n)]
        rows.append([0.0] * first + own + [0.0] * (half - first - n))
        first += n
    with mx.stream(mx.cpu):
        made = mx.array(rows, mx.float32)
        mx.eval(made)
    return made


forgets(_turns.cache_clear)


def qk_norm_rope(
    x: mx.array,
    weight: mx.array,
    cos: mx.array,
    sin: mx.array,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """apply_rope(norms.rmsnorm(x, weight), cos, sin) without rounding in between.

    Args:
        x: (..., S, D), D even: queries or keys, each head a row.
        weight: (D,).
        cos, sin: (S, D/2).
    """
    call = Call(MODULE, "qk_norm_rope")
    run = call.launched(_normed, threadgroup, compute_dtype)
    x, cos, sin = _checked("qk_norm_rope", x, cos, sin, None)
    found: mx.array = run(x, call.shaped("weight", weight, x.shape[-1:]), cos, sin,
                          call.eps(eps, x))  # fmt: skip
    return found


def _checked(
    name: str, x: Any, cos: Any, sin: Any, compute: object
) -> tuple[mx.array, mx.array, mx.array]:
    call = Call(MODULE, name)
    call.compute(compute)
    x = _even(call, call.rows("x", x))
    if x.ndim < 2:
        raise call.wrong("x", f"of shape {x.shape}", "an array with axes (..., S, D)")
    return x, *_angles(call, cos, sin, x.shape[-2], x.shape[-1])


def _even(call: Call, x: mx.array) -> mx.array:
    if x.shape[-1] % 2:
        raise call.wrong("x", f"of shape {x.shape}", "an even last axis: it is turned in pairs")
    return x


def _angles(call: Call, cos: Any, sin: Any, s: int, d: int) -> tuple[mx.array, mx.array]:
    return call.shaped("cos", cos, (s, d // 2)), call.shaped("sin", sin, (s, d // 2))
