"""mlx-lm's own generation with a fused model in the place of the plain one."""

from __future__ import annotations

import threading

import mlx.core as mx
import pytest
from architectures import build
from comparing import EVERY
from running import generated

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")


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
            own = mx.new_thread_local_stream(mx.cpu)
            found[number] = generated(model, fused, stream=own)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(3), expected)
    info = fused.cache_info()
    assert info.hits > info.misses
