"""Reports: what zmlx.patch replaced in a model, what not, and why.

Comes in: places of a model, and the decisions of their parts. Goes out: a PatchReport, which prints
as a table, shows itself in a notebook, and is data. zmlx.models.patching makes it.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

from mlx.utils import tree_map

from zmlx.models import breaks
from zmlx.models.deciding import Shaped
from zmlx.models.part import PIECES, PLAIN, Decision, Key, Options, Part

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from zmlx.models.validating import Validation

NOT_CALLED = "patched; decided at its first call"
_WIDTH = 120  # of the table as a str


@dataclass
class Place:
    """Modules of one class, with weights of the same shapes, that are treated alike."""

    name: str  # of the class
    part: Part | None  # None where the class was left as it is
    why: str  # it was
    paths: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """Its modules, in short."""
        first = self.paths[0] or "the model"
        return first if len(self.paths) == 1 else f"{first} and {len(self.paths) - 1} more"

    @property
    def decisions(self) -> dict[Key, Decision]:
        return dict(self.part.decisions) if self.part is not None else {}

    @property
    def status(self) -> str:
        """ "skipped", "patched" (not called yet), "fused", or "plain" (called, nothing pays)."""
        if self.part is None:
            return "skipped"
        ways = {decision.way for decision in self.decisions.values()}
        return "patched" if not ways else "plain" if ways == {PLAIN} else "fused"

    def lines(self) -> list[str]:
        """What is said of it, a line a kind of calls."""
        if self.part is None:
            return [self.why]
        said: dict[str, list[str]] = {}
        for key, decision in sorted(self.decisions.items(), key=lambda item: item[0].size):
            said.setdefault(told(key), []).append(f"{_size(key)}{_way(decision)}")
        return [f"{kind}: {_once(ways)}" for kind, ways in said.items()] or [NOT_CALLED]


def told(key: Key) -> str:
    """A kind of calls, in words."""
    mode = {"call": "call", "cache": "with a cache", "gradient": "gradient"}[key.mode]
    dtype = str(key.dtype).removeprefix("mlx.core.")
    return f"{mode}, {dtype}"


def _size(key: Key) -> str:
    return f"below {2**key.size} elements "


def _way(decision: Decision) -> str:
    return decision.why if decision.way is PLAIN else f"fused {decision.way} ({decision.why})"


def _once(ways: list[str]) -> str:
    """What is said of all sizes, without them where all are treated alike."""
    said = [way.split(" elements ", 1)[1] for way in ways]
    return said[0] if len(set(said)) == 1 else "; ".join(ways)


@dataclass
class PatchReport:
    """What zmlx.patch made of a model; it follows what the model's calls decide.

    Print it, index it by a module's path (`report["model.layers.0"]`), or take `as_dict` or `json`.
    """

    model: str  # its class
    options: Options
    places: list[Place]
    validation: Validation | None = None

    def __getitem__(self, path: str) -> Place:
        for place in self.places:
            if path in place.paths:
                return place
        raise KeyError(f"[zmlx.patch] no module is at {path!r}; `report.places` lists all paths.")

    @property
    def replaced(self) -> list[Place]:
        """Places whose calls may run fused."""
        return [place for place in self.places if place.part is not None]

    @property
    def skipped(self) -> list[Place]:
        return [place for place in self.places if place.part is None]

    def explain(self, path: str, mode: str = "call") -> Any:
        """What the module at `path` runs in calls of a kind that it has met: see `zmlx.explain`.

        Args:
            path: as in `places`, e.g. "model.layers.0".
            mode: "call", "gradient" (its forward pass), or "cache": the first fused piece.

        Raises:
            KeyError: no module has this path. ValueError: no such call was met, or it is not fused.
        """
        place = self[path]
        part = place.part
        keys = [k for k, d in place.decisions.items() if k.mode == mode and d.way is not PLAIN]
        if part is None or not keys:
            lines = "\n".join(place.lines())
            raise ValueError(
                f"[zmlx.patch] {path!r} has no fused calls of kind {mode!r} so far:\n{lines}\n"
                "Call the model first, or give another path."
            )
        return explained(part, keys[-1])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "measure": self.options.measure,
            "numerics": self.options.numerics,
            "places": [
                {"class": p.name, "paths": p.paths, "status": p.status, "why": p.lines()}
                for p in self.places
            ],
            "validation": self.validation.as_dict() if self.validation is not None else None,
        }

    def json(self) -> str:
        return json.dumps(self.as_dict(), indent=1)

    def table(self) -> Table:
        from rich.table import Table

        table = Table(title=f"zmlx.patch: {self.model}")
        for column in ("modules", "class", "", "why"):
            table.add_column(column, overflow="fold")
        for place in self.places:
            table.add_row(place.where, place.name, place.status, "\n".join(place.lines()))
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table()
        if self.validation is not None:
            yield self.validation.table()

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=_WIDTH).print(self)
        return text.getvalue().rstrip("\n")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __repr__(self) -> str:
        modules = sum(len(place.paths) for place in self.replaced)
        return f"<zmlx.patch {self.model}: {modules} modules patched>"


def explained(part: Part, key: Key) -> Any:
    """The explanation of a kind of calls, from the shapes of the first one."""
    module, decision = part.seen(), part.decisions[key]
    example = part.examples[key], part.below.get(key, [])
    (args, kwargs), below = tree_map(lambda x: x.made() if isinstance(x, Shaped) else x, example)
    if decision.way is not PIECES:
        return part.whole.explain(module, *args, **kwargs)
    call = breaks.given(tuple(args), kwargs, decision.arrays)
    return part.pieces.explain(module, below, call.holed, call.named)
