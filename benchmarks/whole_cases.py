"""Whole parts of models, in plain MLX: blocks, a physics-informed loss, optimizers over a tree.

Comes in: nothing. Goes out: WHOLE, six cases over flat lists of arrays. benchmarks.whole measures
them beside PyTorch's (benchmarks.torch_whole), the tests compare each with plain MLX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

HEADS, GROUPS, EPS = 4, 8, 1e-5
VISCOSITY = 0.01 / math.pi
RATE, DECAY = 1e-2, 0.1
Arrays = list[mx.array]


def vit_block(
    x: mx.array, w1: mx.array, b1: mx.array, qkv: mx.array, bqkv: mx.array, out: mx.array,
    w2: mx.array, b2: mx.array, up: mx.array, bup: mx.array, down: mx.array,
) -> mx.array:  # fmt: skip
    """A block of a vision transformer: attention and an MLP, each behind a layer norm."""
    batch, tokens, width = x.shape
    y = mx.fast.layer_norm(x, w1, b1, EPS) @ qkv + bqkv
    heads = y.reshape(batch, tokens, 3, HEADS, width // HEADS).transpose(2, 0, 3, 1, 4)
    scale = (width // HEADS) ** -0.5
    seen = mx.fast.scaled_dot_product_attention(heads[0], heads[1], heads[2], scale=scale)
    x = x + seen.transpose(0, 2, 1, 3).reshape(batch, tokens, width) @ out
    y = mx.fast.layer_norm(x, w2, b2, EPS) @ up + bup
    return x + nn.gelu(y) @ down


def group_norm(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
    """Over pixels and the channels of a group, as PyTorch groups them; x is (N, H, W, C)."""
    grouped = x.reshape(x.shape[0], -1, GROUPS, x.shape[-1] // GROUPS)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    made = centred * mx.rsqrt((centred * centred).mean((1, 3), keepdims=True) + EPS)
    return made.reshape(x.shape) * w + b


def unet_block(
    x: mx.array, time: mx.array, n1: mx.array, c1: mx.array, conv1: mx.array, embed: mx.array,
    n2: mx.array, c2: mx.array, conv2: mx.array, skip: mx.array,
) -> mx.array:  # fmt: skip
    """A residual block of a diffusion model: two convolutions behind norms, a time embedding."""
    h = mx.conv2d(nn.silu(group_norm(x, n1, c1)), conv1, padding=1)
    h = h + (nn.silu(time) @ embed)[:, None, None]
    h = mx.conv2d(nn.silu(group_norm(h, n2, c2)), conv2, padding=1)
    return mx.conv2d(x, skip) + h


def layer(h: mx.array, w: mx.array, b: mx.array) -> mx.array:
    return mx.tanh(h @ w + b)


def burgers(
    points: mx.array, w1: mx.array, b1: mx.array, w2: mx.array, b2: mx.array, w3: mx.array
) -> mx.array:
    """How far a network is from Burgers' equation at points (x, t): first, second derivatives."""

    def network(p: mx.array) -> mx.array:
        return (layer(layer(p, w1, b1), w2, b2) @ w3)[:, 0]

    slopes = mx.grad(lambda p: network(p).sum())
    first, second = slopes(points), mx.grad(lambda p: slopes(p)[:, 0].sum())(points)
    u, bend = network(points), second[:, 0]
    return (first[:, 1] + u * first[:, 0] - VISCOSITY * bend).square().mean()


def stepped(optimizer: optim.Optimizer, moments: tuple[str, ...]) -> Callable[..., Any]:
    """A step over weights, then gradients, then moments, as MLX's own optimizer makes it."""

    def step(*arrays: mx.array) -> Arrays:
        count = len(arrays) // (2 + len(moments))
        parts = [arrays[i : i + count] for i in range(0, len(arrays), count)]
        made: list[Arrays] = []
        for weight, gradient, *held in zip(*parts, strict=True):
            state = dict(zip(moments, held, strict=True))
            new = optimizer.apply_single(gradient, weight, state)
            made.append([new, *[state[name] for name in moments]])
        return [array for part in zip(*made, strict=True) for array in part]

    return step


# -- inputs ---------------------------------------------------------------------------------------
def normal(*shape: int, scale: float = 1.0) -> mx.array:
    return scale * mx.random.normal(shape)


def tokens(n: int) -> Arrays:
    """About `n` numbers in x."""
    width = 32 if n < 2**14 else 256
    batch, length = (2, 9) if n < 2**14 else (max(1, n // (256 * width)), 256)
    thin = width**-0.5
    return [
        normal(batch, length, width), normal(width), normal(width),
        normal(width, 3 * width, scale=thin), normal(3 * width),
        normal(width, width, scale=thin), normal(width), normal(width),
        normal(width, 4 * width, scale=thin), normal(4 * width),
        normal(4 * width, width, scale=thin / 2),
    ]  # fmt: skip


def pictures(n: int) -> Arrays:
    inner, outer = (16, 24) if n < 2**14 else (64, 128)
    side = 6 if n < 2**14 else 32
    batch = max(1, n // (side * side * inner))
    return [
        normal(batch, side, side, inner), normal(batch, 2 * inner), normal(inner), normal(inner),
        normal(outer, 3, 3, inner, scale=(9 * inner) ** -0.5),
        normal(2 * inner, outer, scale=inner**-0.5), normal(outer), normal(outer),
        normal(outer, 3, 3, outer, scale=(9 * outer) ** -0.5),
        normal(outer, 1, 1, inner, scale=inner**-0.5),
    ]  # fmt: skip


def collocation(n: int) -> Arrays:
    width = 16 if n < 2**14 else 64
    thin = width**-0.5
    return [
        mx.random.uniform(-1, 1, (max(16, n // width), 2)), normal(2, width), normal(width),
        normal(width, width, scale=thin), normal(width), normal(width, 1, scale=thin),
    ]  # fmt: skip


def parameters(moments: int) -> Callable[[int], Arrays]:
    """Weights, gradients and so many moments of four layers, matrices and vectors."""

    def make(n: int) -> Arrays:
        width = 8 if n < 2**14 else math.isqrt(n // 16)
        shapes = [(width, 3 * width), (3 * width,), (4 * width, width), (width,)] * 2
        drawn = [normal(*s) for _ in range(2 + moments) for s in shapes]
        return [mx.abs(a) if i >= 3 * len(shapes) else a for i, a in enumerate(drawn)]

    return make


@dataclass(frozen=True)
class Whole:
    """A function of flat arrays, and inputs for about `n` numbers.

    `pulled`: there is a row for its pullback.
    """

    name: str
    fn: Callable[..., Any]
    make: Callable[[int], Arrays]
    pulled: bool = True

    def inputs(self, n: int) -> Arrays:
        """The same numbers in every run, evaluated."""
        mx.random.seed(0)
        made = self.make(n)
        mx.eval(made)
        return made

    def given(self, n: int) -> Arrays:
        """Inputs of the pullback: a cotangent behind the others."""
        inputs = self.inputs(n)
        cotangent = mx.random.normal(self.fn(*inputs).shape)
        mx.eval(cotangent)
        return [*inputs, cotangent]


def pullback(fn: Callable[..., Any]) -> Callable[..., Sequence[mx.array]]:
    """The gradients in all arguments but the last, the result's cotangent."""
    return lambda *xs: mx.vjp(fn, list(xs[:-1]), [xs[-1]])[1]


_ADAMW = optim.AdamW(RATE, weight_decay=DECAY)
_LION = optim.Lion(RATE, weight_decay=DECAY)
_MUON = optim.Muon(RATE, weight_decay=DECAY)
WHOLE = (
    Whole("ViT block", vit_block, tokens),
    Whole("U-Net residual block", unet_block, pictures),
    Whole("Burgers' residual, a PINN's loss", burgers, collocation),
    Whole("AdamW over a tree", stepped(_ADAMW, ("m", "v")), parameters(2), pulled=False),
    Whole("Lion over a tree", stepped(_LION, ("m",)), parameters(1), pulled=False),
    Whole("Muon over a tree", stepped(_MUON, ("v",)), parameters(1), pulled=False),
)
