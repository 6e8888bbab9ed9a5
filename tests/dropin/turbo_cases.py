"""Kernels of mlx-vlm's packed keys and values, beside its own ops or MLX's attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from tests.dropin.libraries import Load
from tests.dropin.lm_cases import Pair, drawn, without_metal


def codecs(load: Load) -> Pair:
    """Scores of queries and sums of values: of one query or two for each head, rotated or not."""
    module = load("mlx_vlm.turboquant")
    found, wanted = [], []
    for size, queries in ((64, 1), (48, 2)):
        tensor, q = drawn(1, 2, 40, size), drawn(1, 2, queries, 1, size, seed=1)
        weights = mx.softmax(drawn(1, 2, queries, 1, 40, seed=2), -1)
        made: list[tuple[Any, Any]] = []
        for codec in (
            *(module._TurboQuantMSECodec(size, 3, 0), module._TurboQuantProdCodec(size, 3, 0)),
            *(module._TurboQuantProdCodec(size, 1, 0),),
            *([module._TurboQuantPolarProdCodec(size, 4, 0)] if size == 64 else []),
        ):
            made.append((codec, codec.quantize(tensor)))

        def calls(made: Any = made, q: Any = q, weights: Any = weights) -> list[mx.array]:
            scores = [codec.score(q, state) for codec, state in made]
            codec, state = made[0]
            sums = codec.weighted_sum_stats_from_scores(weights, state)
            return [
                *scores, codec.weighted_sum(weights, state),
                codec.weighted_sum_from_scores(weights, state), *sums,
            ]  # fmt: skip

        ours, theirs = without_metal(calls)
        found += ours
        wanted += theirs
    polar, state = made_polar(module)
    q = drawn(1, 2, 1, 1, 64, seed=4)
    ours, theirs = without_metal(lambda: [polar.score_prepared(q, state, mx.ones((1, 2, 40)))])
    return found + ours, wanted + theirs


def made_polar(module: Any) -> tuple[Any, Any]:
    polar = module._PolarQuantUnitCodec(64, 4, 0)
    tensor = drawn(1, 2, 40, 64, seed=3)
    unit = tensor / mx.linalg.norm(tensor, axis=-1, keepdims=True)
    return polar, polar.quantize_unit_with_estimate(unit, mx.float32)[0]


def one_token(load: Load) -> Pair:
    """A token is packed by itself: keys and values at once, products, without a rotation."""
    module = load("mlx_vlm.turboquant")
    k, v = drawn(1, 2, 1, 240), drawn(1, 2, 1, 240, seed=1)
    cache = module.TurboQuantKVCache(bits=4)
    found, wanted = [], []
    for state, x, codec in zip(
        cache.update_and_fetch(k, v), (k, v), (cache.key_codec, cache.value_codec), strict=True
    ):
        unit = x / mx.linalg.norm(x, axis=-1, keepdims=True)
        found.append(codec.dequantize(state._state))
        wanted.append(
            codec._dequantize_unit(codec._quantize_unit(unit))
            * mx.linalg.norm(x, axis=-1)[..., None]
        )
    for size, fields in ((96, 4), (64, 3)):  # signs of rotated rests are packed in another space
        products = module._TurboQuantProdCodec(size, 3, 0)
        x = k[..., :size]
        found += list(products.quantize(x))[:fields]
        both = products.quantize(mx.concatenate([x, x], -2))  # which no kernel does
        wanted += [field[:, :, :1] for field in list(both)[:fields]]
    k = k[..., :96]
    codec = module._TurboQuantMSECodec(96, 4, 0)
    norms, packed = module._fused_mse_quantize_kernel(4)(
        inputs=[k.reshape(2, 96), codec.rotation, codec._midpoints],
        template=[("Dim", 96), ("DimsPerLane", 3), ("PackedWidth", 12)],
        grid=(192, 1, 1), threadgroup=(96, 1, 1), output_shapes=[(2,), (2, 12)],
        output_dtypes=[mx.float16, mx.uint32],
    )  # fmt: skip
    state, q = codec.quantize(k), drawn(1, 2, 3, 96, seed=2)
    (scores,) = module._mse_score_kernel()(
        inputs=[q, state.norms, state.indices, codec.codebook],
        template=[("Dim", 96), ("Bits", 4), ("PackedWidth", 12)],
        grid=(32, 3, 2), threadgroup=(32, 1, 1), output_shapes=[(1, 2, 3, 1)],
        output_dtypes=[mx.float32],
    )  # fmt: skip
    kept = codec.codebook[module._unpack_lowbit(state.indices, 4, 96).astype(mx.int32)]
    true = (q @ kept.swapaxes(-1, -2)) * state.norms[:, :, None, :]
    found += [norms, packed.reshape(1, 2, 1, 12), scores]
    return found, [*wanted, state.norms.reshape(2), state.indices, true]


def _attended(
    load: Load, bits: float, size: int, tokens: int, heads: int, modes: str, rows: int = 1
) -> tuple[Any, mx.array, Any, Any, mx.array]:
    """A cache, queries, what it holds, and attention to that."""
    module = load("mlx_vlm.turboquant")
    k, v = (drawn(1, heads, tokens, size, seed=s) for s in range(2))
    cache = module.TurboQuantKVCache(bits=bits)
    cache.key_codec = module._build_codec(k, bits, modes, 0)
    cache.value_codec = module._build_codec(v, bits, "mse", 1)
    keys, values = (state._state for state in cache.update_and_fetch(k, v))
    q = drawn(1, 2 * heads, rows, size, seed=2) / 8
    wide = cache.key_codec.dequantize(keys), cache.value_codec.dequantize(values)
    wanted = mx.fast.scaled_dot_product_attention(q, *wide, scale=1.0)
    return cache, q, keys, values, wanted


def products_attention(load: Load) -> Pair:
    """To keys packed as products, in every way that the library has for it."""
    cache, q, *states, wanted = _attended(load, 4, 96, 40, 2, "prod")
    grouped = q.reshape(1, 2, 2, 1, 96)
    found = [
        cache._compiled_integer_decode_attention(grouped, *states).reshape(wanted.shape),
        cache._separate_score_value_decode(grouped, *states).reshape(wanted.shape),
    ]
    true = [wanted, wanted]
    cache, q, *states, wanted = _attended(load, 4, 96, 40, 2, "prod", rows=3)
    found.append(cache.prefill_attention(q, *states))
    true.append(wanted)
    cache, q, *states, wanted = _attended(load, 3.5, 96, 40, 2, "prod")
    split = cache._compiled_split_decode_attention(q.reshape(1, 2, 2, 1, 96), *states)
    return [*found, split.reshape(wanted.shape)], [*true, wanted]


def long_attention(load: Load) -> Pair:
    """To many tokens: in two passes, by tiles of tokens."""
    cache, q, *states, wanted = _attended(load, 4, 64, 2100, 1, "mse")
    found, true = [cache.decode_attention(q, *states)], [wanted]
    for size, heads in ((96, 1), (240, 2)):
        cache, q, *states, wanted = _attended(load, 4, size, 33000, heads, "prod")
        grouped = q.reshape(1, heads, 2, 1, size)
        tiled = cache._compiled_integer_decode_attention(grouped, *states)
        found.append(tiled.reshape(wanted.shape))
        true.append(wanted)
    return found, true


CASES: dict[str, Callable[[Load], Pair]] = {
    f"turboquant_{f.__name__}": f for f in (codecs, one_token, products_attention, long_attention)
}
