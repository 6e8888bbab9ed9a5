"""A recurrent step, a gate of depth, advantages of groups, and a gated residual.

`grpo_advantage_norm` after Shao et al. (arXiv:2402.03300). Results have the type of the first
array; arithmetic is float32. Everything is differentiable in all its float arrays, to any order.
"""

from __future__ import annotations

import mlx.core as mx

from zmlx.catalog.common import Call
from zmlx.catalog.formulas import centred, fused, root, silu, wide

__all__ = [
    "depth_gate_sigmoid",
    "fused_recurrent_step",
    "grpo_advantage_norm",
    "silu_mul_residual",
]

MODULE = "vlsp"


# -- formulas -------------------------------------------------------------------------------------
@fused
def _step(
    h: mx.array, w_norm: mx.array, gate: mx.array, alpha: mx.array, eps: mx.array
) -> mx.array:
    v = wide(h)
    normed = v * root(v, eps) * wide(w_norm)
    return (v + wide(alpha) * silu(normed) * wide(gate)).astype(h.dtype)


@fused
def _depth(x: mx.array, most: mx.array) -> mx.array:
    return (most * mx.sigmoid(wide(x))).astype(x.dtype)


@fused
def _advantage(rewards: mx.array, eps: mx.array) -> mx.array:
    return centred(wide(rewards), eps).astype(rewards.dtype)


@fused
def _gated(gate: mx.array, up: mx.array, residual: mx.array) -> mx.array:
    return (silu(wide(gate)) * wide(up) + wide(residual)).astype(gate.dtype)


# -- functions ------------------------------------------------------------------------------------
def fused_recurrent_step(
    h: mx.array,
    w_norm: mx.array,
    gate: mx.array,
    alpha: float | mx.array,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
) -> mx.array:
    """h + alpha * silu(n) * gate, n = rmsnorm(h, w_norm), in one kernel.

    Args:
        h, gate: (..., D), D >= 1; float32, float16 or bfloat16.
        w_norm: (D,).
        alpha: a number, or a float array of one element.
        eps: added to the mean of squares; at least 0.
        threadgroup: a power of two up to 1024, the threads of a GPU's group at most; 256, the
            default, leaves the launch to the sizes.

    Returns:
        (..., D) of h's dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "fused_recurrent_step")
    run = call.launched(_step, threadgroup, None)
    h = call.rows("h", h)
    w_norm = call.shaped("w_norm", w_norm, h.shape[-1:])
    gate = call.shaped("gate", gate, h.shape)
    numbers = call.scalar("alpha", alpha, h.ndim), call.eps(eps, h)
    found: mx.array = run(h, w_norm, gate, *numbers)
    return found


def depth_gate_sigmoid(x: mx.array, *, k_max: float = 8) -> mx.array:
    """k_max * sigmoid(x), a continuous depth from 0 to k_max; rounding it is the caller's.

    Args:
        x: any shape; float32, float16 or bfloat16.
        k_max: a number, at run time.

    Returns:
        x's shape and dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "depth_gate_sigmoid")
    x = call.array("x", x)
    found: mx.array = _depth(x, call.scalar("k_max", k_max, x.ndim))
    return found


def grpo_advantage_norm(
    rewards: mx.array, *, eps: float = 1e-6, threadgroup: int = 256
) -> mx.array:
    """(r - mean) / sqrt(var + eps) over each group; var is the population's, eps in the root.

    Args:
        rewards: (P, G), a row for each prompt; (G,) counts as (1, G).

    Returns:
        (P, G) of the rewards' dtype. Otherwise as fused_recurrent_step.
    """
    call = Call(MODULE, "grpo_advantage_norm")
    run = call.launched(_advantage, threadgroup, None)
    rewards = call.rows("rewards", rewards)
    if rewards.ndim > 2:
        raise call.wrong("rewards", f"of shape {rewards.shape}", "shape (P, G) or (G,)")
    groups = rewards if rewards.ndim == 2 else rewards[None]
    found: mx.array = run(groups, call.eps(eps, groups))
    return found


def silu_mul_residual(gate: mx.array, up: mx.array, residual: mx.array) -> mx.array:
    """silu(gate) * up + residual, of three arrays of one shape, any; of the gate's dtype."""
    call = Call(MODULE, "silu_mul_residual")
    gate = call.array("gate", gate)
    up = call.shaped("up", up, gate.shape)
    found: mx.array = _gated(gate, up, call.shaped("residual", residual, gate.shape))
    return found
