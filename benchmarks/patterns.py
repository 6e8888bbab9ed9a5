"""Patterns: functions fused with what takes a pattern's place, beside the same fused without.

`python -m benchmarks.patterns` prints, for each case, milliseconds with and without, and the ratio:
on a CPU of processor time, which other work on the machine does not stretch; on a GPU of the clock.
Both run in one process by turns; the least of the rounds counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import zmlx

ROUNDS = 7
Case = tuple[Callable[..., Any], tuple[mx.array, ...]]


def attention(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax((q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2), axis=-1) @ v


def mlx_attention(q: Any, k: Any, v: Any) -> Any:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask="causal")


def capped(q: Any, k: Any, v: Any) -> Any:
    scores = 50 * mx.tanh((q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2) / 50)
    return mx.softmax(scores, axis=-1) @ v


def rope(x: Any, cos: Any, sin: Any) -> Any:
    half = x.shape[-1] // 2
    return x * cos + mx.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin


def experts_by_einsum(y: Any, w: Any) -> Any:
    return mx.einsum("nkd,nk->nd", y, w)


def experts_by_product(y: Any, w: Any) -> Any:
    return (w[:, None] @ y).squeeze(-2)


def cumulative(x: Any) -> Any:
    return x @ mx.triu(mx.ones((x.shape[-1], x.shape[-1]), x.dtype))


def halves(x: Any) -> Any:
    return mx.cumsum(x, -1)


def unpacked(x: Any, w: Any, scales: Any, biases: Any) -> Any:
    return x @ mx.dequantize(w, scales, biases, group_size=64, bits=4).T


def delta(s: Any, q: Any, k: Any, v: Any, decay: Any, beta: Any) -> Any:
    s = s * decay[..., None, None]
    missing = (v - (s @ k[..., None]).squeeze(-1)) * beta[..., None]
    s = s + missing[..., None] * k[..., None, :]
    return (s @ q[..., None]).squeeze(-1), s


def loss(x: Any, w: Any, targets: Any) -> Any:
    return nn.losses.cross_entropy(x @ w.T, targets)


def cases(dtype: mx.Dtype) -> dict[str, Case]:
    def normal(*shape: int) -> mx.array:
        return mx.random.normal(shape).astype(dtype)

    heads = tuple(normal(1, 4, 512, 64) for _ in range(3))
    state = normal(1, 8, 64, 64), *[normal(1, 8, 64) for _ in range(3)]
    gates = [mx.sigmoid(normal(1, 8)) for _ in range(2)]
    found: dict[str, Case] = {
        "attention written out": (attention, heads),
        "attention, scores with a cap": (capped, heads),
        "MLX's attention, causal": (mlx_attention, heads),
        "MLX's attention, one row": (mlx_attention, (heads[0][:, :, :1], *heads[1:])),
        "MLX's attention, small": (mlx_attention, tuple(a[:, :1, :32] for a in heads)),
        "rope": (rope, (normal(1, 8, 256, 64), normal(256, 64), normal(256, 64))),
        "experts by einsum": (experts_by_einsum, (normal(512, 8, 512), normal(512, 8))),
        "experts by product": (experts_by_product, (normal(512, 8, 512), normal(512, 8))),
        "cumulative sum": (cumulative, (normal(64, 512),)),
        "cumulative sum of halves": (halves, (normal(64, 512),)),
        "gated delta rule": (delta, (*state, *gates)),
    }
    for rows in (1, 8, 64):
        packed = mx.quantize(normal(2048, 256), 64, 4)
        found[f"packed weights, {rows} rows"] = (unpacked, (normal(rows, 256), *packed))
    if dtype == mx.float32:
        targets = mx.random.randint(0, 8192, (2048,))
        found["linear cross-entropy"] = (loss, (normal(2048, 64), normal(8192, 64), targets))
    return found


def gradient(f: Callable[..., Any], arrays: Sequence[mx.array]) -> Callable[..., Any]:
    """Of the sum of the first result, in the arrays of floats."""

    def total(*args: mx.array) -> mx.array:
        out = f(*args)
        first = out if isinstance(out, mx.array) else out[0]
        return first.astype(mx.float32).sum()

    floats = [i for i, a in enumerate(arrays) if mx.issubdtype(a.dtype, mx.floating)]
    found: Callable[..., Any] = mx.grad(total, argnums=floats[:1])
    return found


def measured(functions: Sequence[Callable[..., Any]], arrays: Sequence[mx.array]) -> list[float]:
    """The least milliseconds of each function, run by turns."""
    clock = time.process_time if mx.default_device() == mx.cpu else time.perf_counter
    best = [float("inf")] * len(functions)
    for _ in range(ROUNDS + 2):  # two to get warm
        for i, f in enumerate(functions):
            start = clock()
            mx.eval(f(*arrays))
            best[i] = min(best[i], 1e3 * (clock() - start))
    return best


def main() -> None:
    for dtype in (mx.float32, mx.bfloat16):
        for name, (fn, arrays) in cases(dtype).items():
            mx.eval(arrays)
            with_them = zmlx.fuse(fn)

            def without(*args: Any, fused: Any = zmlx.fuse(fn)) -> Any:  # noqa: B008
                with zmlx.config(patterns=False):
                    return fused(*args)

            line = f"{str(dtype).rpartition('.')[2]:9} {name:28}"
            pairs = [(without, with_them), tuple(gradient(f, arrays) for f in (without, with_them))]
            for kind, pair in zip(("forward", "gradient"), pairs, strict=True):
                before, now = measured(pair, arrays)
                line += f"  {kind} {before:9.3f} -> {now:9.3f} ms ({before / now:5.2f} x)"
            print(line, flush=True)


if __name__ == "__main__":
    main()
