"""The demo's model: plain MLX functions that know nothing of ZMLX or mx.compile.

One wide layer on 64 pixels, three channelwise residual layers, a loss written out by hand, and
AdamW as an elementwise function. `make_step` puts a loss and an update together into one training
step; the caller decides how the two are wrapped (see zmlx.demo.train).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

PIXELS, CLASSES, WIDTH = 64, 10, 1024
SMOOTHING = 0.1
RATE = 6e-3  # highest learning rate
BETA1, BETA2, EPSILON, DECAY = 0.9, 0.99, 1e-6, 0.01

Params = dict[str, dict[str, mx.array]]
Loss = Callable[..., mx.array]
Update = Callable[..., tuple[mx.array, mx.array, mx.array]]


@dataclass(frozen=True)
class State:
    """What a training step changes: the weights and AdamW's two moments, all of one tree shape."""

    params: Params
    first: Params
    second: Params


def init(seed: int, width: int = WIDTH) -> State:
    """Fresh weights; the same seed gives the same bits."""
    mx.random.seed(seed)

    def dense(rows: int, columns: int) -> mx.array:
        return mx.random.normal((rows, columns)) * (rows**-0.5)

    def channelwise() -> dict[str, mx.array]:
        return {
            "scale": mx.random.normal((width,)),
            "shift": 0.5 * mx.random.normal((width,)),
            "gain": mx.random.normal((width,)),
        }

    params = {
        "stem": {"weight": dense(PIXELS, width), "bias": mx.zeros((width,))},
        **{name: channelwise() for name in LAYERS},
        "head": {"weight": dense(width, CLASSES), "bias": mx.zeros((CLASSES,))},
    }
    state = State(params, tree_map(mx.zeros_like, params), tree_map(mx.zeros_like, params))
    mx.eval(state.params, state.first, state.second)
    return state


def tree_map(f: Callable[..., Any], tree: Params, *others: Params) -> dict[str, dict[str, Any]]:
    """`f` on every array of trees of one shape."""
    return {
        group: {key: f(value, *(o[group][key] for o in others)) for key, value in arrays.items()}
        for group, arrays in tree.items()
    }


# -- the functions that are trained: written once, run three ways ----------------------------------
def gelu(x: mx.array) -> mx.array:
    """GELU in its tanh form, written out."""
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def mish(x: mx.array) -> mx.array:
    """x tanh(softplus(x)), written out."""
    return x * mx.tanh(mx.logaddexp(x, 0.0))


def silu(x: mx.array) -> mx.array:
    """x sigmoid(x)."""
    return x * mx.sigmoid(x)


LAYERS: dict[str, Callable[[mx.array], mx.array]] = {"gelu": gelu, "mish": mish, "silu": silu}


def jitter(x: mx.array, noise: mx.array, contrast: mx.array) -> mx.array:
    """Augmented images: another contrast and some noise, kept within 0 and 1."""
    return mx.clip(x * (1 + 0.2 * contrast) + 0.08 * noise, 0.0, 1.0)


def channelwise(
    p: dict[str, mx.array], x: mx.array, activation: Callable[..., mx.array]
) -> mx.array:
    """A residual layer that keeps channels apart: x + activation(x * scale + shift) * gain."""
    return x + activation(x * p["scale"] + p["shift"]) * p["gain"]


def logits(params: Params, x: mx.array) -> mx.array:
    """Class scores of images (N, 64) in 0 to 1."""
    h = ((x - 0.3) / 0.4) @ params["stem"]["weight"] + params["stem"]["bias"]
    for name, activation in LAYERS.items():
        h = channelwise(params[name], h, activation)
    return h @ params["head"]["weight"] + params["head"]["bias"]


def loss(
    params: Params, x: mx.array, target: mx.array, noise: mx.array, contrast: mx.array
) -> mx.array:
    """Mean cross-entropy against the smoothed one-hot `target`, on augmented images."""
    scores = logits(params, jitter(x, noise, contrast))
    soft = target * (1 - SMOOTHING) + SMOOTHING / CLASSES
    return mx.mean(mx.logsumexp(scores, axis=-1) - mx.sum(scores * soft, axis=-1))


def adamw(
    w: mx.array, g: mx.array, m: mx.array, v: mx.array, rate: Any, scale1: Any, scale2: Any
) -> tuple[mx.array, mx.array, mx.array]:
    """One AdamW update of one array; `rate` and the bias corrections are numbers that change."""
    m = BETA1 * m + (1 - BETA1) * g
    v = BETA2 * v + (1 - BETA2) * mx.square(g)
    move = (m * scale1) / (mx.sqrt(v * scale2) + EPSILON) + DECAY * w
    return w - rate * move, m, v


def schedule(step: int, steps: int) -> tuple[float, float, float]:
    """Learning rate (short warm-up, then a cosine) and the bias corrections of step 0, 1, ..."""
    warmup = max(1, steps // 10)
    phase = (step - warmup) / max(1, steps - warmup)
    rate = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * phase))
    return RATE * rate, 1 / (1 - BETA1 ** (step + 1)), 1 / (1 - BETA2 ** (step + 1))


def make_step(loss: Loss, update: Update) -> Callable[..., tuple[mx.array, Params, Params, Params]]:
    """A training step: (params, first, second, batch, numbers) -> loss and the three new trees."""
    value_and_grad = mx.value_and_grad(loss)

    def step(
        params: Params, first: Params, second: Params, batch: tuple[mx.array, ...], numbers: Any
    ) -> tuple[mx.array, Params, Params, Params]:
        value, gradient = value_and_grad(params, *batch)
        new = tree_map(
            lambda w, g, m, v: update(w, g, m, v, *numbers), params, gradient, first, second
        )
        w, m, v = (tree_map(lambda triple, i=i: triple[i], new) for i in range(3))
        return value, w, m, v

    return step
