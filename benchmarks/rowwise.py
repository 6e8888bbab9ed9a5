"""Rows: functions that fold rows or columns, written out in plain ops, and their pullbacks.

The peers are mx.compile, plain MLX, torch.compile and, where there is one, MLX's own kernel for the
same. On a GPU the ceiling is a copy that MLX launches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import zmlx
from benchmarks import torch_rows
from benchmarks.cases import ROW, gelu_tanh, pullback
from benchmarks.harness import (
    SUBJECT,
    Bar,
    Peer,
    Result,
    Row,
    Settings,
    Skipped,
    as_arrays,
    contest,
    tried,
)
from benchmarks.peers import COMPILE, EAGER, call_of
from benchmarks.torch_peers import TORCH

SUITE, OWN = "rowwise", "MLX's own kernel"
CLASSES, SHORT = 32768, 33
Function = Callable[..., Any]
Shapes = list[tuple[int, ...]]


def plainly(f: Function) -> Function:
    return f


WAYS: tuple[tuple[str, Function], ...] = (
    (SUBJECT, zmlx.fuse), (COMPILE, mx.compile), (EAGER, plainly),
)  # fmt: skip


def mean(x: mx.array) -> mx.array:
    return x.mean(-1, keepdims=True)


def rms_norm(x: mx.array, w: mx.array) -> mx.array:
    return x * mx.rsqrt(mean(x * x) + 1e-5) * w


def residual_norm(x: mx.array, update: mx.array, w: mx.array) -> tuple[mx.array, mx.array]:
    h = x + update
    return h, rms_norm(h, w)


def layer_norm(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
    centred = x - mean(x)
    return centred * mx.rsqrt(mean(centred * centred) + 1e-5) * w + b


def softmax(x: mx.array) -> mx.array:
    e = mx.exp(x - mx.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def masked_softmax(x: mx.array, mask: mx.array) -> mx.array:
    return softmax(x * 0.125 + mask)


def cross_entropy(x: mx.array) -> mx.array:
    labels = mx.arange(x.shape[0]) * 31 % x.shape[1]
    return nn.losses.cross_entropy(x, labels).mean()


@dataclass(frozen=True)
class Case:
    """A function of rows; `moved` counts the large arrays that it must read and write.

    `gpu` are bars of an H200 in GB/s, by type. `pulled`: the row is the pullback.
    """

    name: str
    fn: Function
    shapes: Callable[[int, int], Shapes]
    moved: int
    gpu: dict[str, float] = field(default_factory=dict)
    own: Function | None = None  # MLX's own kernel
    pulled: bool = False
    columns: int = ROW

    def bars(self, dtype: str, settings: Settings) -> tuple[Bar, ...]:
        """In GB/s on an H200; in times its peers on a CPU, where mx.compile fuses no fold."""
        if settings.device == "gpu":
            known = "H200" in settings.card and dtype in self.gpu
            return (Bar("GB/s", self.gpu[dtype]),) if known else ()
        norm = "norm" in self.name and not self.pulled
        return (
            *([Bar("times", 5, COMPILE)] if self.columns != SHORT else []),
            *([Bar("times", 3, EAGER)] if norm else []),
            *([Bar("times", 3 if "softmax" in self.name else 1, OWN)] if self.own else []),
            Bar("times", 1, TORCH),
        )

    def inputs(self, elements: int, dtype: mx.Dtype) -> list[mx.array]:
        """Normal numbers, evaluated; a cotangent last where the row is a pullback."""
        columns = min(self.columns, max(1, elements // 4))
        mx.random.seed(0)
        shapes = self.shapes(elements // columns, columns)
        shapes += [shapes[0]] if self.pulled else []
        made = [mx.random.normal(shape).astype(dtype) for shape in shapes]
        mx.eval(made)
        return made


def one(rows: int, columns: int) -> Shapes:
    return [(rows, columns)]


def two(rows: int, columns: int) -> Shapes:
    return [(rows, columns)] * 2


def weighed(rows: int, columns: int) -> Shapes:
    return [(rows, columns), (columns,)]


def gpu(float32: float, bfloat16: float) -> dict[str, float]:
    return {"float32": float32, "bfloat16": bfloat16}


def summed(rows: int, columns: int) -> Shapes:
    return [*two(rows, columns), (columns,)]


def shifted(rows: int, columns: int) -> Shapes:
    return [*weighed(rows, columns), (columns,)]


FAST_RMS = partial(mx.fast.rms_norm, eps=1e-5)
SOFTMAX = partial(mx.softmax, axis=-1)
FAST_LAYER = partial(mx.fast.layer_norm, eps=1e-5)
CASES = (
    Case("rms norm", rms_norm, weighed, 2, gpu(4050, 3950), FAST_RMS),
    Case("residual and rms norm", residual_norm, summed, 4, gpu(4050, 3950)),
    Case("layer norm", layer_norm, shifted, 2, gpu(4080, 3950), FAST_LAYER),
    Case("softmax, written out", softmax, one, 2, gpu(4050, 3950), SOFTMAX),
    Case("softmax(x*s+mask)", masked_softmax, weighed, 2, gpu(3950, 3850)),
    Case("log-softmax", lambda x: nn.log_softmax(x, -1), one, 2, gpu(4050, 3900)),
    Case("logsumexp", lambda x: mx.logsumexp(x, -1), one, 1, gpu(4050, 3900)),
    Case("mean of (a-b)^2", lambda a, b: mx.mean((a - b) ** 2), two, 2, gpu(4200, 3900)),
    Case("row sums of x*sigmoid(y)", lambda x, y: (x * mx.sigmoid(y)).sum(-1), two, 2,
         gpu(4200, 3900)),
    Case("column sums of gelu", lambda x: gelu_tanh(x).sum(0), one, 1, gpu(3900, 3600)),
    Case("exp(-a^2)*row, rows of 33", lambda a, r: mx.exp(-a * a) * r, weighed, 2, gpu(3500, 2500),
         columns=SHORT),
    Case("pullback of rms norm", rms_norm, weighed, 3, gpu(3900, 3400), FAST_RMS, True),
    Case("pullback of layer norm", layer_norm, shifted, 3, gpu(3650, 2700), FAST_LAYER, True),
    Case("pullback of softmax", softmax, one, 3, gpu(4200, 4100), SOFTMAX, True),
)  # fmt: skip


def rows(settings: Settings) -> list[Row]:
    """Each case in float32 and bfloat16, then a loss over many classes with its gradient."""
    made = [
        Row(SUITE, f"{case.name} {dtype}", partial(measured, case, dtype))
        for case in CASES
        for dtype in ("float32", "bfloat16")
    ]
    loss = [Row(SUITE, f"cross-entropy and gradient {d}", partial(loss_and_gradient, d))
            for d in ("float32", "bfloat16")]  # fmt: skip
    ceiling = [Row(SUITE, "the ceiling: a copy", copied)] if settings.device == "gpu" else []
    return [*ceiling, *made, *loss]


def measured(case: Case, dtype: str, settings: Settings) -> Result:
    """A case, all contestants on the same arrays."""
    kind = getattr(mx, dtype)
    inputs = case.inputs(settings.elements, kind)
    form = pullback if case.pulled else plainly
    ways = [(name, form(way(case.fn))) for name, way in WAYS]
    ways += [(OWN, form(case.own))] if case.own else []
    torch = tried(TORCH, lambda: torch_rows.peer(case.name, inputs, case.pulled))
    expected = as_arrays(form(case.fn)(*[x.astype(mx.float32) for x in inputs]))
    moved = case.moved * inputs[0].nbytes
    bars = case.bars(dtype, settings)
    return _contest(case.name, ways, inputs, expected, moved, bars, settings, [torch])


def loss_and_gradient(dtype: str, settings: Settings) -> Result:
    """Value and gradient: the logits are read once, their gradient is written once."""
    columns = min(CLASSES, settings.elements // 4)
    x = mx.random.normal((settings.elements // columns, columns)).astype(getattr(mx, dtype))
    mx.eval(x)
    ways = [(name, way(mx.value_and_grad(cross_entropy))) for name, way in WAYS[1:]]
    ways.insert(0, (SUBJECT, mx.value_and_grad(zmlx.fuse(cross_entropy))))
    expected = as_arrays(mx.value_and_grad(cross_entropy)(x.astype(mx.float32)))
    torch = tried(TORCH, lambda: torch_rows.peer(torch_rows.LOSS, [x]))
    bars = Case("", cross_entropy, one, 2, gpu(3900, 3000)).bars(dtype, settings)
    moved = 2 * x.nbytes
    return _contest(torch_rows.LOSS, ways, [x], expected, moved, bars, settings, [torch])


def copied(settings: Settings) -> Result:
    """A copy by a kernel that MLX launches, 16 bytes a thread."""
    x = mx.random.normal((settings.elements,))
    mx.eval(x)
    copy = mx.fast.cuda_kernel(
        name="copy", input_names=["a"], output_names=["out"],
        source="const size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;\n"
        "((uint4*)out)[i] = ((const uint4*)a)[i];",
    )  # fmt: skip
    launch = {
        "grid": (x.size // 4, 1, 1), "threadgroup": (256, 1, 1),
        "output_shapes": [x.shape], "output_dtypes": [x.dtype],
    }  # fmt: skip
    ways = [("a copy", lambda a: copy(inputs=[a], **launch)[0])]
    return _contest("", ways, [x], [x], 2 * x.nbytes, (), settings)


def _contest(
    name: str,
    ways: Sequence[tuple[str, Function]],
    inputs: Sequence[mx.array],
    expected: Sequence[mx.array],
    moved: int,
    bars: tuple[Bar, ...],
    settings: Settings,
    others: Sequence[Peer | Skipped] = (),
) -> Result:
    mx.eval(expected)
    peers = [*[Peer(who, call_of(f, inputs)) for who, f in ways], *others]
    samples, absent = contest(peers, expected, inputs[0].dtype, settings, terms=inputs[0].size)
    return Result(SUITE, name, samples=samples, bars=bars, bytes=moved, skipped=absent)
