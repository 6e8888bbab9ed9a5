"""Calls of MLX that join kernels, written out: one kernel each, right, and their gradients too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from definition_cases import CASES, EPS, DefinitionCase, rms_norm
from fuse_cases import array, close, flat, kernels, natives_of, numpy, program_of
from row_cases import allowed, distance, doubles, pulled
from scipy import special

import zmlx
from zmlx.device.base import NEVER_ALONE
from zmlx.fuse.simplify import simplify
from zmlx.fuse.written import written_out

pytestmark = pytest.mark.usefixtures("default_device")

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
VIEWS = ("[squeeze]", "[expand_dims]", "[item]", "[places]")


def inputs(case: DefinitionCase, shape: tuple[int, ...], dtype: mx.Dtype) -> list[mx.array]:
    return [array(i, *s, dtype=dtype) for i, s in enumerate(case.shapes(shape))]


def worse(case: DefinitionCase, fused: Any, shape: tuple[int, ...], dtype: mx.Dtype) -> float:
    """By how much the fused function is further from float64 than it may be."""
    arrays = inputs(case, shape, dtype)
    mx.disable_compile()  # MLX 0.32's log_softmax of rows of one number corrupts memory, compiled
    try:
        plain, want = case.fn(*arrays), case.reference(*doubles(arrays))
        mx.eval(plain)
    finally:
        mx.enable_compile()
    got = fused(*arrays)
    for mine, theirs in zip(flat(got), flat(plain), strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
    return distance(got, want) - allowed(distance(plain, want), dtype)


# -- plans ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_one_kernel(name: str) -> None:
    case = CASES[name]
    program = program_of(case.fn, *inputs(case, (4, 33), mx.float32))
    assert len(program.plan.regions) == 1 and program.plan.regions[0].folds
    assert len(program.written.calls) == case.calls and not program.written.left
    natives = natives_of(case.fn, *inputs(case, (4, 33), mx.float32))
    last = ["divide"] if name in ("mean of all", "mse") else []  # by the number of elements
    assert [n for n in natives if n not in VIEWS] == last


ALONE: dict[str, Callable[[mx.array], Any]] = {
    "softmax": lambda x: mx.softmax(x, -1),
    "mean": lambda x: mx.mean(x, -1),
    "logsumexp": lambda x: mx.logsumexp(x, -1),
    "fast.rms_norm": lambda x: mx.fast.rms_norm(x, None, EPS) @ x.T,
    "fast.layer_norm": lambda x: mx.fast.layer_norm(x @ x, None, None, EPS),
}


@pytest.mark.parametrize("name", ALONE)
def test_alone_a_call_stays_with_mlx_where_that_is_as_fast(name: str) -> None:
    """On a GPU all of them, on a CPU, where MLX takes one element at a time, the cheap ones."""
    with zmlx.config(device="replay"):
        graph = simplify(zmlx.fuse(ALONE[name]).entry(array(0, 6, 6)).trace.graph)
    kept = written_out(graph, True, NEVER_ALONE)
    assert not kept.calls and "alone" in next(iter(kept.left.values()))
    assert bool(written_out(graph, True, 10).calls) == (name != "mean")


@pytest.mark.usefixtures("on_cpu")
def test_why_a_call_stays_is_told() -> None:
    report = zmlx.explain(lambda x: mx.mean(x, -1), array(0, 6, 6))
    assert not report.regions and not report.written
    (call,) = report.unfused
    assert call.label == "mean" and "alone" in call.reason
    assert "alone" in report.text(full=True)


def test_a_call_over_axes_that_are_not_neighbours_stays_with_mlx() -> None:
    report = zmlx.explain(lambda x: mx.softmax(x * 2, axis=(0, 2)) + 1, array(0, 6, 5, 6))
    (call,) = [u for u in report.unfused if u.label == "softmax"]
    assert "no one kernel" in call.reason
    assert not zmlx.explain(lambda x: mx.softmax(x * 2, axis=0) + 1, array(0, 6, 6)).unfused


@pytest.mark.usefixtures("on_cpu")
def test_only_what_joins_is_written_out() -> None:
    def fn(x: mx.array, y: mx.array) -> Any:
        return mx.softmax(x * 2, axis=-1), mx.mean(y, axis=-1), mx.softmax(y, axis=(0, 2))

    report = zmlx.explain(fn, array(0, 5, 7), array(1, 4, 2, 9))
    assert len(report.regions) == 1 and len(report.unfused) == 2
    (line,) = report.written
    assert line.startswith("softmax at test_definitions.py:")
    assert "Written out, to share these kernels: softmax at" in report.text()


def test_numerics_mlx_keeps_the_calls_of_mlx() -> None:
    x, w = array(0, 4, 50), array(1, 50)
    fn = lambda x, w: mx.softmax(rms_norm(x, w) * 2, axis=-1)  # noqa: E731
    fused = zmlx.fuse(fn, numerics="mlx")
    assert (numpy(fused(x, w)) == numpy(fn(x, w))).all()
    assert not zmlx.explain(fused, x, w).written


# -- values ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    case = CASES[name]
    fused = zmlx.fuse(case.fn)
    assert worse(case, fused, (3, 4, 128), mx.float32) <= 0
    assert worse(case, fused, (2, 4, 33), mx.bfloat16) <= 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_values_over_all_lengths(name: str, dtype: mx.Dtype) -> None:
    case = CASES[name]
    fused = zmlx.fuse(case.fn)
    for length in (1, 2, 16, 33, 128, 1000, 4096):
        for shape in ((5, length), (2, 3, length), (1, length)):
            assert worse(case, fused, shape, dtype) <= 0, shape


@pytest.mark.parametrize("name", ["softmax", "logsumexp", "log_softmax", "mean", "var", "unit"])
def test_what_is_not_finite(name: str) -> None:
    case = CASES[name]
    x = array(0, 6, 50)
    x[0, 3], x[1, 4], x[2, 5] = mx.nan, mx.inf, -mx.inf
    arrays = [x, *[mx.zeros(s) for s in case.shapes((6, 50))[1:]]]
    close(zmlx.fuse(case.fn)(*arrays), case.fn(*arrays), rtol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_far_from_zero(dtype: mx.Dtype) -> None:
    """A variance is that of the differences, at least as close as MLX's."""
    x = (1000 + array(0, 8, 4096, scale=0.01)).astype(dtype)
    w, b = mx.ones(4096, dtype), mx.zeros(4096, dtype)
    for name in ("var", "mean and var", "layer_norm"):
        case = CASES[name]
        arrays = [x, w, b][: len(case.shapes((8, 4096)))]
        want, plain = case.reference(*doubles(arrays)), case.fn(*arrays)
        assert distance(zmlx.fuse(case.fn)(*arrays), want) <= allowed(distance(plain, want), dtype)


# -- transformations ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    case = CASES[name]
    arrays = inputs(case, (3, 4, 33), mx.float32)
    with mx.stream(mx.cpu):  # MLX's gradient of a layer norm over rows of 33 is wrong on CUDA
        want = pulled(case.fn, arrays)
    close(pulled(zmlx.fuse(case.fn), arrays), want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "rms_norm, gated", "layer_norm"])
def test_a_gradient_is_one_kernel(name: str) -> None:
    """Beside the forward pass's, which writes a number a row for it."""
    case = CASES[name]
    arrays = inputs(case, (8, 128), mx.float32)
    fused = zmlx.fuse(case.fn)
    (result,), gradients = mx.vjp(fused, arrays, [mx.ones_like(fused(*arrays))])
    assert len(kernels(result, *gradients)) == 2


@pytest.mark.parametrize("name", ["log_softmax", "rms_norm, residual", "var", "mse"])
def test_second_order_jvp_vmap_and_new_sizes(name: str) -> None:
    case = CASES[name]
    arrays = inputs(case, (3, 4, 20), mx.float32)
    fused = zmlx.fuse(case.fn)

    def bend(f: Any) -> Any:
        value = lambda x: sum((o * o).sum() for o in flat(f(x, *arrays[1:])))  # noqa: E731
        return mx.grad(lambda x: (mx.grad(value)(x) ** 2).sum())(arrays[0])

    close(bend(fused), bend(case.fn), rtol=1e-3, atol=1e-4)
    tangents = [array(60 + i, *a.shape) for i, a in enumerate(arrays)]
    got, want = mx.jvp(fused, arrays, tangents), mx.jvp(case.fn, arrays, tangents)
    close(got[1], want[1], rtol=1e-4, atol=1e-5)
    axes = tuple(0 if a.ndim == 3 else None for a in arrays)
    close(mx.vmap(fused, axes)(*arrays), mx.vmap(case.fn, axes)(*arrays), rtol=1e-5)
    for length in (7, 64):
        other = inputs(case, (3, 4, length), mx.float32)
        close(fused(*other), case.fn(*other), rtol=1e-5)
    assert fused.cache_info().misses == 2  # that of vmap has another rank


# -- an index into a row --------------------------------------------------------------------------
def cross_entropy(logits: Any, targets: Any) -> Any:
    """In float64."""
    logits = numpy(logits).astype(np.float64)
    index = numpy(targets).astype(np.int64)[..., None]
    return -np.take_along_axis(special.log_softmax(logits, -1), index, -1)[..., 0]


LOSSES: dict[str, Callable[[mx.array, mx.array], mx.array]] = {
    "none": nn.losses.cross_entropy,
    "mean": lambda x, t: nn.losses.cross_entropy(x, t, reduction="mean"),
    "smooth": lambda x, t: nn.losses.cross_entropy(x, t, label_smoothing=0.1, reduction="sum"),
    "fast": mx.fast.cross_entropy,
    "nll": lambda x, t: -mx.take_along_axis(nn.log_softmax(x), t[..., None], -1).squeeze(-1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_cross_entropy(name: str) -> None:
    loss = LOSSES[name]
    x = array(0, 2, 6, 33, scale=3.0)
    targets = mx.array(np.random.default_rng(3).integers(0, 33, (2, 6)))
    fused = zmlx.fuse(loss)
    program = program_of(fused, x, targets)
    assert len(program.plan.regions) == 1 and not program.written.left
    assert not {"[take_along_axis]", "[logsumexp]"} & {*natives_of(fused, x, targets)}
    if name in ("none", "fast", "nll"):
        np.testing.assert_allclose(fused(x, targets), cross_entropy(x, targets), rtol=2e-6)
    total = lambda f: lambda x: f(x, targets).sum()  # noqa: E731
    got, want = mx.value_and_grad(total(fused))(x), mx.value_and_grad(total(loss))(x)
    close(got, want, rtol=1e-4, atol=2e-6)
    assert len(kernels(mx.grad(total(fused))(x))) <= 2  # the loss is an output of the first


@pytest.mark.parametrize("dtype", [mx.int32, mx.uint8, mx.int64, mx.uint32], ids=str)
def test_indices_of_every_type_and_from_the_end(dtype: mx.Dtype) -> None:
    x = array(0, 5, 40)
    index = mx.array([0, 39, 7, 3, 38]).astype(dtype)
    if dtype in (mx.int32, mx.int64):
        index = index - 40 * (index > 20).astype(dtype)
    fn = lambda x, i: (mx.exp(x) + 1, mx.take_along_axis(mx.exp(x), i[:, None], -1))  # noqa: E731
    fused = zmlx.fuse(fn)
    close(fused(x, index), fn(x, index), rtol=1e-6)
    assert zmlx.explain(fused, x, index).written
    longer = array(1, 5, 64)
    close(fused(longer, index), fn(longer, index), rtol=1e-6)


def test_indices_that_no_definition_says_stay_with_mlx() -> None:
    x = array(0, 5, 40)
    for index, axis in ((mx.zeros((5, 3), mx.int32), -1), (mx.zeros((1, 40), mx.int32), 0)):
        fn = lambda x, i: mx.take_along_axis(mx.exp(x) + 1, i, axis) * 2  # noqa: B023, E731
        close(zmlx.fuse(fn)(x, index), fn(x, index), rtol=1e-6)
