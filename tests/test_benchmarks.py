"""The benchmarks' harness under a false clock, and reports; test_benchmark_rows has the rows."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import elementwise, report
from benchmarks import harness as hs
from benchmarks.__main__ import status
from benchmarks.harness import (
    SUBJECT,
    Absent,
    Bar,
    Parted,
    Peer,
    Result,
    Row,
    Settings,
    Skipped,
    Verdict,
)

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


@pytest.mark.parametrize("terms", [4096, 2**15])
def test_a_sum_may_be_off_by_what_its_terms_are_off(terms: int) -> None:
    """The gradients of a broadcast row: bfloat16 terms, and then less than all of them."""
    mx.random.seed(1)
    rounded = 0.2 * mx.random.normal((terms, 256)).astype(mx.bfloat16)
    exact = [rounded.astype(mx.float32), rounded.astype(mx.float32).sum(0)]
    good = [rounded, (rounded * mx.array(1.004, mx.bfloat16)).sum(0)]
    hs.agree([peer_of(good)], exact, mx.bfloat16)
    half = [rounded, rounded[: terms // 2].sum(0)]
    with pytest.raises(Parted, match="result 1"):
        hs.agree([peer_of(half)], exact, mx.bfloat16)
    one_less = [exact[0], exact[1] - exact[0][0]]
    with pytest.raises(Parted, match="result 1"):
        hs.agree([peer_of(one_less)], exact, mx.float32)


# -- peers that fail ------------------------------------------------------------------------------
def failing(name: str, good_calls: int) -> Peer:
    """Right for so many calls, then broken."""
    left = [mx.array([1.0])] * good_calls

    def call() -> mx.array:
        if not left:
            raise RuntimeError("out of memory\nand much more")
        return left.pop()

    return Peer(name, call)


@pytest.mark.parametrize("good_calls", [0, 1, hs.WARM_UP + 2], ids=["at once", "warm-up", "timed"])
def test_a_peer_that_fails_loses_its_samples_and_nobody_else_does(good_calls: int) -> None:
    everybody = [
        Peer(SUBJECT, lambda: mx.array([1.0])),
        failing("broken", good_calls),
        Peer("wrong", lambda: mx.array([2.0])),
        Skipped("absent", "not installed"),
        Peer("last", lambda: mx.array([1.0])),
    ]
    quick = Settings(quick=True, rounds=3)
    samples, why = hs.contest(everybody, [mx.array([1.0])], mx.float32, quick)
    assert {name: len(taken) for name, taken in samples.items()} == {SUBJECT: 3, "last": 3}
    reasons = {s.name: s.reason for s in why}
    assert set(reasons) == {"broken", "wrong", "absent"}
    assert reasons["broken"] == "failed: RuntimeError: out of memory"
    assert "differs from plain MLX" in reasons["wrong"]
    assert reasons["absent"] == "not installed"


@pytest.mark.parametrize("good_calls", [0, 1, hs.WARM_UP + 2], ids=["at once", "warm-up", "timed"])
def test_the_subject_that_fails_ends_the_row(good_calls: int) -> None:
    everybody = [Peer("p", lambda: mx.array([1.0])), failing(SUBJECT, good_calls)]
    with pytest.raises(RuntimeError, match="out of memory"):
        hs.contest(everybody, [mx.array([1.0])], mx.float32, Settings(quick=True, rounds=3))


def test_the_subject_that_parts_ends_the_row() -> None:
    with pytest.raises(Parted, match="differs from plain MLX"):
        hs.contest([Peer(SUBJECT, lambda: mx.array([2.0]))], [mx.array([1.0])], mx.float32, QUICK)


def test_a_peer_that_cannot_be_made_says_why() -> None:
    def absent() -> Peer:
        raise Absent("PyTorch sees no CUDA device")

    def broken() -> Peer:
        raise ImportError("no libcudart")

    assert hs.tried("t", absent) == Skipped("t", "PyTorch sees no CUDA device")
    assert hs.tried("t", broken) == Skipped("t", "failed: ImportError: no libcudart")
    assert hs.tried("t", lambda: peer_of(1)).name == "p"


# -- the mean over rows ---------------------------------------------------------------------------
ON_GPU, QUICK = Settings("gpu"), Settings(quick=True, rounds=1)
BFLOATS = [f"{c.name} bfloat16" for c in elementwise.CASES if "bfloat16" in c.dtypes]


def measured(name: str, theirs: float, suite: str = "elementwise") -> Result:
    return Result(suite, name, "ms", {SUBJECT: [2.0], "mx.compile": [theirs]})


def test_the_mean_is_geometric_and_of_the_bfloat16_rows_alone() -> None:
    times = [2.0 * 1.1, 2.0 * 1.1, 2.0 * 1.6, 2.0 * 1.8][: len(BFLOATS)]
    rows = [measured(name, t) for name, t in zip(BFLOATS, times, strict=True)]
    others = [measured("gelu_tanh float32", 90.0), measured(BFLOATS[0], 90.0, "gradients")]
    (mean,) = elementwise.summary([*others, *rows], ON_GPU)
    assert mean.ratios["mx.compile"] == pytest.approx((1.1 * 1.1 * 1.6 * 1.8) ** 0.25)
    (verdict,) = mean.verdicts
    assert (verdict.bar, verdict.met) == (Bar("times", 1.25, "mx.compile"), True)
    assert elementwise.summary(rows, Settings())[0].bars == ()


def test_a_mean_without_all_rows_is_not_told() -> None:
    rows = [measured(name, 4.0) for name in BFLOATS]
    assert elementwise.summary(rows[1:], ON_GPU) == []  # the others were not asked for
    broken = Result("elementwise", BFLOATS[0], error="Traceback")
    (mean,) = elementwise.summary([broken, *rows[1:]], ON_GPU)
    assert [v.met for v in mean.verdicts] == [None]
    assert "1 of the 4 rows" in mean.note


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


@pytest.mark.parametrize("values", [[0.29, 152.0], [1.1], [5.0, 1000.0], [0.002, 900.0], []])
def test_an_axis_has_round_numbers_and_room(values: list[float]) -> None:
    axes = Figure().subplots()
    report._labelled(axes, [str(value) for value in values], values)
    low, high = axes.get_xlim()
    assert all(low < value < high / 1.3 for value in values)  # a label fits behind a bar
    assert 4 <= len(axes.get_xticks()) <= 14 and 1 in axes.get_xticks()
    assert all(label.get_text().endswith("x") for label in axes.get_xticklabels())


def test_right_of_one_is_met_whatever_the_bar() -> None:
    at_most, at_least = Bar("at most", 5), Bar("GB/s", 400)
    assert report._passed(Verdict(at_most, 2.5, True)) == 2
    assert report._passed(Verdict(at_most, 10.0, False)) == 0.5
    assert report._passed(Verdict(at_least, 800.0, True)) == 2
    assert report._passed(Verdict(at_most, 0.0, True)) == report.MOST


def test_the_environment_names_versions_and_hardware() -> None:
    found = report.environment(Settings())
    assert found["mlx"] == mx.__version__
    assert found["cores"] >= 1
    assert found["processor"]
    json.dumps(found)
