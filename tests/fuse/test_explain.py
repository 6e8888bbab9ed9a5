"""Explanations: regions, counts, reasons, captures, text; and that explaining changes nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import networkx as nx
import pytest
from rich.console import Console

import zmlx
from zmlx.fuse import explain
from zmlx.fuse.explain import Explanation, Value
from zmlx.fuse.region import Specialized
from zmlx.fuse.reports import ops_text
from zmlx.fuse.text import bytes_text

HERE = Path(__file__).name
REPLAYED = pytest.mark.filterwarnings("ignore:.*ZMLX_DEVICE=replay:RuntimeWarning")


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here runs a kernel; their text is made all the same."""
    monkeypatch.setenv("ZMLX_DEVICE", "replay")


@pytest.fixture
def kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report says what it says where kernels do run; none is compiled."""
    monkeypatch.setattr(explain, "no_kernels", lambda: "")


def layer(x: Any, w: Any, b: Any) -> Any:
    h = x @ w + b
    return h * mx.sigmoid(h), mx.tanh(x)


@pytest.fixture
def explained() -> Explanation:
    return zmlx.explain(layer, mx.ones((64, 256)), mx.ones((256, 128)), mx.zeros((128,)))


def test_regions_and_what_is_between_them(explained: Explanation) -> None:
    assert explained.name == "layer"
    (region,) = (r for r in explained.regions if "sigmoid" in r.ops)
    assert region.ops == ("add", "sigmoid", "multiply")
    matmul, *_ = (p for p in region.inputs if p.value == Value("float32", (64, 128)))
    assert matmul.source.startswith(f"matmul at {HERE}:")
    assert [p.source for p in region.inputs if p is not matmul] == ["b"]
    assert "metal::precise::exp" in region.msl
    assert region.kernel in region.msl
    assert len(region.vjp_kernels) == 1
    assert region.vjp_kernels[0] in region.vjp_msl
    labels = {u.label: u for u in explained.unfused}
    assert labels["matmul"].reason == "not elementwise"
    assert (labels["matmul"].dtype, labels["matmul"].shape) == ("float32", (64, 128))
    assert labels["matmul"].loc.startswith(f"{HERE}:")


def test_kernels_and_bytes_are_counted_by_hand(kernels_run: None) -> None:
    def scaled(x: Any, b: Any) -> Any:
        y = mx.tanh(x + b)
        return mx.stop_gradient(y * y), x.sum()

    e = zmlx.explain(scaled, mx.ones((64, 256), mx.bfloat16), mx.ones((256,), mx.bfloat16))
    big, small = 64 * 256 * 2, 256 * 2
    assert e.kernels_before == 3
    assert e.bytes_before == (big + small + big) + (big + big) + (big + big)
    assert e.kernels_after == 1
    assert e.bytes_after == e.regions[0].bytes == big + small + big


def test_an_op_that_stays_with_mlx_counts_on_both_sides() -> None:
    e = zmlx.explain(lambda x: (x + 1) @ x, mx.ones((4, 4)))
    single = [u for u in e.unfused if u.label == "add"]
    if single:  # the device decides what is worth a kernel
        assert "single op" in single[0].reason
    assert (e.kernels_before, e.kernels_after) == (1, 1)
    assert e.bytes_before == e.bytes_after == 2 * 4 * 4 * 4


def test_dead_code_is_no_kernel_of_plain_mlx() -> None:
    def wasteful(x: Any) -> Any:
        mx.exp(x)
        return mx.sin(x) * mx.sin(x)

    e = zmlx.explain(wasteful, mx.ones((4,)))
    assert e.kernels_before == 3  # MLX computes sin twice
    assert e.regions[0].ops == ("sin", "multiply")


def test_types_that_no_kernel_has_are_named() -> None:
    with mx.stream(mx.cpu):
        e = zmlx.explain(lambda x: mx.exp(x) * 2, mx.zeros((3,), mx.float64))
    assert not e.regions
    assert {u.label for u in e.unfused} == {"exp", "multiply"}
    assert all("float64 does not exist in MSL" in u.reason for u in e.unfused)
    assert "Nothing here is fused" in str(e)


def test_captures_sizes_and_static_numbers_are_listed() -> None:
    table = mx.ones((3, 1), mx.float16)

    def f(x: Any, power: float) -> Any:
        y = x * table / int(x.shape[0])
        return y if power > 1 else -y

    e = zmlx.explain(f, mx.ones((3, 5)), 2.0)
    first = f.__code__.co_firstlineno
    (capture,) = e.captures
    assert capture.value == Value("float16", (3, 1))
    assert capture.loc == f"{HERE}:{first + 1}"
    assert e.shape_reads == [f"x.shape[0] is 3 at {HERE}:{first + 1}"]
    assert e.static_numbers == [0]
    assert capture.name == "table"
    assert "captured array" in [p.source.partition(" at ")[0] for p in e.regions[0].inputs]
    text = str(e)
    assert "float16[3, 1]" in text
    assert f"only where x.shape[0] is 3 at {HERE}:{first + 1}" in text
    assert "each value of: power" in text


def test_calls_with_several_results_and_with_effects() -> None:
    def f(x: Any) -> Any:
        left, right = mx.split(x, 2)
        return mx.exp(left) * mx.random.normal(left.shape) + right

    e = zmlx.explain(f, mx.ones((4, 2)))
    split = next(u for u in e.unfused if u.label == "split")
    assert [str(r) for r in split.results] == ["float32[2, 2]"] * 2
    assert "split[0]" in " ".join(p.source for r in e.regions for p in r.inputs)
    draw = next(u for u in e.unfused if "normal" in u.label)
    assert "at every call" in draw.reason
    assert not any("at every call" in u.reason for u in e.unfused if u is not draw)
    assert "split" in str(e)


def test_the_reason_that_the_trace_noted_is_shown() -> None:
    e = zmlx.explain(lambda x: mx.add(x, 1, stream=mx.cpu) * mx.exp(x), mx.ones((4,)))
    assert [(u.label, u.reason) for u in e.unfused] == [("add", "it names a stream")]


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (lambda x: x, mx.ones((2, 3))),
        (lambda x: 3, mx.ones((2, 3))),
        (lambda x: mx.exp(x) * x, mx.array(1.0)),
        (lambda x: mx.exp(x) * x, mx.ones((0, 3))),
        (lambda x: (x & 3) << 1, mx.array([1, 2], mx.uint8)),
        (lambda x: mx.sort(x), mx.ones((5,))),
        (lambda x: {"a": [x, x + x * x]}, mx.ones((5,))),
    ],
    ids=["identity", "no output", "scalar", "empty", "integers", "one call", "tree"],
)
def test_odd_functions_print_and_draw(function: Any, argument: mx.array) -> None:
    e = zmlx.explain(function, argument)
    assert "zmlx.explain: <lambda>" in str(e)
    assert "&lt;lambda&gt;" in e._repr_html_()
    for region in e.regions:
        assert region.msl
        assert bool(region.vjp) == ("float" in region.inputs[0].value.dtype)


@pytest.mark.smoke
def test_modules_and_fused_functions_are_explained(explained: Explanation) -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    assert [r.ops.count("erf") for r in zmlx.explain(module, mx.ones((2, 4))).regions] == [1]
    exact = zmlx.fuse(layer, numerics="mlx").explain(
        mx.ones((4, 4)), mx.ones((4, 4)), b=mx.ones((4,))
    )
    assert (exact.numerics, explained.numerics) == ("mlx", "fp32")
    assert exact.regions[0].kernel != explained.regions[0].kernel


def test_the_kernel_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Specialized, "kernel", None)
    e = zmlx.explain(lambda x: mx.exp(x) * x, mx.ones((5,)))
    assert (e.regions[0].kernel, e.regions[0].msl) == ("", "")
    assert (e.kernels_before, e.kernels_after) == (2, 2)
    assert e.bytes_before == e.bytes_after
    assert "MLX runs the ops one by one" in str(e)
    assert "MLX runs the ops one by one" in e._repr_html_()


@REPLAYED
def test_the_graph_is_a_copy() -> None:
    fused = zmlx.fuse(lambda x: mx.exp(x) * x)
    e = fused.explain(mx.ones((3,)))
    graph = e.graph
    assert isinstance(graph, nx.DiGraph)
    assert {d["region"] for _, d in graph.nodes(data=True) if d["kind"] == "op"} == {"region0"}
    graph.clear()
    assert len(e.graph) == 3
    assert mx.allclose(fused(mx.ones((3,))), mx.exp(mx.ones((3,)))).item()


@REPLAYED
def test_explaining_neither_runs_nor_costs_a_trace_twice() -> None:
    f = zmlx.fuse(lambda x: mx.exp(x) * x)
    f.explain(mx.ones((3,)))
    f(mx.ones((3,)))
    f.explain(mx.ones((7,)))
    assert f.cache_info().misses == 1


def test_rich_shows_what_str_says(explained: Explanation) -> None:
    console = Console(file=io.StringIO(), width=140, color_system=None)
    console.print(explained)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        *("region0", "add sigmoid multiply", "d/din0", "matmul", "not elementwise"),
        *("as plain MLX", "inline void zmlx_region", "1 kernel"),
    ):
        assert part in text
        assert part in str(explained)
    assert text.endswith("\n")


def test_markup_in_names_is_not_markup() -> None:
    def f(x: Any) -> Any:
        return mx.exp(x) * x

    f.__qualname__ = "f[red]"
    assert "f[red]" in str(zmlx.explain(f, mx.ones((3,))))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 60, "1048576 TiB"),
        (1023 << 10, "1023 KiB"),
        (1 << 20, "1 MiB"),
    ],
)
def test_bytes_in_words(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_ops_in_words() -> None:
    assert ops_text(("add", "add", "exp", "add")) == "add x2 exp add"


def test_saving_replaces_or_leaves_the_file(explained: Explanation, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    assert explained.save(str(target)) == target
    assert target.read_bytes().decode("utf-8").startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(FileNotFoundError):
        explained.save(tmp_path / "absent" / "report.html")
