"""The helpers' kernels under the sanitizer, in every type: silent, and as plain MLX computes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.sanitized.helper_cases import CASES, FLOATS, drawn, mx_dtype, transforms
from tests.sanitized.watching import Watch, watched_run

pytestmark = watched_run

LIMIT = {"float32": 2e-5, "float16": 5e-3, "bfloat16": 4e-2}  # of the largest value


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, case in CASES.items() for kind in case.kinds]
)
def test_a_kind_of_kernel(name: str, kind: str, watch: Watch) -> None:
    case = CASES[name]
    op, arrays = case.make(mx_dtype(kind)), drawn(case, kind)
    for what, transform in transforms(case).items():
        got = transform(op, arrays)
        mx.eval(got)
        same(f"{what} of {name}", got, transform(case.plain, wide(arrays)), kind)
    watch.ran()


def wide(arrays: list[mx.array]) -> list[mx.array]:
    return [a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a for a in arrays]


def same(what: str, got: list[mx.array], wanted: list[mx.array], kind: str) -> None:
    assert len(got) == len(wanted), what
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == mx_dtype(kind), what
        a, b = (np.array(v.astype(mx.float32)) for v in (mine, theirs))
        if kind not in FLOATS:
            np.testing.assert_array_equal(np.array(mine), np.array(theirs), err_msg=what)
            continue
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, atol=LIMIT[kind] * scale, rtol=0, err_msg=what)
