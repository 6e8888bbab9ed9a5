"""Kernels of mlx-audio, called as it calls them, beside its own ops or MLX's."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from tests.dropin import lm_cases
from tests.dropin.lm_cases import Load, Pair, drawn, without_metal

F16 = mx.float16


def lstm(load: Load) -> Pair:
    """EnCodec's, for one sequence: the text reads `cell` at 4 * hidden_size for the second."""
    module = load("mlx_audio.codec.models.encodec.encodec")
    layer = module.LSTM(6, 40)
    layer.Wx, layer.Wh, layer.bias = drawn(160, 6), drawn(160, 40, seed=1) / 8, drawn(160, seed=2)
    x = drawn(1, 5, 6, seed=3)
    return without_metal(lambda: [layer(x)])


def depthwise_conv1d(load: Load) -> Pair:
    module = load("mlx_audio.sts.models.mossformer2_se.depthwise_conv1d_kernel")
    found, wanted = [], []
    for kind in (mx.float32, F16):
        for length, taps in ((9, 5), (1, 3), (4, 7)):
            x, w = drawn(2, length, 6, kind=kind), drawn(6, taps, 1, kind=kind, seed=1) / 4
            found.append(module.depthwise_conv1d(x, w, padding=taps // 2, groups=6))
            wanted.append(mx.conv1d(x, w, padding=taps // 2, groups=6))
    return found, wanted


def relu_squared_attention(load: Load) -> Pair:
    module = load("mlx_audio.sts.models.mossformer2_se.flash_attention_kernels")
    ways = module.FlashAttentionImplementations
    q, k, v = (drawn(2, 3, 20, 16, seed=seed) for seed in range(3))
    product = module.fused_multiply_add(
        inputs=[q, k, mx.array([0.5])],
        template=[("T", q.dtype)],
        grid=(q.size, 1, 1),
        threadgroup=(64, 1, 1),
        output_shapes=[q.shape],
        output_dtypes=[q.dtype],
    )[0]
    found = [ways.simple_kernel(q, k, v), ways.fused_kernel(q, k, v, group_size=4), product]
    return found, [ways.standard(q, k, v), ways.standard(q, k, v, group_size=4), q * k * 0.5]


def packed_fives(load: Load) -> Pair:
    module = load("mlx_audio.stt.models.phonon.packed")
    width = 48
    columns = module.packed_bytes_per_row(width)
    packed = mx.random.randint(0, 256, (7, columns), key=mx.random.key(0)).astype(mx.uint8)
    return without_metal(lambda: list(module.unpack_base5_codes(packed, width)))


def ssm_from_the_start(load: Load) -> Pair:
    module = load("mlx_audio.lm.models.ssm")
    x, dt = drawn(2, 4, 6, 8, seed=1), drawn(2, 4, 6, seed=2)
    b, c = drawn(2, 4, 3, 64, seed=3) / 8, drawn(2, 4, 3, 64, seed=4) / 8
    rest = (drawn(6, seed=5), dt, drawn(6, seed=6))
    arrays = (x, drawn(6, seed=7), b, c, *rest)
    limit = (0.001, 100.0)
    return module.ssm_initial_kernel(*arrays, limit), module.ssm_attn(*arrays, None, limit)


def in_mlx_audio(case: Callable[[Load], Pair]) -> Callable[[Load], Pair]:
    """A case of mlx-lm with the copy that mlx-audio keeps of its module."""
    return lambda load: case(lambda name: load(name.replace("mlx_lm.", "mlx_audio.lm.")))


CASES: dict[str, Callable[[Load], Pair]] = {
    **{
        case.__name__: case
        for case in (
            lstm, depthwise_conv1d, relu_squared_attention, packed_fives, ssm_from_the_start
        )
    },
    "ssm": in_mlx_audio(lm_cases.ssm),
    "gated_delta": in_mlx_audio(lm_cases.gated_delta),
}  # fmt: skip
