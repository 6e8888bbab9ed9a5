"""Drawing: a planned graph laid out in layers, as boxes and lines for a page.

Comes in: an Explanation. Goes out: a Drawing in pixels, made SVG by templates/explain.html.
zmlx.fuse.page calls it.

Layers are topological generations. Values that pass layers get a waypoint in each, shared by all
their uses; order within a layer follows the neighbours, and so do positions, as near to them as the
boxes' widths allow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import networkx as nx

from zmlx.fuse.reports import alike, ops_text
from zmlx.trace.graph import title

if TYPE_CHECKING:
    from zmlx.fuse.explain import Explanation
    from zmlx.fuse.reports import RegionReport

MOST_NODES = 300  # beyond that, a region is one box
MANY = 40  # boxes, beyond which regions are drawn as boxes too, first
CHARACTER, PADDING = 6.7, 9.0  # of the page's monospaced text
HEIGHT, LAYER, GAP, MARGIN = 34.0, 62.0, 14.0, 12.0
WAYPOINT = 6.0
LONGEST = 28  # characters of an input's name
SWEEPS = 8
Key = Any


@dataclass
class Box:
    """A node of the drawing: `kind` is a CSS class; x, y its upper left corner."""

    label: str
    detail: str
    tip: str
    kind: str  # "input", "output", "native", or "fused"
    hue: int = 0
    width: float = 0.0
    x: float = 0.0
    y: float = 0.0

    def __post_init__(self) -> None:
        longest = max(len(self.label), len(self.detail))
        self.width = round(longest * CHARACTER + 2 * PADDING, 1)


@dataclass
class Line:
    """A part of an edge, as an SVG path; `arrow` where it ends at a box."""

    path: str
    arrow: bool


@dataclass
class Drawing:
    width: float = 0.0
    height: float = 0.0
    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def hues(regions: Sequence[RegionReport]) -> dict[str, int]:
    """The colour of each region, one for those alike: neighbours differ by the golden angle."""
    groups = enumerate(alike(regions))
    return {r.name: round(210 + 137.5 * i) % 360 for i, same in groups for r in same}


def overview(explanation: Explanation, drawing: Drawing) -> Drawing | None:
    """The graph with a box for each region, where `drawing`, with all ops, is large beside it."""
    if len(drawing.boxes) <= MANY or len(explanation.regions) < 2:
        return None
    found = draw(explanation, by_region=True)
    return found if 2 * len(found.boxes) <= len(drawing.boxes) else None


def draw(explanation: Explanation, by_region: bool = False) -> Drawing:
    """The explanation's graph: each op a box, or each region where that would be too many."""
    graph = explanation.graph
    shown = [n for n in graph if graph.nodes[n]["kind"] not in ("const", "item")]
    boxes = nx.DiGraph()
    whole = by_region or len(shown) > MOST_NODES
    home = {n: (graph.nodes[n]["region"] or n) if whole else n for n in shown}
    for node in graph:
        if graph.nodes[node]["kind"] == "item":
            home[node] = home[graph.nodes[node]["operands"][0]]
    for node in shown:
        if home[node] not in boxes:
            boxes.add_node(home[node], box=_box(explanation, graph, node, home[node] != node))
    for source, target in graph.edges:
        if source in home and home[source] != home[target]:
            boxes.add_edge(home[source], home[target])
    for i, node in enumerate(explanation.outputs):
        boxes.add_node(("output", i), box=_output(graph, node, i))
        if node in home:
            boxes.add_edge(home[node], ("output", i))
    return laid_out(boxes)


def draw_walks(region: RegionReport, hue: int) -> Drawing:
    """A region's walks, from top to bottom, between what each reads and what it writes."""
    boxes, told = nx.DiGraph(), region.walks
    if told is None:
        return Drawing()
    ports = {port.name: port for port in (*region.inputs, *region.outputs)}

    def port(name: str, kind: str) -> Key:
        if name in ports and name not in boxes:
            value = ports[name].value
            sizes = "×".join(map(str, value.shape)) or "1"
            tip = f"{name}: {ports[name].source}\n{value}"
            detail = f"{value.dtype} {sizes}"
            label = f"{name} {_cut(ports[name].source)}" if kind == "input" else name
            boxes.add_node(name, box=Box(label, detail, tip, kind))
        return name

    for k, walk in enumerate(told.walks):
        does = ", ".join((*walk.folds, *walk.sinks)) or f"{len(walk.ops)} ops"
        kept = f"; keeps {', '.join(walk.keeps)}" if walk.keeps else ""
        boxes.add_node(k, box=Box(f"walk {k + 1}", does + kept, walk.text, "fused", hue))
        boxes.add_edges_from((port(name, "input"), k) for name in walk.reads if name in ports)
        boxes.add_edges_from([(k - 1, k)] if k else [])
        ends = (*walk.writes, *walk.parts, *(told.per_row if walk is told.walks[-1] else ()))
        boxes.add_edges_from((k, port(name, "output")) for name in dict.fromkeys(ends))
    return laid_out(boxes)


# -- boxes ----------------------------------------------------------------------------------------
def _box(explanation: Explanation, graph: nx.DiGraph, node: int, whole: bool) -> Box:
    data = graph.nodes[node]
    detail, region = _shape(data), data["region"]
    names = [r.name for r in explanation.regions]
    colour = hues(explanation.regions)[region] if region else 0
    if whole:
        ops = explanation.regions[names.index(region)].ops
        return Box(region, f"{len(ops)} ops", ops_text(ops), "fused", colour)
    label = _label(graph, data)
    tip = f"{label}\n{data['dtype']}{list(data['shape'])}"
    tip += f"\n{data['loc']}" if data["loc"] else ""
    if data["kind"] == "opaque" and data["call"].outputs:
        detail = f"{data['call'].outputs} arrays"
        tip = f"{data['call'].label}\n{detail}\n{data['loc']}"
    kind = "native" if data["kind"] in ("op", "reduce", "opaque") else "input"
    why = {u.node: u.reason for u in explanation.unfused}.get(node, "")
    tip += f"\n{region}" if region else (f"\nrun by MLX: {why}" if why else "")
    return Box(label, detail, tip, "fused" if region else kind, colour)


def _label(graph: nx.DiGraph, data: dict[str, Any]) -> str:
    if data["kind"] == "op":
        operands = [graph.nodes[o] for o in data["operands"]]
        if not any(o["kind"] == "const" for o in operands):
            return str(data["op"])
        given = [f"{o['value']:.5g}" if o["kind"] == "const" else "·" for o in operands]
        return f"{data['op']}({', '.join(given)})"
    if data["kind"] in ("opaque", "reduce", "size", "count"):
        return title(data)
    return "captured" if data["kind"] == "array" else _cut(data["name"])


def _cut(name: str) -> str:
    """A long name's end, which tells it from others."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def _shape(data: dict[str, Any]) -> str:
    sizes = "×".join(map(str, data["shape"]))
    return f"{data['dtype']} {sizes}" if sizes else str(data["dtype"])


def _output(graph: nx.DiGraph, node: int, index: int) -> Box:
    data = graph.nodes[node]
    tip = f"output {index}\n{data['dtype']}{list(data['shape'])}"
    return Box(f"output {index}", _shape(data), tip, "output")


# -- layout ---------------------------------------------------------------------------------------
def laid_out(boxes: nx.DiGraph) -> Drawing:
    layers, links = _layers(boxes)
    widths = {
        k: boxes.nodes[k]["box"].width if k in boxes else WAYPOINT for row in layers for k in row
    }
    before: dict[Key, list[Key]] = {k: [] for k in widths}
    after: dict[Key, list[Key]] = {k: [] for k in widths}
    for source, target in links:
        after[source].append(target)
        before[target].append(source)
    _order(layers, before, after)
    centers = _place(layers, widths, before, after)
    left = min((centers[k] - widths[k] / 2 for k in widths), default=0.0) - MARGIN
    right = max((centers[k] + widths[k] / 2 for k in widths), default=0.0) + MARGIN
    drawing = Drawing(
        round(right - left), round(len(layers) * LAYER - (LAYER - HEIGHT) + 2 * MARGIN)
    )
    tops = {k: MARGIN + i * LAYER for i, row in enumerate(layers) for k in row}
    for key, data in boxes.nodes(data=True):
        box = data["box"]
        box.x, box.y = round(centers[key] - left - box.width / 2, 1), tops[key]
        drawing.boxes.append(box)
    for source, target in links:
        ends = (centers[source] - left, tops[source], centers[target] - left, tops[target])
        drawing.lines.append(_line(*ends, target in boxes))
    return drawing


def _layers(boxes: nx.DiGraph) -> tuple[list[list[Key]], list[tuple[Key, Key]]]:
    """The layers with their waypoints, and the links between neighbouring layers."""
    level = {k: i for i, row in enumerate(nx.topological_generations(boxes)) for k in row}
    for key in boxes:  # what depends on nothing stands right above its first use
        if boxes.in_degree(key) == 0 and boxes.out_degree(key):
            level[key] = min(level[user] for user in boxes.successors(key)) - 1
    layers: list[list[Key]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    links: list[tuple[Key, Key]] = []
    for key in boxes:
        layers[level[key]].append(key)
    for key in boxes:
        users = sorted(boxes.successors(key), key=lambda user: level[user])
        at: dict[int, Key] = {level[key]: key}
        for i in range(level[key] + 1, level[users[-1]] if users else 0):
            at[i] = ("waypoint", key, i)
            layers[i].append(at[i])
            links.append((at[i - 1], at[i]))
        links += [(at[level[user] - 1], user) for user in users]
    return layers, links


def _order(
    layers: list[list[Key]], before: dict[Key, list[Key]], after: dict[Key, list[Key]]
) -> None:
    """Sort each layer by the mean place of its neighbours, from above and from below in turn."""
    place = {k: float(i) for row in layers for i, k in enumerate(row)}
    for sweep in range(SWEEPS):
        near, rows = (before, layers) if sweep % 2 == 0 else (after, layers[::-1])
        for row in rows:
            row.sort(key=lambda k: _mean([place[n] for n in near[k]], place[k]))
            place.update((k, float(i)) for i, k in enumerate(row))


def _place(
    layers: Sequence[Sequence[Key]],
    widths: dict[Key, float],
    before: dict[Key, list[Key]],
    after: dict[Key, list[Key]],
) -> dict[Key, float]:
    """The center of each box, drawn to its neighbours' without overlap."""
    centers = dict.fromkeys(widths, 0.0)
    both = {k: before[k] + after[k] for k in widths}
    for sweep in range(SWEEPS + 2):
        near = both if sweep >= SWEEPS else (before, after)[sweep % 2]
        for row in layers if sweep % 2 == 0 else layers[::-1]:
            wanted = [_mean([centers[n] for n in near[k]], centers[k]) for k in row]
            for key, center in zip(row, _apart(wanted, [widths[k] for k in row]), strict=True):
                centers[key] = center
    return centers


def _apart(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The centers nearest to `wanted` (least squares) at which boxes in this order are apart."""
    offsets = [0.0]
    for a, b in zip(widths, widths[1:], strict=False):
        offsets.append(offsets[-1] + (a + b) / 2 + GAP)
    blocks: list[tuple[float, int]] = []  # mean and number of what moves together
    for center, offset in zip(wanted, offsets, strict=False):
        mean, count = center - offset, 1
        while blocks and blocks[-1][0] >= mean:
            other, more = blocks.pop()
            mean = (mean * count + other * more) / (count + more)
            count += more
        blocks.append((mean, count))
    means = [mean for mean, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return math.fsum(values) / len(values) if values else otherwise


def _line(x0: float, top0: float, x1: float, top1: float, arrow: bool) -> Line:
    """A link from the lower edge of a layer to the upper edge of the next, through a waypoint."""
    y0, y1 = top0 + HEIGHT, top1
    middle = (y0 + y1) / 2
    path = f"M{x0:.1f} {y0:.0f}C{x0:.1f} {middle:.0f} {x1:.1f} {middle:.0f} {x1:.1f} {y1:.0f}"
    return Line(path if arrow else f"{path}V{y1 + HEIGHT:.0f}", arrow)
