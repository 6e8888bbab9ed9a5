"""The host device at work: laziness, streams, memory, threads, errors."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from handwritten import kernel, run

import zmlx
from zmlx import dtypes
from zmlx.device import host, toolchain
from zmlx.device.base import Device
from zmlx.device.host import HostDevice
from zmlx.device.signature import portable
from zmlx.errors import DeviceError
from zmlx.msl.kernel import Arg, KernelSource

pytestmark = pytest.mark.usefixtures("host_device")

DOUBLE = kernel("double", "2.0f * x0", ["float32"], ["float32"])
BOTH = kernel(
    "both", ["x0 + x1", "x0 - x1"], ["float32", "float32"], ["float32", "float16"], ranks=[2, 1]
)
LARGE = 1 << 20


def test_a_call_evaluates_nothing() -> None:
    """Inside a trace of mx.compile an evaluation would raise."""
    calls = []

    def traced(x: mx.array) -> mx.array:
        calls.append(x)
        return run(DOUBLE, x)[0] + 1.0

    result = mx.compile(traced)(mx.array([1.0, 2.0]))
    assert calls and result.tolist() == [3.0, 5.0]


def test_equal_calls_merge_under_compile(host_device: Device) -> None:
    launcher = host_device.build([DOUBLE])[0]
    names: list[str] = []

    def note(event: dict[str, object]) -> None:
        if event["type"] == "primitive":
            names.append(str(event["name"]))

    compiled = mx.compile(lambda x: launcher([x])[0] + launcher([x])[0])
    assert compiled(mx.array([1.5])).tolist() == [6.0]
    assert launcher.name == DOUBLE.name


def test_several_outputs_of_their_own_types() -> None:
    x, y = mx.array([[1.0], [2.0]]), mx.array([3.0, 4.0, 5.0])
    total, difference = run(BOTH, x, y)
    assert (total.dtype, difference.dtype) == (mx.float32, mx.float16)
    assert total.tolist() == [[4, 5, 6], [5, 6, 7]]
    assert difference.tolist() == [[-2, -3, -4], [-1, -2, -3]]


def test_one_output_of_several_may_die() -> None:
    difference = run(BOTH, mx.ones((400, 1)), mx.arange(300).astype(mx.float32))[1]
    assert difference[0, :3].tolist() == [1, 0, -1]


def test_shapes_follow_under_shapeless_compile() -> None:
    compiled = mx.compile(lambda x: run(DOUBLE, x)[0], shapeless=True)
    assert compiled(mx.ones(3)).shape == (3,)
    assert compiled(mx.ones(7)).tolist() == [2.0] * 7


def test_chained_calls_reuse_memory_and_stay_right() -> None:
    x = mx.arange(LARGE).astype(mx.float32)
    mx.eval(x)
    mx.reset_peak_memory()
    y = x
    for _ in range(8):
        y = run(DOUBLE, y)[0]
    mx.eval(y)
    np.testing.assert_array_equal(np.array(y), np.arange(LARGE, dtype=np.float32) * 256)
    assert x[5].item() == 5.0
    assert mx.get_peak_memory() < 4 * x.nbytes


@pytest.mark.parametrize("size", [5, LARGE])
def test_donated_input_beside_the_same_input_in_another_layout(size: int) -> None:
    """The kernel may write over x + 0 only where nobody reads it through another view."""
    source = kernel("pair", "x0 + 2.0f * x1", ["float32", "float32"], ["float32"])
    x = mx.arange(size).astype(mx.float32) + 0.0
    result = run(source, x, x[::-1])[0]
    del x
    expected = np.arange(size, dtype=np.float32)
    np.testing.assert_array_equal(np.array(result), expected + 2 * expected[::-1])


def test_two_outputs_take_two_donated_inputs() -> None:
    source = kernel("swap", ["x1", "x0"], ["float32", "float32"], ["float32", "float32"])
    x, y = mx.arange(LARGE).astype(mx.float32) + 0.0, mx.ones(LARGE) * 3.0
    first, second = run(source, x, y)
    del x, y
    mx.eval(first, second)
    assert first[7].item() == 3.0 and second[7].item() == 7.0


def test_several_outputs_take_no_memory_where_inputs_are_given_up() -> None:
    source = kernel("sums", ["x1 + x0", "x0 - x1"], ["float32"] * 2, ["float32"] * 2)
    x, y = mx.arange(LARGE).astype(mx.float32) + 0.0, mx.ones(LARGE) * 3.0
    mx.eval(x, y)
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    first, second = run(source, x, y)
    del x, y
    mx.eval(first, second)
    assert mx.get_peak_memory() < held + 4096
    assert first[7].item() == 10.0 and second[7].item() == 4.0


@pytest.mark.parametrize("how", ["kept", "viewed", "twice", "read elsewhere", "differentiated"])
def test_several_outputs_leave_what_others_need(how: str) -> None:
    source = kernel("sums", ["x1 + x0", "x0 - x1"], ["float32"] * 2, ["float32"] * 2)
    x, y = mx.arange(LARGE).astype(mx.float32) + 0.0, mx.ones(LARGE) * 3.0
    mx.eval(x, y)
    kept: mx.array | None = None
    if how == "kept":
        kept = x
    elif how == "viewed":
        kept = x[5:]
        mx.eval(kept)
    elif how == "twice":
        y = x
    elif how == "read elsewhere":
        kept = x * 1.0
    else:
        other = mx.ones(LARGE)
        gradient = mx.grad(lambda a: (a * mx.stop_gradient(run(source, a, other)[0])).sum())
        kept = gradient(x) - other
    first, second = run(source, x, y)
    del x, y
    mx.eval(second, first)
    assert first[7].item() == (14.0 if how == "twice" else 10.0)
    assert second[7].item() == (0.0 if how == "twice" else 4.0)
    if kept is not None:
        assert kept[2].item() == (7.0 if how == "viewed" else 2.0)


def test_streams_of_the_context_are_used(host_device: Device) -> None:
    launcher = host_device.build([DOUBLE])[0]
    other = mx.new_stream(mx.cpu)
    with mx.stream(other):
        y = launcher([mx.ones(LARGE)])[0]
    z = launcher([y])[0]
    assert z[3].item() == 4.0
    with mx.stream(mx.cpu):
        assert launcher([z])[0][0].item() == 8.0


def in_threads(count: int, work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            work(i)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def test_threads_build_and_run_at_once(host_device: Device) -> None:
    sources = [kernel(f"plus{i}", f"x0 + {i}.0f", ["float32"], ["float32"]) for i in range(3)]

    def work(i: int) -> None:
        for size in (10, 100_000):
            x = mx.arange(size).astype(mx.float32)
            got = host_device.build([sources[i % 3]])[0]([x])[0]
            np.testing.assert_array_equal(np.array(got), np.arange(size) + np.float32(i % 3))

    in_threads(6, work)


@pytest.mark.smoke
def test_thread_counts_give_equal_results(host_device: HostDevice) -> None:
    x = mx.arange(LARGE + 17).astype(mx.float32)
    for threads in (1, 2, 7):
        with zmlx.config(threads=threads):
            assert mx.array_equal(run(DOUBLE, x)[0], 2.0 * x).item()


THREADS = """
import os
import mlx.core as mx
import zmlx
from handwritten import kernel
from zmlx.device.base import device_named

mx.set_default_device(mx.cpu)
device, x = device_named("host"), mx.ones(1 << 20)
mx.eval(x + x)
double = kernel("double", "2.0f * x0", ["float32"], ["float32"])
for threads in (1, 3, 2):
    with zmlx.config(threads=threads):
        launch = device.build([double])[0]
        again = device.build([double])[0]
    before = len(os.listdir("/proc/self/task"))
    mx.eval(launch([x]))
    print(len(os.listdir("/proc/self/task")) - before, again is launch)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads that Linux tells of")
def test_a_kernel_runs_on_the_threads_of_the_scope_that_it_was_made_in() -> None:
    """The evaluating thread works too, and the pool keeps its threads."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["0", "True", "2", "True", "0", "True"], done.stderr


FORKS = """
import os, sys
import mlx.core as mx
{prepare}
child = os.fork()
mx.set_default_device(mx.cpu)
right = mx.all({doubled} == 2.0).item()
if child == 0:
    os._exit(0 if right else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not right)
"""
KERNEL = """
from handwritten import kernel
import zmlx
from zmlx.device.base import device_named
device = device_named("host")
with zmlx.config(threads=3):
  double = device.build([kernel("double", "2.0f * x0", ["float32"], ["float32"])])[0]
"""


def forks(prepare: str, doubled: str) -> subprocess.CompletedProcess[str]:
    """A process that forks, then has MLX compute `doubled` on the CPU: it and its child."""
    return subprocess.run(
        [sys.executable, "-c", FORKS.format(prepare=prepare, doubled=doubled)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_forked_child_has_a_pool_of_its_own() -> None:
    """MLX's own threads do not survive a fork, so the child's first use of MLX is after it."""
    if mx.cuda.is_available():  # its allocator serves the CPU too
        plain = forks("", "2.0 * mx.ones(1 << 20)")
        if plain.returncode:
            pytest.skip(f"MLX for CUDA, without us, fails in a forked child: {plain.returncode}")
    done = forks(KERNEL, "double([mx.ones(1 << 20)])[0]")
    assert done.returncode == 0, done.stderr


def test_tracers_are_told_apart(host_device: HostDevice) -> None:
    any_tracer = host_device.native.any_tracer
    plain, seen = mx.ones(3), []

    def loss(x: mx.array) -> mx.array:
        seen.append((any_tracer([plain]), any_tracer([plain, x]), any_tracer(())))
        return (x * x).sum()

    mx.grad(loss)(plain)
    assert seen == [(False, True, False)]
    assert not any_tracer([plain])


def test_signatures_tell_types_ranks_and_ones(host_device: HostDevice) -> None:
    for signature in (host_device.native.signature, portable):
        plain = mx.ones((3, 1))
        assert signature([plain, plain]) == b"c\x0a\x02n1\x0a\x02n1"
        assert signature([mx.ones((7, 1))]) == signature([plain]) != signature([mx.ones((1, 3))])
        assert signature([plain, 1.0]) is None
        assert signature([]) == signature(()) == b"c"


@pytest.mark.parametrize("dtype", dtypes.ALL)
def test_both_signatures_are_one(host_device: HostDevice, dtype: str) -> None:
    array = mx.zeros((2, 1, 0), getattr(mx, "bool_" if dtype == "bool" else dtype))
    for arrays in ([array], (array, array[0]), [array[0, 0]]):
        assert host_device.native.signature(arrays) == portable(arrays)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ([], "needs 2 arrays"),
        ([mx.ones((2, 2))], "needs 2 arrays"),
        ([mx.ones((2, 2)), mx.ones(2), mx.ones(2)], "needs 2 arrays"),
        ([mx.ones((2, 2)), mx.ones(3)], r"do not broadcast.*\(2,2\).*\(3\)"),
        ([mx.ones((2, 2)), mx.ones(2, mx.float16)], "in1 must be float32.*float16"),
        ([mx.ones(2), mx.ones(2)], "in0 must have rank 2"),
    ],
)
def test_wrong_arrays_are_named(arrays: list[mx.array], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        run(BOTH, *arrays)
    assert BOTH.name in str(caught.value)


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises((TypeError, RuntimeError)):
        run(DOUBLE, np.ones(3))  # type: ignore[arg-type]


def test_compile_error_shows_text_and_compiler(host_device: Device) -> None:
    good = kernel("good", "x0", ["float32"], ["float32"])
    bad = kernel("bad", "undefined_name + x0", ["float32"], ["float32"])
    with pytest.raises(DeviceError) as caught:
        host_device.build([good, bad])
    words = str(caught.value)
    assert "undefined_name" in words and f"{bad.name}.header" in words
    compiler = toolchain.find_compiler()
    assert compiler is not None and f"{shlex.join(compiler.command)} failed:\n" in words
    assert " | " in words and f"{good.name}.body" not in words
    assert host_device.build([good])[0]([mx.array([1.0])])[0].item() == 1.0


def test_catalog_kernels_are_refused_by_name(host_device: Device) -> None:
    argument = (Arg("in0", "float32", 1),)
    source = KernelSource("rows", argument, (Arg("out0", "float32", 1),), "", elementwise=False)
    with pytest.raises(DeviceError, match=f"{source.name} is not elementwise"):
        host_device.build([source])


def test_type_without_kernels_is_refused(host_device: HostDevice) -> None:
    with pytest.raises(ValueError, match="complex64"):
        host_device.native.load("x.so", "x", "x", [("in0", "complex64", 1)], [], 1, 1)


def test_out_of_memory_raises_and_the_process_goes_on() -> None:
    wide = mx.broadcast_to(mx.array([[1.0]]), (2**30, 2**30))
    source = kernel("double2", "2.0f * x0", ["float32"], ["float32"], ranks=[2])
    in_use = mx.get_active_memory()
    with pytest.raises(RuntimeError, match="no memory"):
        mx.eval(run(source, wide)[0])
    assert mx.get_active_memory() <= in_use
    assert run(DOUBLE, mx.array([1.0]))[0].item() == 2.0


def test_bad_thread_count_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_THREADS", "many")
    with pytest.raises(DeviceError, match="ZMLX_THREADS is 'many'"):
        host.thread_count()
    monkeypatch.setenv("ZMLX_THREADS", "3")
    assert host.thread_count() == 3
