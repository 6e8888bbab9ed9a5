"""Passes: the graph that each gives is looked through before the next pass reads it.

Comes in: a pass, a function that gives a Graph or something that holds one as `graph`. Goes out:
the same function; under ZMLX_CHECK, and always in the tests, a graph that breaks the rules of
zmlx.trace.graph is an error that names the pass. Every pass from trace to factoring is decorated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from zmlx.errors import PlanError
from zmlx.switches import CHECK
from zmlx.trace.graph import Graph, verify

P = ParamSpec("P")
T = TypeVar("T")
always = False  # the tests set it


def verified(stage: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorates the pass `stage`."""

    def decorate(run: Callable[P, T]) -> Callable[P, T]:
        @wraps(run)
        def looked_through(*args: P.args, **kwargs: P.kwargs) -> T:
            found = run(*args, **kwargs)
            if always or CHECK.on():
                _verify(found, stage)
            return found

        return looked_through

    return decorate


def _verify(found: Any, stage: str) -> None:
    try:
        verify(found if isinstance(found, Graph) else found.graph)
    except PlanError as error:
        raise PlanError(
            f"[zmlx.{stage}] the pass gave a graph that breaks its rules: {error}. Please report "
            "it, with the function."
        ) from None
