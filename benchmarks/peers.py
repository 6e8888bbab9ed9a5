"""The contestants of a case: plain MLX, mx.compile, zmlx.fuse, NumExpr and, on a GPU, PyTorch.

A peer that is not installed, or that has no such type, becomes a Skipped that says so.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import mlx.core as mx
import numpy as np

import zmlx
from benchmarks.cases import Case
from benchmarks.harness import SUBJECT, Peer, Settings, Skipped

EAGER, COMPILE, NUMEXPR, TORCH = "mx eager", "mx.compile", "NumExpr", "torch.compile"


def nothing(*_: Any) -> None:
    """For peers that compute at once: there is nothing to submit and nothing to wait for."""


def call_of(f: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
    return lambda: f(*inputs)


def mlx_peers(fn: Callable[..., Any], inputs: Sequence[mx.array]) -> list[Peer]:
    """The subject, mx.compile and plain MLX on one function."""
    ways = ((SUBJECT, zmlx.fuse(fn)), (COMPILE, mx.compile(fn)), (EAGER, fn))
    return [Peer(name, call_of(f, inputs)) for name, f in ways]


def forward_peers(
    case: Case, dtype: str, inputs: Sequence[mx.array], settings: Settings
) -> list[Peer | Skipped]:
    """Everybody who can run the case itself."""
    others = [numexpr_peer(case, dtype, inputs)] if settings.device == "cpu" else []
    if settings.device == "gpu":
        others.append(torch_peer(case.fn, inputs))
    return [*mlx_peers(case.fn, inputs), *(o for o in others if o is not None)]


def numexpr_peer(case: Case, dtype: str, inputs: Sequence[mx.array]) -> Peer | Skipped | None:
    """NumExpr with its own choice of threads; None where it has no such type or expression."""
    if not case.expression or dtype != "float32":
        return None
    if find_spec("numexpr") is None:
        return Skipped(NUMEXPR, "not installed; pip install numexpr")
    import numexpr  # type: ignore[import-untyped, unused-ignore]

    values: dict[str, Any] = {name: np.float32(value) for name, value in case.constants.items()}
    values |= {name: np.array(x) for name, x in zip(case.names, inputs, strict=True)}

    def call() -> Any:
        return numexpr.evaluate(case.expression, local_dict=values, global_dict={})

    return Peer(NUMEXPR, call, nothing, nothing)


def torch_peer(fn: Callable[..., Any], inputs: Sequence[mx.array]) -> Peer | Skipped:
    """The same code with `mx` read as torch, under torch.compile, on PyTorch's CUDA device."""
    if find_spec("torch") is None:
        return Skipped(TORCH, "PyTorch is not installed")
    import torch  # type: ignore[import-not-found, unused-ignore]

    if not torch.cuda.is_available():
        return Skipped(TORCH, "PyTorch sees no CUDA device")
    theirs = types.FunctionType(fn.__code__, {**fn.__globals__, "mx": torch}, fn.__name__)
    given = [
        torch.from_numpy(np.array(x.astype(mx.float32))).to("cuda", getattr(torch, name_of(x)))
        for x in inputs
    ]
    return Peer(TORCH, call_of(torch.compile(theirs), given), nothing, torch.cuda.synchronize)


def name_of(x: mx.array) -> str:
    return str(x.dtype).removeprefix("mlx.core.")
