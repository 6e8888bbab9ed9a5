"""Models of mlx-lm fused whole: values beside plain MLX, bits, other weights, quantised weights."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from architectures import CONFIGURATIONS, NAMES, build, tokens
from comparing import EVERY, assert_near, assert_same
from mlx.utils import tree_map

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")
# MLX multiplies gathered matrices in float32 only.
EXPERTS = ("gpt_oss", "mixtral", "qwen2_moe", "deepseek_v3", "qwen3_next")


def test_sixteen_kinds_of_models() -> None:
    assert len(CONFIGURATIONS) >= 16


@pytest.mark.parametrize("name", EVERY)
def test_a_whole_model(name: str) -> None:
    """Lengths below and above a sliding window; the closure and the argument; new weights."""
    model = build(name)
    fused = zmlx.fuse(model)
    called = zmlx.fuse(lambda model, x: model(x))
    for length in (3, 6):
        x = tokens(length)
        expected = model(x)
        assert_near(fused(x), expected)
        assert_near(called(model, x), expected)
    report = zmlx.explain(fused, x)
    assert report.regions and report.kernels_after < report.kernels_before
    model.update(tree_map(lambda w: w * 0.9, model.parameters()))
    assert_near(fused(x), model(x))


@pytest.mark.parametrize("name", EVERY)
def test_the_bits_of_plain_mlx(name: str) -> None:
    model, x = build(name), tokens(6)
    assert_same(zmlx.fuse(model, numerics="mlx")(x), model(x))
    if name not in EXPERTS:
        model.set_dtype(mx.bfloat16)
        assert_same(zmlx.fuse(model, numerics="mlx")(x), model(x))


@pytest.mark.parametrize("name", EVERY)
def test_quantised_weights(name: str) -> None:
    model, x = build(name), tokens(6)
    nn.quantize(model, group_size=32, bits=4, class_predicate=_in_groups)
    assert any(isinstance(m, nn.QuantizedLinear) for m in model.modules())
    assert_near(zmlx.fuse(model)(x), model(x))


def _in_groups(_: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [n for n in NAMES if n not in EXPERTS])
def test_bfloat16_is_as_near_to_float32_as_plain_mlx(name: str) -> None:
    model, x = build(name), tokens(16, rows=4)
    exact = model(x)
    model.set_dtype(mx.bfloat16)
    exact_of_rounded = _in_float32(model, x)
    apart = [
        mx.abs(run(x).astype(mx.float32) - exact_of_rounded).mean().item()
        for run in (zmlx.fuse(model), model)
    ]
    assert exact.shape == exact_of_rounded.shape
    assert apart[0] <= 1.3 * apart[1]


def _in_float32(model: nn.Module, x: mx.array) -> mx.array:
    """What the model of half precision gives where everything is computed in float32."""
    halves = model.parameters()
    model.set_dtype(mx.float32)
    result = model(x)
    mx.eval(result)
    model.update(halves)
    return result
