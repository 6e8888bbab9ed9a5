"""Attention as it is written, and what takes its place: for the table of zmlx.catalog.patterns.

Spellings are plain functions of q, k, v, a mask and numbers, made of a way to scores, a way to
weights and a way to values. What replaces them chooses by sizes at each call: tiles on a CPU, where
they pay, else MLX's own attention.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import product as pairs
from typing import Any

import mlx.core as mx

from zmlx import kernels
from zmlx.catalog.flash import LEAST as LEAST_SCORE
from zmlx.catalog.formulas import fused
from zmlx.device.base import current_name
from zmlx.fuse.matched import Match
from zmlx.trace.calls import made_of_mlx

FEWEST_SCORES, FEWEST_ROWS = 8192, 8  # below, MLX's ops are as quick on a CPU
LEAST = -1e4  # what a mask may put in place of a score, or less: its power is 0
NUMBERS = {"scale": 0.3, "over": 3.0, "low": -1e9, "cap": 20.0}

Spelled = Callable[..., mx.array]


# -- what takes its place -------------------------------------------------------------------------
@made_of_mlx
def attention(
    q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None, scale: float = 1.0,
    over: float = 1.0, low: float = 0.0, cap: float | None = None,
) -> mx.array:  # fmt: skip
    """softmax(scale / over * q k^T + mask) v, of scores with a cap if one is given; `low` is what a
    mask of booleans puts for a score."""
    if mask is not None and mask.dtype == mx.bool_ and low == -math.inf:
        mask = mx.where(mask, 0.0, low).astype(q.dtype)  # a row without keys is NaN, as it was
    return _quickest(q, k, v, scale / over, mask, cap)


@made_of_mlx
def causal_attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    return _quickest(q, k, v, scale, "causal")


@made_of_mlx
def of_turned_keys(q: mx.array, k: mx.array, v: mx.array, **how: Any) -> mx.array:
    """As attention, of keys (B, S, H, D)."""
    found: mx.array = attention(q, k.swapaxes(1, 2), v, **how)
    return found


@made_of_mlx
def of_places(q: mx.array, k: mx.array, v: mx.array, **how: Any) -> mx.array:
    """As attention, of arrays (B, L, H, D)."""
    found: mx.array = attention(*[a.swapaxes(1, 2) for a in (q, k, v)], **how)
    return found.swapaxes(1, 2)


@made_of_mlx
def of_groups(
    q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None, **how: Any
) -> mx.array:
    """As attention, of queries (B, G, R, L, D) and keys (B, G, 1, S, D)."""
    batch, groups, shares, rows, _ = q.shape
    if mask is not None and mask.ndim > 2:
        axes = (1,) * (5 - mask.ndim) + mask.shape
        whole = mx.broadcast_to(mask.reshape(axes), (axes[0], groups, shares, *axes[3:]))
        mask = whole.flatten(1, 2)
    found: mx.array = attention(q.flatten(1, 2), k[:, :, 0], v[:, :, 0], mask, **how)
    return found.reshape(batch, groups, shares, rows, -1)


def _quickest(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Any = None,
    cap: float | None = None,
) -> mx.array:  # fmt: skip
    if q.ndim == 3:
        mask = mask[:, None] if isinstance(mask, mx.array) and mask.ndim == 3 else mask
        return _quickest(q[:, None], k[:, None], v[:, None], scale, mask, cap)[:, 0]
    caps = cap is None or 0 < abs(cap) < math.inf
    if current_name() == "host" and caps and _in_tiles(q, k, v):
        causal, kept = isinstance(mask, str), mask if isinstance(mask, mx.array) else None
        most = None if cap is None else abs(cap)  # tanh is odd
        return kernels.attention.flash_attention(q, k, v, scale, causal, kept, most)
    if cap is None:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    shares = q.shape[1] // k.shape[1]
    k, v = (mx.repeat(a, shares, 1) if shares > 1 else a for a in (k, v))
    return _capped_weights((q * scale) @ k.swapaxes(-1, -2), cap, mask) @ v


@fused
def _capped_weights(scores: mx.array, cap: float, mask: mx.array | None) -> mx.array:
    """One kernel between two products, where tiles do not pay."""
    found = cap * mx.tanh(scores / cap)
    if mask is not None and mask.dtype == mx.bool_:
        found = mx.where(mask, found, LEAST_SCORE)
    elif mask is not None:
        found = found + mask
    return mx.softmax(found.astype(mx.float32), axis=-1).astype(scores.dtype)


def _in_tiles(q: mx.array, k: mx.array, v: mx.array) -> bool:
    batch, heads, length, width = q.shape
    if not width or length < FEWEST_ROWS or q.size // width * k.shape[2] < FEWEST_SCORES:
        return False
    known = v.shape == k.shape and k.shape[0] == batch and k.shape[3] == width
    shares = k.shape[1] > 0 and heads % k.shape[1] == 0 and k.dtype == v.dtype == q.dtype
    return known and shares and width <= kernels.attention.MOST


def is_low(found: Match) -> str:
    """Why what a mask of booleans puts in place of a score does not leave it out."""
    if "low" not in found.numbers:
        return ""
    low = found.value("low")
    if low is None:
        return "what its mask puts in place of a score is known at call time only"
    return "" if low <= LEAST else f"its mask gives a score {low}, wanted {LEAST} or less"


# -- scores and values ----------------------------------------------------------------------------
def scores(q: mx.array, k: mx.array) -> mx.array:
    return q @ k.swapaxes(-1, -2)


def product(w: mx.array, v: mx.array) -> mx.array:
    return w @ v


def turned_scores(q: mx.array, k: mx.array) -> mx.array:
    return q @ k.transpose(0, 2, 3, 1)


def einsum_scores(q: mx.array, k: mx.array) -> mx.array:
    return mx.einsum("bhld,bhsd->bhls", q, k)


def einsum_values(w: mx.array, v: mx.array) -> mx.array:
    return mx.einsum("bhls,bhsd->bhld", w, v)


def einsum_places(q: mx.array, k: mx.array) -> mx.array:
    return mx.einsum("blhd,bshd->bhls", q, k)


def einsum_to_places(w: mx.array, v: mx.array) -> mx.array:
    return mx.einsum("bhls,bshd->blhd", w, v)


# -- weights --------------------------------------------------------------------------------------
def called(s: mx.array) -> mx.array:
    return mx.softmax(s, axis=-1)


def called_wide(s: mx.array) -> mx.array:
    return mx.softmax(s.astype(mx.float32), axis=-1).astype(s.dtype)


def written(s: mx.array) -> mx.array:
    powers = mx.exp(s - mx.max(s, axis=-1, keepdims=True))
    return powers / mx.sum(powers, axis=-1, keepdims=True)


# -- the whole ------------------------------------------------------------------------------------
def spellings(
    weights: Spelled, to: Spelled = scores, out: Spelled = product,
    masks: Sequence[str] = ("", "added"), cap: bool = False,
) -> list[Spelled]:  # fmt: skip
    """Scores scaled before, after, by a quotient or not at all; for each of `masks`."""
    scaled = ("queries", "scores", "quotient", "")
    return [_spelled(weights, to, out, *how, cap) for how in pairs(scaled, masks)]


def _spelled(
    weights: Spelled, to: Spelled, out: Spelled, scaled: str, mask: str, cap: bool
) -> Spelled:
    def attend(q: mx.array, k: mx.array, v: mx.array, **given: Any) -> mx.array:
        s = to(q * given["scale"] if scaled == "queries" else q, k)
        if scaled in ("scores", "quotient"):
            s = s * given["scale"] if scaled == "scores" else s / given["over"]
        if cap:
            s = mx.tanh(s / given["cap"]) * given["cap"]
        if mask:
            s = s + given["mask"] if mask == "added" else mx.where(given["mask"], s, given["low"])
        return out(weights(s), v)

    names = ["q", "k", "v", *{"": [], "quotient": ["over"]}.get(scaled, ["scale"])]
    names += [*["cap"] * cap, *["mask"] * bool(mask), *["low"] * (mask == "where")]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    attend.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    return attend


# -- MLX's own ------------------------------------------------------------------------------------
def fast(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)


def fast_masked(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


def fast_causal(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal")
