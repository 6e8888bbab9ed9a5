"""zmlx.metal, cache and registry without a device: what a call checks, fills in and counts."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import pytest

from zmlx import cache, metal, registry
from zmlx.errors import DeviceError
from zmlx.metal import kernels
from zmlx.msl.spec import Launch, MetalKernelSpec

COPY = "uint i = thread_position_in_grid.x; if (i < uint(n)) { out[i] = inp[i]; }"


class Recorder:
    """A device that launches nothing and remembers what it was asked."""

    name = "recorder"

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.built: list[MetalKernelSpec] = []
        self.launches: list[tuple[list[tuple[int, ...]], Launch]] = []

    def unavailable(self) -> str | None:
        return self.problem

    def grid_launcher(self, spec: MetalKernelSpec) -> Callable[..., list[mx.array]]:
        self.built.append(spec)

        def run(arrays: Sequence[mx.array], launch: Launch) -> list[mx.array]:
            self.launches.append(([a.shape for a in arrays], launch))
            made = [mx.ones(shape) for shape in launch.output_shapes]
            mx.eval(made)
            return made

        return run


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    device = Recorder()
    monkeypatch.setattr(kernels, "device_for_current_stream", lambda: device)
    return device


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    registry.clear_cache()
    yield
    registry.clear_cache()


def made(**changes: Any) -> metal.MetalKernel:
    parts: dict[str, Any] = {
        "name": "copy", "input_names": ["inp"], "output_names": ["out"], "source": COPY,
    }  # fmt: skip
    return metal.kernel(**parts | changes)


# What a kernel may be made of.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "two words"}, "no identifier"),
        ({"name": ""}, "no identifier"),
        ({"input_names": ["in-p"]}, "'in-p' is no identifier"),
        ({"output_names": ["1"]}, "'1' is no identifier"),
        ({"input_names": ["a", "a"]}, "occurs twice"),
        ({"output_names": ["inp"]}, "occurs twice"),
        ({"output_names": []}, "no output"),
        ({"source": " \n"}, "empty source"),
    ],
)
def test_parts_that_make_no_kernel(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(**changes)
    assert registry.cache_size() == 0


def test_spec_is_frozen_and_holds_tuples() -> None:
    spec = made(header="// h").spec
    assert (spec.input_names, spec.output_names, spec.header) == (("inp",), ("out",), "// h")
    assert spec.ensure_row_contiguous and not spec.atomic_outputs
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"  # type: ignore[misc]


CHANGES: list[dict[str, Any]] = [
    {"name": "copy2"},
    {"input_names": ["inp", "n"]},
    {"output_names": ["out", "out2"]},
    {"source": COPY + " "},
    {"header": "// other"},
    {"ensure_row_contiguous": False},
    {"atomic_outputs": True},
]


def test_equal_arguments_give_the_same_object() -> None:
    assert made() is made()
    assert registry.cache_size() == 1 and registry.list_kernels() == ["copy"]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_each_part_tells_kernels_apart(changes: dict[str, Any]) -> None:
    plain, other = made(), made(**changes)
    assert plain is not other
    assert plain.spec.unique_name != other.spec.unique_name
    assert registry.cache_size() == 2


def test_names_moved_from_inputs_to_outputs_make_another_kernel() -> None:
    one = made(input_names=["a", "b"], output_names=["c"])
    two = made(input_names=["a"], output_names=["b", "c"])
    assert one.spec.digest != two.spec.digest


def test_cache_false_builds_anew_and_keeps_nothing() -> None:
    kept = made()
    assert made(cache=False) is not kept and made(cache=False) is not made(cache=False)
    assert registry.cache_size() == 1


def test_registry_lists_in_order_with_repeats_and_forgets() -> None:
    made(name="b")
    made(name="a")
    made(name="b", source=COPY + "//")
    assert registry.list_kernels() == ["b", "a", "b"]
    forgotten: list[str] = []
    registry.forgets(lambda: forgotten.append("once"))
    try:
        old = made(name="b")
        registry.clear_cache()
        assert forgotten == ["once"] and registry.list_kernels() == []
        assert made(name="b") is not old
    finally:
        registry._forgetters.pop()


def test_kernel_cache_by_hand() -> None:
    kept = cache.KernelCache()
    parts: dict[str, Any] = dict(
        name="k", input_names=["a"], output_names=["o"], source="s", header="",
        ensure_row_contiguous=True, atomic_outputs=False,
    )  # fmt: skip
    key = cache.KernelCacheKey.from_parts(**parts)
    assert kept.get(key) is None and kept.size() == 0
    assert kept.put(key, "first") == "first"
    assert kept.put(cache.KernelCacheKey.from_parts(**parts), "second") == "second"
    assert kept.get(key) == "second" and kept.keys() == [key] and kept.size() == 1
    assert kept.get_or_put(key, lambda: "third") == "second"
    assert (len(key.source_hash), key.input_names) == (64, ("a",))
    kept.clear()
    assert kept.size() == 0


def test_threads_that_ask_for_one_kernel_get_one_object() -> None:
    found: list[metal.MetalKernel] = []
    gate = threading.Barrier(8)

    def ask() -> None:
        gate.wait()
        found.append(made())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(map(id, found))) == 1


# What a call fills in and refuses.


@pytest.mark.parametrize(
    ("shape", "threads"),
    [((), 1), ((1,), 1), ((3,), 2), ((7, 9), 32), ((512,), 512), ((100, 100), 512)],
)
def test_defaults_follow_the_first_input(
    recorder: Recorder, shape: tuple[int, ...], threads: int
) -> None:
    x = mx.zeros(shape, mx.float16)
    (out,) = made()(x)
    ((arrays, launch),) = recorder.launches
    assert launch.grid == (max(1, x.size), 1, 1) and launch.threadgroup == (threads, 1, 1)
    assert launch.output_shapes == (shape,) and launch.output_dtypes == ("float16",)
    assert arrays == [shape or (1,)] and out.shape == shape
    assert launch.template == () and launch.init_value is None


def test_every_output_copies_the_first_input(recorder: Recorder) -> None:
    two = made(input_names=["inp", "n"], output_names=["out", "more"])
    two(mx.zeros((2, 3)), mx.zeros((5,), mx.int32))
    ((_, launch),) = recorder.launches
    assert launch.output_shapes == ((2, 3), (2, 3))
    assert launch.output_dtypes == ("float32", "float32")


def test_what_is_given_is_passed_on(recorder: Recorder) -> None:
    made()(
        mx.zeros(3), template=[("T", mx.bfloat16), ("N", 4), ("FLAG", True)], grid=[8, 2, 1],
        threadgroup=[4, 2, 1], output_shapes=[[5]], output_dtypes=[mx.int8], init_value=2.5,
    )  # fmt: skip
    ((_, launch),) = recorder.launches
    pairs = (("T", "bfloat16"), ("N", 4), ("FLAG", True))
    assert launch == Launch((8, 2, 1), (4, 2, 1), ((5,),), ("int8",), pairs, 2.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": (0, 1, 1)}, "grid is"),
        ({"grid": (4, 4)}, "grid is"),
        ({"grid": (2**31, 1, 1)}, "grid is"),
        ({"grid": (1.5, 1, 1)}, "grid is"),
        ({"threadgroup": (0, 1, 1)}, "threadgroup is"),
        ({"threadgroup": (2048, 1, 1)}, "threadgroup is"),
        ({"threadgroup": (64, 32, 1)}, "at most 1024 threads in all"),
        ({"output_shapes": []}, "output_shapes is 0 entries"),
        ({"output_shapes": [(3,), (3,)]}, "output_shapes is 2 entries"),
        ({"output_shapes": [(-1,)]}, "sizes from 0 on"),
        ({"output_dtypes": []}, "output_dtypes is 0 entries"),
        ({"output_dtypes": ["float32"]}, "types that Metal has"),
        ({"output_dtypes": [mx.float64]}, "types that Metal has"),
        ({"output_dtypes": [mx.complex64]}, "types that Metal has"),
        ({"template": [("N", 1.5)]}, "template N"),
        ({"template": [("T", mx.float64)]}, "template T"),
        ({"template": [("T", "float32")]}, "template T"),
    ],
)
def test_calls_refused(recorder: Recorder, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made()(mx.zeros(3), **changes)
    assert recorder.launches == []


def test_wrong_inputs_are_refused(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="0 arrays; give 1"):
        made()()
    with pytest.raises(ValueError, match="2 arrays; give 1"):
        made()(mx.zeros(1), mx.zeros(1))
    with pytest.raises(TypeError, match="inp is list"):
        made()([1.0])
    with pytest.raises(ValueError, match="inp is complex64"):
        made()(mx.zeros(1, mx.complex64))
    with mx.stream(mx.cpu), pytest.raises(ValueError, match="inp is float64"):
        made()(mx.zeros(1, mx.float64))


def test_without_inputs_outputs_must_be_described(recorder: Recorder) -> None:
    fill = made(input_names=[])
    with pytest.raises(ValueError, match="no input to copy"):
        fill(output_shapes=[(3,)])
    with pytest.raises(ValueError, match="no input to copy"):
        fill(output_dtypes=[mx.float32])
    fill(output_shapes=[(3,)], output_dtypes=[mx.float32])
    assert len(recorder.launches) == 1


def test_atomic_outputs_need_a_value_to_start_from(recorder: Recorder) -> None:
    count = made(atomic_outputs=True)
    with pytest.raises(ValueError, match="init_value is None"):
        count(mx.zeros(3))
    count(mx.zeros(3), init_value=0)
    assert recorder.launches[0][1].init_value == 0


def test_nothing_is_launched_for_outputs_without_elements(recorder: Recorder) -> None:
    k = made()
    (out,) = k(mx.zeros((3, 0), mx.int16))
    assert out.shape == (3, 0) and out.dtype == mx.int16
    assert recorder.built == [] and k.stats.run_count == 1
    (out,) = k(mx.zeros((0,)), output_shapes=[(2,)], grid=(2, 1, 1))
    assert out.shape == (2,) and len(recorder.launches) == 1


def test_a_device_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Recorder(problem="no compiler; apt-get install g++")
    monkeypatch.setattr(kernels, "device_for_current_stream", lambda: device)
    k = made()  # building stays possible anywhere
    with pytest.raises(DeviceError, match=r"'copy' cannot run here: no compiler; apt-get"):
        k(mx.zeros(3))


def test_statistics_count_every_call_and_time_the_measured_ones(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    k = made()
    assert dataclasses.astuple(k.stats) == (0.0, 0, 0.0)
    k(mx.zeros(3))
    k(mx.zeros(3))
    assert k.stats.run_count == 2 and k.stats.total_run_time_ms == 0
    assert len(recorder.built) == 1
    k(mx.zeros(3), timed=True)
    timed = k.stats.total_run_time_ms
    assert timed > 0 and capsys.readouterr().out == ""
    k(mx.zeros(3), verbose=True)
    assert k.stats.run_count == 4 and k.stats.total_run_time_ms > timed
    assert COPY in capsys.readouterr().out
