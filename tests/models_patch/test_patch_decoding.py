"""Patched models of mlx-lm with its caches and its generators, beside plain ones."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from architectures import NAMES, build, tokens
from comparing import assert_near, assert_same
from mlx_lm.generate import BatchGenerator, speculative_generate_step
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from running import decoded, generated

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")

EVERY = [pytest.param(n, marks=() if n == "llama" else pytest.mark.exhaustive) for n in NAMES]
FEW = [p for p in EVERY if p.values != ("gemma2",)]  # which fails with such a mask in mlx-lm itself


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches grow while the test decodes, not after 256 tokens."""
    for cache in (KVCache, RotatingKVCache):
        monkeypatch.setattr(cache, "step", 6)


@pytest.mark.parametrize("name", EVERY)
def test_the_models_own_caches(name: str) -> None:
    """Logits, and what the caches hold, after every call; again when unpatched, to the bit."""
    model = build(name)
    expected = decoded(model, model)
    report = zmlx.patch(model, measure=False)
    assert_near(decoded(model, model), expected, 1e-5)
    ways = {(k.mode, d.way) for place in report.replaced for k, d in place.decisions.items()}
    assert ("cache", "in pieces") in ways
    zmlx.unpatch(model)
    assert_same(decoded(model, model), expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_generated_tokens(name: str) -> None:
    """A cache that grows, one that rotates."""
    model = build(name)
    expected = [generated(model, model, size) for size in (None, 6)]
    zmlx.patch(model, measure=False)
    assert [generated(model, model, size) for size in (None, 6)] == expected


def test_a_quantised_cache() -> None:
    model = build("llama", head_dim=32)
    how = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 6}
    expected = generated(model, model, **how)
    zmlx.patch(model, measure=False)
    assert generated(model, model, **how) == expected


@pytest.mark.parametrize("name", FEW)
def test_prompts_in_batches(name: str) -> None:
    """Prompts of several lengths, padded on the left; some end while others go on."""
    model = build(name)
    expected = batches(model)
    zmlx.patch(model, measure=False)
    assert batches(model) == expected
    assert [len(row) for row in expected.values()] == [7, 4, 9]


def batches(model: nn.Module) -> dict[int, list[int]]:
    """Greedy tokens of three prompts, by number."""
    made = BatchGenerator(model, prefill_step_size=4, stream=mx.default_stream(mx.cpu))
    prompts = [tokens(length, rows=1, seed=length)[0].tolist() for length in (5, 3, 8)]
    uids = made.insert(prompts, [7, 4, 9])
    found: dict[int, list[int]] = {uid: [] for uid in uids}
    while responses := made.next_generated():
        for response in responses:
            found[response.uid].append(response.token)
    made.close()
    return found


def test_a_draft_model() -> None:
    """Speculative decoding trims the caches of both."""
    model, draft = build("llama"), build("llama", num_hidden_layers=1)
    expected = speculated(model, draft)
    zmlx.patch(model, measure=False)
    zmlx.patch(draft, measure=False)
    assert speculated(model, draft) == expected
    assert any(drafted for _, drafted in expected)


def speculated(model: nn.Module, draft: nn.Module) -> list[tuple[int, bool]]:
    stream = mx.default_stream(mx.cpu)
    steps = speculative_generate_step(
        tokens(5, rows=1)[0], model, draft, stream, max_tokens=12, prefill_step_size=3
    )
    return [(int(token), bool(drafted)) for token, _, drafted in steps]


def test_a_layer_that_uses_what_it_hands_on_after_all() -> None:
    """What comes after the attention looks into the cache."""
    model = with_late_looks()
    expected = decoded(model, model)
    report = zmlx.patch(model, measure=False)
    assert_near(decoded(model, model), expected, 1e-5)
    assert report["model.layers.0"].status == "plain"


def with_late_looks() -> nn.Module:
    model = build("llama")
    cls = type(model.model.layers[0])

    class Looking(cls):  # type: ignore[valid-type, misc]
        def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
            out = super().__call__(x, mask, cache)
            return out / (1.0 if cache is None else float(cache.offset))

    for layer in model.model.layers:
        layer.__class__ = Looking
    return model


def test_a_piece_that_fails_later_is_run_by_mlx() -> None:
    """Fused at first; for another size the second piece needs a value. The cache is not redone."""
    model = build("llama")
    cls = type(model.model.layers[0])

    class Steered(cls):  # type: ignore[valid-type, misc]
        def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
            out = super().__call__(x, mask, cache)
            return out if x.shape[1] > 1 or out.sum().item() > 0 else out * 2

    for layer in model.model.layers:
        layer.__class__ = Steered
    expected = decoded(model, model)
    zmlx.patch(model, measure=False)
    assert_near(decoded(model, model), expected, 1e-5)


def test_a_recurrent_state_is_fused_whole() -> None:
    """Its arrays are read and written; after a prompt, after one token, from an empty state."""
    model, twin = build("mamba2"), build("mamba2")
    report = zmlx.patch(model, measure=False)
    for spans in (((0, 4), (4, 5), (5, 6), (6, 7)), ((0, 1), (1, 2), (2, 5), (5, 6))):
        caches = make_prompt_cache(model), make_prompt_cache(twin)
        for start, end in spans:
            got, plain = (
                run(tokens(9)[:, start:end], cache=cache)
                for run, cache in zip((model, twin), caches, strict=True)
            )
            assert_near(got, plain, 1e-5)
            assert_near(*[[c.state for c in cache] for cache in caches], 1e-5)
    place = report["backbone.layers.0"]
    assert {d.way for k, d in place.decisions.items() if k.mode == "cache"} == {"whole"}
    assert report.explain("backbone.layers.0", "cache").kernels_after


def test_a_piece_of_one_call_stays_plain() -> None:
    """The norm before the attention; `explain` shows what comes after it."""
    model = build("llama")
    report = zmlx.patch(model, measure=False)
    decoded(model, model)
    (found,) = {d.lone for d in report["model.layers.0"].decisions.values()}
    assert found == (0,)
    explained = report.explain("model.layers.0", "cache")
    assert explained.kernels_after < explained.kernels_before


def test_two_prompts_in_turn() -> None:
    model = build("llama")
    expected = decoded(model, model)
    zmlx.patch(model, measure=False)
    x, caches = tokens(9), [make_prompt_cache(model) for _ in range(2)]
    for start, end in ((0, 4), (4, 5), (5, 6), (6, 8), (8, 9)):
        logits = [model(x[:, start:end], cache=cache) for cache in caches]
    assert_near(logits[0], expected[-1]["logits"], 1e-5)
    assert_same(logits[0], logits[1])
