"""Export: an explanation as a file's content, by the ending of the file's name.

Comes in: an Explanation. Goes out: a page, text, JSON, or its graph for Graphviz or as SVG.
zmlx.fuse.explain calls it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx

from zmlx.fuse.page import html, svg
from zmlx.fuse.text import formula, plain
from zmlx.trace.graph import title

if TYPE_CHECKING:
    from zmlx.fuse.explain import Explanation
    from zmlx.fuse.reports import Port, RegionReport


class PlannedGraph(nx.DiGraph):
    """A planned graph whose str is a line a node."""

    def __str__(self) -> str:
        lines = [_line(node, data) for node, data in self.nodes(data=True)]
        outputs = ", ".join(f"%{n}" for n in self.graph.get("outputs", ()))
        return "\n".join([*lines, f"return {outputs}"])


def _line(node: int, data: dict[str, Any]) -> str:
    kind = data["kind"]
    inside = [f"%{o}" for o in data["operands"]]
    inside += [data["name"]] if data["name"] else []
    inside += [str(data[k]) for k in ("index", "value") if k in data and kind in ("item", "const")]
    inside += [f"axes={data['axes']}"] if "axes" in data else []
    text = f"%{node} = {title(data)}({', '.join(inside)})  {data['dtype']}{list(data['shape'])}"
    return "  ".join(part for part in (text, data["loc"], data.get("region", "")) if part)


def written(explanation: Explanation, path: Path) -> str:
    """What a file of that name holds; raises ValueError for an ending that is not known."""
    write = WRITERS.get(path.suffix.lower())
    if write is None:
        raise ValueError(
            f"[zmlx.explain] {path.name!r} ends in {path.suffix or 'nothing'!r}; "
            f"wanted one of {', '.join(WRITERS)}."
        )
    return write(explanation)


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """The whole report as numbers, texts, lists and dicts."""
    e = explanation
    return {
        "name": e.name,
        "numerics": e.numerics,
        "no_kernels": e.no_kernels,
        "kernels": {"plain": e.kernels_before, "here": e.kernels_after},
        "bytes": {"plain": e.bytes_before, "here": e.bytes_after},
        "regions": [_region(region) for region in e.regions],
        "run_by_mlx": [
            {
                "inside": None if u.inside is None else asdict(u.inside),
                "call": u.label, "why": u.reason, "line": u.loc, "node": u.node, "ms": u.ms,
                "results": list(map(str, u.results)),
            }
            for u in e.unfused
        ],
        "captured": [
            {"name": c.name, "value": str(c.value), "line": c.loc} for c in e.captures
        ],
        "saved": [
            {"is": s.source, "value": str(s.value), "why": s.why, "node": s.node,
             "anyway": s.anyway}
            for s in e.saved
        ],
        "frozen": {f.name: f.value for f in e.frozen},
        "exported": e.exported,
        "written": e.written,
        "patterns": {"fired": list(map(asdict, e.fired)), "nearly": list(map(asdict, e.nearly))},
        "shape_reads": e.shape_reads,
        "static_numbers": [e.names.number(i) for i in e.static_numbers],
        "graph": _nodes(e),
        "outputs": e.outputs,
    }  # fmt: skip


def _region(region: RegionReport) -> dict[str, Any]:
    return {
        "name": region.name,
        "ms": region.ms,
        "line": region.line,
        "ops": list(region.ops),
        "nodes": list(region.nodes),
        "bytes": region.bytes,
        "reads": list(map(_port, region.inputs)),
        "writes": list(map(_port, region.outputs)),
        "formulas": {name: formula(value) for name, value in region.formulas.items()},
        "vjp": {name: formula(value) for name, value in region.vjp.items()},
        "temporaries": {str(name): formula(value) for name, value in region.temporaries.items()},
        "kernel": region.kernel,
        "msl": region.msl,
        "parts": [{"kernel": part.kernel, "bytes": part.bytes} for part in region.parts],
        "walks": None if region.walks is None else asdict(region.walks),
        "again": list(region.again),
        "shares": list(region.shares),
        "vjp_kernels": list(region.vjp_kernels),
        "vjp_msl": region.vjp_msl,
    }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "value": str(port.value), "is": port.source, "node": port.node}


def _nodes(explanation: Explanation) -> list[dict[str, Any]]:
    found = []
    for node, data in explanation.graph.nodes(data=True):
        made = {
            "node": node, "label": _label(data), "kind": data["kind"],
            "operands": list(data["operands"]), "dtype": data["dtype"],
            "shape": list(data["shape"]), "line": data["loc"], "region": data["region"],
        }  # fmt: skip
        found.append(made)
    return found


def _label(data: dict[str, Any]) -> str:
    kind = data["kind"]
    if data["name"]:
        return str(data["name"])
    if kind == "const":
        return repr(data["value"])
    if kind == "item":
        return f"[{data['index']}]"
    return "captured" if kind == "array" else title(data)


def dot(explanation: Explanation) -> str:
    """The graph for Graphviz; each region is a cluster, in which its walks stand in a row."""
    lines = [f"digraph {_quoted(explanation.name)} {{", "  node [shape=box];"]
    homes: dict[str, list[str]] = {}
    for made in _nodes(explanation):
        label = f"{made['label']}\n{made['dtype']}{made['shape']}"
        line = f"{made['node']} [label={_quoted(label)}, tooltip={_quoted(made['line'])}];"
        homes.setdefault(made["region"], []).append(line)
    for region, inside in homes.items():
        if region:
            lines.append(f"  subgraph cluster_{region} {{ label={_quoted(region)};")
        lines += [f"  {'  ' if region else ''}{line}" for line in inside]
        lines += _walks(explanation, region)
        lines += ["  }"] if region else []
    lines += [f"  {a} -> {b};" for a, b in explanation.graph.edges]
    for i, node in enumerate(explanation.outputs):
        lines += [f"  output{i} [shape=oval];", f"  {node} -> output{i};"]
    return "\n".join([*lines, "}", ""])


def _walks(explanation: Explanation, region: str) -> list[str]:
    found = [r.walks for r in explanation.regions if r.name == region and r.walks is not None]
    names = [f"{region}_walk{k}" for k in range(1, 1 + sum(len(w.walks) for w in found))]
    texts = [f"walk {k}: {walk.text}" for w in found for k, walk in enumerate(w.walks, start=1)]
    pairs = zip(names, texts, strict=True)
    lines = [f"    {name} [shape=note, label={_quoted(text)}];" for name, text in pairs]
    steps = zip(names, names[1:], strict=False)
    return [*lines, *[f"    {a} -> {b} [style=dashed];" for a, b in steps]]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


WRITERS: dict[str, Callable[[Explanation], str]] = {
    ".html": html,
    ".txt": lambda e: plain(e, full=True),
    ".json": lambda e: json.dumps(as_dict(e), indent=1, allow_nan=False) + "\n",
    ".dot": dot,
    ".svg": svg,
}
