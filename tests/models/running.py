"""What tests run models for: decoding with caches, generation, training as mlx-lm's trainer does.

`run` is what is called in the place of the model: itself, or fused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from architectures import build, tokens
from comparing import batch
from mlx.utils import tree_map
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.tuner.utils import linear_to_lora_layers

PIECES = (4, 1, 1, 2, 1)  # tokens a call: the window of four and the caches' block are passed


def spans() -> list[tuple[int, int]]:
    return [(sum(PIECES[:i]), sum(PIECES[: i + 1])) for i in range(len(PIECES))]


def decoded(model: nn.Module, run: Any) -> list[Any]:
    """Logits, and what the caches hold, of each call of `run`."""
    cache, x = make_prompt_cache(model), tokens(sum(PIECES))
    found = []
    for start, end in spans():
        found.append({"logits": run(x[:, start:end], cache=cache), "cache": held(cache)})
        mx.eval(found)
    return found


def held(cache: Any) -> Any:
    """Copies of the arrays and the numbers of the caches, whatever their classes."""
    return [
        {
            key: mx.array(value) if isinstance(value, int) else _copied(value)
            for key, value in vars(layer).items()
            if not isinstance(value, (str, type(None)))
        }
        for layer in cache
    ]


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return mx.array(value) if isinstance(value, mx.array) else value


def generated(
    model: nn.Module, run: Any, cache_size: int | None = None, stream: Any = None, **how: Any
) -> list[int]:
    """Twelve tokens after a prompt of five, which is read in two pieces."""
    cache = make_prompt_cache(model, max_kv_size=cache_size)
    steps = generate_step(
        tokens(5, rows=1)[0],
        run,
        stream or mx.default_stream(mx.cpu),
        max_tokens=12,
        prefill_step_size=3,
        prompt_cache=cache,
        **how,
    )
    return [int(token) for token, _ in steps]


def adapted(name: str) -> nn.Module:
    model = build(name)
    model.freeze()
    linear_to_lora_layers(model, 2, {"rank": 4, "scale": 10.0, "dropout": 0.25})
    model.update(tree_map(lambda w: w + 0.01, model.trainable_parameters()))
    return model


def trained(
    model: nn.Module,
    fuse: Callable[[Callable[..., Any], list[Any]], Callable[..., Any]],
    loss: Callable[..., Any] = default_loss,
) -> Any:
    """Losses, weights and the optimizer's state after four batches, an update every second one.

    AdamW's `eps` is large: with a small one the sign of a gradient near 0 decides a whole step.
    """
    optimizer = optim.AdamW(1e-2, eps=1e-2)
    loss_value_and_grad = nn.value_and_grad(model, loss)
    model.train()
    optimizer.init(model.trainable_parameters())
    mx.random.seed(3)
    state = [model.state, optimizer.state, mx.random.state]

    @partial(fuse, state=state)
    def step(batch: tuple[mx.array, mx.array], prev_grad: Any, do_update: bool) -> Any:
        (value, count), grad = loss_value_and_grad(model, *batch)
        if prev_grad is not None:
            grad = tree_map(lambda x, y: x + y, grad, prev_grad)
        if do_update:
            grad = tree_map(lambda x: x / 2, grad)
            optimizer.update(model, grad)
            grad = None
        return value, count, grad

    losses, grad = [], None
    for number in range(4):
        value, _, grad = step(batch(seed=number), grad, number % 2 == 1)
        losses.append(value)
        mx.eval(state, losses, grad)
    return {"losses": losses, "weights": model.parameters(), "optimizer": optimizer.state}
