"""What a watched kernel may break without breaking the process; several faults to a kernel."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zmlx import metal
from zmlx.device import sanitize
from zmlx.device.base import Device
from zmlx.device.sanitize import Finding
from zmlx.errors import DeviceError, SanitizeError

pytestmark = pytest.mark.usefixtures("host_device")


def run(
    source: str, monkeypatch: pytest.MonkeyPatch, header: str = "", **call: Any
) -> tuple[list[Finding], Any]:
    """Findings, or outputs, of 64 threads in two groups over x = 0 ... 63 and no = 0."""
    monkeypatch.setenv("ZMLX_SANITIZE", "1")
    kernel = metal.kernel(
        name="kinds", input_names=["x", "no"], output_names=["out"], header=header,
        source="uint i = thread_position_in_grid.x, t = thread_index_in_threadgroup;\n" + source,
    )  # fmt: skip
    with mx.stream(mx.cpu):
        x, no = mx.arange(64, dtype=mx.float32), mx.zeros((64,), mx.int32)
        launch = {"grid": (64, 1, 1), "threadgroup": (32, 1, 1), "init_value": 0, **call}
        (out,) = kernel(x, no, output_shapes=[(64,)], output_dtypes=[mx.float32], **launch)
        try:
            mx.eval(out)
        except SanitizeError as error:
            return [f for f in error.findings if isinstance(f, Finding)], None
    return [], np.array(out)


HELPERS = """\
struct two { float a[4]; float b[4]; };
constant float table[4] = {1, 2, 3, 4};
inline float at(const thread float* p, uint k) { return p[k]; }
inline void put(thread float* p, uint k, float v) { p[k] = v; }
inline float of(constant float* p, uint k) { return p[k]; }
"""
# Each is what one thread does, the kinds of which one is found there, words of the message.
OWN: list[tuple[str, set[str], str]] = [
    ("float a[4] = {1, 2, 3, 4}; a[i + 4] = x[i]; out[i] = a[no[i]];", {"index outside"}, "a["),
    ("float a[4] = {1, 2, 3, 4}; out[i] = a[i + 4];", {"index outside"}, "a["),
    ("float a[4] = {1, 2, 3, 4}; out[i] = a[no[i] - 1];", {"index outside"}, "a[-1]"),
    ("float a[4] = {1, 2, 3, 4}; out[i] = at(a, i + 4);", {"read past a variable"}, "outside"),
    ("float a[4] = {1, 2, 3, 4}; put(a, i + 4, 1); out[i] = a[no[i]];",
     {"write past a variable"}, "outside"),
    ("out[i] = table[i + 4];", {"index outside"}, "table["),
    ("out[i] = of(table, i + 4);", {"read past a variable"}, "outside"),
    ("two s = {}; s.a[i] = 1; out[i] = s.b[no[i]];", {"index outside"}, "a["),
    ("float m[4][4] = {}; m[i][0] = 1; out[i] = m[no[i]][0];", {"index outside"}, "m["),
    ("out[i] = ((const device float4*)(x + i))->x;", {"misaligned"}, "x[9]"),
    ("out[i] = *(const device uint*)((const device uchar*)x + i + 1);", {"misaligned"}, "4 bytes"),
    ("*(device float2*)(out + i) = float2(1);", {"misaligned"}, "8 bytes"),
    ("out[i] = int(i) / no[i];", {"division by zero"}, "zero"),
    ("out[i] = i % uint(no[i]);", {"division by zero"}, "zero"),
    ("out[i] = long(i) / long(no[i]);", {"division by zero"}, "zero"),
    ("out[i] = (INT_MIN + no[i]) / (no[i] - 1);", {"division overflows"}, "-1"),
    ("float4 v = float4(x[i]); out[i] = ((thread float*)&v)[i];", {"read past a variable"}, ""),
]  # fmt: skip


def test_what_threads_do_wrong_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = "\n".join(f"case {n}: {{ {text} break; }}" for n, (text, _, _) in enumerate(OWN))
    found, _ = run(f"switch (i) {{\n{cases}\n}}", monkeypatch, HELPERS)
    for n, (text, kinds, words) in enumerate(OWN):
        mine = [f for f in found if f.thread == (n, 0, 0) and f.kind in kinds]
        assert mine, (text, [str(f) for f in found])
        assert words in str(mine[0]), str(mine[0])
    assert all(f.thread[0] < len(OWN) for f in found), "a thread that does nothing wrong"


def test_shuffles_from_lanes_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        ("out[i] = simd_shuffle(x[i], ushort(t + 1));", True),
        ("out[i] = simd_shuffle_xor(x[i], 32);", True),
        ("if (t < 16) out[i] = simd_shuffle_xor(x[i], 16);", True),
        ("if (t < 16) out[i] = simd_broadcast(x[i], 20);", True),
        ("if (t < 16) out[i] = simd_shuffle_down(x[i], 8);", True),
        ("for (uint k = 0; k < t; ++k) out[i] += simd_shuffle_xor(x[i], 1);", True),
        ("out[i] = simd_shuffle_down(x[i], 1) + simd_shuffle_up(x[i], 3);", False),
        ("if (t < 16) out[i] = simd_shuffle_xor(x[i], 8) + simd_broadcast_first(x[i]);", False),
        ("out[i] = simd_shuffle(x[i], ushort(31 - t)) + simd_shuffle_rotate_down(x[i], 5);", False),
    ]
    found, _ = run("\n".join(text for text, _ in lines), monkeypatch)
    assert {f.kind for f in found} == {"shuffle"}
    assert {f.line.number for f in found if f.line} == {
        n for n, (_, wrong) in enumerate(lines, start=2) if wrong
    }


def test_values_of_lanes_beyond_a_small_simdgroup_are_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sanitize.notes()
    source = (
        "float s = x[i];\nfor (ushort d = 8; d > 0; d /= 2)\ns += simd_shuffle_down(s, d);\n"
        "out[i] = t == 0 ? s : 0.0f;\nfloat f = simd_shuffle_and_fill_up(x[i], 0.0f, ushort(0));\n"
        "out[i] += f * 0 + simd_shuffle_up(x[i], 3) * 0;"
    )
    found, out = run(source, monkeypatch, threadgroup=(16, 1, 1))
    assert not found
    assert out[::16].tolist() == [sum(range(n, n + 16)) for n in (0, 16, 32, 48)]
    (note,) = sanitize.notes()
    assert note.is_note and note.line and (note.kind, note.line.number) == ("neighbour absent", 4)
    assert "from lane 16, which this simdgroup has not" in str(note)
    found, _ = run("out[i] = simd_shuffle_down(x[i], 1);", monkeypatch)
    assert not found and not sanitize.notes()


def test_lanes_that_store_one_value_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    sanitize.notes()
    source = (
        "threadgroup float s[2];\ns[0] = 5;\nthreadgroup_barrier(mem_flags::mem_threadgroup);\n"
    )
    found, out = run(source + "out[i] = s[0];", monkeypatch)
    assert not found
    assert out.tolist() == [5.0] * 64
    (note,) = sanitize.notes()
    assert (note.kind, note.buffer, note.is_note) == ("same value", "s", True)
    found, _ = run(source.replace("5", "t / 31") + "out[i] = s[0];", monkeypatch)
    assert "race" in {f.kind for f in found}


def test_a_plain_write_is_not_hidden_by_ones_own_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "threadgroup atomic_uint n;\nif (t == 0) *(threadgroup uint*)&n = 0;\n"
    source += "atomic_fetch_add_explicit(&n, 1u, memory_order_relaxed);\n"
    found, _ = run(source, monkeypatch)
    assert [(f.kind, f.buffer) for f in found if f.kind == "race"] == [("race", "n")]


def test_a_kernel_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "for (uchar k = 0; k < 300; ++k) out[i] += x[k % 64];"
    with sanitize.watching(budget=10_000):
        found, _ = run(source, monkeypatch)
    assert [(f.kind, f.line and f.line.number) for f in found] == [("no end", 2)]
    with sanitize.watching(seconds=0.2):  # no access tells of this one
        found, _ = run("volatile uint n = 1; while (n != 0) n = 1 + (n & 3);", monkeypatch)
    assert [f.kind for f in found] == ["no end"]


def test_a_stack_that_is_too_small_is_named(host_device: Device) -> None:
    kernel = metal.kernel(
        name="deep", input_names=["x"], output_names=["out"],
        source="volatile float a[131072]; uint i = thread_position_in_grid.x;\n"
        "for (uint k = 0; k < 131072; ++k) a[k] = x[0];\nout[i] = a[i];",
    )  # fmt: skip
    with mx.stream(mx.cpu), pytest.raises(DeviceError, match="bytes, more than the"):
        kernel(
            mx.zeros(1), grid=(4, 1, 1), threadgroup=(4, 1, 1), output_shapes=[(4,)],
            output_dtypes=[mx.float32],
        )  # fmt: skip


@pytest.mark.parametrize("watched", [False, True])
def test_divisions_by_zero_go_on(
    watched: bool, host_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads what they give; the next line's values are right."""
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # under which they are findings
    types = ("char", "uchar", "short", "ushort", "int", "uint", "long", "ulong")
    lines = "".join(
        f"{{ {kind} a = {kind}(n[i] + 7), b = {kind}(n[i]); out[i] += float(a / b) * 0 "
        f"+ float(a % b) * 0; out[i] += float(a / {kind}(b + 2)); }}\n"
        for kind in types
    )
    least = "out[i] += float((INT_MIN + n[i]) / (n[i] - 1)) * 0;"
    kernel = metal.kernel(
        name="divides", input_names=["n"], output_names=["out"],
        source="uint i = thread_position_in_grid.x; out[i] = 0;\n" + lines + least
        + ("\nout[i] = simd_sum(out[i]) / 4;" if watched else ""),
    )  # fmt: skip
    with mx.stream(mx.cpu):
        (out,) = kernel(
            mx.zeros((4,), mx.int32), grid=(4, 1, 1), threadgroup=(4, 1, 1), output_shapes=[(4,)],
            output_dtypes=[mx.float32],
        )  # fmt: skip
        assert np.array(out).tolist() == [3.0 * len(types)] * 4
