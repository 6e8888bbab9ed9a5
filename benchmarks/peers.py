"""The contestants of a case: plain MLX, mx.compile, zmlx.fuse, NumExpr; on a GPU PyTorch's too.

A peer that is not installed, or that cannot be made, becomes a Skipped that says so. Of gradients,
mx.compile(mx.grad(f)) is the form in which MLX fuses a backward pass; mx.grad(mx.compile(f)) is the
one that most people write, and runs op by op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import mlx.core as mx
import numpy as np

import zmlx
from benchmarks import torch_peers
from benchmarks.cases import Case, gradient, pullback
from benchmarks.harness import SUBJECT, Absent, Peer, Settings, Skipped, tried
from benchmarks.torch_peers import LIGER, TORCH

EAGER, COMPILE, NUMEXPR = "mx eager", "mx.compile", "NumExpr"
OUTSIDE, INSIDE = "mx.compile(mx.grad(f))", "mx.grad(mx.compile(f))"
PULLED = "mx.compile(mx.vjp(f))"
Make = Callable[[Case, Sequence[mx.array]], Peer]


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
    others = []
    if settings.device == "cpu" and case.expression and dtype == "float32":
        others.append(tried(NUMEXPR, lambda: numexpr_peer(case, inputs)))
    if settings.device == "gpu":
        others += from_torch(case, inputs, torch_peers.compiled, torch_peers.liger)
    return [*mlx_peers(case.fn, inputs), *others]


def gradient_peers(
    case: Case, inputs: Sequence[mx.array], settings: Settings
) -> list[Peer | Skipped]:
    """Everybody who computes the gradients of the case's sum in all its inputs."""
    count = len(inputs)
    ways = (
        (SUBJECT, gradient(zmlx.fuse(case.fn), count)),
        (OUTSIDE, mx.compile(gradient(case.fn, count))),
        (INSIDE, gradient(mx.compile(case.fn), count)),
    )
    mine: list[Peer | Skipped] = [Peer(name, call_of(f, inputs)) for name, f in ways]
    if settings.device == "cpu":
        return mine
    makers = torch_peers.compiled_gradient, torch_peers.liger_gradient
    return mine + from_torch(case, inputs, *makers)


def pullback_peers(
    case: Case, inputs: Sequence[mx.array], settings: Settings
) -> list[Peer | Skipped]:
    """Everybody who pulls the last of `inputs`, a cotangent, back to the case's own inputs."""
    ways = (
        (SUBJECT, pullback(zmlx.fuse(case.fn))),
        (PULLED, mx.compile(pullback(case.fn))),
    )
    mine: list[Peer | Skipped] = [Peer(name, call_of(f, inputs)) for name, f in ways]
    if settings.device == "cpu":
        return mine
    makers = torch_peers.compiled_pullback, torch_peers.liger_pullback
    return mine + from_torch(case, inputs, *makers)


def from_torch(
    case: Case, inputs: Sequence[mx.array], compiled: Make, liger: Make
) -> list[Peer | Skipped]:
    found = [tried(TORCH, lambda: compiled(case, inputs))]
    return found + ([tried(LIGER, lambda: liger(case, inputs))] if case.liger else [])


def numexpr_peer(case: Case, inputs: Sequence[mx.array]) -> Peer:
    """NumExpr with its own choice of threads."""
    if find_spec("numexpr") is None:
        raise Absent("not installed; pip install numexpr")
    import numexpr  # type: ignore[import-untyped, unused-ignore]

    values: dict[str, Any] = {name: np.float32(value) for name, value in case.constants.items()}
    values |= {name: np.array(x) for name, x in zip(case.names, inputs, strict=True)}

    def call() -> Any:
        return numexpr.evaluate(case.expression, local_dict=values, global_dict={})

    return Peer(NUMEXPR, call, nothing, nothing)
