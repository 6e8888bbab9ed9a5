"""The sixteen functions of the suite "users": each fused and differentiated, against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from benchmarks import users
from benchmarks.harness import SUBJECT, Settings, run_rows
from benchmarks.user_cases import USERS, UserCase

SIZE = 64


def widened(value: Any) -> Any:
    """Float arrays in float64."""
    if isinstance(value, dict):
        return {name: widened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [widened(item) for item in value]
    return value.astype(mx.float64) if value.dtype == mx.float32 else value


def close(found: Any, wanted: Any) -> None:
    mine, exact = users.leaves(found), users.leaves(wanted)
    assert len(mine) == len(exact) > 0
    for got, want in zip(mine, exact, strict=True):
        want = np.array(want)
        assert got.dtype == mx.float32 and got.shape == want.shape
        scale = max(1.0, float(np.abs(want[np.abs(want) < 1e8]).max(initial=0.0)))
        np.testing.assert_allclose(np.array(got), want, rtol=2e-5, atol=2e-6 * scale)


@pytest.mark.parametrize("case", USERS, ids=lambda c: c.name)
def test_functions_and_gradients_are_those_of_float64(case: UserCase) -> None:
    inputs = case.inputs(SIZE)
    exact = [widened(value) for value in inputs]
    fused = zmlx.fuse(case.fn)
    with mx.stream(mx.cpu):
        close(fused(*inputs), case.fn(*exact))
        if case.wrt:
            wanted = mx.grad(case.loss_of(case.fn), argnums=case.wrt)(*exact)
            close(mx.grad(case.loss_of(fused), argnums=case.wrt)(*inputs), wanted)


def test_there_are_sixteen_and_all_but_the_optimizer_have_gradients() -> None:
    assert len({case.name for case in USERS}) == 16
    assert [case.name for case in USERS if not case.wrt] == ["Adam over 16 arrays"]


def test_means_stand_below_the_rows_that_they_are_of() -> None:
    quick = Settings(quick=True, rounds=1)
    rows = [row for row in users.rows(quick) if row.name.endswith("small")]
    assert len(rows) == 31
    results = run_rows([row for row in rows if "Huber" in row.name], quick)
    assert [r.error for r in results] == ["", ""] and users.summary(results, quick) == []
    ways = {SUBJECT, users.OUTSIDE, users.INSIDE, users.AROUND, users.READY}
    assert set(results[1].samples) == ways
    forward, backward = results
    everything = [
        replace(backward if row.name.startswith("gradient") else forward, name=row.name)
        for row in rows
    ]
    names = [result.name for result in users.summary(everything, quick)]
    assert names == [
        "forward of all functions, small, geometric mean",
        "gradient of all functions, small, geometric mean",
    ]
