"""Catalog rows: functions of zmlx.kernels beside MLX's own fast ones, forward and backward.

The subject's column is that of zmlx.kernels here. GB/s count each array once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx

from benchmarks.cases import ROW
from benchmarks.harness import (
    SUBJECT,
    Bar,
    Peer,
    Result,
    Row,
    Settings,
    as_arrays,
    contest,
    measure,
)
from benchmarks.peers import call_of
from zmlx.kernels import norms, softmax, transformer

SUITE = "catalog"
P, SEED = 0.1, 3
Function = Callable[..., Any]


@dataclass(frozen=True)
class Kernel:
    """A function of the catalog, MLX's for the same, and the H200's bars in GB/s.

    `rows` and `weights` count the inputs shaped like the array and like one row.
    """

    name: str
    mine: Function
    peer: Function
    peer_name: str
    rows: int = 1
    weights: int = 0
    outputs: int = 1
    gpu: dict[str, float] = field(default_factory=dict)
    gpu_gradient: dict[str, float] | None = None  # None: no row for the gradient
    exact: bool = True  # False: the peer's numbers are others, as random ones are


def plain_add_rmsnorm(x: mx.array, r: mx.array, w: mx.array) -> tuple[mx.array, mx.array]:
    h = x + r
    return mx.fast.rms_norm(h, w, 1e-6), h


def plain_dropout(x: mx.array) -> mx.array:
    return mx.where(mx.random.bernoulli(1 - P, x.shape), x * (1 / (1 - P)), 0).astype(x.dtype)


KERNELS = (
    Kernel(
        "softmax", softmax.softmax_lastdim, lambda x: mx.softmax(x, axis=-1), "mx.softmax",
        gpu={"float32": 4050, "bfloat16": 4000},
        gpu_gradient={"float32": 4200, "bfloat16": 4200},
    ),
    Kernel(
        "rmsnorm", norms.rmsnorm, lambda x, w: mx.fast.rms_norm(x, w, 1e-6), "mx.fast.rms_norm",
        weights=1, gpu={"float32": 4050, "bfloat16": 4050},
        gpu_gradient={"float32": 3700, "bfloat16": 3300},
    ),
    Kernel(
        "layernorm", norms.layernorm, lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5),
        "mx.fast.layer_norm", weights=2, gpu={"float32": 4100, "bfloat16": 3900},
        gpu_gradient={"float32": 3700, "bfloat16": 3300},
    ),
    Kernel(
        "residual add and rmsnorm", transformer.rmsnorm_residual, mx.compile(plain_add_rmsnorm),
        "mx.compile, mx.fast", rows=2, weights=1, outputs=2,
        gpu={"float32": 4000, "bfloat16": 4000},
    ),
    Kernel(
        "dropout", lambda x: transformer.dropout(x, P, SEED), mx.compile(plain_dropout),
        "mx.compile", gpu={"float32": 3900, "bfloat16": 3600}, exact=False,
    ),
)  # fmt: skip


def rows(settings: Settings) -> list[Row]:
    """Each kernel forward, and its gradients where a row is asked for."""
    made = []
    for kernel in KERNELS:
        for dtype in ("float32", "bfloat16"):
            made.append(Row(SUITE, f"{kernel.name} {dtype}", partial(forward, kernel, dtype)))
            if kernel.gpu_gradient is not None:
                name = f"gradient of {kernel.name} {dtype}"
                made.append(Row(SUITE, name, partial(backward, kernel, dtype)))
    return made


def forward(kernel: Kernel, dtype: str, settings: Settings) -> Result:
    arrays = inputs(kernel, dtype, settings)
    large = arrays[0].nbytes
    moved = large * (kernel.rows + kernel.outputs) + sum(a.nbytes for a in arrays[kernel.rows :])
    return measured(kernel, kernel.mine, kernel.peer, arrays, moved, kernel.gpu, settings)


def backward(kernel: Kernel, dtype: str, settings: Settings) -> Result:
    """All gradients of sum(f * g): reads x and g, writes dx, and what rows share twice."""
    *arrays, g = [*inputs(kernel, dtype, settings), inputs(kernel, dtype, settings, seed=1)[0]]
    count = len(arrays)

    def gradients(f: Function) -> Function:
        def pulled(g: mx.array, *given: mx.array) -> list[mx.array]:
            return list(mx.vjp(f, given, [g])[1][:count])

        return pulled

    moved = 3 * g.nbytes + 2 * sum(a.nbytes for a in arrays[kernel.rows :])
    return measured(
        kernel, gradients(kernel.mine), gradients(kernel.peer), [g, *arrays], moved,
        kernel.gpu_gradient or {}, settings,
    )  # fmt: skip


def measured(
    kernel: Kernel,
    mine: Function,
    peer: Function,
    arrays: Sequence[mx.array],
    moved: int,
    bars: dict[str, float],
    settings: Settings,
) -> Result:
    wide = [a.astype(mx.float32) for a in arrays]
    expected = as_arrays((peer if kernel.exact else mine)(*wide))
    mx.eval(expected)
    peers = [Peer(SUBJECT, call_of(mine, arrays))]
    others = [Peer(kernel.peer_name, call_of(peer, arrays))]
    if kernel.exact:
        samples, skipped = contest(peers + others, expected, arrays[0].dtype, settings)
    else:
        samples, skipped = measure(peers + others, settings), ()
    dtype = str(arrays[0].dtype).removeprefix("mlx.core.")
    limits = (Bar("GB/s", bars[dtype]),) if "H200" in settings.card and dtype in bars else ()
    note = "the subject is zmlx.kernels"
    return Result(SUITE, kernel.name, "ms", samples, limits, moved, skipped, note)


def inputs(kernel: Kernel, dtype: str, settings: Settings, seed: int = 0) -> list[mx.array]:
    kind = getattr(mx, dtype)
    columns = min(ROW, settings.elements)
    mx.random.seed(seed)
    shape = (settings.elements // columns, columns)
    made = [mx.random.normal(shape).astype(kind) for _ in range(kernel.rows)]
    made += [mx.random.normal((columns,)).astype(kind) for _ in range(kernel.weights)]
    mx.eval(made)
    return made
