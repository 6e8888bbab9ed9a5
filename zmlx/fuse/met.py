"""Met: the structures of calls that a table has met, told again without flattening.

Comes in: the arguments of a call. Goes out: its leaves and its site, where the native module says
that the call has one of those structures. zmlx.fuse.table asks before it flattens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zmlx.device.rules import native_or_none
from zmlx.fuse.site import Site
from zmlx.trace.endings import random_state
from zmlx.trace.known import written
from zmlx.trace.run import Call
from zmlx.trace.tree import Leaves

MOST = 8  # structures, those met last
_TRIES = 256  # structures that are written, in all: some are made anew for each call


@dataclass(eq=False)
class Known:
    """One structure, and the sites that its calls have been seen at, by signature."""

    native: Any
    structure: Any
    soft: list[int]
    copied: set[int]
    sites: dict[bytes, Site] = field(default_factory=dict)

    def leaves(
        self, arrays: list[Any], numbers: list[Any], objects: list[Any], apart: bool
    ) -> Leaves:
        return Leaves(arrays, numbers, self.soft, objects, self.copied, apart=apart)


class Met:
    """The structures met last, the last one first."""

    def __init__(self, states: Sequence[Any]) -> None:
        self._states = tuple(states)
        self._known: list[Known] = []
        self._tries = 0

    def find(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], sites: dict[Any, Site]
    ) -> tuple[Site, Leaves] | None:
        """The site and the leaves of a call, where its structure is known and the site is there."""
        for position, known in enumerate(self._known):
            found = known.native.match(args, kwargs, self._states)
            if found is None:
                continue
            if position:
                self._known = [known, *[k for k in self._known if k is not known]]
            signature, *leaves = found
            site = known.sites.get(signature)
            if site is None:
                site = sites.get((known.structure, signature))
                if site is None:
                    return None
                known.sites[signature] = site
            return site, known.leaves(*leaves)
        return None

    def note(self, call: Call) -> None:
        """Keep the structure of a call, where the native module can tell it."""
        native = native_or_none()
        if native is None or self._tries >= _TRIES:
            return
        self._tries += 1
        nodes = written(call.structure, len(self._states))
        if nodes is not None:
            made = native.Known(nodes, random_state())
            known = Known(made, call.structure, call.leaves.soft, call.leaves.copied)
            self._known = [known, *self._known[: MOST - 1]]

    def forget(self) -> None:
        """Drop them all, as traces and objects have gone; calls will bring back what they need."""
        self._known = []
