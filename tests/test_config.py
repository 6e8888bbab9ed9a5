"""zmlx.config: switches set in a scope, nested, by thread and by task; nothing crosses a scope."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from zmlx import switches
from zmlx.device import warned
from zmlx.device.base import Device, device_for_current_stream
from zmlx.fuse import region


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set but where kernels are kept."""
    for switch in switches.SWITCHES:
        if switch is not switches.CACHE:
            monkeypatch.delenv(switch.name, raising=False)


def texts() -> dict[str, str]:
    return {switch.keyword: switch.text() for switch in switches.SWITCHES}


VALUES: dict[str, tuple[Any, str]] = {
    "fuse": (False, "0"),
    "check": (True, "1"),
    "log": ("debug", "debug"),
    "device": ("replay", "replay"),
    "cache_dir": (Path("here"), "here"),
    "cxx": ("clang++ -O1", "clang++ -O1"),
    "cxx_timeout": (2.5, "2.5"),
    "threads": (3, "3"),
    "sanitize": (True, "1"),
    "patterns": (False, "0"),
    "traceback": (True, "1"),
    "dump": ("there", "there"),
}


def test_every_switch_can_be_set_in_a_scope_and_stands_as_before_after_it() -> None:
    assert set(VALUES) == {switch.keyword for switch in switches.SWITCHES}
    before, environment = texts(), dict(os.environ)
    with zmlx.config(**{name: value for name, (value, _) in VALUES.items()}) as block:
        assert texts() == {name: text for name, (_, text) in VALUES.items()}
        assert dict(os.environ) == environment
        assert "threads='3'" in repr(block)
    assert texts() == before


def test_scopes_nest_and_one_object_may_be_entered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_THREADS", "7")
    once = zmlx.config(threads=1, check=True)
    with once:
        with zmlx.config(threads=2), once:
            assert (texts()["threads"], texts()["check"]) == ("1", "1")
        with zmlx.config(check=False):
            assert (texts()["threads"], texts()["check"]) == ("1", "0")
        assert texts()["check"] == "1"
    assert (texts()["threads"], texts()["check"]) == ("7", "0")
    with pytest.raises(ZeroDivisionError), once:
        _ = 1 / 0
    assert texts()["threads"] == "7"


def test_blocks_of_generators_may_end_in_any_order() -> None:
    def block(**values: Any) -> Any:
        with zmlx.config(**values):
            yield

    first, second = block(threads=1), block(threads=2, check=True)
    next(first), next(second)
    next(first, None)
    assert (texts()["threads"], texts()["check"]) == ("2", "1")
    next(second, None)
    assert (texts()["threads"], texts()["check"]) == ("", "0")


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"chek": True}, TypeError, "no switch is called 'chek'. Give one of fuse, check, log"),
        ({"ZMLX_CHECK": True}, TypeError, "no switch is called 'ZMLX_CHECK'"),
        ({"check": 1}, TypeError, r"check \(ZMLX_CHECK\) is 1; give True or False"),
        ({"fuse": "off"}, TypeError, "fuse .* is 'off'; give True or False"),
        ({"check": None}, TypeError, "check .* is None"),
        ({"log": "verbose"}, ValueError, 'give "", "warning", "info" or "debug"'),
        ({"log": True}, TypeError, "log .* is True"),
        ({"device": "gpu"}, ValueError, 'give "", "host" or "replay"'),
        ({"cache_dir": 3}, TypeError, "cache_dir .* is 3; give a path"),
        ({"cxx": ["g++"]}, TypeError, "give a command"),
        ({"cxx_timeout": 0}, ValueError, "give a number above 0"),
        ({"cxx_timeout": float("nan")}, ValueError, "give a number above 0"),
        ({"threads": 0}, ValueError, "give an int of 1 or more"),
        ({"threads": True}, TypeError, "threads .* is True"),
        ({"threads": 2.0}, TypeError, "give an int of 1 or more"),
    ],
)
def test_a_wrong_name_or_value_says_what_may_be_given(
    values: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        zmlx.config(**values)


def test_a_scope_belongs_to_its_thread_and_a_context_carries_it() -> None:
    seen: dict[str, str] = {}

    def look(where: str) -> None:
        seen[where] = texts()["check"]

    def run(target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        thread.start()
        thread.join()

    with zmlx.config(check=True):
        run(contextvars.Context().run, look, "fresh")
        run(contextvars.copy_context().run, look, "copied")
    assert seen == {"fresh": "0", "copied": "1"}


def test_tasks_do_not_see_one_another() -> None:
    async def one(threads: int, turns: int) -> list[str]:
        found = []
        with zmlx.config(threads=threads):
            for _ in range(turns):
                await asyncio.sleep(0)
                found.append(texts()["threads"])
        return found

    async def both() -> list[list[str]]:
        return await asyncio.gather(one(1, 3), one(2, 5))

    assert asyncio.run(both()) == [["1"] * 3, ["2"] * 5]


def test_what_decides_takes_part_in_keys_and_the_rest_does_not() -> None:
    plain = switches.mode()
    for values in ({"log": "debug"}, {"cache_dir": "here"}, {"check": False}, {"fuse": True}):
        with zmlx.config(**values):
            assert switches.mode() == plain
    deciding = ({"check": True}, {"fuse": False}, {"device": "host"}, {"threads": 1})
    found = {plain}
    for values in (*deciding, {"sanitize": True}, {"patterns": False}):
        with zmlx.config(**values):
            found.add(switches.mode())
    assert len(found) == 7
    with zmlx.config(check=True):
        inside = switches.mode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZMLX_CHECK", "1")
        assert switches.mode() == inside


@pytest.mark.smoke
def test_a_function_is_traced_for_each_setting_and_found_again(default_device: Device) -> None:
    fused, x = zmlx.fuse(lambda x: mx.exp(x) * x), mx.arange(5.0)
    for _ in range(2):
        wanted = fused(x)
        with zmlx.config(check=True):
            assert mx.array_equal(fused(x), wanted).item()
        with zmlx.config(fuse=False):
            assert mx.allclose(fused(x), wanted).item()
    assert fused.cache_info()[:2] == (2, 2)


def test_a_gradient_runs_under_the_switches_of_its_call(default_device: Device) -> None:
    """The call stands in a scope, the gradient is made after it: checked all the same."""
    asked: list[tuple[str, bool]] = []
    right = region.checked

    def tell(graph: Any, launch: Any, exact: bool, name: str) -> Any:
        asked.append((name, switches.CHECK.on()))
        return right(graph, launch, exact, name)

    @zmlx.fuse
    def cube(x: mx.array) -> mx.array:
        return x * x * x + mx.exp(x)

    def loss(x: mx.array) -> mx.array:
        with zmlx.config(check=True):
            return cube(x).sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(region, "checked", tell)
        x = mx.array([1.0, 2.0])
        assert mx.allclose(mx.grad(loss)(x), 3 * x * x + mx.exp(x)).item()
    assert asked == [("cube.region0", True), ("cube.region0.vjp.region0", True)]
    mx.eval(cube(x))  # outside: its own trace, unchecked
    assert len(asked) == 2


def test_replay_in_a_scope_needs_no_kernel(
    host_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warned, "_told", set())
    fused, x = zmlx.fuse(lambda x: mx.tanh(x) * x), mx.arange(4.0)
    wanted = fused(x)
    with zmlx.config(device="replay"), pytest.warns(RuntimeWarning, match="run as MLX ops"):
        assert "ZMLX_DEVICE=replay" in str(device_for_current_stream().unavailable())
        assert mx.allclose(fused(x), wanted).item()
    assert device_for_current_stream().unavailable() is None


def test_log_prints_for_its_scope_alone(capsys: pytest.CaptureFixture[str]) -> None:
    x = mx.arange(3.0)

    def traced(**values: Any) -> str:
        with zmlx.config(**values):
            zmlx.fuse(lambda x: mx.sin(x) + x).entry(x)
        return capsys.readouterr().err

    assert traced() == ""
    assert ": traced\n" in traced(log="info")
    assert "kernel zmlx_" not in traced(log="info") and "kernel zmlx_" in traced(log="debug")
    assert traced(log="warning") == traced() == ""
    with zmlx.config(log="debug"):
        assert traced(log="") == ""
        thread = threading.Thread(target=contextvars.Context().run, args=(traced,))
        thread.start()
        thread.join()
        assert capsys.readouterr().err == ""


def test_cache_folder_and_compiler_hold_in_a_scope(tmp_path: Path, host_device: Any) -> None:
    with zmlx.config(cache_dir=tmp_path / "kernels"):
        assert host_device.cache.directory() == tmp_path / "kernels"
    assert host_device.cache.directory() != tmp_path / "kernels"
    with zmlx.config(cxx="no-such-compiler"):
        problem = host_device.unavailable()
        assert "'no-such-compiler', named by ZMLX_CXX, is not there" in problem
    assert host_device.unavailable() is None
