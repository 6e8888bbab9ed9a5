"""Kernels of helpers and of fused functions as a Mac would launch them: every transformation.

tests/metal/test_emitted.py has the generator's kernels one by one; here whole functions run on a
Mac's device (on_metal.py), up to the text that Apple's compiler would get.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_metal import Mac, mac

from tests.launched import (
    launch_alike,
    launch_case,
    launch_ends,
    launch_expression,
    launch_fused,
    launch_joined,
    launch_rows,
)
from tests.sanitized.catalog_cases import IN_TURN, NAMES, transformed
from tests.sanitized.expressions import texts
from tests.sanitized.helper_cases import CASES, FLOATS, NAMED, WHOLE, drawn, transforms
from zmlx import autograd
from zmlx.metal_check import Diagnostic, check_text

pytestmark = pytest.mark.usefixtures("host_device")  # whose blank kernel stands in for launches

Tally = Callable[[str, int], None]


def said(device: Mac) -> tuple[int, list[Diagnostic]]:
    """How many texts there were, and what is to say about them."""
    texts = device.texts()
    return len(texts), [d for text in texts for d in check_text(text)]


def clean(device: Mac) -> int:
    count, found = said(device)
    assert not found, "\n".join(map(str, found))
    return count


@pytest.mark.parametrize("name", CASES)
def test_a_kind_of_kernel(name: str, tally: Tally) -> None:
    case = CASES[name]
    with mac() as device:
        for kind in case.kinds:
            launch_case(case, kind)
        count = clean(device)
        own = any(re.search(NAMED, text) for text in device.texts())
    assert own == bool(re.search("own kernel|kernels?$|strided|buffers|bodies", name))
    assert count >= 2 * len(case.kinds)
    tally("kernels of helpers as Metal", count)


@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
@pytest.mark.parametrize("kind", FLOATS)
def test_parts_written_in_place(kind: str, numerics: str) -> None:
    with mac() as device:
        launch_joined(kind, numerics)
        clean(device)
        assert sum("_joined_" in text for text in device.texts()) >= 2


@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
@pytest.mark.parametrize("kind", FLOATS)
def test_launches_that_are_shared(kind: str, numerics: str) -> None:
    with mac() as device:
        launch_alike(kind, numerics)
        clean(device)
        assert sum("zmlx_launch" in text for text in device.texts()) >= 3


@pytest.mark.parametrize("kind", FLOATS)
def test_rows_that_are_folded(kind: str) -> None:
    with mac() as device:
        launch_rows(kind)
        clean(device)
        assert sum("kk_near_" in text for text in device.texts()) >= 8


@pytest.mark.parametrize("kind", FLOATS)
def test_reductions_at_the_end(kind: str) -> None:
    with mac() as device:
        launch_ends(kind)
        clean(device)
        assert sum("kk_cuts" in text for text in device.texts()) >= 4


def test_a_wrong_kernel_is_found() -> None:
    """In the gradient's kernel, and for small inputs alone."""
    wrong = {
        "'double' does not exist": {"fwd_expr": "kk_silu(x)", "vjp_expr": "twice(g)",
                                    "header": "inline double twice(double v) { return v + v; }\n"},
        "no matching function": {"fwd_expr": "first(inp)", "header":
                                 "inline float first(const device float* p) { return p[0]; }\n"},
    }  # fmt: skip
    for words, text in wrong.items():
        with mac() as device:
            op = autograd.unary_from_expr(name="wrong", compute_dtype=mx.float32, **text)
            mx.vjp(op, [mx.zeros(9)], [mx.ones(9)]) if "vjp_expr" in text else op(mx.zeros(9))
            found = said(device)[1]
        assert any(words in d.message for d in found), (words, found)


def test_no_transformation_is_left_out() -> None:
    """Each launches kernels that the others do not."""
    case, counts = CASES["gradient given"], []
    for what in ("value", "vjp", "second", "jvp"):
        with mac() as device:
            transforms(case)[what](case.make(mx.float32), drawn(case, "float32"))
            counts.append(clean(device))
    assert counts[0] < counts[1] < counts[2] and counts[3] > counts[0], counts


@pytest.mark.parametrize(("name", "kind"), IN_TURN)
def test_a_function_of_the_catalog(name: str, kind: str, tally: Tally) -> None:
    with mac() as device:
        transformed(name, kind)
        count = clean(device)
    assert count or name.endswith(("argmax_lastdim", "max_lastdim", "min_lastdim"))
    tally("kernels of the catalog as Metal", count)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_a_function_of_the_catalog_in_every_type(name: str) -> None:
    with mac() as device:
        for kind in FLOATS:
            transformed(name, kind)
        clean(device)


# -- what hypothesis generates --------------------------------------------------------------------
def check_expression(text: str, kind: str, own: bool) -> int:
    with mac() as device:
        launch_expression(text, kind, own)
        return clean(device)


@given(texts(), st.sampled_from(FLOATS), st.booleans())
@settings(max_examples=25)
def test_generated_expressions(text: str, kind: str, own: bool) -> None:
    check_expression(text, kind, own)


def check_fused(seed: int, kind: str, numerics: str) -> int:
    with mac() as device:
        launch_fused(seed, kind, numerics)
        return clean(device)


@given(st.integers(0, 2**31), st.sampled_from((*FLOATS, *WHOLE)), st.sampled_from(("fp32", "mlx")))
@settings(max_examples=15)
def test_generated_functions(seed: int, kind: str, numerics: str) -> None:
    check_fused(seed, kind, numerics)


@pytest.mark.exhaustive
@given(st.integers(0, 2**31), st.sampled_from((*FLOATS, *WHOLE)), st.sampled_from(("fp32", "mlx")))
@settings(max_examples=300)
def test_many_generated_functions(seed: int, kind: str, numerics: str) -> None:
    check_fused(seed, kind, numerics)


@pytest.mark.exhaustive
@given(texts(4), st.sampled_from(FLOATS), st.booleans())
@settings(max_examples=500)
def test_many_generated_expressions(text: str, kind: str, own: bool) -> None:
    check_expression(text, kind, own)
