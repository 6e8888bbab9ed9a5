"""Losses: a training loss over a patched model, fused around the model's layers.

Comes in: a loss as it is written for plain MLX, `loss(model, *batch)`, mlx-lm's say. Goes out: the
same function, in which all but the layers (the output layer, the cross-entropy, masks and means)
are fused pieces, gradients included; the layers run as zmlx.patch has decided. `zmlx.models.loss`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from functools import update_wrapper
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from zmlx import log, switches
from zmlx.device.rules import any_traced
from zmlx.errors import CheckError, DeviceError, SanitizeError
from zmlx.fuse.api import FusedFunction, fuse
from zmlx.fuse.patterns import allowing
from zmlx.models import breaks
from zmlx.models.deciding import calls_of
from zmlx.models.part import part_of, refusal
from zmlx.models.patching import loops
from zmlx.ops.definitions import PRODUCTS
from zmlx.trace import intercept

_log = log.logger("zmlx.models")
LINEAR_LOSSES = ("a linear layer and cross-entropy", "a linear layer and cross-entropy in float32")
_FAULTS = (CheckError, DeviceError, SanitizeError)


class _Twice(Exception):
    """The loss would do something twice in pieces."""


def loss(fn: Callable[..., Any], /, *, chunks: bool = False) -> Callable[..., Any]:
    """Fuse a training loss over a model that `zmlx.patch` has patched.

    Give the result to `nn.value_and_grad`, or to mlx-lm's trainer:
    `train(model, optimizer, data, loss=zmlx.models.loss(default_loss))`. With a model that is not
    patched, or no longer, it is `fn`.

    Args:
        fn: takes the model first, and calls it: `fn(model, *batch)`.
        chunks: never hold the logits of a linear output layer and its cross-entropy where they are
            many: they are computed chunk by chunk, in the backward pass once more. Takes less
            memory, and more time where only the layers are trained.

    Returns:
        A function of the same arguments, with the gradients of `fn`.

    Raises:
        TypeError: `fn` cannot be called.
    """
    if not callable(fn) or isinstance(fn, (nn.Module, FusedFunction)):
        raise TypeError(
            f"[zmlx.models.loss] fn is a {type(fn).__name__}; wanted a plain function "
            "fn(model, *batch), such as mlx_lm.tuner.trainer.default_loss."
        )
    return _Loss(fn, bool(chunks))


class _Loss:
    def __init__(self, fn: Callable[..., Any], chunks: bool) -> None:
        self._fn, self._chunks = fn, chunks
        self._known: dict[Hashable, bool] = {}  # by kind of calls: whether it runs in pieces
        self._pieces = fuse(breaks.piece_of(self._plain))
        update_wrapper(self, fn, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = args[0] if args else None
        if not _is_patched(model) or intercept.current() is not None or not switches.FUSE.on():
            return self._fn(*args, **kwargs)
        assert isinstance(model, nn.Module)
        kind = _kind(args[1:], kwargs)
        if self._known.get(kind, True):
            try:
                return self._run(kind, model, args[1:], kwargs)
            except _FAULTS:
                raise
            except (Exception, breaks.Touched) as error:
                result = self._fn(*args, **kwargs)  # a fault of the caller's is raised here
                self._refused(kind, error)
                return result
        return self._fn(*args, **kwargs)

    def _plain(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """A piece of the loss: it ends where the layers begin."""
        with breaks.stopping(loops(model)):
            return self._fn(model, *args, **kwargs)

    def _run(self, kind: Hashable, model: nn.Module, args: Any, kwargs: Any) -> Any:
        call = breaks.given(args, kwargs, False)
        pieces = self._pieces if kind in self._known else self._checked
        with allowing(*LINEAR_LOSSES) if self._chunks else nullcontext():
            result = breaks.run(
                self._plain, pieces, model, call, lambda error: self._refused(kind, error)
            )
        self._known.setdefault(kind, True)
        return result

    def _checked(self, *given: Any) -> Any:
        """A piece, if what comes before the layers may be done again after them."""
        entry = self._pieces.entry(*given)
        done = entry.trace.result[0]
        plan = entry.program.plan
        if not done:
            dear = calls_of(plan.graph, [native.node for native in plan.natives])
            dear += Counter(name for name, _ in entry.program.written.calls if name in PRODUCTS)
            if dear or entry.trace.updates or entry.trace.writes:
                raise _Twice(f"before the layers it would do twice: {', '.join(sorted(dear))}")
        return self._pieces(*given)

    def _refused(self, kind: Hashable, error: BaseException) -> None:
        self._known[kind] = False
        _log.info(
            "%s runs as plain MLX: %s", getattr(self._fn, "__name__", "a loss"), refusal(error)
        )


def _is_patched(model: Any) -> bool:
    return isinstance(model, nn.Module) and any(part_of(m) for m in model.modules())


def _kind(args: Any, kwargs: Any) -> Hashable:
    leaves = [leaf for _, leaf in tree_flatten([list(args), kwargs])]
    arrays = [a for a in leaves if isinstance(a, mx.array)]
    return any_traced(arrays), *[(a.ndim, a.dtype) for a in arrays]
