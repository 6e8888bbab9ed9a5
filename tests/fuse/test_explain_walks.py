"""Explanations of kernels that fold rows: their walks, what gradients keep, shared launches."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import zmlx
from zmlx.fuse import walked
from zmlx.fuse.drawing import draw_walks
from zmlx.fuse.explain import Explanation
from zmlx.fuse.page import html

ROWS, COLUMNS = 64, 1024


pytestmark = pytest.mark.usefixtures("host_device")


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launches of a CPU: the sanitizer watches those of a GPU."""
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)


def block(x: Any, update: Any, weight: Any, bias: Any) -> Any:
    h = x + update
    normed = mx.fast.layer_norm(h, weight, bias, 1e-5)
    return h, nn.silu(normed), (normed * normed).sum(0)


def softmax(x: Any) -> Any:
    e = mx.exp(x - mx.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def explained() -> Explanation:
    shapes = [(ROWS, COLUMNS)] * 2 + [(COLUMNS,)] * 2
    return zmlx.explain(block, *[mx.ones(shape) for shape in shapes])


@pytest.fixture(params=["alone", "groups"])
def on_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether threads of a group run together, as on a GPU."""
    if request.param == "groups":
        monkeypatch.setattr(walked, "alone", lambda: False)
    return bool(request.param == "groups")


def test_a_norm_is_three_walks(explained: Explanation) -> None:
    (region,) = explained.regions
    walks = region.walks
    assert walks is not None and (walks.rows, walks.columns) == (ROWS, COLUMNS)
    first, second, third = walks.walks
    assert (first.reads, first.ops) == (("in0", "in1"), ("add",))
    assert first.folds == ("fold0 = sum(add)",) and not first.writes
    assert second.before == ("divide",) and second.folds == ("fold1 = sum(square)",)
    assert third.reads == ("in0", "in1", "in2", "in3")
    assert third.writes == ("out0", "out1") and third.sinks == ("fold2 = sum(multiply)",)
    assert third.parts == ("out2",)
    assert any("out2 comes in" in line for line in walks.lines)


def test_what_is_held_in_registers(on_gpu: bool) -> None:
    x = mx.ones((ROWS, COLUMNS))
    walks = zmlx.explain(softmax, x).regions[0].walks
    assert walks is not None
    assert (walks.held, walks.again) == ((("in0",), ()) if on_gpu else ((), ("in0",)))
    assert walks.walks[1].keeps == ("exp",) and "exp" in walks.walks[2].takes
    assert ("threads share a row" in walks.how) == on_gpu


def test_a_row_that_finds_no_room_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walked, "alone", lambda: False)
    walks = zmlx.explain(softmax, mx.ones((ROWS, 1 << 18))).regions[0].walks
    assert walks is not None and walks.again == ("in0",) and not walks.held
    assert not any(walk.keeps for walk in walks.walks)


def test_rows_that_are_neighbours_in_memory(on_gpu: bool) -> None:
    def normed(x: Any) -> Any:
        e = mx.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    walks = zmlx.explain(normed, mx.ones((4, 16, 40))).regions[0].walks
    assert walks is not None and (walks.rows, walks.columns) == (160, 16)
    assert "neighbours in memory" in walks.how and len(walks.walks) == 3


def test_elementwise_regions_have_no_walks() -> None:
    (region,) = zmlx.explain(lambda x: mx.exp(x) * x, mx.ones((4, 5))).regions
    assert region.walks is None and "walk" not in str(zmlx.explain(mx.exp, mx.ones((4,))))


# -- what gradients keep --------------------------------------------------------------------------
def test_what_a_gradient_reads_and_why() -> None:
    def layer(x: Any, w: Any, b: Any) -> Any:
        return mx.tanh(x @ w + b) * x

    x = mx.ones((8, 8))
    report = zmlx.explain(layer, x, x, mx.ones((8,)))
    told = {saved.source.partition(" at ")[0]: saved for saved in report.saved}
    assert set(told) == {"x", "b", "matmul"}
    assert told["x"].anyway and "argument" in told["x"].why
    assert not told["matmul"].anyway and "until the gradient" in told["matmul"].why
    assert "256 bytes stay in memory" in str(report)
    assert report.regions[0].again == ("add", "tanh")


def test_a_sum_needs_nothing_of_the_forward_pass() -> None:
    report = zmlx.explain(lambda x, y: x + y * 2, mx.ones((4,)), mx.ones((4,)))
    assert report.saved == [] and report.regions[0].again == ()


def test_a_number_is_not_kept_in_memory() -> None:
    report = zmlx.explain(lambda x, rate: mx.sin(x * rate), mx.ones((4,)), 0.5)
    assert [saved.source for saved in report.saved] == ["x"]


# -- forms ----------------------------------------------------------------------------------------
def test_the_text_says_it(explained: Explanation) -> None:
    text = re.sub(r"[│\s]+", " ", str(explained))
    for line in explained.regions[0].walks.lines:  # type: ignore[union-attr]
        assert line in text
    assert "computed again, not kept: add sum divide" in text
    assert "Nothing stays in memory for a gradient" in text


def test_long_rows_have_numbers_that_stay() -> None:
    """Of a layer norm whose rows no registers hold."""
    normed = lambda x, w, b: mx.fast.layer_norm(x + 1, w, b, 1e-5)  # noqa: E731
    report = zmlx.explain(normed, *[mx.ones(s) for s in ((2, 20000), (20000,), (20000,))])
    stay = [saved for saved in report.saved if "a number a row" in saved.why]
    assert [saved.value.shape for saved in stay] == [(2, 1)] * 2
    assert not any(saved.anyway for saved in stay)
    assert "stay in memory for a gradient" in str(report)


def test_json_has_the_fields(explained: Explanation) -> None:
    found = json.loads(explained.json())
    (region,) = found["regions"]
    assert [walk["folds"] for walk in region["walks"]["walks"]] == [
        ["fold0 = sum(add)"], ["fold1 = sum(square)"], [],
    ]  # fmt: skip
    assert region["again"][:2] == ["add", "sum"] and region["shares"] == []
    assert [saved["is"] for saved in found["saved"]] == [
        "weight", "bias", "add at test_explain_walks.py:34",
    ]  # fmt: skip


def test_dot_has_a_note_for_each_walk(explained: Explanation, tmp_path: Path) -> None:
    text = explained.save(tmp_path / "r.dot").read_text("utf-8")
    assert text.count("shape=note") == 3 and text.count("style=dashed") == 2
    assert text.index("region0_walk1") > text.index("cluster_region0")


def test_the_page_draws_them(explained: Explanation) -> None:
    page = html(explained)
    assert page.count('id="zmlx-arrow"') == 1
    drawings = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert len(drawings) == 2
    words = ["".join(box.itertext()) for box in drawings[1].iter("{http://www.w3.org/2000/svg}g")]
    assert sum("walk " in text for text in words) >= 3
    for name in ("in0 x", "in3 bias", "out0", "out2"):
        assert any(name in text for text in words), name
    assert "Gradients</h2>" in page and "an argument, in memory anyway" in page


def test_walks_are_laid_out_from_top_to_bottom(explained: Explanation) -> None:
    drawing = draw_walks(explained.regions[0], 200)
    tops = [box.y for box in drawing.boxes if box.label.startswith("walk ")]
    assert tops == sorted(tops) and len(set(tops)) == 3
    for a in drawing.boxes:
        for b in drawing.boxes:
            if a is not b and a.y == b.y:
                assert a.x + a.width <= b.x or b.x + b.width <= a.x


# -- shared launches ------------------------------------------------------------------------------
def test_regions_that_share_a_launch_say_so() -> None:
    def step(params: Any, rate: Any) -> Any:
        return {k: v - rate * mx.exp(v) for k, v in params.items()}

    shapes = [(4,), (5, 3), (1 << 21,), (7,), (8,), (9,)]
    params = {str(i): mx.ones(shape) for i, shape in enumerate(shapes)}
    report = zmlx.explain(step, params, mx.array(0.1))
    assert report.regions[0].shares == ("region1", "region3", "region4")
    assert [len(region.shares) for region in report.regions] == [3, 3, 0, 3, 3, 0]
    assert report.kernels_after == 3
    assert "launched together with region1" in str(report)
    assert "launched together with region1" in html(report)
