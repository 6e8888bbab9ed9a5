"""mlx-lm's own generation with a fused model in the place of the plain one."""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from architectures import build, tokens
from comparing import EVERY
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")


def generated(model: nn.Module, run: Any, cache_size: int | None = None, **how: Any) -> list[int]:
    """Twelve tokens after a prompt of five, which is read in two pieces."""
    cache = make_prompt_cache(model, max_kv_size=cache_size)
    steps = generate_step(
        tokens(5, rows=1)[0],
        run,
        mx.default_stream(mx.cpu),
        max_tokens=12,
        prefill_step_size=3,
        prompt_cache=cache,
        **how,
    )
    return [int(token) for token, _ in steps]


@pytest.mark.parametrize("name", EVERY)
def test_generated_tokens(name: str) -> None:
    model = build(name)
    fused = zmlx.fuse(model)
    assert generated(model, fused) == generated(model, model)
    assert generated(model, fused, cache_size=6) == generated(model, model, cache_size=6)


@pytest.mark.smoke
def test_a_quantised_cache() -> None:
    model = build("llama", head_dim=32)
    how = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 6}
    assert generated(model, zmlx.fuse(model), **how) == generated(model, model, **how)


def test_prompts_on_threads() -> None:
    """Each thread has its stream and its cache; the traces are shared."""
    model = build("llama")
    fused, found = zmlx.fuse(model), {}
    expected = generated(model, model)

    def run(number: int) -> None:
        with mx.stream(mx.cpu):
            cache = make_prompt_cache(model)
            steps = generate_step(
                tokens(5, rows=1)[0],
                fused,
                mx.new_thread_local_stream(mx.cpu),
                max_tokens=12,
                prefill_step_size=3,
                prompt_cache=cache,
            )
            found[number] = [int(token) for token, _ in steps]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(3), expected)
    info = fused.cache_info()
    assert info.hits > info.misses
