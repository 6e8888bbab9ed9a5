"""Whole functions, launched with all their transformations, for what reads the texts that result.

tests/metal and tests/cuda call them on devices that compute nothing (stand_in.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
from generated import BROADCAST, float_function, inputs, int_function, int_inputs, together

import zmlx
from tests.sanitized.catalog_cases import drawn as drawn_for
from tests.sanitized.catalog_cases import function, pulled
from tests.sanitized.helper_cases import KEPT, OWN, WHOLE, Case, drawn, mx_dtype, transforms
from zmlx import elementwise


def launch_case(case: Case, kind: str) -> None:
    """A kind of kernel of the helpers."""
    op, arrays = case.make(mx_dtype(kind)), drawn(case, kind)
    for transform in transforms(case).values():
        transform(op, arrays)


def launch_function(name: str, kind: str) -> None:
    """A function of the catalog with its gradients; catalog_cases.transformed goes further."""
    run, arrays = function(name), drawn_for(name, kind)
    run(*arrays)
    pulled(name, run, *arrays)


def launch_expression(text: str, kind: str, own: bool) -> None:
    """An expression over two broadcast inputs, as a graph or as a kernel of its own."""
    op = elementwise.map(
        name="drawn", expr=OWN + text if own else text, input_names=("x", "y"),
        compute_dtype=mx_dtype(kind), header=KEPT,
    )  # fmt: skip
    arrays = [mx.zeros((3, 1), mx_dtype(kind)), mx.zeros((4, 3, 12), mx_dtype(kind))]
    op(*arrays)
    if not own:
        _pulled(lambda *a: [op(*a)], arrays)
        mx.jvp(op, arrays, arrays)
        mx.vmap(op, in_axes=(None, 0))(*arrays)


def launch_fused(seed: int, kind: str, numerics: str) -> None:
    """Generated functions fused into one, with gradients up to the second, tangents, a map."""
    if kind in WHOLE:
        f = zmlx.fuse(together([int_function(seed)]), numerics=numerics)
        f(*int_inputs(seed, [kind] * 3))
        return
    f = zmlx.fuse(together([float_function(seed)]), numerics=numerics)
    arrays = inputs(seed, BROADCAST, mx_dtype(kind))
    _pulled(lambda *a: _pulled(f, a), arrays)
    mx.jvp(f, arrays, arrays)
    mx.vmap(f, in_axes=(1, None, None))(*arrays)


def launch_joined(kind: str, numerics: str) -> None:
    """Parts written in place, along inner and outer axes, of slices and beside plain arrays."""

    def work(x, y):
        half = x.shape[1] // 2
        a, b = x[:, :half], x[:, half:]
        pair = [a * y - mx.sin(b), a * b + y]
        return [
            mx.concatenate([*pair, b], 1),
            mx.stack(pair, -1),
            mx.concatenate([b, x[:, :half] * 2 - b]),
        ]

    f = zmlx.fuse(work, numerics=numerics)
    arrays = [mx.zeros((6, 8), mx_dtype(kind)), mx.zeros((4,), mx_dtype(kind))]
    f(*arrays)
    _pulled(f, arrays)
    _pulled(lambda x: f(x, arrays[1]), arrays[:1])


def launch_alike(kind: str, numerics: str) -> None:
    """An optimizer's step over a tree, with numbers, and arrays that all read."""

    def step(params, grads, means, rate, decay):
        means = {k: decay * means[k] + (1 - decay) * g for k, g in grads.items()}
        return {k: p - rate * mx.tanh(means[k]) for k, p in params.items()}, means

    f = zmlx.fuse(step, numerics=numerics)
    for sizes in ((7, 300, 5), (4,) * 12):
        trees = [{str(i): mx.zeros((n, 3), mx_dtype(kind)) for i, n in enumerate(sizes)}] * 3
        f(*trees, mx.array(0.5, mx_dtype(kind)), 0.9)
    f({str(i): mx.zeros((4, 3)) for i in range(9)}, trees[1], trees[2], 0.1, 0.5)


def launch_rows(kind: str) -> None:
    """Functions that fold rows, of lengths that registers hold and that they do not, gradients."""

    def norm(x, w, b):
        low = x - x.sum(-1, keepdims=True) / x.shape[-1]
        return [low * mx.rsqrt((low * low).sum(-1, keepdims=True) / x.shape[-1] + 1e-5) * w + b]

    def shares(x, mask, b):
        e = mx.exp(x + mask - (x + mask).max(-1, keepdims=True))
        large = (x > b).any(-1, keepdims=True)
        return [mx.where(large, e / e.sum(-1, keepdims=True), e), x.min(-1) + x.max(-1)]

    fused = zmlx.fuse(norm), zmlx.fuse(shares)
    for shape in ((3, 4, 64), (2, 5, 33), (2, 1, 50000)):
        x, row = mx.zeros(shape, mx_dtype(kind)), mx.zeros(shape[-1:], mx_dtype(kind))
        for f in fused:
            _pulled(f, [x, row, row])
        fused[1](x, mx.zeros((shape[0], 1, shape[-1]), mx_dtype(kind)), row)


def launch_ends(kind: str) -> None:
    """Reductions at the end, over rows, columns and both, of few rows and of many, gradients."""

    def ends(x, y):
        z = x * y + x
        return [z, z.sum(0), mx.max(z, -1), z.sum()]

    def truth(x, y):
        return [(x > y).any(0), (x * y).prod(-1), mx.min(x + y), (x < y).all()]

    for shape in ((300, 64), (40, 33), (1, 50000), (3, 5, 16)):
        x, row = mx.zeros(shape, mx_dtype(kind)), mx.zeros(shape[-1:], mx_dtype(kind))
        for f in (zmlx.fuse(ends), zmlx.fuse(truth)):
            f(x, row)
        _pulled(zmlx.fuse(ends), [x, row])


def _pulled(f: Callable[..., list[mx.array]], arrays: Sequence[mx.array]) -> list[mx.array]:
    return mx.vjp(f, list(arrays), [mx.ones_like(o) for o in f(*arrays)])[1]
