"""What `import zmlx` gives, and what it costs."""

from __future__ import annotations

import importlib
import inspect
import os
import pydoc
import subprocess
import sys
import textwrap
from collections.abc import Callable

import mlx.core as mx
import pytest

import zmlx

MODULES = {
    *("autograd", "autotune", "cache", "codegen", "elementwise", "kernels", "metal", "msl"),
    *("registry", "rowwise"),
}


@pytest.mark.smoke
def test_the_public_names() -> None:
    own = {"FusedFunction", "__version__", "config", "errors", "explain", "fuse"}
    functions = {"autotune_threadgroup", "export", "exporter", "load", "profile"}
    functions |= {"patch", "unpatch", "validate"}
    assert set(zmlx.__all__) == own | MODULES | functions
    assert all(hasattr(zmlx, name) for name in zmlx.__all__) and set(dir(zmlx)) >= MODULES
    for name in MODULES:
        assert getattr(zmlx, name) is importlib.import_module(f"zmlx.{name}")
    with pytest.raises(AttributeError, match="'zmlx' has no attribute 'kernl'"):
        _ = zmlx.kernl


def test_autotune_is_a_module_and_a_function() -> None:
    done = run(
        """
        import mlx.core as mx
        from zmlx import autotune
        import zmlx.autotune
        import zmlx
        assert autotune is zmlx.autotune and callable(autotune.get_autotuned_threadgroup)
        assert zmlx.autotune_threadgroup is autotune.autotune_threadgroup
        from zmlx.autotune import AutotuneKey, AutotuneResult, KernelSearch
        from zmlx.autotune import TunedKernel, TuneReport
        fused = zmlx.fuse(lambda x: mx.exp(x) * x)
        found = zmlx.autotune(fused, mx.ones(3))
        on_gpu = mx.default_device().type == mx.DeviceType.gpu  # there is a setting to find there
        assert type(found) is TuneReport and len(found.kernels) == on_gpu
        assert all(type(k) is TunedKernel and "exp_multiply" in k.name for k in found.kernels)
        with mx.stream(mx.cpu):
            print(zmlx.autotune(fused, mx.ones(3)).kernels)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def double(x: mx.array) -> mx.array:
    return x + x * 1.0


@pytest.mark.parametrize(
    "fused",
    [
        zmlx.fuse(double),
        zmlx.fuse()(double),
        zmlx.fuse(numerics="mlx")(double),
        zmlx.fuse(double, cache_size=3),
        importlib.import_module("zmlx.fuse")(double),  # type: ignore[operator]
    ],
)
def test_the_package_is_the_decorator(fused: Callable[[mx.array], mx.array]) -> None:
    from zmlx.fuse.plan import plan

    assert callable(plan) and isinstance(fused, zmlx.FusedFunction)
    assert fused(mx.ones(3)).tolist() == [2, 2, 2]
    assert fused.__name__ == "double" and fused.__wrapped__ is double


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:

    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.smoke
def test_import_loads_nothing_heavy_and_prints_nothing() -> None:
    done = run(
        """
        import sys
        import zmlx
        heavy = {"sympy", "networkx", "numpy", "rich", "jinja2", "matplotlib", "nanobind", "scipy"}
        heavy |= {"lark", "platformdirs", "filelock", "zmlx.autotune", "zmlx.metal"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_call_needs_no_sympy_until_a_derivative_is_wanted() -> None:
    done = run(
        """
        import sys
        import mlx.core as mx
        import zmlx
        f = zmlx.fuse(lambda x: mx.tanh(x) * x + 1)
        mx.eval(f(mx.ones(3)))
        assert "sympy" not in sys.modules
        mx.eval(mx.grad(lambda x: f(x).sum())(mx.ones(3)))
        assert "sympy" in sys.modules
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_unknown_log_level_is_refused() -> None:
    done = run("import zmlx", ZMLX_LOG="loud")
    assert done.returncode != 0 and "give one of debug, info, warning" in done.stderr


def test_help_on_the_decorator_shows_its_options() -> None:
    assert list(inspect.signature(zmlx.fuse).parameters) == [
        "fn", "inputs", "outputs", "numerics", "cache_size"
    ]  # fmt: skip
    text = pydoc.render_doc(zmlx.fuse, renderer=pydoc.plaintext)
    assert text.index("numerics: ") < text.index("PACKAGE CONTENTS")
