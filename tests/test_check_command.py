"""`python -m zmlx check`: kernels in files, what is printed, the exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from zmlx import cli
from zmlx.checking.file import read_kernel
from zmlx.device.base import Device

BODY = """\
// Sum of each row of x.
//@ input x:float32:4x100
//@ output out:float32:4
//@ grid 128
//@ threadgroup 32
inline float twice(float v) { return 2.0f * v; }
//@ body
uint row = threadgroup_position_in_grid.x;
uint t = thread_index_in_threadgroup;
threadgroup float part[32];
float sum = 0.0f;
for (uint j = t; j < 100; j += 32) sum += x[row * 100 + j];
part[t] = twice(sum);
threadgroup_barrier(mem_flags::mem_threadgroup);
if (t == 0) {
  float all = 0;
  for (uint k = 0; k < 32; ++k) all += part[k];
  out[row] = all;
}
"""
WHOLE = """\
#include <metal_stdlib>
using namespace metal;

[[kernel]] void sums(
    device const float* x [[buffer(0)]],
    device float* y [[buffer(1)]],
    constant uint& n [[buffer(2)]],  // how many, of x
    uint2 at [[thread_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]]) {
  if (at.x >= n) return;
  float s = simd_sum(x[at.x]);
  if (lane == 0) y[at.x / 32] = s;
}
"""
SIZES = ["--input", "x:float32:64", "--output", "y:float32:2", "--grid", "64"]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host_device: Device) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    return CliRunner()


def check(shell: CliRunner, text: str, *options: str) -> tuple[int, str]:
    Path("some-kernel.metal").write_text(text)
    result = shell.invoke(cli.app, ["check", "some-kernel.metal", *options])
    return result.exit_code, result.output


def test_a_good_kernel_passes(shell: CliRunner) -> None:
    status, output = check(shell, BODY)
    assert (status, output.splitlines()[-1]) == (0, "some-kernel.metal: no faults found")


def test_faults_are_shown_at_the_files_own_lines(shell: CliRunner) -> None:
    wrong = BODY.replace("threadgroup_barrier(mem_flags::mem_threadgroup);", "").replace(
        "j < 100", "j <= 100"
    )
    status, output = check(shell, wrong)
    assert status == 1
    assert "some-kernel.metal:12:1: error: read outside a buffer: x[400]" in output
    assert "   12 | for (uint j = t; j <= 100; j += 32) sum += x[row * 100 + j];" in output
    assert "race on part[1]" in output
    assert "some-kernel.metal: 3 faults found" in output


@pytest.mark.usefixtures("metal_check")
def test_a_fault_among_the_helpers(shell: CliRunner) -> None:
    wrong = BODY.replace("2.0f * v", "v * simd_summ(v)").replace("out[row] = all", "if (row) {}")
    status, output = check(shell, wrong)
    assert status == 1
    assert "some-kernel.metal:6:1: error: Metal: use of undeclared identifier" in output


def test_a_fault_that_has_no_line(shell: CliRunner) -> None:
    status, output = check(shell, BODY.replace("out[row] = all", "if (row) {}"))
    assert status == 1
    assert "some-kernel.metal: error: output element never written: out[0] (4 of 4" in output


def test_a_whole_kernel(shell: CliRunner) -> None:
    status, output = check(shell, WHOLE, *SIZES, "--input", "n:uint32:1=64")
    assert status == 0, output
    status, output = check(shell, WHOLE, *SIZES, "--input", "n:uint32:1=65", "--grid", "96")
    assert status == 1
    assert "some-kernel.metal:11:3: error: read outside a buffer: x[64]" in output


@pytest.mark.parametrize(
    ("text", "options", "wanted"),
    [
        ("out[0] = 1;", [], "no output is named"),
        ("out[0] = 1;", ["--output", "out:float31:3"], "NAME:DTYPE:SHAPE"),
        ("out[0] = 1;", ["--output", "out:float32:3", "--grid", "0"], "numbers from 1 on"),
        ("//@ gird 3\nout[0] = 1;", ["--output", "out:float32:3"], "unknown option 'gird'"),
        (WHOLE, SIZES, "no size for 'n'"),
        (WHOLE, [*SIZES, "--input", "n:int32:1"], "'n' is uint in the text"),
    ],
)
def test_wrong_usage_is_refused(
    shell: CliRunner, text: str, options: list[str], wanted: str
) -> None:
    status, output = check(shell, text, *options)
    assert status == 2
    assert wanted in " ".join("".join(c for c in output if c not in "│╭╮╰╯─").split())


def test_a_file_that_is_not_there(shell: CliRunner) -> None:
    assert shell.invoke(cli.app, ["check", "none.metal"]).exit_code == 2


def test_options_replace_the_files_own() -> None:
    kernel = read_kernel("k", BODY, {"grid": ["64,2"], "template": ["T=float16", "N=-3"]})
    assert kernel.launch.grid == (64, 2, 1)
    assert kernel.launch.threadgroup == (32, 1, 1)
    assert kernel.launch.template == (("T", "float16"), ("N", -3))
    lines = BODY.splitlines()
    assert kernel.spec.source.splitlines()[7:] == lines[7:]
    assert kernel.spec.header.splitlines() == lines[:7]
