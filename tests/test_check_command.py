"""`python -m zmlx check`: kernels in files, what is printed, the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zmlx import cli
from zmlx.checking.file import read_kernels
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
    assert "some-kernel.metal:6:42: error: Metal: use of undeclared identifier" in output


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
        ("out[0] = 1;", ["--output", "out:float32:4000000000"], "give at most"),
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
    (kernel,) = read_kernels("k", BODY, {"grid": ["64,2"], "template": ["T=float16", "N=-3"]})
    assert kernel.launch.grid == (64, 2, 1)
    assert kernel.launch.threadgroup == (32, 1, 1)
    assert kernel.launch.template == (("T", "float16"), ("N", -3))
    lines = BODY.splitlines()
    assert kernel.spec.source.splitlines()[7:] == lines[7:]
    assert kernel.spec.header.splitlines() == lines[:7]


HELPER = "inline float half_of(float v, constant float& scale) { return v * scale; }\n"
TWO = (
    "#include <metal_stdlib>\nusing namespace metal;\n// the kernel void saxpy( was here\n"
    + HELPER
    + """\
kernel void scaled(device const float* x [[buffer(0)]], constant float& scale [[buffer(1)]],
    device float* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  y[i] = half_of(x[i], scale);
}
kernel void shifted(device const float* x [[buffer(0)]], constant float& scale [[buffer(1)]],
    device float* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  y[i] = x[i] + (&scale)[i & 1];
}
"""
)


def test_each_kernel_of_a_file_is_run_and_parameters_keep_their_names(shell: CliRunner) -> None:
    sizes = ["--input", "x:float32:8", "--input", "scale:float32=2", "--output", "y:float32:8"]
    status, output = check(shell, TWO, *sizes)
    assert status == 1
    assert "some-kernel.metal:11:3: error: read outside a buffer: scale[1], which has 1" in output
    assert "some-kernel.metal: 1 fault found" in output


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('extern "C" int system(const char*);\n//@ body\nout[0] = system("echo > owned");', 2),
        ('//@ body\nasm volatile("nop");\nout[0] = 1;', 3),
        ("//@ body\nout[0] = __builtin_abs(1);", 3),
        ('#include "/etc/hostname"\n//@ body\nout[0] = 1;', 2),
        ("#include <stdlib.h>\n//@ body\nout[0] = 1;", 2),
        ("ex\\\ntern int n;\n//@ body\nout[0] = 1;", 1),
        ("#define J(a, b) a ## b\nJ(ext, ern) int n;\n//@ body\nout[0] = 1;", 1),
        ('//@ body\nout[0] = system("echo > owned");', 3),
        ('%:define Q asm\n//@ body\nQ("nop");\nout[0] = 1;', 2),
        ('#define F "/etc/hostname"\n#include F\n//@ body\nout[0] = 1;', 3),
        ('constant uchar d[] = {\n#embed "/etc/hostname"\n};\n//@ body\nout[0] = d[0];', 3),
        ('#pragma push_macro("device")\n//@ body\nout[0] = 1;', 2),
        ("__attribute__((constructor)) void go() {}\n//@ body\nout[0] = 1;", 2),
    ],
)
@pytest.mark.usefixtures("metal_check")
def test_nothing_of_a_file_runs_that_reaches_beyond_a_kernel(
    shell: CliRunner, text: str, line: int
) -> None:
    status, output = check(shell, "//@ output out:float32:1\n" + text)
    assert status == 1
    assert f"some-kernel.metal:{line}:" in output, output
    assert not Path("owned").exists()


@pytest.mark.usefixtures("metal_check")
def test_a_text_that_a_compiler_dies_of_is_reported(shell: CliRunner) -> None:
    names = [f"M{n}" for n in range(7)]
    lines = [f"#define {a} {' '.join([b] * 8)}" for a, b in zip(names, names[1:], strict=False)]
    text = "\n".join([*lines, f"#define {names[-1]} x[0] +", "//@ body", "out[0] = M0 0;"])
    options = ("--input", "x:float32:1", "--output", "out:float32:1")
    status, output = check(shell, text, *options)
    assert status == 1
    assert "crash of Metal's front end" in output or "no end: Metal's front end" in output


def test_a_text_that_does_not_compile_is_reported_once(shell: CliRunner) -> None:
    status, output = check(shell, "//@ output out:float32:1\nout[0] = missing + 1;")
    assert status == 1
    assert output.startswith("some-kernel.metal:2:10: error: Metal: use of undeclared")
    assert "some-kernel.metal: 1 fault found" in output


def test_formats_for_editors_and_ci(shell: CliRunner) -> None:
    text = "//@ input x:float32:4\n//@ output out:float32:4\nuint i = thread_position_in_grid.x;\n"
    text += "out[i] = x[i + 1];"
    status, output = check(shell, text, "--format", "json")
    (fault,) = [json.loads(line) for line in output.splitlines()]
    assert status == 1
    assert (fault["file"], fault["line"], fault["severity"]) == ("some-kernel.metal", 4, "error")
    assert fault["source"] == "out[i] = x[i + 1];"
    _, output = check(shell, text, "--format", "github")
    assert output.startswith("::error file=some-kernel.metal,line=4::read outside a buffer: x[4]")


def test_what_the_order_of_threads_or_old_bytes_decide_is_a_warning(shell: CliRunner) -> None:
    order = """\
//@ input x:float32:64
//@ output out:uint32:1
//@ grid 64
//@ threadgroup 32
//@ init 0
//@ atomic
atomic_exchange_explicit(&out[0], thread_position_in_grid.x, memory_order_relaxed);
"""
    status, output = check(shell, order)
    assert status == 0
    assert "warning: the order of threads decides out[0]: it is 63, or 0 in another run" in output
    assert "order of threads" not in check(shell, order, "--order", "forward")[1]


def test_strides_and_arrays_of_rank_0(shell: CliRunner) -> None:
    text = """\
//@ input x:float32:4x8@1x4
//@ input eps:float32=1e-5
//@ output out:float32:32
uint i = thread_position_in_grid.x;
out[i] = x[i / 8 * x_strides[0] + i % 8 * x_strides[1]] + eps;
"""
    assert check(shell, text)[0] == 0
    status, output = check(shell, text.replace("i % 8 * x_strides[1]", "i % 8 * 5"))
    assert status == 1
    assert "read outside a buffer: x[" in output


def test_a_kernel_without_end_is_named(shell: CliRunner) -> None:
    text = "//@ input x:float32:4\n//@ output out:float32:4\nuint i = thread_position_in_grid.x;\n"
    text += "for (uchar k = 0; k < 300; ++k) out[i] += x[k & 3];"
    status, output = check(shell, text, "--budget", "5000")
    assert status == 1
    assert "some-kernel.metal:4:1: error: no end: the kernel was stopped at 5000" in output
