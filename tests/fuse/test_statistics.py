"""Numbers a row that the forward pass writes for its gradient, and only then."""

from __future__ import annotations

import io
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close, kernels, numpy, program_of

import zmlx
from zmlx.fuse import statistics
from zmlx.fuse.program import Program

pytestmark = pytest.mark.usefixtures("host_device")

ROWS, COLUMNS = 6, 65


@pytest.fixture(autouse=True)
def short_rows_are_long(monkeypatch):
    """As if registers held no row of these tests."""
    monkeypatch.setattr(statistics, "LONG", 16)


LIMITS = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


def norm(x, w, b):
    centered = x - mx.mean(x, -1, keepdims=True)
    variance = mx.mean(mx.square(centered), -1, keepdims=True)
    return centered * mx.rsqrt(variance + 1e-5) * w + b


def softmax(x, w, b):
    e = mx.exp(x * w - mx.stop_gradient(mx.max(x * w, -1, keepdims=True)))
    return e / mx.sum(e, -1, keepdims=True) + b


def entropy(x, w, b):
    return nn.losses.cross_entropy(x * w + b, mx.arange(x.shape[0]), reduction="mean")


FUNCTIONS = {"norm": norm, "softmax": softmax, "entropy": entropy}
QUICK = [("norm", "bfloat16"), ("norm", "float32"), ("softmax", "float32")]
SLOW = [(name, dtype) for name in FUNCTIONS for dtype in LIMITS if (name, dtype) not in QUICK]
CASES = [*QUICK, *[pytest.param(*case, marks=pytest.mark.exhaustive) for case in SLOW]]


def given(dtype):
    arrays = array(1, ROWS, COLUMNS), array(2, COLUMNS) + 2, array(3, COLUMNS)
    return [a.astype(getattr(mx, dtype)) for a in arrays]


def gradient(function):
    return mx.value_and_grad(lambda *a: mx.sum(mx.sin(function(*a))), argnums=(0, 1, 2))


def written(function, arrays):
    """The folds that the forward pass writes for its gradient."""
    program = program_of(function, *arrays)
    return [program.plan.graph[n]["op"] for n in program.gradient.statistics]


def walks_of_gradient(monkeypatch, run):
    """The folds over rows of the graphs of gradients that `run` makes."""
    made = []
    first = Program.__init__

    def noted(self, graph, runtime, name, sums=False, **further):
        first(self, graph, runtime, name, sums, **further)
        if sums:
            made.append(self.plan.graph)

    monkeypatch.setattr(Program, "__init__", noted)
    mx.eval(run())
    found = [graph[n] for graph in made for n in graph if graph.kind(n) == "reduce"]
    return [data["op"] for data in found if data["axes"] == (1,)]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_values_and_gradients(name, dtype):
    """As plain MLX in float32, up to the type's own digits."""
    function, arrays = FUNCTIONS[name], given(dtype)
    fused = zmlx.fuse(function)
    for _ in range(2):  # the second call plays a tape
        value, gradients = gradient(fused)(*arrays)
        want, wants = gradient(function)(*[a.astype(mx.float32) for a in arrays])
        limit = LIMITS[dtype]
        close(value.astype(mx.float32), want, limit, limit)
        assert [g.dtype for g in gradients] == [a.dtype for a in arrays]
        close([g.astype(mx.float32) for g in gradients], wants, limit, limit)


def test_a_norm_folds_no_row_again(monkeypatch):
    arrays = given("bfloat16")
    assert written(zmlx.fuse(norm), arrays) == ["sum", "sum"]
    fused = zmlx.fuse(norm)
    folds = walks_of_gradient(monkeypatch, lambda: gradient(fused)(*arrays))
    assert "max" not in folds and len(folds) <= 3  # of what comes back only


def test_a_loss_alone_need_not_run_for_its_gradient():
    arrays = given("float32")[:1]
    loss = zmlx.fuse(lambda x: entropy(x, 1.0, 0.0))
    assert written(loss, arrays) == []
    assert len(kernels(mx.grad(loss)(*arrays))) == 1


def test_nothing_is_written_without_a_gradient():
    arrays = given("float32")
    fused = zmlx.fuse(norm)
    assert len(program_of(fused, *arrays).plan.regions[0].results) == 1
    mx.eval(gradient(fused)(*arrays), fused(*arrays))
    text = io.StringIO()
    mx.export_to_dot(text, fused(*arrays))
    (kernel,) = re.findall(r'\{ (\d+) \[label ="zmlx_rows', text.getvalue())
    assert len(re.findall(rf"^{kernel} -> ", text.getvalue(), re.M)) == 1


def test_other_transformations():
    x, w, b = given("float32")
    fused = zmlx.fuse(norm)

    def forms(f):
        first = lambda x: gradient(f)(x, w, b)[1][0]  # noqa: E731
        yield mx.vjp(f, [x, w, b], [x])[1]
        yield gradient(mx.checkpoint(f))(x, w, b)[1]
        yield mx.vmap(first)(mx.stack([x, x * 2]))
        yield mx.grad(lambda x: (first(x) ** 2).sum())(x)
        yield mx.jvp(first, [x], [x])[1]
        yield mx.compile(first)(x)

    for mine, theirs in zip(forms(fused), forms(norm), strict=True):
        close(mine, theirs, 2e-3, 2e-4)


def test_the_largest_of_halves_that_are_computed_is_folded_again():
    """A kernel has more of its digits than the half that it would write."""
    arrays = given("bfloat16")
    logits = lambda x, w, b: mx.logsumexp(x * w, -1).sum()  # noqa: E731
    fused = zmlx.fuse(logits)
    got = mx.grad(fused)(*arrays).astype(mx.float32)
    x, w, _ = [numpy(a).astype(np.float64) for a in arrays]
    e = np.exp(x * w - (x * w).max(-1, keepdims=True))
    want = e / e.sum(-1, keepdims=True) * w
    assert np.abs(numpy(got) - want).max() < 2**-8 * np.abs(want).max() * 2


def test_short_rows_are_folded_again():
    """Their numbers a row are no small part of them."""
    arrays = [a[..., :8] for a in given("float32")]
    assert written(zmlx.fuse(norm), arrays) == []


def test_ties_are_asked_of_what_the_same_kernel_folded():
    """A maximum that has a gradient is compared with what it was folded of."""
    function = lambda x: (x * 0.3 - mx.max(x * 0.3, -1, keepdims=True)).sum()  # noqa: E731
    x = mx.array(np.tile([1.0, 3.0, 3.0, 2.0], (4, 16)).astype(np.float32))
    close(mx.grad(zmlx.fuse(function))(x), mx.grad(function)(x))


def test_sums_that_would_wait_for_others_are_added_up_beside_them():
    """Of a layer norm's gradient: all that it folds is folded in one walk."""
    arrays = given("float32")
    fused = zmlx.fuse(norm)
    (_, gradients), want = gradient(fused)(*arrays), gradient(norm)(*arrays)
    close(gradients, want[1], 1e-4, 1e-5)
    report = zmlx.explain(fused, *arrays)
    assert len(report.regions[0].walks.walks) == 3  # forward: a mean, a variance, what is written
    far = [arrays[0] * 0.01 + 1000, *arrays[1:]]  # a mean that is large beside the deviation
    exact = [mx.array(numpy(a).astype(np.float64), mx.float64) for a in far]
    with mx.stream(mx.cpu):
        want = [numpy(g) for g in gradient(norm)(*exact)[1]]
    for got, plain, g in zip(gradient(fused)(*far)[1], gradient(norm)(*far)[1], want, strict=True):
        mine, theirs = (np.abs(numpy(a) - g).max() for a in (got, plain))
        assert mine <= 2 * theirs + 1e-6 * np.abs(g).max()


def test_rows_that_registers_hold_are_folded_again(monkeypatch):
    """Where only the gradient is wanted, the forward kernel does not run."""
    monkeypatch.undo()
    arrays = given("float32")
    assert written(zmlx.fuse(norm), arrays) == []
    pulled = mx.vjp(zmlx.fuse(norm), arrays, [mx.ones((ROWS, COLUMNS))])[1]
    assert len(kernels(*pulled)) == 1
