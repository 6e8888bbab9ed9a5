"""Attention that never holds its scores: how its kernels are launched, and their rules.

Comes in: q (..., H, L, D), k and v (..., G, S, D), G a divisor of H, and a mask whose axes are
those of the scores (..., H, L, S) or 1. Goes out: an op with two results: the attention, and of
each row the largest score and the sum of the powers above it, from which the backward kernels, one
for q and one for k and v, compute tiles of the weights again. Second derivatives, tangents and
gradients of a mask hold the scores: they are those of `plain`. zmlx.catalog.attention calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx

from zmlx.catalog import flash_alone, flash_tiles
from zmlx.catalog.by_hand import ByHand, Text
from zmlx.catalog.formulas import wide
from zmlx.fuse.by_size import alone
from zmlx.registry import forgets

Arrays = Sequence[mx.array]
MOST = 256  # columns of a row
WIDTHS = (64, 128, MOST)  # for each of which there is a kernel
LEAST = -3.4028234663852886e38  # float32's: what a mask leaves out


class How(NamedTuple):
    """What is done to scores; a cap of 0 is none."""

    scale: float
    causal: bool
    cap: float


@lru_cache(maxsize=256)
def attention(how: How) -> ByHand:
    """The op of q, k, v, and a mask if one is given."""

    def run(*arrays: mx.array) -> list[mx.array]:
        q, k, v, *mask = arrays
        shapes, kinds = [q.shape, (*q.shape[:-1], 2)], [q.dtype, mx.float32]
        return _launched("FORWARD", [q, k, v], mask, q, how, shapes, kinds)

    def plain(*arrays: mx.array) -> list[mx.array]:
        return _plain(how, *arrays)

    def pull(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
        q, k, v, *mask = map(_flat, primals)
        out, stats, g = (_flat(a) for a in (*outputs, given[0]))
        delta = (wide(out) * wide(g)).sum(-1)
        back = [q, k, v, stats, delta[..., None], g, *mask]
        found = [*_to_queries(how)(*back), *_to_keys(how)(*back)]
        moved: list[mx.array | None] = [
            x.reshape(p.shape) for x, p in zip(found, primals, strict=False)
        ]
        if not mask:
            return moved
        return [*moved, _mask_pull(plain, primals, given[0])]

    return ByHand("flash_attention", run, plain, pull, rows=True)


def _mask_pull(plain: Any, primals: Arrays, g: mx.array) -> mx.array | None:
    """A mask's gradient, which computes the scores if somebody asks for it."""
    *rest, mask = primals
    if mask.dtype == mx.bool_:
        return None
    found = mx.vjp(lambda m: [plain(*rest, m)[0]], [mask], [g.reshape(rest[0].shape)])
    return found[1][0]


@lru_cache(maxsize=256)
def _to_queries(how: How) -> ByHand:
    return _backward("flash_attention_dq", "TO_QUERIES", how, slice(0, 1))


@lru_cache(maxsize=256)
def _to_keys(how: How) -> ByHand:
    return _backward("flash_attention_dkv", "TO_KEYS", how, slice(1, 3))


for _made in (attention, _to_queries, _to_keys):
    forgets(_made.cache_clear)


def _backward(name: str, text: str, how: How, which: slice) -> ByHand:
    """The op of q, k, v, stats, delta, g, and a mask: the gradients of q, k, v that `which` names.

    Stats and delta follow from the rest, through which all its derivatives go.
    """

    def run(*arrays: mx.array) -> list[mx.array]:
        rest, mask = list(arrays[:6]), arrays[6:]
        moved = arrays[:3][which]
        shapes, kinds = [a.shape for a in moved], [a.dtype for a in moved]
        return _launched(text, rest, mask, moved[0], how, shapes, kinds)

    def plain(*arrays: mx.array) -> list[mx.array]:
        (q, k, v, _, _, g), mask = arrays[:6], arrays[6:]

        def of(*moved: mx.array) -> list[mx.array]:
            return _plain(how, *moved, *mask)[:1]

        return mx.vjp(of, [q, k, v], [g])[1][which]

    def pull(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
        rest = list(primals)

        def of(q: mx.array, k: mx.array, v: mx.array, g: mx.array) -> list[mx.array]:
            return plain(q, k, v, *rest[3:5], g, *rest[6:])

        cotangents = [c.reshape(p.shape) for c, p in zip(given, primals[:3][which], strict=True)]
        dq, dk, dv, dg = mx.vjp(of, [*rest[:3], rest[5]], cotangents)[1]
        mask: list[mx.array | None] = [None] * len(rest[6:])
        return [dq, dk, dv, None, None, dg, *mask]

    return ByHand(name, run, plain, pull, rows=True)


# -- launches -------------------------------------------------------------------------------------
def _launched(
    name: str,
    arrays: Arrays,
    masks: Arrays,
    tiled: mx.array,
    how: How,
    shapes: Sequence[Sequence[int]],
    kinds: Sequence[mx.Dtype],
) -> list[mx.array]:
    """One group, or one thread, for each 32 rows of `tiled`; `name` says which text."""
    single = alone()
    text: Text = getattr(flash_alone if single else flash_tiles, name)
    mask = _mask(masks[0], arrays[0]) if masks else _none()
    mode = 0 if not masks else (1 if mask.dtype == mx.bool_ else 2)
    width = next(w for w in WIDTHS if w >= tiled.shape[-1])
    planes, tiles = prod(tiled.shape[:-2]), -(-tiled.shape[-2] // flash_tiles.ROWS)
    grid, group = ((planes, tiles, 1), (1, 1, 1)) if single else (
        (planes * 32, tiles * 4, 1), (32, 4, 1))  # fmt: skip
    given = [*map(_flat, arrays), mask, _how(how)]
    kind = [("N", width // 8), ("MASK", mode), ("CAP", int(how.cap > 0))]
    return text(given, shapes, kinds, grid, group, kind)


def _flat(x: mx.array) -> mx.array:
    """With one leading axis before the last three."""
    return x if x.ndim == 4 else x.reshape(-1, *x.shape[-3:])


def _mask(mask: mx.array, q: mx.array) -> mx.array:
    lead = q.shape[:-3]
    if prod(mask.shape[:-3]) not in (1, prod(lead)):
        mask = mx.broadcast_to(mask, (*lead, *mask.shape[-3:]))
    return _flat(mask)


@lru_cache(maxsize=1)
def _none() -> mx.array:
    return mx.zeros((1, 1, 1, 1), mx.bool_)


@lru_cache(maxsize=256)
def _how(how: How) -> mx.array:
    with mx.stream(mx.cpu):
        made = mx.array([float(number) for number in how], mx.float32)
        mx.eval(made)
    return made


forgets(_none.cache_clear)
forgets(_how.cache_clear)


# -- by MLX's ops ---------------------------------------------------------------------------------
def _plain(how: How, q: mx.array, k: mx.array, v: mx.array, *mask: mx.array) -> list[mx.array]:
    """The same with all scores at once."""
    *lead, heads, rows, width = q.shape
    groups, keys = k.shape[-3:-1]
    shares = (*lead, groups, heads // groups, rows)
    asked = (wide(q) * how.scale).reshape(*shares, width)
    scores = asked @ wide(k)[..., None, :, :].swapaxes(-1, -2)
    scores = scores.reshape(*lead, heads, rows, keys)
    scores = how.cap * mx.tanh(scores / how.cap) if how.cap else scores
    for one in mask:
        scores = mx.where(one, scores, LEAST) if one.dtype == mx.bool_ else scores + wide(one)
    if how.causal:
        seen = mx.arange(keys) <= mx.arange(rows)[:, None] + (keys - rows)
        scores = mx.where(seen, scores, LEAST)
    top = mx.max(mx.stop_gradient(scores), -1, keepdims=True)
    powers = mx.exp(scores - top)
    whole = powers.sum(-1, keepdims=True)
    weights = (powers / whole).reshape(*shares, keys)
    out = (weights @ wide(v)[..., None, :, :]).reshape(q.shape).astype(q.dtype)
    return [out, mx.concatenate([top, whole], -1)]
