"""The cases of benchmarks.whole_cases in PyTorch's ops, as its users write them.

Comes in: a case's name and its MLX inputs. Goes out: a Peer under torch.compile; Absent where there
is no PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from benchmarks import torch_peers
from benchmarks.harness import Peer
from benchmarks.whole_cases import DECAY, EPS, GROUPS, HEADS, RATE, VISCOSITY

Step = Callable[..., tuple[Any, ...]]


def peer(name: str, inputs: Sequence[mx.array], pulled: bool) -> Peer:
    """The case `name` under torch.compile; `pulled`: its gradients for the last of `inputs`."""
    torch = torch_peers.pytorch()
    forms = {**_blocks(torch), **_losses(torch), **_steps(torch)}
    return torch_peers.compiled_row(forms[name], inputs, pulled)


def _blocks(torch: Any) -> dict[str, Callable[..., Any]]:
    ops = torch.nn.functional

    def vit_block(
        x: Any, w1: Any, b1: Any, qkv: Any, bqkv: Any, out: Any, w2: Any, b2: Any, up: Any,
        bup: Any, down: Any,
    ) -> Any:  # fmt: skip
        batch, tokens, width = x.shape
        y = ops.layer_norm(x, (width,), w1, b1, EPS) @ qkv + bqkv
        heads = y.reshape(batch, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        seen = ops.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        x = x + seen.transpose(1, 2).reshape(batch, tokens, width) @ out
        y = ops.layer_norm(x, (width,), w2, b2, EPS) @ up + bup
        return x + ops.gelu(y) @ down

    def convolved(x: Any, w: Any, padding: int = 0) -> Any:
        return ops.conv2d(x, w.permute(0, 3, 1, 2), padding=padding)

    def unet_block(
        x: Any, time: Any, n1: Any, c1: Any, conv1: Any, embed: Any, n2: Any, c2: Any, conv2: Any,
        skip: Any,
    ) -> Any:  # fmt: skip
        x = x.permute(0, 3, 1, 2)  # PyTorch keeps the strides: channels last
        h = convolved(ops.silu(ops.group_norm(x, GROUPS, n1, c1, EPS)), conv1, 1)
        h = h + (ops.silu(time) @ embed)[:, :, None, None]
        h = convolved(ops.silu(ops.group_norm(h, GROUPS, n2, c2, EPS)), conv2, 1)
        return (convolved(x, skip) + h).permute(0, 2, 3, 1)

    return {"ViT block": vit_block, "U-Net residual block": unet_block}


def _losses(torch: Any) -> dict[str, Callable[..., Any]]:
    grad = torch.func.grad

    def burgers(points: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any) -> Any:
        def network(p: Any) -> Any:
            return (torch.tanh(torch.tanh(p @ w1 + b1) @ w2 + b2) @ w3)[:, 0]

        slopes = grad(lambda p: network(p).sum())
        first, second = slopes(points), grad(lambda p: slopes(p)[:, 0].sum())(points)
        u, bend = network(points), second[:, 0]
        return (first[:, 1] + u * first[:, 0] - VISCOSITY * bend).square().mean()

    return {"Burgers' residual, a PINN's loss": burgers}


def _steps(torch: Any) -> dict[str, Step]:
    def adamw(w: Any, g: Any, m: Any, v: Any) -> tuple[Any, ...]:
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        return w * (1 - RATE * DECAY) - RATE * m / (v.sqrt() + 1e-8), m, v

    def lion(w: Any, g: Any, m: Any) -> tuple[Any, ...]:
        towards = torch.sign(0.9 * m + 0.1 * g)
        return w * (1 - RATE * DECAY) - RATE * towards, 0.99 * m + 0.01 * g

    def muon(w: Any, g: Any, v: Any) -> tuple[Any, ...]:
        g = g + DECAY * w
        v = 0.95 * v + 0.05 * g
        update = 0.05 * g + 0.95 * v
        if update.ndim == 1:
            return w - RATE * update, v
        rows, columns = update.shape
        scale = max(1, rows / columns) ** 0.5
        return w - RATE * scale * orthogonal(update), v

    def orthogonal(x: Any) -> Any:
        turned = x.shape[0] > x.shape[1]
        x = x.T if turned else x
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return x.T if turned else x

    def over_tree(step: Step, parts: int) -> Step:
        def run(*arrays: Any) -> tuple[Any, ...]:
            count = len(arrays) // parts
            split = [arrays[i : i + count] for i in range(0, len(arrays), count)]
            made = [step(*each) for each in zip(*split, strict=True)]
            return tuple(array for part in zip(*made, strict=True) for array in part)

        return run

    return {
        "AdamW over a tree": over_tree(adamw, 4),
        "Lion over a tree": over_tree(lion, 3),
        "Muon over a tree": over_tree(muon, 3),
    }
