"""Steps of optimizers: one read and one write of each array, of one array or a whole tree of them.

AdamW after Loshchilov and Hutter (arXiv:1711.05101), Lion after Chen et al. (arXiv:2302.06675).
Arrays of a tree share launches. Arithmetic is float32; each result has the type of its own array.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, wide

__all__ = ["adamw_step", "lion_step"]

MODULE = "optimizers"
Leaves = list[mx.array]


# -- formulas -------------------------------------------------------------------------------------
@fused
def _adamw(
    p: Leaves, g: Leaves, m: Leaves, v: Leaves, lr: mx.array, step: mx.array,
    betas: tuple[mx.array, ...], eps: mx.array, wd: mx.array,
) -> tuple[Leaves, Leaves, Leaves]:  # fmt: skip
    keep1, new1, log1, keep2, new2, log2 = betas
    share1, share2 = -mx.expm1(wide(step) * log1), -mx.expm1(wide(step) * log2)
    found: tuple[Leaves, Leaves, Leaves] = ([], [], [])
    for one, slope, first, second in zip(p, g, m, v, strict=True):
        w, d = wide(one), wide(slope)
        mean = keep1 * wide(first) + new1 * d
        square = keep2 * wide(second) + new2 * (d * d)
        moved = (mean / share1) / (mx.sqrt(square / share2) + eps) + wd * w
        found[0].append((w - lr * moved).astype(one.dtype))
        found[1].append(mean.astype(first.dtype))
        found[2].append(square.astype(second.dtype))
    return found


@fused
def _lion(
    p: Leaves, g: Leaves, m: Leaves, lr: mx.array, betas: tuple[mx.array, ...], wd: mx.array
) -> tuple[Leaves, Leaves]:
    keep1, new1, keep2, new2 = betas
    found: tuple[Leaves, Leaves] = ([], [])
    for one, slope, first in zip(p, g, m, strict=True):
        w, d, mean = wide(one), wide(slope), wide(first)
        moved = mx.sign(keep1 * mean + new1 * d) + wd * w
        found[0].append((w - lr * moved).astype(one.dtype))
        found[1].append((keep2 * mean + new2 * d).astype(first.dtype))
    return found


# -- functions ------------------------------------------------------------------------------------
def adamw_step(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    lr: float | mx.array,
    step: int | mx.array,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    wd: float = 0.01,
) -> tuple[Any, Any, Any]:
    """A step of AdamW.

    m' = beta1 m + (1 - beta1) g, v' = beta2 v + (1 - beta2) g**2, and
    p' = p - lr * (m' / (1 - beta1**step) / (sqrt(v' / (1 - beta2**step)) + eps) + wd p).

    Args:
        p, g, m, v: parameters, gradients and both means: arrays of one shape, or trees (dicts,
            lists, tuples) of such arrays, alike; float32, float16 or bfloat16.
        lr: the learning rate: a number, or an array of one element.
        step: counts from 1: a number, or an array of one element.
        beta1, beta2, eps, wd: numbers. All of them reach the kernels at run time.

    Returns:
        (p', m', v'), arrays or trees like p, each array of the type of the one it follows.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "adamw_step")
    leaves = _leaves(call, p=p, g=g, m=m, v=v)
    if isinstance(step, mx.array):
        count = step.astype(mx.float32)
    else:
        count = mx.array(float(call.whole("step", step, 1, 2**53)))
    betas = *_beta(call, "beta1", beta1), *_beta(call, "beta2", beta2)
    numbers = call.scalar("eps", eps, 0), call.scalar("wd", wd, 0)
    rate, count = call.scalar("lr", lr, 0), call.scalar("step", count, 0)
    outputs = _adamw(*leaves, rate, count, betas, *numbers)
    made = [_unflatten(call, like, values) for like, values in zip((p, m, v), outputs, strict=True)]
    return made[0], made[1], made[2]


def lion_step(
    p: Any,
    g: Any,
    m: Any,
    lr: float | mx.array,
    beta1: float = 0.9,
    beta2: float = 0.99,
    wd: float = 0.0,
) -> tuple[Any, Any]:
    """A step of Lion: p' = p - lr * (sign(beta1 m + (1 - beta1) g) + wd p), m' = beta2 m + ....

    Returns (p', m'); otherwise as adamw_step.
    """
    call = Call(MODULE, "lion_step")
    leaves = _leaves(call, p=p, g=g, m=m)
    betas = *_beta(call, "beta1", beta1)[:2], *_beta(call, "beta2", beta2)[:2]
    outputs = _lion(*leaves, call.scalar("lr", lr, 0), betas, call.scalar("wd", wd, 0))
    made = [_unflatten(call, like, values) for like, values in zip((p, m), outputs, strict=True)]
    return made[0], made[1]


def _beta(call: Call, name: str, beta: float) -> tuple[mx.array, mx.array, mx.array]:
    """beta, 1 - beta and log(beta), each rounded once."""
    number = call.number(name, beta, 0.0, 1.0)
    log = math.log(number) if number else -math.inf
    return call.scalar(name, number, 0), call.scalar(name, 1.0 - number, 0), _number(log)


def _number(value: float) -> mx.array:
    return mx.array(max(value, -1e30))  # e to the power of it is 0, times a step too


def _leaves(call: Call, **trees: Any) -> list[Leaves]:
    """The arrays of each tree, in one order; their structures and shapes must be p's."""
    found: list[Leaves] = []
    for name, tree in trees.items():
        leaves: Leaves = []
        _walk(call, name, name, tree, trees["p"], leaves)
        found.append(leaves)
    return found


def _walk(call: Call, name: str, path: str, tree: Any, like: Any, leaves: Leaves) -> None:
    if isinstance(like, dict):
        if not isinstance(tree, dict) or tree.keys() != like.keys():
            raise call.wrong(path, _named(tree), f"a dict with the keys of p, {[*like]}")
        for key in like:
            _walk(call, name, f"{path}[{key!r}]", tree[key], like[key], leaves)
    elif isinstance(like, (list, tuple)):
        if not isinstance(tree, (list, tuple)) or len(tree) != len(like):
            raise call.wrong(path, _named(tree), f"{len(like)} parts, as p has")
        for i, part in enumerate(like):
            _walk(call, name, f"{path}[{i}]", tree[i], part, leaves)
    else:
        whole = call.array(path, like) if name == "p" else like
        leaves.append(call.shaped(path, tree, whole.shape))


def _named(tree: Any) -> str:
    return f"a dict with the keys {[*tree]}" if isinstance(tree, dict) else type(tree).__name__


def _unflatten(call: Call, like: Any, leaves: Leaves) -> Any:
    remaining = iter(leaves)

    def built(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: built(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)):
            return [built(value) for value in part] if isinstance(part, list) else tuple(
                built(value) for value in part
            )  # fmt: skip
        return next(remaining)

    return built(like)
