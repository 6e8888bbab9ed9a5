"""Explanations as files and in short: endings, JSON, DOT, SVG, summaries, the graph as text."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import mlx.core as mx
import networkx as nx
import pytest

import zmlx
from zmlx.fuse.explain import Explanation
from zmlx.fuse.reports import ops_text, short_ops


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch, on_cpu: None) -> None:
    """Nothing here runs a kernel."""
    monkeypatch.setenv("ZMLX_DEVICE", "replay")


def layer(x: Any, w: Any, rate: float) -> Any:
    left, right = mx.split(x @ w, 2, axis=-1)
    return {"y": mx.exp(left) * rate - right, "x": x}


@pytest.fixture
def explained() -> Explanation:
    return zmlx.explain(layer, mx.ones((4, 6)), mx.ones((6, 8)), 0.5)


def test_the_ending_says_what_is_written(explained: Explanation, tmp_path: Path) -> None:
    begins = {
        "html": "<!DOCTYPE html>", "txt": " ", "json": "{", "dot": "digraph", "svg": "<svg",
    }  # fmt: skip
    for ending, first in begins.items():
        path = explained.save(tmp_path / f"report.{ending.upper()}")
        assert path.read_text("utf-8").startswith(first), ending
    assert (tmp_path / "report.TXT").read_text("utf-8") == explained.text(full=True)


@pytest.mark.parametrize("name", ["report", "report.png", "report.html.gz", ".html"])
def test_another_ending_is_refused_and_writes_nothing(
    explained: Explanation, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=r"wanted one of \.html, \.txt, \.json, \.dot, \.svg"):
        explained.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_json_holds_the_whole_report(explained: Explanation, tmp_path: Path) -> None:
    found = json.loads(explained.save(tmp_path / "r.json").read_text("utf-8"))
    (region,) = found["regions"]
    assert found["name"] == "layer"
    assert region["ops"] == ["exp", "multiply", "subtract"]
    assert [port["is"] for port in region["reads"]][-1] == "rate"
    assert region["msl"] == explained.regions[0].msl
    assert {u["call"] for u in found["run_by_mlx"]} == {"matmul", "split"}
    assert found["kernels"] == {"plain": 3, "here": 3}
    assert len(found["graph"]) == len(explained.graph)
    fused = [node["node"] for node in found["graph"] if node["region"] == region["name"]]
    assert fused == region["nodes"]


def test_dot_has_each_node_edge_and_cluster(explained: Explanation, tmp_path: Path) -> None:
    text = explained.save(tmp_path / "r.dot").read_text("utf-8")
    graph = explained.graph
    edges = {(int(a), int(b)) for a, b in re.findall(r"^  (\d+) -> (\d+);$", text, re.M)}
    assert edges == set(graph.edges)
    assert {int(n) for n in re.findall(r"^ +(\d+) \[", text, re.M)} == set(graph)
    assert text.count("subgraph cluster_region0") == 1
    assert text.count("{") == text.count("}")
    assert 'label="rate\\n' in text


def test_svg_is_the_page_s_picture(explained: Explanation, tmp_path: Path) -> None:
    picture = ET.parse(explained.save(tmp_path / "r.svg")).getroot()
    page = explained._repr_html_()
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", page)
    svg = "{http://www.w3.org/2000/svg}"
    assert [t.text for t in picture.iter(f"{svg}text")] == shown
    assert {"rate", "x", "w"} <= set(shown)


def test_the_graph_prints_a_line_a_node(explained: Explanation) -> None:
    lines = str(explained.graph).splitlines()
    assert len(lines) == len(explained.graph) + 1
    assert any("exp(" in line and line.endswith("region0") for line in lines)
    assert lines[-1].startswith("return %")
    assert isinstance(explained.graph.copy(), nx.DiGraph)


def many(x: Any) -> Any:
    for _ in range(40):
        x = mx.tanh(x) * 2 + x
        x = mx.sort(x)
    return x


def test_a_large_report_is_summed_up_and_told_in_full_on_request() -> None:
    e = zmlx.explain(many, mx.ones((5,)))
    assert len(e.regions) == 40
    short, long = str(e), e.text(full=True)
    assert len(short.splitlines()) < 40
    assert "sort x40" in short
    assert "region0, +39 alike" in short
    assert ".text(full=True)" in short
    assert long.count("inline void zmlx_region") == 40
    assert e._repr_html_().count('class="card"') == 1  # one kernel, one card


def test_a_region_s_repr_is_short() -> None:
    e = zmlx.explain(many, mx.ones((5,)))
    assert repr(e.regions[3]) == (
        "<region3: 3 ops (tanh multiply add), 1 read, 1 written, 40 bytes>"
    )


@pytest.mark.parametrize(
    ("ops", "text"),
    [
        ("add add exp add", "add x2 exp add"),
        ("mul tanh add " * 33, "(mul tanh add) x33"),
        ("exp " + "mul add " * 3 + "sin", "exp (mul add) x3 sin"),
        ("", ""),
    ],
)
def test_patterns_of_ops_are_counted(ops: str, text: str) -> None:
    assert ops_text(ops.split()) == text


def test_a_long_list_of_ops_becomes_counts() -> None:
    ops = [f"op{i}" for i in range(20)] + ["op3"] * 2 + ["op7"]
    assert short_ops(ops).startswith("op3 x3, op7 x2, op0")
    assert short_ops(ops).endswith("8 more")


# -- times ----------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:.*ZMLX_DEVICE=replay:RuntimeWarning")
def test_times_are_measured_for_every_step_and_change_nothing(tmp_path: Path) -> None:
    state = {"count": mx.zeros((4, 4))}

    @zmlx.fuse(inputs=state, outputs=state)
    def step(x: Any, rate: float) -> Any:
        state["count"] = state["count"] + 1
        noise = mx.random.normal((4, 4))
        return mx.exp(mx.sort(x) * rate) * state["count"] - noise

    key = mx.random.state[0] + 0
    e = step.explain(mx.ones((4, 4)), 0.5)
    assert "time" not in str(e)
    assert e.timed(3) is e
    spent = [item.ms for item in (*e.regions, *e.unfused)]
    assert len(spent) >= 3
    assert all(ms is not None and ms > 0 for ms in spent)
    assert mx.array_equal(state["count"], mx.zeros((4, 4))).item()
    assert mx.array_equal(mx.random.state[0], key).item()
    assert "median of 3" in str(e)
    assert "median of 3" in e._repr_html_()
    found = json.loads(e.save(tmp_path / "r.json").read_text("utf-8"))
    assert [region["ms"] for region in found["regions"]] == [r.ms for r in e.regions]


@pytest.mark.parametrize("rounds", [0, -1])
def test_no_rounds_are_no_measurement(explained: Explanation, rounds: int) -> None:
    with pytest.raises(ValueError, match="rounds is"):
        explained.timed(rounds)


def test_with_fusion_off_there_is_nothing_to_time(
    explained: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMLX_FUSE", "0")
    with pytest.raises(ValueError, match="ZMLX_FUSE must be on"):
        explained.timed()
