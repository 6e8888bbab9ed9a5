"""The census itself: it finds what there is, believes only what ran, and names what did not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

import zmlx
from tests.sanitized.census import (
    HEADER,
    PACKAGE,
    Census,
    Found,
    catalog,
    header_functions,
    makers,
    missing,
)
from tests.sanitized.watching import Watch
from zmlx import elementwise, metal, msl
from zmlx.ops.table import OPS


@pytest.fixture
def census() -> Iterator[Census]:
    counted = Census()
    counted.start()
    yield counted
    counted.stop()


def complete() -> Found:
    called = set(header_functions(HEADER))
    return Found({*makers(), *catalog()}, set(OPS), called, launches=1, accesses=1)


def test_what_there_is() -> None:
    assert {"msl/emit.py:emit", "metal/kernels.py:kernel", "helpers/written.py:_run"} <= makers()
    assert {"kk_silu", "kk_hash_u32", "kk_threadgroup_max", "zmlx_sigmoid"} <= set(
        header_functions(HEADER)
    )
    assert missing(complete()) == []


def test_a_new_kernel_is_missed(tmp_path: Path) -> None:
    """One more maker in the package; a row; a function of the header; no access at all."""
    (tmp_path / "added.py").write_text(
        "from zmlx import metal\nclass Op:\n  def kernel(self):\n    return metal.kernel()\n"
    )
    assert makers(tmp_path) == {"added.py:kernel"}
    for change, words in (
        (
            {"functions": complete().functions - {"msl/emit.py:emit"}},
            "made in zmlx/msl/emit.py:emit",
        ),
        ({"ops": set(OPS) - {"erf"}}, "the row 'erf'"),
        ({"called": complete().called - {"kk_mish_grad"}}, "kk_mish_grad of the header"),
        ({"accesses": 0}, "the sanitizer saw no access"),
    ):
        less = Found(**{**complete().__dict__, **change})  # type: ignore[arg-type]
        (gap,) = missing(less)
        assert words in gap


def test_kernels_that_ran_are_counted(census: Census, watch: Watch) -> None:
    op = elementwise.unary(
        name="censused", expr="again(x) + kk_mish(x)", cache=False, header=msl.DEFAULT_HEADER
        + "inline float again(float v) {\n  thread float* p = &v;\n  return *p;\n}\n",
    )  # fmt: skip
    mx.eval(op(mx.ones(9)), zmlx.fuse(lambda x: mx.erf(x) * 2)(mx.ones(9)))
    found = census.found()
    assert {"helpers/written.py:_run", "msl/emit.py:emit"} <= found.functions
    assert {"kk_mish", "kk_held", "again"} <= found.called and "kk_silu" not in found.called
    assert {"erf", "multiply"} <= found.ops and "exp" not in found.ops
    assert found.launches == 2 and found.accesses > 0
    assert found.plain() == (again := Found(), again.add(found.plain()))[0].plain()
    assert watch.ran() == 2


def test_kernels_that_did_not_run_are_not_counted(
    census: Census, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made, but never launched; launched, but never evaluated; evaluated, but not watched."""
    text = {"input_names": ["x"], "output_names": ["out"], "cache": False}
    source = "out[thread_position_in_grid.x] = {}.0f * x[thread_position_in_grid.x];"
    kernels = [metal.kernel(name="idle", source=source.format(n), **text) for n in range(3)]
    lazy = kernels[1](mx.ones(9))
    monkeypatch.setenv("ZMLX_SANITIZE", "0")
    mx.eval(kernels[2](mx.ones(9)))
    assert census.found() == Found()
    mx.eval(lazy)
    assert census.found().launches == 1


def test_every_kernel_goes_through_a_device() -> None:
    """MLX's own way to launch a kernel, which nobody watches, is for devices alone."""
    around = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"(fast\.|return )metal_kernel\(", path.read_text("utf-8"))
        or "fast.cuda_kernel(" in path.read_text("utf-8")
        or "compiled_cuda(" in path.read_text("utf-8")
    ]
    assert sorted(around) == ["device/cuda_kernel.py", "device/metal.py"]
