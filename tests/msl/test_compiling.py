"""What the host's compiler makes of the text: vector loops, in little time."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from derive_cases import record
from msl_cases import FLOATS, build

from zmlx.derive.accumulate import derive_vjp
from zmlx.device import toolchain
from zmlx.device.base import Device
from zmlx.device.host_text import translation_unit
from zmlx.msl.emit import emit
from zmlx.msl.kernel import KernelSource
from zmlx.trace.graph import Graph


def silu_gate(F, a, b):
    return F.multiply(F.multiply(a, F.sigmoid(a)), b)


def gelu_tanh(F, x):
    inner = F.multiply(F.add(x, F.multiply(F.power(x, 3), 0.044715)), 0.797885)
    return F.multiply(F.multiply(x, 0.5), F.add(F.tanh(inner), 1.0))


def graphs(dtype: str) -> dict[str, Graph]:
    return {
        "silu_gate": record(silu_gate, ((4,), dtype), ((4,), dtype)),
        "gelu_tanh": record(gelu_tanh, ((4,), dtype)),
        "gelu_tanh_vjp": derive_vjp(record(gelu_tanh, ((4,), dtype))).graph,
        "cast": record(lambda F, x: F.astype(x, "uint32"), ((4,), dtype)),
        "rounding": record(lambda F, x: F.add(F.astype(x, "float16"), 0.5), ((4,), dtype)),
        "column": record(silu_gate, ((3, 4), dtype), ((3, 1), dtype)),
    }


def vectorized(kernels: list[KernelSource], folder: Path) -> set[tuple[str, int]]:
    """(kernel, line of its body) of every loop that the compiler reports as vectorised."""
    text = folder / "kernels.cpp"
    text.write_text(translation_unit(kernels), "utf-8")
    compiler = toolchain.find_compiler()
    assert compiler is not None
    flags = [*toolchain.kernel_flags(), f"-I{toolchain.HEADERS}", "-fopt-info-vec"]
    command = [*compiler.command, *flags, str(text), "-o", str(folder / "kernels.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = re.findall(r"(zmlx_\w+)\.body:(\d+):\d+: optimized: +loop vectorized", done.stderr)
    return {(name, int(line)) for name, line in report}


@pytest.mark.skipif("clang" in toolchain.version().lower(), reason="reads GCC's report")
def test_dense_and_strided_loops_are_vector_loops(tmp_path: Path, host_device: Device) -> None:
    kernels = {f"{n} {d}": emit(g) for d in FLOATS for n, g in graphs(d).items()}
    found = vectorized(list(kernels.values()), tmp_path)
    for name, kernel in kernels.items():
        loops = inner_loops(kernel)
        assert len(loops) == 2, name
        missing = [i for i in loops if (kernel.name, i) not in found]
        assert not missing, f"{name}: lines {missing}\n{kernel.header}{kernel.body}"


def inner_loops(kernel: KernelSource) -> list[int]:
    lines = kernel.body.splitlines()
    return [i for i, line in enumerate(lines, start=1) if "for (INDEX k" in line]


def selections() -> dict[str, Graph]:
    """Conditions, bools and functions in which GCC is tempted to branch."""

    def gamma(F, x):
        y = F.maximum(x, 0.0)
        return F.where(F.less_equal(y, 0.003), F.multiply(y, 12.92), F.power(y, 0.4167))

    def safe_log(F, x):
        y = F.minimum(F.maximum(x, 0.0), 9.0)
        return F.where(F.greater(y, 0.5), F.log(y), F.where(F.greater(y, 0.1), y, F.log1p(x)))

    def doubled(F, x):
        return F.where(F.equal(x, 1.0), x, F.add(x, x))

    def clipped(F, x):
        for low, high in ((-4.0, 3.0), (-2.0, 2.0)):
            x = F.minimum(F.maximum(x, low), high)
        return x

    made = {}
    for dtype in ("float32", "float16"):
        for f in (gamma, safe_log, doubled, clipped):
            made[f"{f.__name__} {dtype}"] = record(f, ((4,), dtype))
        made[f"mask {dtype}"] = record(
            lambda F, m, x: F.where(m, F.tanh(x), -1e9), ((4,), "bool"), ((4,), dtype)
        )
        made[f"weights {dtype}"] = record(
            lambda F, m, x: F.add(F.multiply(m, x), 1.0), ((4,), "bool"), ((4,), dtype)
        )
        made[f"power, wrapped {dtype}"] = record(
            lambda F, x, y: F.remainder(F.power(x, y), y), ((4,), dtype), ((4,), dtype)
        )
    bools = [((4,), "bool")] * 3
    made["bools"] = record(lambda F, a, b, c: F.where(a, F.logical_or(b, c), F.equal(b, c)), *bools)
    for dtype in ("int32", "uint8", "int16"):
        made[f"division {dtype}"] = record(
            lambda F, x, y: F.add(F.floor_divide(x, y), F.remainder(x, y)),
            *[((4,), dtype)] * 2,
        )
        made[f"powers {dtype}"] = record(lambda F, x, y: F.power(x, y), *[((4,), dtype)] * 2)
    return made


@pytest.mark.skipif("clang" in toolchain.version().lower(), reason="reads GCC's report")
def test_selections_leave_no_branch_in_a_loop(tmp_path: Path, host_device: Device) -> None:
    kernels = {name: emit(graph) for name, graph in selections().items()}
    found = vectorized(list(kernels.values()), tmp_path)
    for name, kernel in kernels.items():
        dense = inner_loops(kernel)[0]  # strided bytes may be gathered one by one
        assert (kernel.name, dense) in found, f"{name}\n{kernel.header}{kernel.body}"


def test_a_long_chain_compiles_in_seconds(host_device: Device) -> None:
    """60 ops, every eighth a tanh, every eighth a sigmoid: 0.7 s on two cores of 2024."""

    def chain(F, x, y):
        for i in range(60):
            op = ("tanh", "multiply", "add", "multiply", "sigmoid", "subtract", "maximum", "add")[
                i % 8
            ]
            x = getattr(F, op)(x) if i % 4 == 0 else getattr(F, op)(x, y if i % 3 else 0.5 + i)
        return x

    for exact in (False, True):
        started = time.perf_counter()
        build([record(chain, ((4,), "float32"), ((4,), "float32"))], exact)
        assert time.perf_counter() - started < 6.0  # the machine may be busy; 1.5 is the aim
