"""Whole functions as users write them, each once, in plain MLX, with its inputs and a loss.

Comes in: nothing. Goes out: USERS, sixteen UserCases. benchmarks.users measures them, the tests
compare each with a float64 reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

Arrays = list[mx.array]
STEP = 0.01  # of the integrators


def softcap(scores: mx.array, bias: mx.array, mask: mx.array) -> mx.array:
    """Attention scores: capped, with ALiBi's bias, masked."""
    return mx.where(mask, 30.0 * mx.tanh(scores / 30.0) + bias, -1e9)


def softmax(x: mx.array) -> mx.array:
    e = mx.exp(x - mx.max(x, axis=-1, keepdims=True))
    return e / mx.sum(e, axis=-1, keepdims=True)


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    centred = x - mx.mean(x, axis=-1, keepdims=True)
    variance = mx.mean(centred * centred, axis=-1, keepdims=True)
    return centred * mx.rsqrt(variance + 1e-5) * weight + bias


def rope(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def focal(logits: mx.array, targets: mx.array) -> mx.array:
    p = mx.sigmoid(logits)
    right = p * targets + (1 - p) * (1 - targets)
    weight = 0.25 * targets + 0.75 * (1 - targets)
    return mx.mean(-weight * (1 - right) ** 2 * mx.log(right + 1e-8))


def huber(prediction: mx.array, target: mx.array) -> mx.array:
    error = prediction - target
    size = mx.abs(error)
    return mx.mean(mx.where(size < 1.0, 0.5 * error * error, size - 0.5))


def pendulum(a: mx.array, b: mx.array, da: mx.array, db: mx.array) -> tuple[mx.array, mx.array]:
    """The two angular accelerations of a double pendulum."""
    gap = a - b
    below = 3.0 - mx.cos(2 * gap)
    turn = da * da + db * db * mx.cos(gap)
    first = -29.43 * mx.sin(a) - 9.81 * mx.sin(a - 2 * b) - 2 * mx.sin(gap) * turn
    pull = 2 * da * da + 19.62 * mx.cos(a) + db * db * mx.cos(gap)
    return first / below, 2 * mx.sin(gap) * pull / below


def runge_kutta(x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
    """One step of RK4 for Lotka and Volterra's predators and prey."""

    def slope(x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
        return 1.1 * x - 0.4 * x * y, 0.1 * x * y - 0.4 * y

    ax, ay = slope(x, y)
    bx, by = slope(x + STEP / 2 * ax, y + STEP / 2 * ay)
    cx, cy = slope(x + STEP / 2 * bx, y + STEP / 2 * by)
    dx, dy = slope(x + STEP * cx, y + STEP * cy)
    return (
        x + STEP / 6 * (ax + 2 * bx + 2 * cx + dx),
        y + STEP / 6 * (ay + 2 * by + 2 * cy + dy),
    )


def sobel(image: mx.array) -> mx.array:
    """The size of an image's gradient, by slices."""
    up, down = image[:-2], image[2:]
    gx = up[:, 2:] - up[:, :-2] + 2 * (image[1:-1, 2:] - image[1:-1, :-2])
    gx = gx + down[:, 2:] - down[:, :-2]
    gy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    gy = gy - up[:, :-2] - 2 * up[:, 1:-1] - up[:, 2:]
    return mx.sqrt(gx * gx + gy * gy + 1e-6)


def tone_map(x: mx.array) -> mx.array:
    """ACES' film curve, then sRGB's gamma."""
    y = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    y = mx.clip(y, 0.0, 1.0)
    return mx.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)


def black_scholes(spot: mx.array, strike: mx.array, years: mx.array, sigma: mx.array) -> mx.array:
    """The price of a call."""
    spread = sigma * mx.sqrt(years)
    d1 = (mx.log(spot / strike) + (0.02 + 0.5 * sigma * sigma) * years) / spread

    def normal(x: mx.array) -> mx.array:
        return 0.5 * (1 + mx.erf(x / math.sqrt(2)))

    return spot * normal(d1) - strike * mx.exp(-0.02 * years) * normal(d1 - spread)


def quaternions(p: mx.array, q: mx.array) -> mx.array:
    a, b, c, d = (p[..., i] for i in range(4))
    e, f, g, h = (q[..., i] for i in range(4))
    return mx.stack(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ],
        axis=-1,
    )


def mixture(x: mx.array, mean: mx.array, log_scale: mx.array, logit: mx.array) -> mx.array:
    """The negative log likelihood of a mixture of normal densities."""
    z = (x[:, None] - mean) * mx.exp(-log_scale)
    weights = logit - mx.logsumexp(logit, axis=-1, keepdims=True)
    each = weights - 0.5 * z * z - log_scale - 0.5 * math.log(2 * math.pi)
    return -mx.mean(mx.logsumexp(each, axis=-1))


def gru(x: mx.array, h: mx.array, wx: mx.array, wh: mx.array, bias: mx.array) -> mx.array:
    fromx, fromh = mx.split(x @ wx + bias, 3, axis=-1), mx.split(h @ wh, 3, axis=-1)
    reset = mx.sigmoid(fromx[0] + fromh[0])
    update = mx.sigmoid(fromx[1] + fromh[1])
    new = mx.tanh(fromx[2] + reset * fromh[2])
    return (1 - update) * new + update * h


def adam(tree: dict[str, Arrays]) -> dict[str, Arrays]:
    """A step of Adam over lists of weights, gradients and both moments."""
    made: dict[str, Arrays] = {"w": [], "m": [], "v": []}
    for w, g, m, v in zip(tree["w"], tree["g"], tree["m"], tree["v"], strict=True):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        made["w"].append(w - 1e-3 * m / (mx.sqrt(v) + 1e-8))
        made["m"].append(m)
        made["v"].append(v)
    return made


def attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Softmax attention, with matmuls."""
    scores = (q @ mx.swapaxes(k, -1, -2)) * (q.shape[-1] ** -0.5)
    return softmax(scores) @ v


# -- inputs ---------------------------------------------------------------------------------------
def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape)


def positive(*shape: int) -> mx.array:
    return mx.random.uniform(0.5, 2.0, shape)


def masked(n: int) -> list[Any]:
    side = max(2, math.isqrt(n // 4))
    distance = mx.arange(side)[None] - mx.arange(side)[:, None]
    slopes = mx.array([0.5, 0.25, 0.125, 0.0625])[:, None, None]
    return [20 * normal(4, side, side), slopes * distance, distance <= 0]


def angles(n: int) -> list[Any]:
    length = max(1, n // 128)
    turns = mx.arange(length)[:, None] * mx.exp(-mx.arange(32) / 4)
    return [normal(2, length, 64), mx.cos(turns), mx.sin(turns)]


def cells(n: int) -> list[Any]:
    width = 16 if n < 2**16 else 128
    rows = max(1, n // width)
    scale = width**-0.5
    weights = [scale * normal(width, 3 * width) for _ in range(2)]
    return [normal(rows, width), normal(rows, width), *weights, normal(3 * width)]


def moments(n: int) -> list[Any]:
    leaves, size = 16, max(1, n // 16)
    parts = {name: [normal(size) for _ in range(leaves)] for name in "wgm"}
    return [parts | {"v": [positive(size) for _ in range(leaves)]}]


def square(n: int) -> mx.array:
    side = max(4, math.isqrt(n))
    return normal(side, side)


def wide(n: int, width: int = 256) -> tuple[int, int]:
    width = min(width, max(4, math.isqrt(n)))
    return max(1, n // width), width


def quarters(n: int) -> list[Any]:
    return [normal(max(1, n // 4), 4) for _ in range(2)]


def heads(n: int) -> list[Any]:
    length = max(2, math.isqrt(n // 4))  # n scores
    return [normal(4, length, 32) for _ in range(3)]


# -- cases ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class UserCase:
    """A function, inputs for about `n` elements, and which inputs it is differentiated in.

    `losses` says that the function's result is a loss; of others the sum of squares is taken.
    """

    name: str
    fn: Callable[..., Any]
    make: Callable[[int], list[Any]]
    wrt: tuple[int, ...] = (0,)  # none: there is no gradient row
    losses: bool = False

    def inputs(self, n: int) -> list[Any]:
        """The same numbers in every run, evaluated."""
        mx.random.seed(0)
        made = self.make(n)
        mx.eval(made)
        return made

    def loss_of(self, fn: Callable[..., Any]) -> Callable[..., mx.array]:
        """A number of fn's result."""
        if self.losses:
            return fn

        def loss(*inputs: Any) -> mx.array:
            result = fn(*inputs)
            several = result if isinstance(result, tuple) else (result,)
            total = several[0].square().sum()
            for more in several[1:]:
                total = total + more.square().sum()
            return total

        return loss


USERS = (
    UserCase("softcap, ALiBi, bool mask", softcap, masked),
    UserCase("softmax by hand", softmax, lambda n: [normal(*wide(n))]),
    UserCase(
        "layer norm by hand", layer_norm,
        lambda n: [normal(*wide(n)), positive(wide(n)[1]), normal(wide(n)[1])], (0, 1, 2),
    ),
    UserCase("RoPE", rope, angles),
    UserCase(
        "focal loss", focal,
        lambda n: [normal(n), (normal(n) > 0).astype(mx.float32)], losses=True,
    ),
    UserCase("Huber loss", huber, lambda n: [normal(n), normal(n)], losses=True),
    UserCase("double pendulum", pendulum, lambda n: [normal(n) for _ in range(4)], (0, 1, 2, 3)),
    UserCase("RK4, Lotka-Volterra", runge_kutta, lambda n: [positive(n), positive(n)], (0, 1)),
    UserCase("Sobel", sobel, lambda n: [square(n)]),
    UserCase("ACES, sRGB", tone_map, lambda n: [positive(n) - 0.5]),
    UserCase("Black-Scholes", black_scholes, lambda n: [positive(n) for _ in range(4)],
             (0, 1, 2, 3)),
    UserCase("quaternion product", quaternions, quarters, (0, 1)),
    UserCase(
        "mixture density nll", mixture,
        lambda n: [normal(max(1, n // 8)), normal(8), 0.1 * normal(8), normal(8)], (1, 2, 3), True,
    ),
    UserCase("GRU cell", gru, cells, (0, 1, 2, 3, 4)),
    UserCase("Adam over 16 arrays", adam, moments, ()),
    UserCase("attention", attention, heads, (0, 1, 2)),
)  # fmt: skip
