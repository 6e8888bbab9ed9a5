"""The benchmarks: the harness under a false clock, and every kind of row at tiny sizes."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import cases, child, elementwise, latency, peers, report
from benchmarks import harness as hs
from benchmarks.__main__ import SUITES, Suite, app, chosen_rows, status
from benchmarks.harness import SUBJECT, Bar, Parted, Peer, Result, Row, Settings, Skipped
from zmlx.device.base import Device
from zmlx.device.host import HostDevice

PLACE = {"date": "today", "card": "", "processor": "a processor", "mlx": "0"}


class Clock:
    """A clock that stands still unless a contestant moves it; notes who took a turn."""

    def __init__(self) -> None:
        self.now = 100.0
        self.turns: list[str] = []

    def __call__(self) -> float:
        return self.now

    def peer(self, name: str, *seconds: float) -> Peer:
        """A contestant that takes these seconds, turn by turn; the last for all that follow."""
        left = list(seconds)

        def call() -> None:
            self.turns.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return Peer(name, call, lambda _: None, lambda: None)


def settings(clock: Clock, **changes: Any) -> Settings:
    return Settings(clock=clock, **changes)


# -- timing ---------------------------------------------------------------------------------------
def test_contestants_take_turns_after_a_warm_up_that_does_not_count() -> None:
    clock = Clock()
    slow_at_first = clock.peer("a", 50.0, 50.0, 0.001, 0.002, 0.009)
    taken = hs.measure([slow_at_first, clock.peer("b", 0.5)], settings(clock, rounds=3))
    assert clock.turns == ["a", "b"] * (hs.WARM_UP + 3)
    assert taken["a"] == pytest.approx([1.0, 2.0, 9.0])  # ms
    assert taken["b"] == pytest.approx([500.0] * 3)
    assert Result("s", "r", "ms", taken).medians["a"] == pytest.approx(2.0)


def test_a_sample_of_several_launches_is_divided_and_waits_once() -> None:
    clock, waits = Clock(), []

    def wait() -> None:
        waits.append(clock.now)
        clock.now += 1.0

    launched = clock.peer("a", 0.5)
    peer = Peer("a", launched.call, launched.submit, wait)
    taken = hs.measure([peer], settings(clock, rounds=2), "s", launches=4)
    assert taken["a"] == pytest.approx([(4 * 0.5 + 1.0) / 4] * 2)
    assert len(waits) == hs.WARM_UP + 2


def test_a_slow_row_stops_early_but_not_before_the_least_number_of_rounds() -> None:
    clock = Clock()
    taken = hs.measure([clock.peer("a", hs.BUDGET_S)], settings(clock, rounds=50))
    assert len(taken["a"]) == hs.MIN_ROUNDS


def test_skipped_contestants_are_left_out_and_kept_for_the_report() -> None:
    clock, absent = Clock(), Skipped("NumExpr", "not installed; pip install numexpr")
    everybody: list[Peer | Skipped] = [clock.peer("a", 1.0), absent]
    assert set(hs.measure(everybody, settings(clock))) == {"a"}
    assert hs.skipped(everybody) == (absent,)


# -- bars -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mine", "theirs", "bar", "measured", "met"),
    [
        ([2.0, 1.0, 90.0], [20.0, 30.0, 10.0], Bar("times", 10, "p"), 10.0, True),
        ([2.0], [19.8], Bar("times", 10, "p"), 9.9, False),
        ([2.0], [20.0], Bar("times", 10, "absent"), None, None),
        ([5.0], [1.0], Bar("at most", 5), 5.0, True),
        ([5.1], [1.0], Bar("at most", 5), 5.1, False),
        ([2.0], [1.0], Bar("GB/s", 4000), 4000.0, True),  # 8 MB in 2 ms are 4 GB/s
        ([2.0], [1.0], Bar("GB/s", 4001), 4000.0, False),
        ([0.0], [5.0], Bar("at most", 0), 0.0, True),
        ([0.0], [5.0], Bar("times", 2, "p"), None, None),
    ],
)
def test_bars_are_judged_by_medians(
    mine: list[float], theirs: list[float], bar: Bar, measured: float | None, met: bool | None
) -> None:
    samples = {SUBJECT: mine, "p": theirs}
    (verdict,) = Result("s", "r", "ms", samples, (bar,), bytes=8 * 10**9).verdicts
    assert verdict.measured == (None if measured is None else pytest.approx(measured))
    assert verdict.met is met


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1.0), ("ms", 1e3), ("µs", 1e6)])
def test_bandwidth_knows_its_unit(unit: str, per_second: float) -> None:
    result = Result("s", "r", unit, {SUBJECT: [0.5 * per_second]}, bytes=10**9)
    assert result.bandwidths[SUBJECT] == pytest.approx(2.0)
    assert Result("s", "r", "traces", {SUBJECT: [1.0]}, bytes=10**9).bandwidths == {}


@pytest.mark.parametrize(
    ("mine", "error", "strict", "expected"),
    [
        (1.0, "", True, 0),
        (9.0, "", False, 0),
        (9.0, "", True, 1),
        (1.0, "Boom", False, 1),
    ],
)
def test_exit_status(mine: float, error: str, strict: bool, expected: int) -> None:
    bars = (Bar("at most", 5),)
    assert (
        status([Result("s", "r", "ms", {SUBJECT: [mine]}, bars, error=error)], strict) == expected
    )


def test_a_bar_that_cannot_be_told_is_no_success_under_strict() -> None:
    result = Result("s", "r", "ms", {SUBJECT: [1.0]}, (Bar("times", 1, "NumExpr"),))
    assert status([result], strict=True) == 1
    assert status([result], strict=False) == 0


# -- agreement and failing rows -------------------------------------------------------------------
def peer_of(result: Any) -> Peer:
    return Peer("p", lambda: result)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (mx.array([1.0, 2.001]), "differs from plain MLX"),
        (mx.array([1.0, float("nan")]), "differs from plain MLX"),
        (mx.array([[1.0, 2.0]]), "expected"),
        (mx.array([1.0, 2.0], mx.float16), "expected"),
        (np.array([1.0, 2.0]), "computed in float64"),
        ([mx.array([1.0, 2.0])] * 2, "2 results"),
    ],
)
def test_contestants_that_part_are_refused(result: Any, words: str) -> None:
    with pytest.raises(Parted, match=words):
        hs.agree([peer_of(result)], [mx.array([1.0, 2.0])], mx.float32)


def test_contestants_that_agree_pass() -> None:
    everybody: list[Peer | Skipped] = [
        peer_of(mx.array([1.0, 2.00001])),
        peer_of(np.array([1.0, 2.0], np.float32)),
        peer_of((mx.array([1.0, 2.0]),)),
        Skipped("q", "absent"),
    ]
    hs.agree(everybody, [mx.array([1.0, 2.0])], mx.float32)


def test_a_row_that_fails_becomes_an_error_and_the_next_one_runs() -> None:
    def fails(_: Settings) -> Result:
        raise Parted("they part")

    good = Row("s", "good", lambda _: Result("", "", "ms", {SUBJECT: [1.0]}))
    first, second = hs.run_rows([Row("s", "bad", fails), good], Settings())
    assert (first.name, first.samples) == ("bad", {})
    assert "they part" in first.error
    assert (second.suite, second.name, second.error) == ("s", "good", "")


# -- cases ----------------------------------------------------------------------------------------
def test_cases_compute_what_they_are_called() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 16, 16))
    row, col = rng.standard_normal((16,)), rng.standard_normal((16, 1))
    expected = {
        "silu(a)*b": (x / (1 + np.exp(-x)) * y, (x, y)),
        "gelu_tanh": (0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), (x,)),
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
    peer = peers.numexpr_peer(case, "float32", inputs)
    assert isinstance(peer, Peer)
    hs.agree([peer], [case.fn(*inputs)], mx.float32)
    assert peers.numexpr_peer(case, "bfloat16", inputs) is None


def test_peers_that_are_not_installed_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    case = cases.CASES[0]
    inputs = case.inputs(2**8, mx.float32)
    found = peers.numexpr_peer(case, "float32", inputs), peers.torch_peer(case.fn, inputs)
    assert all(isinstance(peer, Skipped) and "not installed" in peer.reason for peer in found)


def test_the_chain_is_sixty_ops_in_one_region() -> None:
    x = mx.ones((4, 4))
    (region,) = child.planned(x).regions
    kinds = [region.graph.kind(node) for node in region.graph]
    assert kinds.count("op") == cases.CHAIN_OPS
    assert not child.planned(x).natives


def test_the_bars_of_the_issue_are_on_the_rows() -> None:
    """As the rows of a run at full size would state them."""
    assert {c.name: c.cpu for c in cases.CASES if c.cpu} == {"silu(a)*b": 10, "gelu_tanh": 10}
    assert {c.name: c.cpu_gradient for c in cases.CASES if c.cpu_gradient} == {"gelu_tanh": 10}
    assert cases.CHAIN.cpu == 5
    assert Settings().elements == 2**24
    assert Settings("gpu").elements == 2**27


# -- reports --------------------------------------------------------------------------------------
RESULTS = [
    Result(
        "elementwise",
        "good [row]",
        "ms",
        {SUBJECT: [2.0], "mx.compile": [30.0]},
        (Bar("times", 10, "mx.compile"), Bar("times", 1, "NumExpr")),
        bytes=10**9,
        skipped=(Skipped("NumExpr", "not installed"),),
    ),
    Result(
        "latency", "slow row", "µs", {SUBJECT: [7.0], "mx.compile": [1.0]}, (Bar("at most", 5),)
    ),
    Result("latency", "none", "traces", {SUBJECT: [0.0], "p": [5.0]}, (Bar("at most", 0),)),
    Result("training", "broken row", error="Traceback\nParted: they part\n"),
]


def test_the_table_states_ratios_bars_and_whether_they_were_met() -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    report.show(console, RESULTS, PLACE, Settings())
    text = console.export_text()
    rows = {name: line for line in text.splitlines() for name in line.split("\u2502")[1:2]}
    found = {name.strip(): line for name, line in rows.items()}
    good = found["elementwise: good [row]"]
    assert "mx.compile 15.00x" in good
    assert ">= 10x mx.compile: 15" in good
    assert "yes" in good
    assert re.search(r"<= 5 µs: 7 .*NO", found["latency: slow row"])
    assert "ERROR" in found["training: broken row"]
    assert "they part" in found["training: broken row"]
    assert "NumExpr skipped: not installed" in text
    assert "(500 GB/s)" in text
    assert "4 rows, 1 failed; 2 bars met, 1 missed, 1 not told" in text


def test_the_json_holds_everything() -> None:
    document = json.loads(report.as_json(RESULTS, PLACE, Settings(quick=True)), parse_constant=fail)
    good, slow, none, broken = document["results"]
    assert list(good)[2] == "ratios"
    assert good["ratios"] == {"mx.compile": 15.0}
    assert good["gb_per_s"][SUBJECT] == pytest.approx(500.0)
    assert good["bars"][0] == {"bar": ">= 10x mx.compile", "measured": 15.0, "met": True}
    assert good["bars"][1] == {"bar": ">= 1x NumExpr", "measured": None, "met": None}
    assert good["skipped"] == {"NumExpr": "not installed"}
    assert slow["bars"] == [{"bar": "<= 5 µs", "measured": 7.0, "met": False}]
    assert none["samples"] == {SUBJECT: [0.0], "p": [5.0]}
    assert "they part" in broken["error"]
    assert document["settings"]["quick"] is True


def fail(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("results", [RESULTS, RESULTS[3:], []], ids=["all", "an error", "none"])
def test_the_plot_comes_out(results: list[Result], tmp_path: Path) -> None:
    report.plot(results, PLACE, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_environment_names_versions_and_hardware() -> None:
    found = report.environment(Settings())
    assert found["mlx"] == mx.__version__
    assert found["cores"] >= 1
    assert found["processor"]
    json.dumps(found)


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
    assert on_h200 == (Bar("GB/s", 4200),)
    assert elementwise.bars(case, "float32", [], Settings("gpu", "Apple M4")) == ()


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
    "match", ["primitives", "host time", "dependent calls", "new sizes", "import zmlx"]
)
def test_latency_rows_that_compile_little(match: str, host_device: Device) -> None:
    quick = Settings(quick=True, rounds=1)
    (row,) = chosen_rows([Suite.latency], match, quick)
    (result,) = hs.run_rows([row], quick)
    assert not result.error, result.error
    assert all(value >= 0 for value in result.medians.values())


def test_fresh_caches_are_empty_but_for_the_native_module(host_device: Device) -> None:
    assert isinstance(host_device, HostDevice)
    with latency.private_caches() as environment:
        folder = Path(environment["ZMLX_CACHE_DIR"])
        assert folder != host_device.cache.directory()
        assert len(list(folder.glob("lib_*.so"))) == 1
        assert len(list(folder.glob("*.entry"))) == 1
        assert list(Path(environment["TMPDIR"]).iterdir()) == []
    assert not folder.exists()


def test_a_child_that_fails_shows_its_words() -> None:
    with pytest.raises(RuntimeError, match="ValueError"):
        latency.child(["fuse"], dict(os.environ))


@pytest.mark.exhaustive
def test_every_row_runs(tmp_path: Path, host_device: Device) -> None:
    done = CliRunner().invoke(app, ["all", "--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "benchmarks.json").read_text("utf-8"))
    names = {row.name for make in SUITES.values() for row in make(Settings(quick=True))}
    assert {result["row"] for result in document["results"]} == names
    told = [bar for result in document["results"] for bar in result["bars"]]
    assert all(bar["met"] is not None for bar in told)
