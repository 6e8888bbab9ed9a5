"""Profiles: launches counted and timed, nothing disturbed, nothing left behind."""

from __future__ import annotations

import importlib
import json
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from zmlx import metal, switches
from zmlx.device import watch
from zmlx.device.base import Device
from zmlx.tuning import timing

profiling: Any = importlib.import_module("zmlx.profiling")


@pytest.fixture(autouse=True)
def known_copy(monkeypatch: pytest.MonkeyPatch, host_device: Device) -> None:
    """The bandwidth of the host's copy is measured in one test only."""
    monkeypatch.setitem(timing._copies, str(mx.default_device()), 10.0)


def mixed(a: mx.array, b: mx.array) -> mx.array:
    return mx.sigmoid(a) * b + 0.5


def arguments(size: int = 1000) -> tuple[mx.array, mx.array]:
    return mx.linspace(-4, 4, size), mx.linspace(2, 3, size)


def doubled(name: str) -> metal.MetalKernel:
    return metal.kernel(
        name=name,
        input_names=["inp"],
        output_names=["out"],
        source="uint i = thread_position_in_grid.x; out[i] = 2 * inp[i];",
        cache=False,
    )


def test_launches_are_counted_by_kernel() -> None:
    f = zmlx.fuse(mixed)
    k = doubled("counted")
    f(*arguments())
    with zmlx.profile(show=False) as p:
        for size in (5, 6, 1000):
            f(*arguments(size))
        mx.eval(k(mx.ones(3)), k(mx.ones(4)))
    f(*arguments())
    k(mx.ones(3))
    by_hand, fused = sorted(p.kernels, key=lambda r: r.fused)
    assert (fused.launches, by_hand.launches) == (3, 2)
    assert fused.ops == ("sigmoid", "multiply", "add") and fused.device == "host"
    assert fused.name.startswith("zmlx_sigmoid") and by_hand.name == "counted"
    assert (fused.measured, fused.time_ms, fused.gb_per_s, fused.of_copy) == (0, 0.0, None, None)
    assert fused.compile_ms is not None and fused.compile_ms > 0
    assert by_hand.compile_ms is not None and by_hand.compile_ms > 1, "it runs a compiler"


def test_measuring_gives_time_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter([100.0, 2.0, 3.0])  # the first run warms up
    monkeypatch.setattr(timing, "run_ms", lambda build, times=1: next(spent))
    f = zmlx.fuse(mixed)
    a, b = arguments(1 << 20)
    with zmlx.profile(measure=True, show=False) as p:
        f(a, b)
        f(b, a)
    (record,) = p.kernels
    assert (record.launches, record.measured, record.time_ms) == (2, 2, 5.0)
    assert record.bytes == (3 + 3) * 4 * (1 << 20)
    assert record.gb_per_s == pytest.approx(record.bytes / 5e-3 / 1e9)
    assert record.of_copy == pytest.approx(record.gb_per_s / 10.0)


def test_measuring_runs_what_it_times() -> None:
    f, k = zmlx.fuse(mixed), doubled("timed")
    with zmlx.profile(measure=True, show=False) as p:
        lazy = f(*arguments(1 << 18)), k(mx.ones(1 << 18))[0]
    assert all(r.measured == 1 and r.time_ms > 0.01 and r.gb_per_s for r in p.kernels)
    assert len(p.kernels) == 2
    wanted = mixed(*arguments(1 << 18))
    assert mx.allclose(lazy[0], wanted).item() and lazy[1].tolist() == [2.0] * (1 << 18)


@pytest.mark.parametrize("measure", [False, True])
def test_gradients_pass_and_are_recorded(measure: bool) -> None:
    f = zmlx.fuse(mixed)

    def loss(a: mx.array, b: mx.array) -> mx.array:
        return f(a, b).sum()

    wanted = mx.grad(loss, argnums=(0, 1))(*arguments())
    with zmlx.profile(measure=measure, show=False) as p:
        got = mx.grad(loss, argnums=(0, 1))(*arguments())
        twice = mx.grad(lambda a: mx.grad(loss)(a, a).sum())(arguments()[0])
    assert all(mx.array_equal(g, w).item() for g, w in zip(got, wanted, strict=True))
    plain = mx.grad(lambda a: mx.grad(lambda a, b: mixed(a, b).sum())(a, a).sum())
    assert mx.allclose(twice, plain(arguments()[0]), atol=1e-6).item()
    assert len(p.kernels) >= 3 and all(r.launches for r in p.kernels)
    assert all(bool(r.measured) == measure for r in p.kernels)


@pytest.mark.parametrize("measure", [False, True])
def test_compiled_graphs_count_when_they_are_built(measure: bool) -> None:
    f = zmlx.fuse(mixed)
    with zmlx.profile(measure=measure, show=False) as p:
        compiled = mx.compile(lambda a, b: f(a, b) * 2)
        results = [compiled(*arguments()) for _ in range(3)]
        mapped = mx.vmap(f)(*[x.reshape(10, 100) for x in arguments()])
        mx.eval(results, mapped)
    assert mx.allclose(results[2], 2 * mixed(*arguments())).item()
    assert mx.allclose(mapped.reshape(-1), mixed(*arguments())).item()
    assert p.kernels[0].launches >= 1
    assert sum(r.launches for r in p.kernels) < 6, "not one for each of the three runs"


def test_profiles_nest_and_each_records_all() -> None:
    f = zmlx.fuse(mixed)
    with zmlx.profile(show=False) as outer:
        f(*arguments())
        with zmlx.profile(show=False) as inner:
            f(*arguments())
        f(*arguments())
    assert (outer.kernels[0].launches, inner.kernels[0].launches) == (3, 1)
    with outer:
        f(*arguments())
        with pytest.raises(RuntimeError, match="this profile is open"), outer:
            pass
        f(*arguments())
    assert outer.kernels[0].launches == 5, "a profile that is opened again goes on"


def test_launches_of_other_threads_are_recorded() -> None:
    f = zmlx.fuse(mixed)

    def work() -> None:
        for _ in range(20):
            mx.eval(f(*arguments()))

    with zmlx.profile(show=False, measure=True) as p:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (p.kernels[0].launches, p.kernels[0].measured) == (80, 80)


def test_nothing_stays_behind() -> None:
    f = zmlx.fuse(mixed)
    f(*arguments())
    with pytest.raises(KeyError), zmlx.profile(show=True):
        f(*arguments())
        raise KeyError
    assert watch.active == () and switches.watched is False
    misses = f.cache_info().misses
    f(*arguments())
    with zmlx.profile(show=False):
        f(*arguments())
    assert f.cache_info().misses == misses == 2, "one trace for profiles, one for all other calls"


def test_the_table_is_printed_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    f = zmlx.fuse(mixed)
    with zmlx.profile(measure=True) as p:
        f(*arguments())
        doubled("shown")(mx.ones(3))
    shown = capsys.readouterr().out
    assert "sigmoid, multiply, add" in shown and "written by hand" in shown and "GB/s" in shown
    assert "sigmoid, multiply, add" in str(p) and p.kernels[0].name in str(p)
    p.save(tmp_path / "p.json")
    saved = json.loads((tmp_path / "p.json").read_text())
    assert saved["mlx"] == mx.__version__ and saved["measured"] is True
    assert [k["name"] for k in saved["kernels"]] == [r.name for r in p.kernels]
    assert {k["launches"] for k in saved["kernels"]} == {1}
    assert all(k["gb_per_s"] > 0 and k["copy_gb_per_s"] == 10.0 for k in saved["kernels"])
    with zmlx.profile(show=False):
        f(*arguments())
    assert capsys.readouterr().out == ""


def test_a_check_runs_in_a_profile_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_CHECK", "1")
    f = zmlx.fuse(mixed)
    with zmlx.profile(show=False) as p:
        assert mx.allclose(f(*arguments()), mixed(*arguments())).item()
    assert p.kernels[0].launches == 1


def test_the_copy_is_a_plausible_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_copies", {})
    first = timing.copy_gb_per_s()
    assert 0.5 < first < 50_000 and timing.copy_gb_per_s() == first


# -- results that agree ---------------------------------------------------------------------------
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("got", "wanted", "dtype", "exactly", "roughly"),
    [
        ([1.0, 2.0], [1.0, 2.0], mx.float32, True, True),
        ([1.0, 1e-9], [1.0, 2e-9], mx.float32, False, True),
        ([1.0, 2.0], [1.0, 2.001], mx.float32, False, False),
        ([0.0], [-0.0], mx.float32, False, True),
        ([NAN, 1.0], [NAN, 1.0], mx.bfloat16, True, True),
        ([NAN], [1.0], mx.float16, False, False),
        ([INF], [INF], mx.float32, True, True),
        ([INF], [-INF], mx.float32, False, False),
        ([1e30], [INF], mx.float32, False, False),
        ([7], [8], mx.int64, False, False),
        ([2**24], [2**24 + 1], mx.int32, False, False),
        ([True], [False], mx.bool_, False, False),
        ([], [], mx.float32, True, True),
        (2.0, 2.0, mx.float16, True, True),
        (2.0, 3.0, mx.float16, False, False),
    ],
)
def test_results_agree_exactly_or_roughly(
    got: Any, wanted: Any, dtype: mx.Dtype, exactly: bool, roughly: bool
) -> None:
    pair = [mx.array(got, dtype)], [mx.array(wanted, dtype)]
    assert (timing.difference(*pair, exact=True) is None) == exactly
    assert (timing.difference(*pair, exact=False) is None) == roughly


def test_results_of_another_shape_or_type_part() -> None:
    one = [mx.ones((2, 3))]
    assert "(2, 3)" in str(timing.difference(one, [mx.ones((3, 2))], exact=False))
    assert "float16" in str(timing.difference(one, [mx.ones((2, 3), mx.float16)], exact=False))


def test_turns_are_fair_and_medians_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    times = {"a": iter([1.0, 9.0, 3.0, 5.0]), "b": iter([2.0, 2.0, 8.0, 4.0])}

    def run(build: Any, count: int = 1) -> float:
        order.append(build())
        return next(times[build()])

    monkeypatch.setattr(timing, "run_ms", run)
    found = timing.medians({"a": lambda: "a", "b": lambda: "b"}, 3, "test")
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert found == {"a": 5.0, "b": 4.0}, "the first of each only sets how many run at once"


def test_a_bar_only_on_long_searches_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [1, 2, 3]
    assert timing.tracked(items, "x", long=False) is items
    assert timing.tracked(items, "x", long=True) is items, "no terminal here"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bar = timing.tracked(items, "x", long=True)
    assert bar is not items and list(bar) == items
