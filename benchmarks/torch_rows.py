"""The functions of benchmarks.rowwise in PyTorch's ops, as its users write them.

Comes in: a row's name and its MLX inputs. Goes out: a Peer under torch.compile; Absent where there
is no PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from benchmarks import torch_peers
from benchmarks.harness import Peer

LOSS = "cross-entropy"


def peer(name: str, inputs: Sequence[mx.array], pulled: bool = False) -> Peer:
    """The row `name` under torch.compile; `pulled`: its gradients for the last of `inputs`."""
    torch = torch_peers.pytorch()
    forms = {**_norms(torch), **_softmaxes(torch), **_sums(torch)}
    form = forms[name.removeprefix("pullback of ").removesuffix(", written out")]
    return torch_peers.compiled_row(form, inputs, pulled)


def _norms(torch: Any) -> dict[str, Callable[..., Any]]:
    def rms_norm(x: Any, w: Any) -> Any:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * w

    def residual_norm(x: Any, update: Any, w: Any) -> Any:
        h = x + update
        return h, rms_norm(h, w)

    def layer_norm(x: Any, w: Any, b: Any) -> Any:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], w, b, 1e-5)

    return {
        "rms norm": rms_norm, "residual and rms norm": residual_norm, "layer norm": layer_norm,
    }  # fmt: skip


def _softmaxes(torch: Any) -> dict[str, Callable[..., Any]]:
    def cross_entropy(x: Any) -> Any:
        labels = torch.arange(x.shape[0], device=x.device) * 31 % x.shape[1]
        return torch.func.grad_and_value(
            lambda y: torch.nn.functional.cross_entropy(y, labels)
        )(x)[::-1]  # fmt: skip

    return {
        "softmax": lambda x: torch.softmax(x, -1),
        "softmax(x*s+mask)": lambda x, mask: torch.softmax(x * 0.125 + mask, -1),
        "log-softmax": lambda x: torch.log_softmax(x, -1),
        "logsumexp": lambda x: torch.logsumexp(x, -1),
        LOSS: cross_entropy,
    }


def _sums(torch: Any) -> dict[str, Callable[..., Any]]:
    gelu = torch.nn.functional.gelu
    return {
        "mean of (a-b)^2": lambda a, b: ((a - b) ** 2).mean(),
        "row sums of x*sigmoid(y)": lambda x, y: (x * torch.sigmoid(y)).sum(-1),
        "column sums of gelu": lambda x: gelu(x, approximate="tanh").sum(0),
        "exp(-a^2)*row, rows of 33": lambda a, row: torch.exp(-a * a) * row,
    }
