"""map_reduce with one pass, with one number a row, and with parts that join in one order only."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from tests.rowwise_cases import drawn, wide
from zmlx import rowwise
from zmlx.device.base import Device

NORM: dict[str, Any] = {
    "name": "norm", "d": 33, "pass1_init": 0.0, "pass1_update": "acc1 + x * x",
    "pass1_reduce_op": "a + b",
}  # fmt: skip


def test_one_pass_and_a_python_float(default_device: Device) -> None:
    op = rowwise.map_reduce(
        **NORM, write_expr="x * metal::rsqrt(s1 / d + eps)", input_names=("inp", "eps")
    )
    x = drawn((5, 33))
    for eps in (1e-5, 1, np.float32(0.25), mx.array(0.5)):
        wanted = wide(x) / np.sqrt((wide(x) ** 2).mean(-1, keepdims=True) + float(eps))
        np.testing.assert_allclose(wide(op(x, eps)[0]), wanted, 1e-5, 1e-6)
    with pytest.raises(TypeError, match="inp is float, no mx.array"):
        op(1.0, 1e-5)


@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16])
def test_one_number_a_row(default_device: Device, kind: mx.Dtype) -> None:
    op = rowwise.map_reduce(
        **NORM, write_expr=("metal::sqrt(s1) * w", "x / s1"), output_names=("size", "y"),
        input_names=("inp", "w"), row_outputs=("size",),
    )  # fmt: skip
    x = drawn((2, 5, 33), kind)
    w = mx.arange(1, 6, dtype=mx.float32)[:, None]
    size, y = op(x, w)
    square = (wide(x) ** 2).sum(-1)
    assert size.shape == (2, 5) and y.shape == x.shape and size.dtype == y.dtype == kind
    close = 1e-5 if kind == mx.float32 else 1e-2
    np.testing.assert_allclose(wide(size), np.sqrt(square) * np.arange(1, 6), close)
    np.testing.assert_allclose(wide(y), wide(x) / square[..., None], close)
    if kind == mx.float32:
        slope = mx.grad(lambda x: op(x, 1.0)[0].sum())(x)
        np.testing.assert_allclose(wide(slope), wide(x) / np.sqrt(square)[..., None], 1e-5, 1e-6)
        mapped = mx.vmap(lambda x: op(x, 1.0)[0])(x)
        np.testing.assert_allclose(wide(mapped), np.sqrt(square), 1e-5)
        fused = zmlx.fuse(lambda x: op(mx.exp(x), 1.0)[0] + 1)
        np.testing.assert_allclose(
            wide(fused(x)), np.sqrt((np.exp(wide(x)) ** 2).sum(-1)) + 1, 1e-5
        )
    with pytest.raises(ValueError, match="as many numbers a row as an input that it names"):
        op(x, x)


MAX = {"pass1_init": "-INFINITY", "pass1_update": "max(acc1, x)", "pass1_reduce_op": "max(a, b)"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pass1_init": 1.0}, "pass1_init '1.0f' is not neutral for pass1_reduce_op"),
        ({"pass1_init": float("-inf")}, "pass1_init '-INFINITY' is not neutral"),
        ({"pass1_init": 2, "pass1_update": "acc1 * x", "pass1_reduce_op": "a * b"}, "not neutral"),
        ({"pass1_reduce_op": "a - b"}, "pass1_reduce_op 'a - b' is not associative"),
        ({"pass1_reduce_op": "0.5f * (a + b)"}, "is not associative"),
        ({"pass1_reduce_op": "b"}, "'b' is not commutative"),
        ({"pass1_reduce_op": "max(a, b)"}, "does not join what pass1_update folds"),
        (
            MAX | {"pass2_init": 1.0, "pass2_update": "acc2 + x - s1", "pass2_reduce_op": "a + b"},
            "pass2_init '1.0f' is not neutral",
        ),
        ({"pass2_init": 0.0}, "a part of its second pass is missing"),
        ({"row_outputs": ["other"]}, "row_outputs has 'other', which is no output"),
        ({"row_outputs": ["out"], "write_expr": "inp"}, "write_expr of 'out' names inp"),
        ({"row_outputs": ["out"], "pass1_update": "acc1"}, "no pass folds one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_folds_that_depend_on_an_order_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"\[zmlx.rowwise\] 'norm': ") as caught:
        rowwise.map_reduce(**{**NORM, "write_expr": "s1", **changes})
    assert words in str(caught.value)


def test_an_init_need_only_be_neutral_for_what_is_folded(default_device: Device) -> None:
    """Magnitudes are never below zero."""
    op = rowwise.map_reduce(
        **NORM | MAX | {"pass1_init": 0, "pass1_update": "max(acc1, metal::abs(x))"},
        write_expr="s1", row_outputs=["out"],
    )  # fmt: skip
    x = drawn((5, 33))
    np.testing.assert_allclose(wide(op(x)[0]), np.abs(wide(x)).max(-1), 1e-6)
