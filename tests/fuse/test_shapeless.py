"""mx.compile(..., shapeless=True): sizes are examples there, sizes of one among them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import pytest
from fuse_cases import array, close, kernels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zmlx
from zmlx import kernels as catalog
from zmlx.autograd import binary_from_expr
from zmlx.fuse.plan import Native

pytestmark = pytest.mark.usefixtures("default_device")
shapeless: Callable[..., Any] = partial(mx.compile, shapeless=True)


def bent(x, y):
    return mx.tanh(x) * y + 1


def norm(x, y):
    return x * mx.rsqrt(mx.mean(x * x, -1, keepdims=True) + 1e-5) * y


def softmax(x, y):
    e = mx.exp(x - mx.max(x, -1, keepdims=True)) * y
    return e / mx.sum(e, -1, keepdims=True)


def turned(x, y):
    return mx.concatenate([(x * y).T + 1, mx.tanh(x.T) * 2], axis=0)


def slopes(f):
    return mx.grad(lambda x, y: (f(x, y) ** 2).sum(), argnums=(0, 1))


FUNCTIONS = (bent, norm, softmax, turned)
FUSED = {f: zmlx.fuse(f) for f in FUNCTIONS}


def inputs(*shapes):
    return [array(k, *shape) for k, shape in enumerate(shapes)]


def agree(f, fused, *calls):
    """`fused`, compiled for any sizes, gives at each of the `calls` what `f` gives."""
    compiled = shapeless(fused)
    for shapes in calls:
        given = inputs(*shapes)
        close(compiled(*given), f(*given), 1e-4, 1e-5)


# The rows' length stays: MLX's own folds break down where a folded dimension is one by turns.
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("first", [((1, 8), (1, 1)), ((3, 8), (3, 8))], ids=str)
def test_sizes_of_one_may_grow_and_go(f, first):
    others = [((3, 8), (3, 1)), ((3, 8), (1, 8)), ((1, 8), (1, 8)), ((5, 8), (5, 8)), first]
    agree(f, FUSED[f], first, *others)


dims = st.sampled_from([1, 1, 2, 3])


@st.composite
def shapes(draw):
    """Shapes of two arrays over rows of eight."""
    full = (draw(dims), draw(dims), 8)
    own = tuple(n if draw(st.booleans()) else 1 for n in full)
    return full, own


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from((bent, norm, softmax)), st.lists(shapes(), min_size=2, max_size=4))
def test_any_sizes_after_any(f, calls):
    agree(f, FUSED[f], *calls)


@pytest.mark.parametrize("f", [bent, norm], ids=lambda f: f.__name__)
def test_gradients(f):
    ones, more = ((1, 8), (1, 1)), ((3, 8), (3, 1))
    for around in (lambda f: shapeless(slopes(f)), lambda f: slopes(shapeless(f))):
        for calls in ((ones, more, ones), (more, ones)):
            compiled = around(FUSED[f])
            for shapes in calls:
                given = inputs(*shapes)
                close(compiled(*given), slopes(f)(*given), 1e-4, 1e-5)


def test_other_ways_of_passing_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # its launches have shapes built in
    held = array(7, 1, 8)
    fused = zmlx.fuse(lambda given, scale: bent(given["x"], given["y"]) * scale)
    inner = FUSED[bent]
    ways: dict[str, Any] = {
        "a dict and a number": lambda x, y: fused({"x": x, "y": y}, 2.0) / 2.0,
        "a closure": lambda x, y: zmlx.fuse(lambda h: bent(x, y) + h * 0)(held),
        "arrays that are there": lambda x, y: bent(x, y) + 0 * inner(held, held * 2),
        "fused in fused": zmlx.fuse(lambda x, y: inner(x, y)),
    }
    for way in ways.values():
        for _ in range(2):
            agree(bent, way, ((1, 8), (1, 1)), ((3, 8), (3, 1)))


@pytest.mark.usefixtures("host_device")
def test_other_calls_keep_their_kernels():
    """What is made for a shapeless compile serves it alone."""
    fused = zmlx.fuse(bent)
    one, more = inputs((1, 8), (1, 1)), inputs((3, 8), (3, 1))
    assert kernels(fused(*one)) and fused.entry(*one).program.plan.regions
    close(shapeless(fused)(*more), bent(*more))
    agree(bent, fused, ((1, 8), (1, 1)), ((3, 8), (3, 1)))
    assert kernels(fused(*one)) and kernels(fused(*more))
    seen: list[Any] = []

    def told(x, y):
        seen.append(fused.entry(x, y).program.plan.steps)
        return fused(x, y)

    shapeless(told)(*one)
    assert all(isinstance(step, Native) for step in seen[0])
    assert "shapeless" in seen[0][0].reason


def test_a_mean_counts_what_is_there():
    fused = zmlx.fuse(lambda x: (x - mx.mean(x, (0, 2), keepdims=True)) * mx.var(x, (0, 2))[None])
    plain = lambda x: (x - mx.mean(x, (0, 2), keepdims=True)) * mx.var(x, (0, 2))[None]  # noqa: E731
    compiled = shapeless(fused)
    for shape in ((2, 1, 1), (2, 3, 3), (4, 1, 1), (5, 2, 2)):
        x = array(3, *shape)
        close(compiled(x), plain(x), 1e-4, 1e-5)


def test_ops_of_c_text_and_given_gradients():
    more = {"vjp_lhs_expr": "g * (1 - tanh(a) * tanh(a)) * b", "vjp_rhs_expr": "g * tanh(a)"}
    for name, own in (("read", {}), ("given", more)):
        text = binary_from_expr(name=name, fwd_expr="tanh(a) * b + 1", **own)
        agree(bent, text, ((1, 8), (1, 1)), ((3, 8), (3, 1)), ((3, 8), (1, 8)))
        slope = slopes(shapeless(text))
        for shapes in (((1, 8), (1, 1)), ((3, 8), (3, 1)), ((3, 8), (3, 8))):
            close(slope(*inputs(*shapes)), slopes(bent)(*inputs(*shapes)), 1e-4, 1e-5)
        slope = shapeless(slopes(text))
        for shapes in (((3, 8), (3, 8)), ((1, 8), (1, 8)), ((5, 8), (5, 8))):
            close(slope(*inputs(*shapes)), slopes(bent)(*inputs(*shapes)), 1e-4, 1e-5)


@pytest.mark.parametrize("shape", [(1, 16), (4, 16)], ids=str)
def test_the_catalog(shape):
    w = array(9, 16)
    ops = (
        lambda x: catalog.norms.rmsnorm(x, w),
        lambda x: catalog.softmax.softmax_lastdim(x),
        lambda x: catalog.transformer.swiglu(x),
    )
    for op in ops:
        compiled = shapeless(op)
        for x in (array(1, *shape), array(2, 3, 16), array(3, 1, 16)):
            close(compiled(x), op(x), 1e-4, 1e-5)
