"""Catalog rows: every function of zmlx.kernels beside the MLX ops that a user would write.

The table of the catalog says how arrays look and what the ops are; the subject's column is that of
zmlx.kernels. Where its result is float32 whatever arrays hold, the ops read float32 too. GB/s count
each array once, forward, and in the gradient of sum(f * g) also g and what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx

from benchmarks.harness import SUBJECT, Bar, Peer, Result, Row, Settings, contest, measure
from benchmarks.peers import call_of
from zmlx.catalog.rows import ROWS
from zmlx.catalog.rows import Row as Kernel

SUITE = "catalog"
TYPES = ("float32", "bfloat16")
Function = Callable[..., list[mx.array]]


def _fast(f: Callable[..., Any]) -> Function:
    return lambda *arrays: [f(*arrays)]


# What MLX has as a kernel of its own.
FAST: dict[str, Function] = {
    "softmax.softmax_lastdim": _fast(lambda x: mx.softmax(x, axis=-1)),
    "norms.rmsnorm": _fast(lambda x, w: mx.fast.rms_norm(x, w, 1e-6)),
    "norms.layernorm": _fast(lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5)),
    "transformer.rmsnorm_residual": lambda x, r, w: [mx.fast.rms_norm(x + r, w, 1e-6), x + r],
    "attention.flash_attention": _fast(
        lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask="causal")
    ),
    "rope.rope_at": _fast(
        lambda x: mx.fast.rope(x, x.shape[-1], traditional=False, base=100.0, scale=1.0, offset=3)
    ),
}


def rows(settings: Settings) -> list[Row]:
    """Each function forward, and its gradients where it has any; twins once.

    Quickly: of one type.
    """
    made = []
    for kernel in ROWS.values():
        if (
            kernel.factory is not None
            and kernel.name.endswith("_grad")
            and (kernel.module == "activations")
        ):
            continue
        for dtype in TYPES[:1] if settings.quick else TYPES:
            made.append(Row(SUITE, f"{kernel.name} {dtype}", partial(forward, kernel, dtype)))
            if kernel.differentiable:
                name = f"gradient of {kernel.name} {dtype}"
                made.append(Row(SUITE, name, partial(backward, kernel, dtype)))
    return made


def forward(kernel: Kernel, dtype: str, settings: Settings) -> Result:
    kernel, arrays = inputs(kernel, dtype, settings)
    kind = "float32" if kernel.wide else dtype
    return measured(
        kernel, kind, lambda f: f, arrays, _limits(kernel.bars, dtype, settings), settings
    )


def backward(kernel: Kernel, dtype: str, settings: Settings) -> Result:
    """All gradients of sum(f * g)."""
    kernel, arrays = inputs(kernel, dtype, settings)
    places = kernel.differentiable
    # Of ones the gradient of what sums up to a constant is the rounding of zeros.
    g = [
        mx.random.normal(o.shape, o.dtype, key=mx.random.key(3))
        for o in _floats(kernel.run(*arrays))
    ]
    mx.eval(g)

    def gradients(f: Function) -> Function:
        def pulled(*given: mx.array) -> list[mx.array]:
            own, seeds = list(given[: len(arrays)]), list(given[len(arrays) :])

            def of(*moved: mx.array) -> list[mx.array]:
                found = dict(zip(places, moved, strict=True))
                return _floats(f(*[found.get(i, a) for i, a in enumerate(own)]))

            return list(mx.vjp(of, [own[i] for i in places], seeds)[1])

        return pulled

    limits = _limits(kernel.pull_bars, dtype, settings)
    return measured(kernel, dtype, gradients, [*arrays, *g], limits, settings)


def measured(
    kernel: Kernel,
    dtype: str,
    way: Callable[[Function], Function],
    arrays: Sequence[mx.array],
    limits: tuple[Bar, ...],
    settings: Settings,
) -> Result:
    """`dtype` is that of the results."""
    mine, ops = way(kernel.run), way(in_ops(kernel))
    expected = (mine if kernel.random else ops)(*_as(mx.float32, arrays))
    mx.eval(expected)

    def exact() -> list[mx.array]:
        with mx.stream(mx.cpu):
            found = _as(mx.float32, way(kernel.in_ops)(*_as(mx.float64, arrays)))
            mx.eval(found)
        return found

    moved = sum(a.nbytes for a in (*arrays, *mine(*arrays)))
    peers = [
        Peer("mx ops", call_of(ops, arrays)),
        Peer("mx.compile", call_of(mx.compile(ops), arrays)),
    ]
    if kernel.name in FAST:
        peers.append(Peer("mx.fast", call_of(way(FAST[kernel.name]), arrays)))
    subject = [Peer(SUBJECT, call_of(mine, arrays))]
    if kernel.random:
        samples, skipped = measure(subject + peers, settings), ()
    else:
        samples, skipped = contest(
            subject + peers,
            expected,
            getattr(mx, dtype),
            settings,
            terms=largest(arrays),
            exact=exact,
        )
    note = "the subject is zmlx.kernels"
    return Result(SUITE, kernel.name, "ms", samples, limits, moved, skipped, note)


def in_ops(kernel: Kernel) -> Function:
    """The row in MLX's ops, with the type of its results."""
    return (lambda *a: kernel.in_ops(*_as(mx.float32, a))) if kernel.wide else kernel.in_ops


def _as(kind: mx.Dtype, arrays: Sequence[mx.array]) -> list[mx.array]:
    return [a.astype(kind) if _is_float(a) else a for a in arrays]


def largest(arrays: Sequence[mx.array]) -> int:
    """Sums may be over as many terms."""
    return max(a.size for a in arrays)


def inputs(kernel: Kernel, dtype: str, settings: Settings) -> tuple[Kernel, list[mx.array]]:
    """The row as it is called at this size, and its arrays."""
    made = kernel.drawn(getattr(mx, dtype), kernel.large(settings.elements))
    mx.eval(made)
    return replace(kernel, options=kernel.large_options or kernel.options), made


def _limits(bars: tuple[float, float] | None, dtype: str, settings: Settings) -> tuple[Bar, ...]:
    if bars is None or "H200" not in settings.card:
        return ()
    return (Bar("GB/s", bars[TYPES.index(dtype)]),)


def _is_float(a: mx.array) -> bool:
    return bool(mx.issubdtype(a.dtype, mx.floating))


def _floats(arrays: Sequence[mx.array]) -> list[mx.array]:
    return [a for a in arrays if _is_float(a)]
