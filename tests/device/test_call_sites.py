"""Lanes meet in a call of the program, not in a line of the text: branches, helpers, macros."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zmlx import metal
from zmlx.errors import SanitizeError

pytestmark = pytest.mark.usefixtures("host_device")

HEADER = """
inline float total(float v) { return simd_sum(v); }
inline float deep(float v) { return total(v) + total(2 * v); }
__attribute__((noinline)) float apart(float v) { return simd_sum(v); }
template <typename T> T generic(T v) { return simd_sum(v); }
struct Sums {
  float of(float v) const { return simd_max(v); }
  static float sum(float v) { return simd_sum(v); }
};
#define SUM(v) simd_sum(v)
#define PICK(c) ((c) ? simd_sum(1.0f) : simd_sum(100.0f))
"""
# What a lane below 16 gets, what the others get, and an expression or the statements that give v.
CASES: list[tuple[float, float, str]] = [
    (16, 1600, "v = (t < 16) ? simd_sum(1.0f) : simd_sum(100.0f);"),
    (16, 7, "if (t < 16) v = simd_sum(1.0f); else v = simd_max(7.0f);"),
    (16, 1600, "if (t < 16) v = total(1.0f); else v = total(100.0f);"),
    (48, 4800, "v = t < 16 ? deep(1.0f) : deep(100.0f);"),
    (16, 1600, "v = t < 16 ? apart(1.0f) : apart(100.0f);"),
    (16, 1600, "switch (t / 16) { case 0: v = SUM(1.0f); break; default: v = total(100.0f); }"),
    (16, 1600, "switch (t / 16) { case 0: v = total(1.0f); break; default: v = total(100.0f); }"),
    (16, 1600, "v = (t < 16) ? SUM(1.0f) : SUM(100.0f);"),
    (16, 1600, "v = PICK(t < 16);"),
    (16, 1600, "v = t < 16 ? generic(1.0f) : generic(100.0f);"),
    (1, 100, "Sums s; v = t < 16 ? s.of(1.0f) : s.of(100.0f);"),
    (16, 1600, "v = t < 16 ? Sums::sum(1.0f) : Sums::sum(100.0f);"),
    (16, 1600, "auto f = [&](float w) { return simd_sum(w); }; v = t < 16 ? f(1.0f) : f(100.0f);"),
    (0, 2, "v = (t < 16 && simd_any(t == 20)) + 2 * (t >= 16 && simd_any(t == 20));"),
    (15, 15, "v = t < 16 ? simd_broadcast(float(t), 15) : simd_broadcast(float(t), 31) - 16;"),
    (1, 16, "v = t < 16 ? simd_prefix_inclusive_sum(1.0f) - t : total(1.0f);"),
    # One call that all lanes reach is one, whichever way they came.
    (1616, 1616, "v = t < 16 ? 1.0f : 100.0f; v = simd_sum(v);"),
    (1617, 1618, "if (t < 16) v = 1; else v = 100; v = SUM(v); if (t < 16) v += 1; else v += 2;"),
    # Lanes that left a loop wait for those still in it.
    (64, 128, "for (uint k = 0; k < 4; ++k) { if (t < 16) v += SUM(1.0f); else v += SUM(2.0f); }"),
    (96, 128, "for (uint k = 0; k < (t < 16 ? 2 : 4); ++k) v += SUM(1.0f); v += SUM(1.0f);"),
    (96, 128, "for (int k = 0; k < 4; ++k) { if (t < 16 && k == 2) break; v += SUM(1.0f); } "
              "v += SUM(1.0f);"),
    (4, 4, "uint k = 0; while (simd_any(k < (t < 16 ? 2u : 4u))) { v += 1; ++k; }"),
]  # fmt: skip


def launch(source: str, outputs: int) -> Any:
    kernel = metal.kernel(
        name="places", input_names=["x"], output_names=["out"], header=HEADER,
        source="uint t = thread_index_in_simdgroup;\n" + source,
    )  # fmt: skip
    with mx.stream(mx.cpu):
        (out,) = kernel(
            mx.zeros(1), grid=(32, 1, 1), threadgroup=(32, 1, 1),
            output_shapes=[(outputs, 32)], output_dtypes=[mx.float32],
        )  # fmt: skip
        mx.eval(out)
    return np.array(out)


@pytest.mark.parametrize("watched", ["", "1"])
def test_a_place_is_a_call(watched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_SANITIZE", watched)
    lines = [
        f"{{ float v = 0; {text} out[{32 * n} + t] = v; }}" for n, (_, _, text) in enumerate(CASES)
    ]
    got = launch("\n".join(lines), len(CASES))
    for row, (low, high, text) in zip(got, CASES, strict=True):
        assert row.tolist() == [low] * 16 + [high] * 16, text


BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup)"
HELPERS = f"inline void wait() {{ {BARRIER}; }}\n#define WAIT(c) if (c) wait(); else wait()\n"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (f"if (t & 1) {BARRIER}; else {BARRIER};", "different barriers"),
        ("if (t & 1) wait(); else wait();", "different barriers"),
        ("switch (t & 1) { case 0: wait(); break; default: wait(); }", "different barriers"),
        ("WAIT(t & 1);", "different barriers"),
        ("if (t < 16) simdgroup_barrier(mem_flags::mem_threadgroup);",
         "simdgroup barrier not reached"),
        ("if (t >= 20) return; simdgroup_barrier(mem_flags::mem_threadgroup);",
         "simdgroup barrier not reached"),
        ("for (uint k = 0; k < 3; ++k) wait(); if (t_group < 99) wait();", ""),
    ],
)  # fmt: skip
def test_barriers_are_told_apart_too(
    source: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMLX_SANITIZE", "1")
    kernel = metal.kernel(
        name="waits", input_names=["x"], output_names=["out"], header=HELPERS,
        source="uint t = thread_index_in_simdgroup, t_group = thread_index_in_threadgroup;\n"
        "out[t_group] = x[0];\n" + source,
    )  # fmt: skip
    with mx.stream(mx.cpu):
        lazy = kernel(
            mx.zeros(1), grid=(64, 1, 1), threadgroup=(64, 1, 1),
            output_shapes=[(64,)], output_dtypes=[mx.float32],
        )  # fmt: skip
        if not kind:
            mx.eval(lazy)
            return
        with pytest.raises(SanitizeError) as caught:
            mx.eval(lazy)
    assert [f.kind for f in caught.value.findings] == [kind]  # type: ignore[attr-defined]
