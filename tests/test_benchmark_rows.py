"""The benchmarks' cases, contestants and rows, each kind at tiny sizes, and the command line."""

from __future__ import annotations

import json
import os
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import cases, child, elementwise, fresh, gradients, peers, torch_peers
from benchmarks import harness as hs
from benchmarks.__main__ import SUITES, Suite, app, chosen_rows
from benchmarks.harness import MEAN, Bar, Settings, Skipped
from benchmarks.users import SIZES
from zmlx.device.base import Device
from zmlx.device.host import HostDevice


# -- cases ----------------------------------------------------------------------------------------
def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_cases_compute_what_they_are_called() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 16, 16))
    row, col = rng.standard_normal((16,)), rng.standard_normal((16, 1))
    expected = {
        "silu(a)*b": (x / (1 + np.exp(-x)) * y, (x, y)),
        "gelu_tanh": (gelu(x), (x,)),
        "gelu_tanh(a)*b": (gelu(x) * y, (x, y)),
        "sigmoid(x+row)*col": (1 / (1 + np.exp(-x - row)) * col, (x, row, col)),
        "sigmoid(x.T)*y": (1 / (1 + np.exp(-x.T)) * y, (x, y)),
    }
    assert {case.name for case in cases.CASES} == set(expected)
    for case in cases.CASES:
        value, inputs = expected[case.name]
        got = case.fn(*[mx.array(i.astype(np.float32)) for i in inputs])
        np.testing.assert_allclose(np.array(got), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", [c for c in cases.CASES if c.expression], ids=lambda c: c.name)
def test_numexpr_computes_the_same_in_float32(case: cases.Case) -> None:
    pytest.importorskip("numexpr")
    inputs = case.inputs(2**10, mx.float32)
    hs.agree([peers.numexpr_peer(case, inputs)], [case.fn(*inputs)], mx.float32)


def test_numexpr_is_asked_where_it_has_the_type() -> None:
    case = cases.CASES[0]
    for dtype, expected in (("float32", True), ("bfloat16", False)):
        inputs = case.inputs(2**10, getattr(mx, dtype))
        found = peers.forward_peers(case, dtype, inputs, Settings())
        assert (peers.NUMEXPR in {peer.name for peer in found}) is expected


def test_peers_that_are_not_installed_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    monkeypatch.setattr(torch_peers, "find_spec", lambda name: None)
    case = cases.CASES[0]
    inputs = case.inputs(2**8, mx.float32)
    gpu = Settings("gpu", quick=True)
    found = [
        *peers.forward_peers(case, "float32", inputs, Settings()),
        *peers.forward_peers(case, "float32", inputs, gpu),
        *peers.gradient_peers(case, inputs, gpu),
        *peers.pullback_peers(case, [*inputs, inputs[0]], gpu),
    ]
    absent = [peer for peer in found if isinstance(peer, Skipped)]
    others = [peers.TORCH, peers.LIGER]
    assert [peer.name for peer in absent] == [peers.NUMEXPR, *others * 3]
    assert all("not installed" in peer.reason for peer in absent)


def test_a_gpu_row_runs_without_the_peers_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """And has its bars: here on whatever device there is."""
    monkeypatch.setattr(torch_peers, "find_spec", lambda name: None)
    gpu = Settings("gpu", quick=True, rounds=1)
    result = gradients.backward(cases.CASES[0], "float32", gpu)
    assert {s.name for s in result.skipped} == {peers.TORCH, peers.LIGER}
    assert [(b.limit, b.peer) for b in result.bars] == [(1.5, peers.OUTSIDE), (20, peers.INSIDE)]
    assert all(verdict.measured is not None for verdict in result.verdicts)


def test_a_pullback_reads_its_cotangent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_peers, "find_spec", lambda name: None)
    gpu = Settings("gpu", "NVIDIA H200", quick=True, rounds=1)
    result = gradients.pulled(cases.CASES[0], "bfloat16", gpu)
    assert result.bytes == 5 * 2 * 2**12
    assert [(b.limit, b.peer) for b in result.bars] == [(1.5, peers.PULLED), (4200, "")]
    assert result.verdicts[0].measured is not None and set(result.samples) == {
        peers.SUBJECT, peers.PULLED,
    }  # fmt: skip


def test_code_is_read_as_torch_through_the_functions_that_it_calls() -> None:
    """NumPy stands in for PyTorch: an op that still went to MLX would give MLX arrays."""
    stand_in = types.SimpleNamespace(tanh=np.tanh, sigmoid=lambda x: 1 / (1 + np.exp(-x)))
    x, y = np.random.default_rng(5).standard_normal((2, 8, 8))
    for case, inputs in ((cases.geglu, (x, y)), (cases.sigmoid_transposed, (x, y))):
        found = torch_peers.read_as_torch(case, stand_in)(*inputs)
        assert isinstance(found, np.ndarray)
        expected = case(*[mx.array(i.astype(np.float32)) for i in inputs])
        np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-6)
    assert cases.geglu.__globals__["mx"] is mx


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_rows_count_inputs_and_gradients_once(dtype: str) -> None:
    (case,) = [c for c in cases.CASES if c.name == "sigmoid(x+row)*col"]
    quick = Settings(quick=True, rounds=1)
    result = gradients.backward(case, dtype, quick)
    assert not result.skipped
    size = 4 if dtype == "float32" else 2
    assert result.bytes == 2 * size * (64 * 64 + 64 + 64)


def test_the_chain_is_sixty_ops_in_one_region() -> None:
    x = mx.ones((4, 4))
    (region,) = child.planned(x).regions
    kinds = [region.graph.kind(node) for node in region.graph]
    assert kinds.count("op") == cases.CHAIN_OPS
    assert not child.planned(x).natives


def test_the_bars_of_the_issue_are_on_the_rows() -> None:
    """As the rows of a run at full size would state them."""
    gradients_of = {c.name for c in cases.CASES if {"float32", "bfloat16"} <= {*c.gradient_dtypes}}
    assert gradients_of == {"silu(a)*b", "gelu_tanh", "gelu_tanh(a)*b", "sigmoid(x+row)*col"}
    assert {c.name: c.cpu for c in cases.CASES if c.cpu} == {"silu(a)*b": 10, "gelu_tanh": 10}
    assert {c.name: c.cpu_gradient for c in cases.CASES if c.cpu_gradient} == {"gelu_tanh": 10}
    assert cases.CHAIN.cpu == 5
    assert Settings().elements == 2**24
    assert Settings("gpu").elements == 2**27


# -- the command line -----------------------------------------------------------------------------
def test_every_suite_lists_rows_on_both_devices() -> None:
    for make in SUITES.values():
        for device in ("cpu", "gpu"):
            assert make(Settings(device))
    names = [row.name for make in SUITES.values() for row in make(Settings())]
    assert len(names) == len(set(names))


def test_gpu_bars_hold_for_the_card_they_were_set_on() -> None:
    case = cases.CASES[0]
    on_h200 = elementwise.bars(case, "float32", [], Settings("gpu", "NVIDIA H200"))
    ratio = Bar("times", 1, "mx.compile")
    assert on_h200 == (ratio, Bar("GB/s", 4200))
    assert elementwise.bars(case, "float32", [], Settings("gpu", "Apple M4")) == (ratio,)
    on_h200 = gradients.bars(case, "bfloat16", Settings("gpu", "NVIDIA H200"))
    assert on_h200 == (*gradients.ON_GPU, Bar("GB/s", 4200))
    assert gradients.bars(case, "bfloat16", Settings()) == ()


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    for words in (["nonsense"], ["--match", "no such row"], ["--rounds", "0"], ["--device", "x"]):
        assert CliRunner().invoke(app, [*words, "--out", str(tmp_path)]).exit_code == 2
    assert not list(tmp_path.iterdir())


QUICK_ROWS = {
    "elementwise": ("gelu_tanh float32", 2),
    "gradients": ("gelu_tanh float32", 1),
    "latency": ("C++ compile", 1),
}


@pytest.mark.parametrize("suite", QUICK_ROWS)
def test_a_quick_run_writes_its_files(suite: str, tmp_path: Path, host_device: Device) -> None:
    """One row of each kind, as from a shell."""
    match, bars = QUICK_ROWS[suite]
    words = [suite, "--quick", "--match", match, "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "benchmarks.json").read_text("utf-8"))
    (result,) = document["results"]
    assert (result["suite"], result["error"]) == (suite, "")
    assert len(result["bars"]) == bars
    assert all(bar["measured"] > 0 for bar in result["bars"])
    assert all(len(taken) > 0 for taken in result["samples"].values())
    assert match.split()[0] in (tmp_path / "benchmarks.txt").read_text("utf-8")
    assert (tmp_path / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "match",
    ["primitives", "call, 1024 elements", "dict of 100", "module of 100", "dependent calls",
     "new sizes", "import zmlx"],
)
def test_latency_rows_that_compile_little(match: str, host_device: Device) -> None:
    quick = Settings(quick=True, rounds=1)
    (row,) = chosen_rows([Suite.latency], match, quick)
    (result,) = hs.run_rows([row], quick)
    assert not result.error, result.error
    assert all(value >= 0 for value in result.medians.values())


@pytest.mark.parametrize("row", ["1000 sequence lengths", "a Python scalar that changes 100 times"])
@pytest.mark.parametrize("what", ["traces", "kernels"])
def test_rows_of_calls_that_change(row: str, what: str, host_device: Device) -> None:
    quick = Settings(quick=True, rounds=1)
    (result,) = hs.run_rows(chosen_rows([Suite.latency], f"{row}: {what}", quick), quick)
    assert not result.error, result.error
    mine, theirs = result.medians.values()
    once = "lengths" in row
    assert mine == once
    assert theirs == (1 if once and what == "kernels" else 4)
    assert [v.met for v in result.verdicts] == [True]


def test_kernels_of_a_gpu_are_told_apart_by_text_template_and_types() -> None:
    handed: set[str] = set()
    launched: list[str] = []

    def maker(name: str) -> Any:
        return lambda **call: launched.append(name)

    first, second = (child.noting(maker, handed)(name=name) for name in ("a", "b"))
    x, half, flat = mx.zeros((2, 2)), mx.zeros((2, 2), mx.float16), mx.zeros(4)
    common = {"grid": (4, 1, 1), "output_dtypes": [mx.float32]}
    first(inputs=[x], template=[("N", 1)], **common)
    first(inputs=[mx.zeros((3, 3))], template=[("N", 1)], **common)
    assert len(handed) == 1
    first(inputs=[x], template=[("N", 2)], **common)
    for array in (half, flat):
        first(inputs=[array], template=[("N", 1)], **common)
    second(inputs=[x], template=[("N", 1)], **common)
    assert len(handed) == 5
    assert launched == ["a"] * 5 + ["b"]


def test_fresh_caches_are_empty_but_for_the_native_module(host_device: Device) -> None:
    assert isinstance(host_device, HostDevice)
    with fresh.private_caches() as environment:
        folder = Path(environment["ZMLX_CACHE_DIR"])
        assert folder != host_device.cache.directory()
        assert len(list(folder.glob("lib_*.so"))) == 1
        assert len(list(folder.glob("*.entry"))) == 1
        assert list(Path(environment["TMPDIR"]).iterdir()) == []
    assert not folder.exists()


def test_a_child_that_fails_shows_its_words() -> None:
    with pytest.raises(RuntimeError, match="ValueError"):
        fresh.child(["fuse"], dict(os.environ))


@pytest.mark.exhaustive
def test_every_row_runs(tmp_path: Path, host_device: Device) -> None:
    done = CliRunner().invoke(app, ["all", "--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "benchmarks.json").read_text("utf-8"))
    names = {row.name for make in SUITES.values() for row in make(Settings(quick=True))}
    found = {result["row"] for result in document["results"]}
    assert {name for name in found if not name.endswith(MEAN)} == names
    assert len({name for name in found if name.endswith(MEAN)}) == 1 + 2 * len(SIZES)
    bars = [bar for result in document["results"] for bar in result["bars"]]
    absent = find_spec("torch") is None  # it is no package that the tests need
    told = [bar for bar in bars if not (absent and bar["bar"].endswith(torch_peers.TORCH))]
    assert told and all(bar["met"] is not None for bar in told)
