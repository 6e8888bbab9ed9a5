"""No way in which a compiler fails reaches the user's function: MLX ops run after one warning."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from fake_compilers import FAILING, compiler

import zmlx
from zmlx import autograd, elementwise, metal, rowwise
from zmlx.catalog import norms, softmax
from zmlx.device import base, native_module, toolchain, warned
from zmlx.device.base import Device
from zmlx.device.host import HostDevice
from zmlx.errors import DeviceError

x = mx.array([[0.5, -1.0, 2.0], [3.0, 0.25, -2.0]])
row = mx.array([1.0, 2.0, 3.0])


def f(a: mx.array, b: mx.array) -> mx.array:
    return mx.exp(mx.sin(a) * b) + a * 0.5


@pytest.fixture
def fresh(
    host_device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HostDevice]:
    """A host device as in a new process: the native module is there, no kernel is."""
    made = HostDevice()
    made._native = host_device.native  # type: ignore[attr-defined]
    monkeypatch.setitem(base._devices, "host", made)
    monkeypatch.setattr(warned, "_told", set())
    monkeypatch.setattr(toolchain, "_broken", {})
    monkeypatch.setenv("ZMLX_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setenv("ZMLX_CXX_TIMEOUT", "0.4")
    yield made


@pytest.fixture
def unbuilt(fresh: HostDevice, monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    """The same without the native module."""
    fresh._native = None
    monkeypatch.setattr(native_module, "_loaded", {})
    return fresh


def everything(of: Callable[..., mx.array]) -> list[mx.array]:
    """Values, gradients of first and second order, tangents, mapped values."""
    loss = lambda a, b: of(a, b).sum()  # noqa: E731
    twice = mx.grad(lambda a: mx.grad(loss)(a, row).sum())
    return [
        of(x, row), *mx.grad(loss, argnums=(0, 1))(x, row), twice(x),
        *mx.jvp(of, [x, row], [x, row])[1], mx.vmap(of, in_axes=(0, None))(x, row),
    ]  # fmt: skip


def close(got: list[mx.array], wanted: list[mx.array]) -> None:
    for mine, plain in zip(got, wanted, strict=True):
        assert mine.shape == plain.shape and mx.allclose(mine, plain, 1e-5, 1e-6).item()


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize("where", ["fresh", "unbuilt"])
def test_a_fused_function_runs_as_ops_after_one_warning(
    where: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    device = request.getfixturevalue(where)
    monkeypatch.setenv("ZMLX_CXX", str(compiler(tmp_path, kind)))
    with pytest.warns(RuntimeWarning) as caught:
        got = everything(zmlx.fuse(f))
    close(got, everything(f))
    assert len(caught) == 1, [str(w.message) for w in caught]
    with pytest.warns(RuntimeWarning, match=FAILING[kind][1]):
        warnings.warn(caught[0].message, stacklevel=1)
    assert "fused regions run as MLX ops" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert not list((tmp_path / "kernels").glob("*.so"))
    if "killed" not in str(caught[0].message) and "died" not in str(caught[0].message):
        assert device.unavailable() in str(caught[0].message)


def helper_ops() -> dict[str, tuple[Callable[..., mx.array], Callable[..., mx.array]]]:
    """Ops of every kind of helper, made anew, each with what it computes in MLX's ops."""
    head = "uint elem = thread_position_in_grid.x; T v = (T)x[elem]; "
    cube = autograd.nary_from_expr(
        name="cube", input_names=["x"], output_names=["out"],
        fwd_source=head + "out[elem] = (O)(v * v * v);",
        bwd_source=head + "dx[elem] = (O)((T)cotan[elem] * 3 * v * v);",
    )  # fmt: skip
    rows = rowwise.map_reduce(
        name="rows", d=3, pass1_init="-INFINITY", pass1_update="max(acc1, x)",
        pass1_reduce_op="max(a, b)", pass2_init="0.0f", pass2_update="acc2 + exp(x - s1)",
        pass2_reduce_op="a + b", write_expr="exp(x - s1) / s2",
    )  # fmt: skip
    norm = norms.rmsnorm
    return {
        "elementwise": (elementwise.unary(name="u", expr="x * x + 1.0f"), lambda a: a * a + 1),
        "autograd": (
            autograd.unary_from_expr(name="given", fwd_expr="x*x*x", vjp_expr="g*3.0f*x*x"),
            lambda a: a * a * a,
        ),
        "nary": (cube, lambda a: a * a * a),
        "rowwise": (lambda a: rows(a)[0], lambda a: mx.softmax(a, axis=-1)),
        "softmax": (softmax.softmax_lastdim, lambda a: mx.softmax(a, axis=-1)),
        "norm": (lambda a: norm(a, row), lambda a: mx.fast.rms_norm(a, row, 1e-6)),
    }


def weighed(op: Callable[..., mx.array]) -> list[mx.array]:
    """Value and gradient."""
    return [op(x), mx.grad(lambda a: (op(a) * x).sum())(x)]


@pytest.mark.parametrize("kind", ["is not there", "exits with 1", "is killed for memory", "hangs"])
@pytest.mark.parametrize("where", ["fresh", "unbuilt"])
def test_helper_ops_run_as_ops(
    where: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    request.getfixturevalue(where)
    monkeypatch.setenv("ZMLX_CXX", str(compiler(tmp_path, kind)))
    ops = helper_ops()
    with pytest.warns(RuntimeWarning, match="run as MLX ops") as caught:
        for op, plain in ops.values():
            close(weighed(op), weighed(plain))
    assert all("run as MLX ops" in str(w.message) for w in caught)
    assert len(caught) == 1 or kind == "is killed for memory"  # which may spare another kernel


@pytest.mark.parametrize("kind", FAILING)
def test_a_written_kernel_names_the_compiler(
    fresh: HostDevice, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else can run it; the kernel's own text is not to blame, and is not shown."""
    monkeypatch.setenv("ZMLX_CXX", str(compiler(tmp_path, kind)))
    written = metal.kernel(
        name="shout", input_names=["x"], output_names=["out"],
        source="uint i = thread_position_in_grid.x; out[i] = 2 * x[i];",
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(DeviceError, match=FAILING[kind][1]) as caught:
            written(x)
        assert "shout" in str(caught.value) and "thread_position" not in str(caught.value)
    with pytest.raises(DeviceError, match="cannot run here|cannot be compiled here"):
        written(x)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" ", "ZMLX_CXX is ' ', which names no compiler"),
        ("'c++", 'ZMLX_CXX is "\'c\\+\\+", which is no command: No closing quotation'),
        ("c++ 'x", "ZMLX_CXX is .*which is no command"),
    ],
)
def test_a_variable_that_names_nothing_is_named(
    fresh: HostDevice, text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMLX_CXX", text)
    with pytest.warns(RuntimeWarning, match=words):
        close(everything(zmlx.fuse(f)), everything(f))
    assert fresh.report().missing


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_wrong_time_limit_is_named(
    fresh: HostDevice, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMLX_CXX_TIMEOUT", text)
    with pytest.warns(RuntimeWarning, match=f"ZMLX_CXX_TIMEOUT is '{text}'; give a number"):
        close([zmlx.fuse(f)(x, row)], [f(x, row)])


def test_a_hanging_compiler_is_asked_once(
    fresh: HostDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does anything that it started stay."""
    script, log = compiler(tmp_path, "is not there"), tmp_path / "started"
    script.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! >> {log}\nwait\n")
    script.chmod(0o755)
    monkeypatch.setenv("ZMLX_CXX", str(script))
    with pytest.warns(RuntimeWarning, match="ran for longer"):
        for k in range(3):
            close([zmlx.fuse(lambda a, k=k: mx.sin(a) * k)(x)], [mx.sin(x) * k])
    (child,) = log.read_text().split()
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_a_compiler_killed_for_one_kernel_makes_the_next(
    fresh: HostDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = compiler(tmp_path, "is not there")
    script.write_text(
        '#!/bin/sh\nfor a; do case "$a" in *.cpp) grep -q "sin(" $a && kill -KILL $$;; esac\n'
        'done\nexec c++ "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("ZMLX_CXX", str(script))
    monkeypatch.setenv("ZMLX_CXX_TIMEOUT", "100")
    sine, square = zmlx.fuse(lambda a: mx.sin(a) * 2), zmlx.fuse(lambda a: a * a + 1)
    with pytest.warns(RuntimeWarning, match="killed by SIGKILL"):
        close([sine(x)], [mx.sin(x) * 2])
    assert fresh.unavailable() is None
    close([square(x)], [x * x + 1])
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1


def test_a_disk_that_is_full_everywhere(
    fresh: HostDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("ZMLX_CXX_TIMEOUT", "100")
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning) as caught:
        close([zmlx.fuse(f)(x, row)], [f(x, row)])
    assert any("kept nowhere: " in str(w.message) for w in caught)
    monkeypatch.setattr(warned, "_told", set())
    monkeypatch.setattr("tempfile.mkdtemp", full)
    monkeypatch.setenv("ZMLX_CACHE_DIR", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(RuntimeWarning, match="kept nowhere"):
        close([zmlx.fuse(lambda a: a * a - 1)(x)], [x * x - 1])
    assert fresh.report().missing
