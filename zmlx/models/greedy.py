"""Greedy tokens: what a language model writes, taking the largest logit each time.

Comes in: a model and a prompt. Goes out: tokens with their logits; how far two such runs are apart.
zmlx.models.validating compares a patched model with the plain one.
"""

from __future__ import annotations

import sys
from typing import Any

import mlx.core as mx
import mlx.nn as nn

Step = tuple[mx.array, mx.array]  # tokens (rows,), logits (rows, vocabulary)


def generates(args: tuple[Any, ...], results: dict[str, Any]) -> bool:
    """Whether tokens (rows, length) go in and logits (rows, length, vocabulary) come out."""
    arrays = list(results.values())
    if len(args) != 1 or not isinstance(args[0], mx.array) or len(arrays) != 1:
        return False
    tokens, logits = args[0], arrays[0]
    whole = mx.issubdtype(tokens.dtype, mx.integer) and tokens.ndim == 2
    return bool(whole and logits.ndim == 3 and logits.shape[:2] == tokens.shape)


def greedy(model: nn.Module, prompt: mx.array, count: int) -> list[Step]:
    """`count` tokens after the prompt, with the model's cache where it has one."""
    cache, steps = cache_of(model), list[Step]()
    tokens = prompt
    for _ in range(count):
        given = prompt if cache is None else tokens
        logits = model(given) if cache is None else model(given, cache=cache)
        last = logits[:, -1].astype(mx.float32)
        tokens = mx.argmax(last, axis=-1)[:, None]
        mx.eval(last, tokens)
        steps.append((tokens[:, 0], last))
        prompt = mx.concatenate([prompt, tokens.astype(prompt.dtype)], axis=1)
    return steps


def cache_of(model: nn.Module) -> Any:
    """A fresh cache of a model of mlx-lm; None for other models."""
    library = sys.modules.get("mlx_lm.models.cache")
    if library is not None and type(model).__module__.startswith("mlx_lm."):
        return library.make_prompt_cache(model)
    make = getattr(model, "make_cache", None)
    return make() if make is not None else None


def parted(got: list[Step], plain: list[Step]) -> tuple[float, str]:
    """Where tokens differ first: how much larger plain MLX's logit is, as a share of the largest.

    A difference where two logits are as good as equal is rounding, not a fault: its size tells.
    """
    for number, ((mine, _), (theirs, logits)) in enumerate(zip(got, plain, strict=True)):
        differs = mine != theirs
        if differs.any().item():
            gaps = mx.take_along_axis(logits, theirs[:, None], 1) - mx.take_along_axis(
                logits, mine[:, None], 1
            )
            gap = float((mx.where(differs, gaps[:, 0], 0).max() / mx.abs(logits).max()).item())
            return (
                gap,
                f"token {number + 1} of {len(plain)} differs; the logits differ by {gap:.2g}",
            )
    return 0.0, f"{len(plain)} tokens are equal"
