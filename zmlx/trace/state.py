"""State: the arrays that live inside modules and captured containers while a trace runs.

They are inputs, and proxies stand in their places. A call that runs the user's Python under MLX
(a gradient, say) must find plain arrays there instead; and what the function leaves alone is not
written back. zmlx.trace.run makes it, the tracer and the recipes of results ask it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from zmlx.trace.operands import children
from zmlx.trace.proxy import Proxy
from zmlx.trace.tree import Slot, containers, replaced

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer


@dataclass(frozen=True)
class State:
    """Places of arrays, and the proxies that stood in them at first, by slot.index."""

    slots: Sequence[Slot] = ()
    proxies: Sequence[Proxy] = ()
    containers: Sequence[Any] = ()  # those that the call reads and writes back

    def covers(self, state: Any) -> bool:
        """Whether every container of arrays in `state` is one that the trace takes as input."""
        known = {id(c) for c in (*self.containers, *[slot.container for slot in self.slots])}
        return all(id(inner) in known or _only_holds(inner) for inner in containers(state))

    def check(self, tracer: Tracer, passed: Any) -> None:
        """Raise TraceError where a place holds a new value that is not among `passed` arguments.

        A replay of the call that gets them would still find the old value there.
        """
        known = {proxy.node for proxy in _proxies(passed)} if self.slots else set()
        for slot in self.slots:
            held, first = _held(slot), self.proxies[slot.index]
            if isinstance(held, Proxy) and held.node not in (first.node, *known):
                raise tracer.refuse(
                    f"captured state ({slot.key!r}) is updated, and then read inside a call that "
                    "MLX runs.",
                    "Pass it to that call as an argument, or update it afterwards.",
                )

    @contextmanager
    def shown(self, tracer: Tracer) -> Iterator[None]:
        """Within the block the places hold plain arrays; after it, what they held before."""
        held = {slot.index: _held(slot) for slot in self.slots}
        plain = {i: tracer.base(v) if isinstance(v, Proxy) else v for i, v in held.items()}
        with replaced([s for s in self.slots if plain[s.index] is not None], plain):
            yield

    def unchanged(self, container: Any, key: Any, value: Any) -> bool:
        """Whether `container` still holds, under `key`, the array that it held at first."""
        if not isinstance(value, Proxy):
            return False
        places = (s for s in self.slots if s.container is container and s.key == key)
        return any(self.proxies[s.index].node == value.node for s in places)


def _only_holds(container: Any) -> bool:
    """Whether `container` has other containers in it, and no array."""
    items = children(container)
    return len(items) > 0 and not any(isinstance(item, mx.array) for item in items)


def _held(slot: Slot) -> Any:
    """What is in a place now; None where it has gone."""
    if isinstance(slot.container, dict):
        return slot.container.get(slot.key)
    return slot.container[slot.key] if slot.key < len(slot.container) else None


def _proxies(tree: Any) -> Iterator[Proxy]:
    """The traced arrays among arguments; those inside a module do not travel as such."""
    if type(tree) is Proxy:
        yield tree
    if isinstance(tree, nn.Module):
        return
    for item in children(tree):
        yield from _proxies(item)
