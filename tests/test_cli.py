"""The command line: what each command prints, refuses and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
import typer
from typer.testing import CliRunner

import zmlx
from zmlx import cli
from zmlx.device.base import DeviceReport


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    return CliRunner()


def plain(text: str) -> str:
    """Without the box and the line breaks that the terminal puts around errors."""
    return " ".join("".join(c for c in text if c not in "│╭╮╰╯─").split())


def test_version_names_both_libraries(shell: CliRunner) -> None:
    result = shell.invoke(cli.app, ["version"])
    assert result.exit_code == 0
    assert result.output == f"zmlx {zmlx.__version__}, mlx {mx.__version__}\n"


def test_version_is_an_option_too(shell: CliRunner) -> None:
    result = shell.invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"{cli.versions()}\n")


def test_the_module_runs_as_a_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "zmlx", "version"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("zmlx ")


@pytest.mark.smoke
def test_arguments_are_arrays_and_numbers() -> None:
    big, scalar, flags, whole, ratio, count = cli.parse_arguments(
        "3x4:float16, scalar:float32,5:bool,2x0:uint8,=0.5,=3"
    )
    assert (big.shape, big.dtype) == ((3, 4), mx.float16)
    assert (scalar.shape, scalar.dtype) == ((), mx.float32)
    assert (flags.shape, flags.dtype) == ((5,), mx.bool_)
    assert (whole.shape, whole.dtype) == ((2, 0), mx.uint8)
    assert (ratio, count) == (0.5, 3)
    assert type(count) is int


def test_a_type_may_be_left_out_or_called_as_elsewhere() -> None:
    plain, double, half, whole, single = cli.parse_arguments("3x4,2:float64,2:half,2:int,2:float")
    assert (plain.shape, plain.dtype) == ((3, 4), mx.float32)
    kinds = [mx.float64, mx.float16, mx.int32, mx.float32]
    assert [a.dtype for a in (double, half, whole, single)] == kinds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10y:float32", "sizes joined by x"),
        ("-3:float32", "sizes joined by x"),
        (":float32", "sizes joined by x"),
        ("3y4", "sizes joined by x"),
        ("3x4:float31", "a dtype of float32"),
        ("3:int8,=two", "a Python number"),
        ("", "SIZES:DTYPE"),
    ],
)
def test_a_wrong_shape_names_option_value_and_wish(
    text: str, wanted: str, shell: CliRunner
) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        cli.parse_arguments(text)
    assert repr(text.split(",")[-1]) in str(caught.value)
    assert wanted in str(caught.value)
    result = shell.invoke(cli.app, ["explain", "mlx.nn:gelu", "--shape", text])
    assert result.exit_code == 2
    assert "--shape" in plain(result.output)


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("mlx.nn", "module:function"),
        ("no_such_module_at_all:f", "a module that imports"),
        ("mlx.nn:no_such_name", "has no 'no_such_name'"),
        ("mlx.core:pi", "something callable, not float"),
    ],
)
def test_a_wrong_target_says_what_was_wanted(target: str, wanted: str) -> None:
    with pytest.raises(typer.BadParameter, match=wanted):
        cli.find_function(target)


MODULE = """
import mlx.core as mx

def swiglu(a, b):
    return a * mx.sigmoid(a) * b

def branches(a):
    return a if a.sum() > 0 else -a

def breaks(a):
    return {}["absent"] * a
"""


@pytest.fixture
def own_module(shell: CliRunner, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, as a user would have it."""
    Path("my_own_module.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_own_module", raising=False)
    return "my_own_module"


def test_explain_shows_and_saves(shell: CliRunner, own_module: str) -> None:
    shapes = "16x32:float32,16x32:float32"
    result = shell.invoke(
        cli.app,
        ["explain", f"{own_module}:swiglu", "--shape", shapes, "--html", "report.html"],
    )
    assert result.exit_code == 0, result.output
    assert "sigmoid" in result.output
    html = Path("report.html").read_text()
    assert "sigmoid" in html
    assert "<svg" in html


def test_explain_reports_a_function_that_cannot_be_traced(
    shell: CliRunner, own_module: str
) -> None:
    result = shell.invoke(cli.app, ["explain", f"{own_module}:branches", "--shape", "4:float32"])
    assert result.exit_code == 1
    assert "my_own_module.py:8" in result.output


def test_explain_prints_json_and_saves_by_the_ending(shell: CliRunner, own_module: str) -> None:
    arguments = ["explain", f"{own_module}:swiglu", "--shape", "16x32,16x32"]
    found = json.loads(shell.invoke(cli.app, [*arguments, "--json"]).output)
    assert found["regions"][0]["ops"] == ["sigmoid", "multiply", "multiply"]
    assert shell.invoke(cli.app, [*arguments, "--out", "r.dot"]).exit_code == 0
    assert Path("r.dot").read_text().startswith("digraph")
    refused = shell.invoke(cli.app, [*arguments, "--out", "r.png"])
    assert refused.exit_code == 1
    assert "wanted one of .html" in refused.output
    assert "inline void" in shell.invoke(cli.app, [*arguments, "--full"]).output


@pytest.mark.parametrize("command", ["explain", "profile"])
def test_a_function_s_own_error_carries_its_line(
    shell: CliRunner, own_module: str, command: str
) -> None:
    result = shell.invoke(cli.app, [command, f"{own_module}:breaks", "--shape", "4"])
    assert result.exit_code == 1
    assert "my_own_module.py:11: KeyError: 'absent'" in result.output


def test_profile_names_the_function_whose_kernel_ran(shell: CliRunner, own_module: str) -> None:
    arguments = ["profile", f"{own_module}:swiglu", "--shape", "16x32,16x32"]
    result = shell.invoke(cli.app, [*arguments, "--gradient", "--out", "p.json"])
    assert result.exit_code == 0, result.output
    names = {record["function"] for record in json.loads(Path("p.json").read_text())["kernels"]}
    assert names == {"swiglu.region0", "swiglu.region0.vjp.region0"}
    assert "swiglu.region0.vjp" in result.output


def test_the_kernel_cache_is_told_and_cleared(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    monkeypatch.setenv("ZMLX_CACHE_DIR", str(folder))
    assert "0 kernels" in shell.invoke(cli.app, ["cache", "info"]).output
    (folder / "lib_abc.so").write_bytes(b"x")
    (folder / "abc.entry").write_text("lib_abc.so 0")
    (folder / "mine.txt").write_text("kept")
    assert "1 kernels" in shell.invoke(cli.app, ["cache", "info"]).output
    assert "1 kernels removed" in shell.invoke(cli.app, ["cache", "clear"]).output
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_doctor_says_what_runs(shell: CliRunner) -> None:
    result = shell.invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert mx.__version__ in result.output
    assert "device" in result.output


@pytest.mark.parametrize(
    ("variable", "value", "missing", "way"),
    [
        ("ZMLX_FUSE", "0", (), "as plain MLX, because ZMLX_FUSE is '0'"),
        ("ZMLX_DEVICE", "replay", (), "as MLX ops, unfused"),
        ("ZMLX_FUSE", "1", ("no compiler; apt-get install g++",), "as MLX ops, unfused"),
        ("ZMLX_FUSE", "1", (), "as a kernel on this device (host)"),
    ],
)
def test_doctor_is_honest_about_the_way(
    shell: CliRunner,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    missing: tuple[str, ...],
    way: str,
) -> None:
    class Found:
        def report(self) -> DeviceReport:
            return DeviceReport("host", mx.__version__, missing=missing)

    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(cli, "device_for_current_stream", Found)
    result = shell.invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert f"ran {way}." in plain(result.output)
    for text in missing:
        assert text in result.output


def test_doctor_tells_what_is_slower_than_it_could_be(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Found:
        def report(self) -> DeviceReport:
            return DeviceReport(
                "cuda", mx.__version__, compiler="/bin/c++", cache_directory="/kept",
                cache_kernels=7, slower=("kernels come late; pip install haste",),
                kernel_compiler="NVRTC 13.0",
            )  # fmt: skip

    monkeypatch.setattr(cli, "device_for_current_stream", Found)
    said = plain(shell.invoke(cli.app, ["doctor"]).output)
    assert "slower than it could be: kernels come late; pip install haste" in said
    assert "NVRTC 13.0" in said and "/bin/c++" in said and "7 kernels" in said
    assert "ran as a kernel on this device (cuda)." in said


def test_doctor_fails_where_values_are_wrong(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmlx, "fuse", lambda f: lambda x: f(x) + 1)
    result = shell.invoke(cli.app, ["doctor"])
    assert result.exit_code == 1
    assert "wrong value" in result.output


def test_a_missing_command_shows_the_commands(shell: CliRunner) -> None:
    result = shell.invoke(cli.app, [])
    assert result.exit_code == 0
    for command in ("cache", "demo", "doctor", "explain", "profile", "version"):
        assert command in result.output
