"""The sanitizer: every class of fault is found, at its line, and the process goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from zmlx import metal
from zmlx.device import sanitize
from zmlx.device.base import Device, device_named
from zmlx.device.host_grid import HostGridLauncher
from zmlx.device.sanitize import Finding
from zmlx.errors import SanitizeError
from zmlx.msl.kernel import Arg, KernelSource
from zmlx.msl.spec import Launch, MetalKernelSpec

pytestmark = pytest.mark.usefixtures("host_device", "on_cpu")

PLACE = "uint i = thread_position_in_grid.x; uint t = thread_index_in_threadgroup;\n"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);\n"


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ZMLX_SANITIZE", "1")
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def findings(source: str, *, header: str = "", atomic: bool = False, **call: Any) -> list[Finding]:
    """What is found in 64 threads, two groups of 32, over x = 0 … 63."""
    kernel = metal.kernel(
        name="faulty", input_names=["x"], output_names=["out"], source=PLACE + source,
        header=header, atomic_outputs=atomic,
    )  # fmt: skip
    x = mx.arange(64, dtype=mx.float32)
    try:
        mx.eval(kernel(x, grid=(64, 1, 1), threadgroup=(32, 1, 1), **call))
    except SanitizeError as error:
        assert "kernel 'faulty'" in str(error)
        return [f for f in error.findings if isinstance(f, Finding)]
    return []


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, [str(f) for f in found]
    return found[0]


@pytest.mark.parametrize(
    ("source", "kind", "buffer", "index", "count"),
    [
        ("out[i] = x[i + 1];", "read outside", "x", 64, 1),
        ("out[i] = x[int(i) - 1];", "read outside", "x", -1, 1),
        ("out[i] = x[i];\nif (i == 9) out[64] = 0;", "write outside", "out", 64, 1),
        ("out[i] = x[i] + x_shape[1];", "read outside", "x_shape", 1, 64),
        ("out[i] = i == 3 ? ((const device float4*)x)[15 + i].x : x[i];",
         "read outside", "x", 72, 1),
        ("threadgroup float s[32];\ns[t] = x[i];\nout[i] = s[t + (t == 31)];",
         "read outside", "s", 32, 2),
        ("threadgroup float s[32];\nif (t < 31) s[t] = x[i];\n" + BARRIER + "out[i] = s[t];",
         "read before written", "s", 31, 2),
        ("threadgroup float s[1];\ns[0] = x[i];\n" + BARRIER + "out[i] = s[0];",
         "race", "s", 0, 62),
        ("out[i] = x[i];\nout[i ^ 32] = x[i];", "race", "out", None, 64),
        ("out[i] = x[i];\nthreadgroup_barrier(mem_flags::mem_device);\n"
         "if (t == 0) out[i + 1] = 5;", "written twice", "out", 1, 2),
        ("if (i != 5 && i != 40) out[i] = x[i];", "never written", "out", 5, 2),
        ("threadgroup float s[10000];\ns[t] = x[i];\nout[i] = s[t];",
         "too much threadgroup memory", "s", 0, 1),
    ],
)  # fmt: skip
def test_a_fault_is_found_once(
    source: str, kind: str, buffer: str, index: int | None, count: int
) -> None:
    found = only(findings(source))
    assert (found.kind, found.buffer) == (kind, buffer), str(found)
    assert index is None or found.index == index
    assert found.count == count, str(found)


@pytest.mark.parametrize(
    ("source", "line", "other_line"),
    [
        ("float y = x[i];\nout[i] =\n  y +\n  x[i + 40];", 5, None),
        ("threadgroup float s[32];\ns[t] = x[i];\n\nout[i] = s[31 - t];", 3, 5),
    ],
)
def test_lines_are_those_of_the_text(source: str, line: int, other_line: int | None) -> None:
    found = [f for f in findings(source) if f.kind != "read before written"]
    one = only(found)
    lines = {at.number for at in (one.line, one.other_line) if at is not None}
    assert lines == {line, other_line} - {None}
    assert all(at.part == "body" for at in (one.line, one.other_line) if at)


def test_a_fault_in_a_helper_is_named_there() -> None:
    header = (
        "// helpers\ninline float past(const device float* p, uint i) {\n  return p[i + 60];\n}\n"
    )
    found = only(findings("out[i] = past(x, i % 8);", header=header))
    assert found.line is not None
    assert (found.line.part, found.line.number) == ("header", 3)
    assert (found.group, found.thread) == ((0, 0, 0), (4, 0, 0))


# A struct for each way to return one: two bytes, a vector, two registers, memory. The helper is too
# long to be inlined by itself.
SIZES = {"half": 2, "float4": 16, "pair": 8, "many": 32}
STRUCTS = """
struct pair { float a, b; };
struct many { float a[8]; };
template <typename T> KIND T same(T x, uint n) {
  float sum = 0;
  for (uint k = 1; k < n; ++k) sum += exp(float(k)) * sin(float(k)) + tanh(float(k));
  return sum > 1e9f ? T{} : x;
}
"""


@pytest.mark.parametrize("kind", ["inline", "__attribute__((noinline))"])
def test_structs_that_helpers_take_and_return_are_seen(kind: str) -> None:
    header = STRUCTS.replace("KIND", kind)
    stores, reads = "", ""
    for n, (name, size) in enumerate(SIZES.items()):
        # Thread n writes 16 of the 64 floats.
        stores += f"if (i == {n}) for (uint k = {n * 64 // size}; k < {(n + 1) * 64 // size}; ++k) "
        stores += f"((device {name}*)out)[k] = same({name}{{}}, x_shape[0] + {n});\n"
        reads += f"if (i == {n}) ((device {name}*)out)[{n * 64 // size}] = "
        reads += f"same(((const device {name}*)(x + 64))[i], x_shape[0] + {n});\n"
    assert not findings(stores, header=header)
    found = findings(reads, header=header, init_value=0)
    # A struct's members may be read one by one.
    lines = {(f.kind, f.buffer, f.line.number) for f in found if f.line}
    assert lines == {("read outside", "x", 2 + n) for n in range(len(SIZES))}, found


def test_recursion_without_end_ends_the_thread_and_not_the_process() -> None:
    header = "inline float deep(const device float* p, uint n) {\n"
    header += "  return p[n % 64] + deep(p, n + 1);\n}"
    found = findings("out[i] = i == 9 ? deep(x, i) : x[i];", header=header)
    assert [f.kind for f in found] == ["stack used up", "never written"]
    assert "calls itself" in str(found[0]) and found[0].thread == (9, 0, 0)
    assert not findings("out[i] = x[i];")


def test_what_ran_watched_is_counted() -> None:
    before = sanitize.watched()
    kernel = metal.kernel(
        name="counted", input_names=["x"], output_names=["out"], source=PLACE + "out[i] = x[i];"
    )
    lazy = [kernel(mx.zeros(64), grid=(64, 1, 1), threadgroup=(32, 1, 1)) for _ in range(3)]
    assert sanitize.watched() == before
    mx.eval(lazy)
    (fresh,) = sanitize.watched().items() - before.items()
    assert fresh[1] == sanitize.Watched(launches=3, accesses=3 * 2 * 64)
    with pytest.raises(SanitizeError):
        mx.eval(kernel(mx.zeros(60), grid=(64, 1, 1), threadgroup=(32, 1, 1)))
    assert sanitize.watched()[fresh[0]].launches == 4


def test_threads_that_return_early_miss_a_barrier() -> None:
    source = "out[i] = x[i];\nif (t >= 20) return;\n" + BARRIER
    found = only(findings(source))
    assert (found.kind, found.count) == ("barrier not reached", 2)
    assert found.line is not None
    assert found.line.number == 4
    assert "12 threads" in str(found)


def test_two_barriers_are_not_one() -> None:
    source = "if (t < 9) {\n" + BARRIER + "} else {\n" + BARRIER + "}\nout[i] = x[i];"
    found = only(findings(source))
    assert found.kind == "different barriers"
    assert {found.line.number, found.other_line.number} == {3, 5}  # type: ignore[union-attr]


def test_a_barrier_orders_only_the_memory_it_names() -> None:
    share = "out[i] = x[i];\nthreadgroup_barrier(mem_flags::{});\nif (out[i ^ 1] < 0) return;"
    assert only(findings(share.format("mem_threadgroup"))).kind == "race"
    assert not findings(share.format("mem_device"))


def test_a_simdgroup_barrier_orders_its_lanes_alone() -> None:
    source = (
        "threadgroup float s[64];\nuint n = thread_position_in_threadgroup.x;\ns[n] = x[n];\n"
        "simdgroup_barrier(mem_flags::mem_threadgroup);\nout[n] = s[n ^ FLIP];"
    )
    kernel = metal.kernel(name="lanes", input_names=["x"], output_names=["out"], source=source)
    for flip, faulty in ((1, False), (32, True)):
        launch = {"grid": (64, 1, 1), "threadgroup": (64, 1, 1), "template": [("FLIP", flip)]}
        x = mx.arange(64, dtype=mx.float32)
        if faulty:
            with pytest.raises(SanitizeError, match="race on s"):
                mx.eval(kernel(x, **launch))
        else:
            np.testing.assert_array_equal(np.array(kernel(x, **launch)[0]), np.arange(64) ^ 1)


def test_atomics_do_not_race_with_one_another_but_with_plain_accesses() -> None:
    add = "atomic_fetch_add_explicit(&out[i % 4], 1.0f, memory_order_relaxed);\n"
    assert not findings(add, atomic=True, init_value=0)
    mixed = add + "if (i == 63) ((device float*)out)[0] = 3;"
    found = findings(mixed, atomic=True, init_value=0)
    assert {f.kind for f in found} == {"race"}


def test_far_indices_end_the_thread_and_not_the_process() -> None:
    found = findings("out[i] = x[i * 123456789];\n")
    assert {f.kind for f in found} == {"read outside", "never written"}
    assert not findings("out[i] = x[i];")


def test_findings_are_at_most_twenty() -> None:
    lines = "".join(f"sum += x[i + {64 + n}];\n" for n in range(30))
    assert len(findings(f"float sum = 0;\n{lines}out[i] = sum;")) == 20


def test_a_launcher_can_be_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE")
    spec = MetalKernelSpec("asked", ("x",), ("out",), "out[thread_position_in_grid.x] = x[9];")
    launch = Launch((4, 1, 1), (4, 1, 1), ((4,),), ("float32",))
    device: Any = device_named("host")
    mx.eval(HostGridLauncher(device, spec)([mx.zeros(16)], launch))
    with pytest.raises(SanitizeError, match=r"read outside a buffer: x\[9\].* at body line 1"):
        mx.eval(HostGridLauncher(device, spec, sanitize=True)([mx.zeros(4)], launch))


def test_inputs_that_wait_for_earlier_work_are_seen_whole() -> None:
    kernel = metal.kernel(
        name="late", input_names=["x"], output_names=["out"],
        source="uint i = thread_position_in_grid.x;\nout[i] = x[i] + 1;",
    )  # fmt: skip
    x = mx.random.normal((300, 300))
    product = (x @ x).reshape(-1)[:100]
    (found,) = kernel(kernel(product)[0])
    np.testing.assert_allclose(np.array(found), np.array(product) + 2, rtol=1e-6)


@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
def test_fused_functions_run_watched(numerics: str, host_device: Device) -> None:
    def formula(x: mx.array, y: mx.array) -> mx.array:
        return mx.exp(x) * y + mx.sigmoid(x.T) * x[:1]

    x, y = mx.random.normal((33, 33)), mx.random.normal((33,))
    fused = zmlx.fuse(formula, numerics=numerics)
    np.testing.assert_allclose(np.array(fused(x, y)), np.array(formula(x, y)), rtol=1e-5, atol=1e-6)
    gradient = mx.grad(lambda x: fused(x, y).sum())(x)
    wanted = mx.grad(lambda x: formula(x, y).sum())(x)
    np.testing.assert_allclose(np.array(gradient), np.array(wanted), rtol=1e-4, atol=1e-5)


def test_kernels_of_the_generators_kind_are_watched(host_device: Device) -> None:
    body = (
        "for (INDEX e = INDEX(thread_position_in_grid.x) * ELEMS, n = e + ELEMS; e < n; ++e)\n"
        "  if (e < in0_shape[0])\n    out0[e] = in0[e * 2];\n"
    )
    kernel = KernelSource(
        "faulty", (Arg("in0", "float32", 1),), (Arg("out0", "float32", 1),), body, rank=1
    )
    (launch,) = host_device.build([kernel])
    with pytest.raises(SanitizeError, match=r"read outside a buffer: in0\[.*body line 3") as caught:
        mx.eval(launch([mx.zeros(10)]))
    assert only(list(caught.value.findings)).count == 5  # type: ignore[arg-type]
