"""Contestants from PyTorch on MLX's device: torch.compile and Liger-Kernel, forward and gradient.

Comes in: a case and its MLX inputs. Goes out: a Peer; Absent where one cannot be had here.
benchmarks.peers and benchmarks.rowwise call this; neither package is imported before.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.cases import Case
from benchmarks.harness import Absent, Peer

TORCH, LIGER, COPY = "torch.compile", "Liger-Kernel", "PyTorch's copy"


def copy(x: mx.array) -> Peer:
    """PyTorch's copy from one place of the device's memory to another, of arrays like `x`."""
    torch = pytorch()
    (source,) = tensors([x], torch)
    return _peer(COPY, torch.empty_like(source).copy_, [source], torch)


def compiled(case: Case, inputs: Sequence[mx.array]) -> Peer:
    """The case's own code under torch.compile."""
    torch = pytorch()
    return _compiled(read_as_torch(case.fn, torch), inputs, torch)


def compiled_gradient(case: Case, inputs: Sequence[mx.array]) -> Peer:
    """torch.func.grad of the sum under torch.compile, as mx.compile(mx.grad(f)) is for MLX."""
    torch = pytorch()
    function, places = read_as_torch(case.fn, torch), tuple(range(len(inputs)))

    def gradients(*xs: Any) -> Any:
        return torch.func.grad(lambda *ys: function(*ys).sum(), argnums=places)(*xs)

    return _compiled(gradients, inputs, torch)


def compiled_pullback(case: Case, inputs: Sequence[mx.array]) -> Peer:
    """torch.func.vjp under torch.compile; the last of `inputs` is the cotangent."""
    return compiled_row(read_as_torch(case.fn, pytorch()), inputs, pulled=True)


def liger(case: Case, inputs: Sequence[mx.array]) -> Peer:
    torch, function = pytorch(), liger_function(case)
    return _peer(LIGER, function.apply, tensors(inputs, torch), torch)


def liger_gradient(case: Case, inputs: Sequence[mx.array]) -> Peer:
    """For a cotangent of ones, which it reads like any other."""
    torch = pytorch()
    return _liger_backward(case, tensors(inputs, torch), torch.ones_like, torch)


def liger_pullback(case: Case, inputs: Sequence[mx.array]) -> Peer:
    """The last of `inputs` is the cotangent."""
    torch = pytorch()
    *given, cotangent = tensors(inputs, torch)
    return _liger_backward(case, given, lambda _: cotangent, torch)


def _liger_backward(
    case: Case, given: Sequence[Any], seed: Callable[[Any], Any], torch: Any
) -> Peer:
    """Its backward kernel alone: the forward pass is made once, before.

    The kernel writes the gradients over its inputs, so only the first call's are those of the
    case; later ones do the same work on other numbers.
    """
    for x in given:
        x.requires_grad_()
    result = liger_function(case).apply(*given)
    cotangent = seed(result)

    def gradients(*xs: Any) -> Any:
        return torch.autograd.grad(result, xs, cotangent, retain_graph=True)

    return _peer(LIGER, gradients, given, torch)


def compiled_row(run: Callable[..., Any], inputs: Sequence[mx.array], pulled: bool = False) -> Peer:
    """`run`, written in PyTorch's ops; `pulled`: its gradients for the last of `inputs`."""
    torch = pytorch()

    def gradients(*xs: Any) -> Any:
        return torch.func.vjp(run, *xs[:-1])[1](xs[-1])

    return _compiled(gradients if pulled else run, inputs, torch)


def _compiled(run: Callable[..., Any], inputs: Sequence[mx.array], torch: Any) -> Peer:
    torch.compiler.reset()  # it gives up on code that was compiled for many cases
    whole = torch.compile(run, fullgraph=True)  # or an error: no silent way around its compiler
    return _peer(TORCH, whole, tensors(inputs, torch), torch)


def _peer(name: str, run: Callable[..., Any], given: Sequence[Any], torch: Any) -> Peer:
    wait = getattr(torch, place()).synchronize
    return Peer(name, lambda: run(*given), lambda _: None, wait)


# -- what they need -------------------------------------------------------------------------------
def place() -> str:
    """MLX's default device, as PyTorch names it."""
    return "cuda" if mx.default_device() == mx.Device(mx.gpu) else "cpu"


def pytorch() -> Any:
    """PyTorch, where it sees the device."""
    if find_spec("torch") is None:
        raise Absent("PyTorch is not installed")
    torch: Any = import_module("torch")
    if place() == "cuda" and not torch.cuda.is_available():
        raise Absent("PyTorch sees no CUDA device")
    return torch


def liger_function(case: Case) -> Any:
    """The class in Liger-Kernel that computes the case."""
    if find_spec("liger_kernel") is None:
        raise Absent("not installed; pip install liger-kernel")
    return getattr(import_module("liger_kernel.ops"), case.liger)


def tensors(inputs: Sequence[mx.array], torch: Any) -> list[Any]:
    """The same numbers on PyTorch's device."""
    return [
        torch.from_numpy(np.array(x.astype(mx.float32))).to(place(), getattr(torch, name_of(x)))
        for x in inputs
    ]


def name_of(x: mx.array) -> str:
    return str(x.dtype).removeprefix("mlx.core.")


def read_as_torch(fn: Callable[..., Any], torch: Any) -> Callable[..., Any]:
    """`fn`, and the functions of its module that it may call, with `mx` read as torch."""
    # Without its module's name: torch.compile would look `mx` up in the module of that name.
    names = {k: v for k, v in fn.__globals__.items() if k != "__name__"} | {"mx": torch}
    for name, value in list(names.items()):
        if isinstance(value, types.FunctionType) and value.__globals__ is fn.__globals__:
            names[name] = types.FunctionType(value.__code__, names, name)
    read: Callable[..., Any] = names[fn.__name__]
    return read
