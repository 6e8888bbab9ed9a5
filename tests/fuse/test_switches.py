"""Switches: fusion off, checking, replay, no compiler, logging; and silence without them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import mlx.core as mx
import pytest
from fuse_cases import array, close, equal, kernels

import zmlx
from zmlx.device import warned
from zmlx.errors import CheckError
from zmlx.fuse import check, region

pytestmark = pytest.mark.usefixtures("host_device")

x, row = array(0, 4, 6), array(1, 6)


def f(x, r):
    return mx.exp(x * 0.5) * r + 1


def values_and_gradients(g):
    return [g(x, row), *mx.grad(lambda a, r: (g(a, r) ** 2).sum(), argnums=(0, 1))(x, row)]


# -- off ------------------------------------------------------------------------------------------
def test_fusion_off_runs_the_function_itself(monkeypatch):
    fused = zmlx.fuse(f)
    on = fused(x, row)
    monkeypatch.setenv("ZMLX_FUSE", "0")
    off = fused(x, row)
    assert len(kernels(on)) == 1 and kernels(off) == []
    equal(off, f(x, row))
    branching = zmlx.fuse(lambda a: a if a.sum() > 0 else -a)
    equal(branching(x), x if x.sum() > 0 else -x)
    monkeypatch.delenv("ZMLX_FUSE")
    assert len(kernels(fused(x, row))) == 1


def test_fusion_off_for_modules_and_state(monkeypatch):
    monkeypatch.setenv("ZMLX_FUSE", "0")
    state = {"n": mx.array(1.0)}

    @zmlx.fuse(inputs=state, outputs=state)
    def count(x):
        state["n"] = state["n"] + 1
        return x * state["n"]

    close(count(x), x * 2)
    close(count(x), x * 3)


# -- checking -------------------------------------------------------------------------------------
def test_checking_passes_what_is_right(monkeypatch):
    monkeypatch.setenv("ZMLX_CHECK", "1")
    for numerics in ("fp32", "mlx"):
        for dtype in (mx.float32, mx.bfloat16, mx.int32):
            fused = zmlx.fuse(f, numerics=numerics)
            a = (x * 3).astype(dtype)
            got = fused(a, row.astype(dtype))
            assert got.dtype == f(a, row.astype(dtype)).dtype
    special = mx.array([float("nan"), float("inf"), -0.0, 1e30, -float("inf"), 0.0])
    fused = zmlx.fuse(f)
    fused(special, row)
    fused(mx.zeros((0, 6)), row)
    close(values_and_gradients(fused), values_and_gradients(f))
    close(mx.vmap(fused, in_axes=(0, None))(x, row), f(x, row))
    close(mx.compile(f)(x, row), f(x, row))


def wrong_kernel(kernel):
    """The kernel's text with one number changed."""
    header = re.sub(r"0\.5f", "0.6f", kernel.header)
    body = re.sub(r"0\.5f", "0.6f", kernel.body)
    assert (header, body) != (kernel.header, kernel.body), "nothing to break in the text"
    return replace(kernel, header=header, body=body)


def test_checking_finds_a_wrong_kernel(monkeypatch):
    emit = region.emit
    monkeypatch.setattr(region, "emit", lambda *a, **k: wrong_kernel(emit(*a, **k)))
    wrong = zmlx.fuse(f)(x, row)  # unnoticed
    assert not mx.allclose(wrong, f(x, row)).item()
    monkeypatch.setenv("ZMLX_CHECK", "1")
    with pytest.raises(CheckError) as caught:
        zmlx.fuse(f)(x, row)
    worst = int(mx.argmax(mx.abs(wrong - f(x, row)) - 1e-3 * mx.abs(f(x, row))).item())
    text = str(caught.value)
    assert "[zmlx.check] f.region0, output 0: kernel and MLX ops part" in text
    assert f"worst at ({worst // 6}, {worst % 6})" in text
    assert "float32" in text and "(4, 6)" in text


def test_checking_finds_a_wrong_integer_and_a_wrong_bit(monkeypatch):
    wanted = mx.array([1, 2, 3])
    check._compare(wanted, wanted, False, "same")
    with pytest.raises(CheckError, match=r"worst at \(1,\): kernel 5, MLX 2"):
        check._compare(mx.array([1, 5, 3]), wanted, False, "ints")
    near, far = mx.array([1.0, 2.0]), mx.array([1.0, 2.0000002])
    check._compare(far, near, False, "a unit in the last place is rounding")
    with pytest.raises(CheckError):
        check._compare(far, near, True, "but not under numerics='mlx'")
    for bad in (float("nan"), float("inf")):
        with pytest.raises(CheckError):
            check._compare(mx.array([1.0, bad]), near, False, "special")


# -- no kernels -----------------------------------------------------------------------------------
@pytest.fixture
def unwarned(monkeypatch):
    monkeypatch.setattr(warned, "_told", set())


def test_replay_gives_the_bits_of_mlx_after_one_warning(monkeypatch, unwarned):
    monkeypatch.setenv("ZMLX_DEVICE", "replay")
    fused = zmlx.fuse(f)
    with pytest.warns(RuntimeWarning, match="ZMLX_DEVICE=replay asks for MLX ops") as caught:
        first = fused(x, row)
        values_and_gradients(fused)
        zmlx.fuse(lambda a: mx.exp(a) * 2)(x)
    assert len(caught) == 1 and "[zmlx.device] fused regions run as MLX ops" in str(caught[0])
    assert kernels(first) == []
    equal(first, f(x, row))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(values_and_gradients(fused), values_and_gradients(f))
        for transform in (mx.compile, mx.checkpoint, lambda g: mx.vmap(g, in_axes=(0, None))):
            close(transform(fused)(x, row), f(x, row))
        numbers = zmlx.fuse(lambda a, k: mx.exp(a * k) + k)
        close([numbers(x, 2.0), numbers(x, 3.0)], [mx.exp(x * k) + k for k in (2.0, 3.0)])
        half = x.astype(mx.float16)
        equal(zmlx.fuse(f)(half, row.astype(mx.float16)), f(half, row.astype(mx.float16)))


SCRIPT = """
import mlx.core as mx, zmlx
mx.set_default_device(mx.cpu)
f = lambda x: mx.exp(x * 0.5) * x + 1
fused = zmlx.fuse(f)
x = mx.array([0.5, 1.0, 2.0])
for _ in range(2):
    assert mx.allclose(fused(x), f(x)).item()
    g, w = (mx.grad(lambda x: h(x).sum())(x) for h in (fused, f))
    assert mx.allclose(g, w).item()
assert mx.allclose(mx.vmap(fused)(x), f(x)).item()
"""


def run_script(**environment: str) -> subprocess.CompletedProcess[str]:
    names = {k: v for k, v in os.environ.items() if not k.startswith("ZMLX_") or k == CACHE}
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", SCRIPT],
        env={**names, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


CACHE = "ZMLX_CACHE_DIR"


def test_nothing_is_printed_when_all_is_well():
    result = run_script()
    assert (result.stdout, result.stderr) == ("", "")


def test_without_a_compiler_there_is_one_warning(tmp_path):
    """Values and gradients are right all the same: the script asserts them."""
    result = run_script(ZMLX_CXX="no-such-compiler", ZMLX_CACHE_DIR=str(tmp_path))
    assert result.stderr.count("RuntimeWarning") == 1 and result.stdout == ""
    assert "no-such-compiler" in result.stderr and "install" in result.stderr


def test_logging_shows_traces_plans_and_kernels():
    info = run_script(ZMLX_LOG="info").stderr
    assert "zmlx.fuse: <lambda>: traced" in info and "1 regions (4 ops)" in info
    assert "for (" not in info
    debug = run_script(ZMLX_LOG="debug").stderr
    assert "zmlx_multiply_exp_add" in debug and "in0" in debug


def test_the_switches_can_change_while_a_function_lives(monkeypatch, unwarned):
    """Each setting has traces of its own; counts add up."""
    fused = zmlx.fuse(f)
    fused(x, row)
    monkeypatch.setenv("ZMLX_CHECK", "1")
    close(fused(x, row), f(x, row))
    monkeypatch.setenv("ZMLX_FUSE", "0")
    fused(x, row)
    monkeypatch.delenv("ZMLX_FUSE")
    monkeypatch.delenv("ZMLX_CHECK")
    fused(x, row)
    assert fused.cache_info()[:2] == (1, 2)
