"""Products with weights that are unpacked first read them packed, where that is quicker."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.patterns.proof import UNIT, alike, fired, near, normal

NAME = "unpacked and multiplied, groups of "


def unpacked(x: Any, w: Any, scales: Any, biases: Any) -> Any:
    return x @ mx.dequantize(w, scales, biases, group_size=64, bits=4).T


def by_default(x: Any, w: Any, scales: Any, biases: Any) -> Any:
    return mx.matmul(x, mx.dequantize(w, scales, biases).swapaxes(0, 1))


@pytest.mark.parametrize("rows", [1, 8, 9])
def test_values_and_gradients(rows: int) -> None:
    packed = mx.quantize(normal(32, 128, seed=1), 64, 4)
    x = normal(rows, 128)
    for fn in (unpacked, by_default):
        assert fired(fn, x, *packed) == [f"{NAME}64"]
    alike(zmlx.fuse(unpacked), unpacked, x, *packed)
    got, want = (mx.grad(lambda x, f=f: (f(x, *packed) ** 2).sum())(x)
                 for f in (zmlx.fuse(unpacked), unpacked))  # fmt: skip
    assert mx.abs(got - want).max().item() <= 100 * UNIT["float32"] * mx.abs(want).max().item()


def test_half_types_and_groups() -> None:
    def in_32(x: Any, w: Any, scales: Any, biases: Any) -> Any:
        return x @ mx.dequantize(w, scales, biases, 32, 4).T

    packed = mx.quantize(normal(16, 64, seed=1).astype(mx.bfloat16), 32, 4)
    x = normal(2, 64).astype(mx.bfloat16)
    assert fired(in_32, x, *packed) == [f"{NAME}32"]
    alike(zmlx.fuse(in_32), in_32, x, *packed)


def test_other_bits_and_kept_weights_stay() -> None:
    def eight(x: Any, w: Any, scales: Any, biases: Any) -> Any:
        return x @ mx.dequantize(w, scales, biases, 64, 8).T

    def kept(x: Any, w: Any, scales: Any, biases: Any) -> Any:
        weights = mx.dequantize(w, scales, biases, 64, 4)
        return x @ weights.T, weights

    x = normal(1, 128)
    packed = mx.quantize(normal(32, 128, seed=1), 64, 8)
    assert any("bits" in why for why in near(eight, x, *packed).values())
    alike(zmlx.fuse(eight), eight, x, *packed)
    packed = mx.quantize(normal(32, 128, seed=1), 64, 4)
    assert "used elsewhere" in near(kept, x, *packed)[f"{NAME}64"]
    alike(zmlx.fuse(kept), kept, x, *packed)
