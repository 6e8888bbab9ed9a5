"""Locating: in which module of a patched model plain MLX and ZMLX part.

Comes in: a patched model and a call of it. Goes out: the first place, in the order of calls, whose
fused result is too far from its plain one, for the same arguments. zmlx.models.validating asks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from zmlx.models.distance import apart
from zmlx.models.part import PLAIN, Decision, Part, part_of
from zmlx.models.standing import StandIn, gradient_of
from zmlx.trace.calls import keeping_random_state


def first_apart(
    model: nn.Module, call: Callable[[], Any], allowed: float, gradients: bool = False
) -> str:
    """The path and class of that module; "" where each by itself is as near as is allowed.

    `call` runs the model as it failed, with a cache say; with `gradients` those of each module's
    results are compared too.
    """
    names = {id(m): path for path, m in model.named_modules()}
    found: list[str] = []

    def watched(part: Part, module: nn.Module, args: Any, kwargs: Any) -> Any:
        decision = part.decided(args, kwargs)
        if found or decision is None or decision.way is PLAIN:
            return part.plain(module, *args, **kwargs)
        far = _apart(part, decision, module, args, kwargs, gradients)
        if far > allowed:
            name = names.get(id(module)) or "the model"
            found.append(f"{name} ({part.plain_class.__name__}), by {far:.2g}")
        return part.plain(module, *args, **kwargs)

    parts = {id(p): p for m in model.modules() if (p := part_of(m)) is not None}
    for part in parts.values():
        part.watcher = watched
    try:
        mx.eval([leaf for _, leaf in tree_flatten([call()])])
    finally:
        for part in parts.values():
            part.watcher = None
    return found[0] if found else ""


def _apart(
    part: Part, decision: Decision, module: nn.Module, args: Any, kwargs: Any, gradients: bool
) -> float:
    """How far the module's fused result is from its plain one, each with caches of its own."""
    far, trees = 0.0, []
    for gradient in (False, True)[: 1 + gradients]:
        for way in (decision, Decision(PLAIN, "")):
            given = StandIn(module, args, kwargs).fresh()
            run = partial(part.run, way)
            with keeping_random_state():
                made = (
                    gradient_of(run, given)() if gradient else run(module, given.args, given.kwargs)
                )
            trees.append(dict(tree_flatten({"": made})))
        far = max(far, apart(*trees[-2:])[0])
    return far
