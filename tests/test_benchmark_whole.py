"""The suite "whole": blocks, a physics-informed loss, optimizers; fused against plain MLX."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from benchmarks import whole
from benchmarks.harness import SUBJECT, Settings, as_arrays, run_rows
from benchmarks.whole_cases import WHOLE, Whole, pullback

SIZE = 2**10
pytestmark = pytest.mark.usefixtures("quick_compiler")


def close(found: Any, wanted: Any, limit: float) -> None:
    mine, plain = as_arrays(found), as_arrays(wanted)
    assert len(mine) == len(plain) > 0
    for got, want in zip(mine, plain, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        scale = max(1.0, float(mx.abs(want).max().item()))
        np.testing.assert_allclose(np.array(got), np.array(want), rtol=limit, atol=limit * scale)


@pytest.mark.parametrize("case", WHOLE, ids=lambda c: c.name)
def test_values_and_gradients_are_plain_mlxs(case: Whole) -> None:
    given = case.given(SIZE) if case.pulled else case.inputs(SIZE)
    inputs = given[:-1] if case.pulled else given
    fused = zmlx.fuse(case.fn)
    close(fused(*inputs), case.fn(*inputs), 1e-5)
    if case.pulled:
        close(pullback(fused)(*given), pullback(case.fn)(*given), 5e-5)


@pytest.mark.parametrize("name", ["AdamW", "Lion"])
def test_a_step_over_a_tree_is_few_launches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # watched kernels share no launch
    case = next(c for c in WHOLE if c.name.startswith(name))
    inputs = case.inputs(SIZE)
    fused = whole.launches(zmlx.fuse(case.fn), inputs)
    assert fused <= 3 < whole.launches(mx.compile(case.fn), inputs)


def test_a_row_counts_launches_and_compares_its_peers() -> None:
    quick = Settings(quick=True, rounds=1)
    rows = whole.rows(quick)
    assert len(rows) == len({row.name for row in rows}) == 9
    (result,) = run_rows([row for row in rows if row.name == "Lion over a tree"], quick)
    assert not result.error
    assert {SUBJECT, "mx.compile", "mx eager"} <= set(result.samples)
    assert result.note.startswith(f"launches: {SUBJECT} ")
