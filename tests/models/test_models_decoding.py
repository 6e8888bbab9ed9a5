"""Models of mlx-lm token by token, with mlx-lm's caches: fused parts, and the whole model fused."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from architectures import build, tokens
from comparing import EVERY, assert_near, assert_same
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from running import PIECES, decoded, held, spans

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")
PARTS = ("MLP", "Mlp", "Norm", "Expert", "FeedForward", "SwitchGLU", "xIELU")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches grow while the test decodes, not after 256 tokens."""
    for cache in (KVCache, RotatingKVCache):
        monkeypatch.setattr(cache, "step", 6)


@pytest.mark.parametrize("name", EVERY)
def test_fused_parts_inside_plain_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    expected = decoded(model, model)
    classes = {type(m) for m in model.modules() if any(p in type(m).__name__ for p in PARTS)}
    assert classes
    for cls in classes:
        monkeypatch.setattr(cls, "__call__", zmlx.fuse(cls.__call__))
    assert_near(decoded(model, model), expected, 1e-5)
    fused = [cls.__call__.cache_info() for cls in classes]
    assert any(info.hits for info in fused)


@pytest.mark.parametrize("name", EVERY)
def test_a_whole_model_with_its_cache(name: str) -> None:
    """Logits, and all that the caches hold, after every call."""
    model = build(name)
    assert_near(decoded(model, zmlx.fuse(model)), decoded(model, model), 1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_bits_of_a_whole_model_with_its_cache(name: str) -> None:
    model = build(name)
    assert_same(decoded(model, zmlx.fuse(model, numerics="mlx")), decoded(model, model))


@pytest.mark.parametrize("name", EVERY)
def test_two_prompts_in_turn(name: str) -> None:
    """One fused model, two caches: a call touches the cache that it is given, and no other."""
    model = build(name)
    fused = zmlx.fuse(model)
    first, second = make_prompt_cache(model), make_prompt_cache(model)
    expected = decoded(model, model)
    got = []
    x = tokens(sum(PIECES))
    for start, end in spans():
        for cache in (first, second):
            logits = fused(x[:, start:end], cache=cache)
        got.append({"logits": logits, "cache": held(first)})
        assert_near(held(second), held(first))
    assert_near(got, expected, 1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_refused_call_leaves_the_cache(name: str) -> None:
    """A call that raises after the model has run leaves the cache as it was: plain MLX goes on."""
    model = build(name)

    @zmlx.fuse
    def greedy(x: mx.array, cache: Any) -> mx.array:
        logits = model(x, cache=cache)
        return logits if logits.sum() > 0 else -logits

    x, cache = tokens(6), make_prompt_cache(model)
    model(x[:, :5], cache=cache)
    before = held(cache)
    with pytest.raises(zmlx.errors.TraceError, match=r"test_models_decoding\.py:\d+: "):
        greedy(x[:, 5:], cache)
    assert_same(held(cache), before)
    fresh = make_prompt_cache(model)
    model(x[:, :5], cache=fresh)
    assert_same(model(x[:, 5:], cache=cache), model(x[:, 5:], cache=fresh))
