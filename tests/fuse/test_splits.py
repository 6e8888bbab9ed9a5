"""Equal parts where sizes are still to come: mx.split under a shapeless mx.compile."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx
from zmlx.fuse import splits
from zmlx.kernels import transformer

pytestmark = pytest.mark.usefixtures("on_cpu")  # kernels of GPUs have their sizes built in


def drawn(*shape: int, kind: mx.Dtype = mx.float32) -> mx.array:
    return (mx.array(np.random.default_rng(len(shape)).normal(size=shape)) * 4).astype(kind)


@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16, mx.int8, mx.bool_], ids=str)
@pytest.mark.parametrize(("sections", "axis"), [(2, -1), (3, 0), (2, 1), (1, -1)])
def test_equal_parts_of_every_size(sections: int, axis: int, kind: mx.Dtype) -> None:
    compiled = mx.compile(lambda x: splits.split(x, sections, axis), shapeless=True)
    for shape in ((3, 8, 12), (6, 2, 6), (9, 10, 2)):
        x = drawn(*shape, kind=kind)
        for found, wanted in zip(compiled(x), mx.split(x, sections, axis), strict=True):
            assert found.dtype == kind and mx.array_equal(found, wanted)


def test_special_values_stay_where_they_are() -> None:
    compiled = mx.compile(lambda x: splits.split(x, 2, -1), shapeless=True)
    for x in (mx.array([[np.nan, -0.0, np.inf, 1.0]]), mx.array([[0.0, np.nan]])):
        for found, wanted in zip(compiled(x), mx.split(x, 2, -1), strict=True):
            np.testing.assert_array_equal(np.array(found), np.array(wanted))
            np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))


def test_of_fused_functions_and_the_catalog() -> None:
    def rotary(x: mx.array) -> mx.array:
        a, b = mx.split(x * 2, 2, axis=-1)
        return mx.tanh(a) * b + a

    fused = zmlx.fuse(rotary)
    for f, plain in ((fused, rotary), (transformer.swiglu, transformer.swiglu)):
        compiled = mx.compile(f, shapeless=True)
        slope = mx.compile(mx.grad(lambda x, f=f: (f(x) ** 2).sum()), shapeless=True)
        for shape in ((4, 16), (7, 6), (1, 2)):  # MLX's sums of nothing may not end
            x = drawn(*shape)
            np.testing.assert_allclose(np.array(compiled(x)), np.array(plain(x)), 1e-5, 1e-6)
            wanted = mx.grad(lambda x, f=plain: (f(x) ** 2).sum())(x)
            np.testing.assert_allclose(np.array(slope(x)), np.array(wanted), 1e-4, 1e-5)


def test_a_bias_is_cut_likewise() -> None:
    compiled = mx.compile(transformer.bias_geglu, shapeless=True)
    for width in (16, 6):
        x, bias = drawn(3, width), drawn(width)
        wanted = transformer.bias_geglu(x, bias)
        np.testing.assert_allclose(np.array(compiled(x, bias)), np.array(wanted), 1e-5, 1e-6)


def test_parts_that_are_not_equal_are_mlxs() -> None:
    x = drawn(3, 8)
    for given, axis in (([2, 5], 1), (3, 0)):
        parts = splits.split(x, given, axis)
        for found, wanted in zip(parts, mx.split(x, given, axis), strict=True):
            assert mx.array_equal(found, wanted)
    with pytest.raises(ValueError, match="Split cannot infer output shapes"):
        mx.compile(lambda x: splits.split(x, [2, 5], 1), shapeless=True)(x)


@pytest.mark.parametrize("sections", [2, [1, 3]])
def test_by_the_names_of_the_arguments(sections: int | list[int]) -> None:
    x = drawn(3, 4)
    fused = zmlx.fuse(lambda x: mx.split(x * 2, indices_or_sections=sections, axis=1))
    for found, wanted in zip(fused(x), mx.split(x * 2, sections, 1), strict=True):
        assert mx.array_equal(found, wanted)
    assert mx.allclose(zmlx.fuse(nn.GLU())(x), nn.GLU()(x), atol=1e-5)
