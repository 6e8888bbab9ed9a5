"""ZMLX_DUMP: a folder for each fused function, a file for each stage; the same in every run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import pytest
from derive_cases import record
from msl_cases import traced

import zmlx
from zmlx import dump
from zmlx.device.base import Device
from zmlx.device.metal import MetalDevice
from zmlx.fuse import dumped
from zmlx.fuse.runtime import Runtime
from zmlx.msl.emit import emit

x, w, bias = mx.ones((8, 4)), mx.ones((4, 16)), mx.zeros((16,))


def gated(x: mx.array, w: mx.array, bias: mx.array, rate: float) -> mx.array:
    h = mx.matmul(x, w) + bias
    return rate * mx.tanh(h + h * h * h)


def files(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def run(folder: Path, exact: bool = False) -> dict[str, str]:
    """What a new fused function and its gradient leave in `folder`."""
    fused = zmlx.fuse(gated, numerics="mlx" if exact else "fp32")
    with zmlx.config(dump=folder, sanitize=False):
        mx.eval(fused(x, w, bias, 0.5))
        mx.eval(mx.grad(lambda w, b: fused(x, w, b, 0.5).sum(), argnums=(0, 1))(w, bias))
    return files(folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with mx.stream(mx.cpu):
        return run(tmp_path_factory.mktemp("dump"))


def text(found: dict[str, str], pattern: str) -> str:
    (name,) = [n for n in found if re.fullmatch(rf"gated-\w{{8}}/{pattern}", n)]
    return found[name]


def test_every_stage_leaves_a_file_and_they_sort_in_its_order(found: dict[str, str]) -> None:
    kernel = r"kernel\.region0\.zmlx_\w+_[0-9a-f]{16}\."
    endings = ("cpp", "cu", "metal")
    wanted = [
        *("01-trace.txt", "02-simplified.txt", "03-lifted.txt", "04-plan.txt"),
        *(rf"06-{kernel}{ending}" for ending in endings),
        *("07-launches.txt", r"08-derived\.gated\.vjp-\w{8}.txt"),
        r"09-factored\.gated\.vjp-\w{8}.txt",
    ]
    folder = r"10-gated\.vjp-\w{8}/"
    wanted += [folder + name for name in wanted[1:4]]
    names = [name.partition("/")[2] for name in found]
    assert len({name.partition("/")[0] for name in found}) == 1
    for pattern, name in zip(wanted, names, strict=False):
        assert re.fullmatch(pattern, name), (pattern, name)
    rest = [name.rpartition(".")[2] for name in names[len(wanted) :]]
    assert sorted(rest) == [*endings, "txt", "txt"] and names[-1].endswith("07-launches.txt")


@pytest.mark.smoke
def test_what_the_files_say(found: dict[str, str]) -> None:
    trace = text(found, "01-trace.txt")
    assert trace.startswith("gated, numerics fp32, planned for host\n%0 = input(0)  float32[8, 4]")
    assert "%3 = matmul(%0, %1)" in trace.partition("calls:")[2]
    plan = text(found, "04-plan.txt")
    assert "1. MLX runs %3 (matmul float32[8, 16]): not elementwise" in plan
    assert "6 ops: add, multiply, multiply, add, tanh, multiply" in plan
    assert "reads %3 (matmul float32[8, 16]), 512 bytes" in plan
    assert "in all 576 bytes read and 512 written" in plan
    summed = text(found, "10-.*/04-plan.txt")
    assert "joined after it" in summed and "sum(%14, axes=(0,))" in summed
    launch = text(found, "07-launches.txt")
    assert "in0 float32[8, 16], in1 float32[16], s0 float32[1] -> out0 float32[8, 16]" in launch
    assert "128 elements" in launch and launch.count("\n") == 1
    sums = text(found, "10-.*/07-launches.txt")
    assert "grid (1, 2, 1), threadgroup (1, 1, 1), LANES=1024" in sums
    derived, factored = (text(found, rf"{n}\..*") for n in ("08-derived", "09-factored"))
    assert "read of the forward pass, 704 bytes:" in derived and "computed again" in derived
    assert "= const(3)" in factored and "= const(3)" not in derived  # g + 3*g*h*h
    kernels = {name.rpartition(".")[2]: t for name, t in found.items() if "vjp/06-" not in name}
    assert "zmlx_walk0(" in kernels["metal"] and '#include "msl_on_cuda.h"' in kernels["cu"]
    assert 'extern "C"' in kernels["cpp"]


def test_walks_and_shared_kernels_have_a_schedule(tmp_path: Path, on_cpu: None) -> None:
    def work(x: mx.array, y: mx.array, more: list[mx.array]) -> list[mx.array]:
        shares = mx.exp(x) / mx.exp(x).sum(-1, keepdims=True)
        parts = mx.concatenate([mx.sin(y) * 2, mx.cos(y) + 1])
        return [shares, parts, *[mx.tanh(u) - u for u in more]]

    fused = zmlx.fuse(work)
    with zmlx.config(dump=tmp_path, sanitize=False):
        for n in (3, 5):
            more = [mx.ones((k,)) for k in range(2, 7)]
            mx.eval(fused(mx.ones((n, 40)), mx.ones((4, 2)), more))
    said = {n.split("schedule.")[1]: t for n, t in files(tmp_path).items() if "schedule" in n}
    walks = [text for name, text in said.items() if name.startswith("region")]
    assert len(walks) == 2 and all("walk 1: reads in0; computes exp" in text for text in walks)
    assert any(text.startswith("3 rows of 40 columns, walked over 2 times") for text in walks)
    (joined,) = [text for name, text in said.items() if name.startswith("joined0")]
    assert "a part of [4, 2], into out0 from 8 on, steps [2, 1]" in joined
    (alike,) = [text for name, text in said.items() if name.startswith("alike0")]
    assert re.search(r"(region\d, ){3}region\d by one primitive\nregion\d alone", alike)
    shared = [t for n, t in files(tmp_path).items() if "kernel.alike0" in n]
    assert len(shared) == 2 and all("zmlx_launch<INDEX, ELEMS>" in text for text in shared)
    (launches,) = [t for n, t in files(tmp_path).items() if n.endswith("07-launches.txt")]
    assert "alike0, 4 launches by one primitive of the CPU: zmlx_tanh_subtract_" in launches


def test_texts_hold_no_ids_and_no_places_of_this_machine(found: dict[str, str]) -> None:
    for name, content in found.items():
        if name.endswith(".txt"):
            assert not re.search(r"0x[0-9a-f]{4}| at 0x|object at", content), name
        assert "/home" not in content and os.fspath(Path(zmlx.__file__).parent) not in content


def test_the_same_function_gives_the_same_files_and_others_their_own(
    found: dict[str, str], tmp_path: Path, on_cpu: None
) -> None:
    assert run(tmp_path) == found
    both = run(tmp_path, exact=True)
    assert both.items() > found.items()
    assert len({name.partition("/")[0] for name in both}) == 2


SCRIPT = """
import sys, mlx.core as mx
sys.path.insert(0, {tests!r})
mx.set_default_device(mx.cpu)
from pathlib import Path
from test_dump import run
run(Path({folder!r}))
"""


def test_threads_and_processes_share_a_folder(
    found: dict[str, str], tmp_path: Path, on_cpu: None
) -> None:
    code = SCRIPT.format(tests=os.path.dirname(__file__), folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    problems: list[BaseException] = []

    def work() -> None:
        try:
            with mx.stream(mx.cpu):
                run(tmp_path)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0] and not problems
    assert files(tmp_path) == found


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, on_cpu: None) -> None:
    (tmp_path / "file").write_text("no folder")
    fused = zmlx.fuse(gated)
    with zmlx.config(dump=tmp_path / "file" / "inside"):
        with pytest.warns(RuntimeWarning, match=r"\[zmlx.dump\] nothing more is written") as told:
            got = fused(x, w, bias, 0.5)
            mx.eval(got, mx.grad(lambda w: fused(x, w, bias, 0.5).sum())(w))
        assert len(told) == 1 and told[0].filename == __file__
        mx.eval(zmlx.fuse(gated)(x[:3], w, bias, 0.5))  # told already, in this process
    assert mx.allclose(got, gated(x, w, bias, 0.5)).item()
    assert files(tmp_path) == {"file": "no folder"}


def test_off_nothing_is_asked_for(on_cpu: None) -> None:
    def never() -> str:
        raise AssertionError("asked for a text")

    dump.stage("plan", never)
    with dump.into(None):
        dump.stage("plan", never)
    assert zmlx.fuse(gated).entry(x, w, bias, 0.5).program.functions[0].runtime.folder is None


def test_a_new_stage_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "STAGES", (*dump.STAGES[:4], "weighed", *dump.STAGES[4:]))
    with zmlx.config(dump=tmp_path):
        folder = dump.Folder.of("block.__call__<locals>", "a trace")
    with dump.into(folder):
        dump.stage("weighed", lambda: "one walk", "region3")
    name = f"block.__call___locals-{dump.digest('a trace')}/05-weighed.region3.txt"
    assert files(tmp_path) == {name: "one walk\n"}


def test_a_launch_on_a_gpu_says_its_grid(tmp_path: Path, default_device: Device) -> None:
    """Built, not run: what MLX is handed must be what the line says."""
    kernel = emit(record(lambda F, x, y: F.add(x, y), ((4, 3), "float32"), ((3,), "float32")))
    with zmlx.config(dump=tmp_path):
        folder = dump.Folder.of("total", "a trace")
    runtime = Runtime(False, False, lambda arrays: None, lambda *args: None, folder=folder)
    launch = dumped.launching(runtime, "total.region0", kernel, MetalDevice().build([kernel])[0])
    arrays = [mx.ones((1000, 7)), mx.ones((7,))]
    arguments = traced(kernel, *arrays)["arguments"]
    mx.export_function(lambda event: None, lambda *a: launch(a), *arrays)
    (line,) = files(tmp_path).values()
    assert "grid (1750, 1, 1), threadgroup (256, 1, 1), ELEMS=4 INDEX=int32\n" in line
    place = arguments.index(1750)
    assert arguments[place : place + 6] == [1750, 1, 1, 256, 1, 1]
