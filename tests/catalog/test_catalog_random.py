"""Norms, softmax and gated units over shapes, types, layouts and numbers that hypothesis draws."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalog import exact
from tests.catalog.cases import CASES, KINDS, PULLED, Case, close, wide
from zmlx.kernels import norms

pytestmark = pytest.mark.usefixtures("default_device")
# Shapes whose rows share kernels: short ones, ones with a rest, whole packs.
SHAPES = st.tuples(
    st.lists(st.integers(0, 5), max_size=3), st.one_of(st.integers(1, 70), st.just(512))
).map(lambda parts: (*parts[0], parts[1]))
FEW = ("softmax_lastdim", "log_softmax_lastdim", "layernorm_residual", "geglu")


@st.composite
def called(draw: Any, names: tuple[str, ...]) -> tuple[Case, list[mx.array], str]:
    """A function and arrays for it: of any size and level, some of them views."""
    case, kind = CASES[draw(st.sampled_from(names))], draw(st.sampled_from(sorted(KINDS)))
    shape, seed = draw(SHAPES), draw(st.integers(0, 2**20))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    arrays = []
    for i, full in enumerate(case.shapes(shape)):
        numbers = np.random.default_rng(seed + i).normal(size=full) * scale
        a = mx.array(numbers).astype(KINDS[kind])
        if draw(st.booleans()):
            a = a[..., ::-1]
        if len(full) > 2 and draw(st.booleans()):
            a = mx.array(np.swapaxes(numbers, 0, -2)).astype(KINDS[kind]).swapaxes(0, -2)
        arrays.append(a)
    return case, arrays, kind


@given(called(FEW))
def test_values(made: tuple[Case, list[mx.array], str]) -> None:
    case, arrays, kind = made
    for found, wanted in zip(case.run(*arrays), case.exact(arrays), strict=True):
        close(found, wanted, kind, 2, f"{case.name} {[a.shape for a in arrays]}")


@given(called(tuple(name for name in FEW if name in PULLED)))
def test_gradients(made: tuple[Case, list[mx.array], str]) -> None:
    case, arrays, _ = made
    arrays = [a.astype(mx.float32) for a in arrays]
    g = [mx.cos(o) for o in case.run(*arrays)]
    found = mx.vjp(case.run, arrays, g)[1]
    for a, dx, wanted in zip(arrays, found, case.pulled(arrays, g), strict=True):
        assert dx.shape == a.shape
        np.testing.assert_allclose(
            wide(dx),
            wanted,
            2e-5,
            2e-5 * max(1.0, np.abs(wanted).max(initial=0)),
            err_msg=case.name,
        )


@given(SHAPES, st.floats(0, 1e6), st.sampled_from(sorted(KINDS)), st.integers(0, 1000))
def test_eps(shape: tuple[int, ...], eps: float, name: str, seed: int) -> None:
    x = mx.array(np.random.default_rng(seed).normal(size=shape)).astype(KINDS[name])
    with np.errstate(invalid="ignore"):  # rows of one element and no eps: 0 / 0
        pairs = [
            (norms.rms_norm_no_weight(x, eps=eps), exact.rms(wide(x), eps=eps)),
            (norms.layer_norm_no_weight(x, eps=eps), exact.layer(wide(x), eps=eps)),
        ]
    for found, wanted in pairs:
        if shape[-1] > 2 or eps > 1e-3:  # two elements may be as good as equal
            close(found, wanted, name, 4)
