"""Concatenations and stacks of what regions compute: their parts are written in place."""

from __future__ import annotations

import hypothesis
import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import array, close, equal, program_of
from hypothesis import strategies as st
from tracing import traced

import zmlx
from zmlx import dtypes
from zmlx.fuse.lift import lift
from zmlx.fuse.plan import IN_PLACE, plan
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.simplify import simplify

pytestmark = pytest.mark.usefixtures("host_device")


def rope(x, cos, sin):
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return mx.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def gated(x):
    a, b, c = mx.split(x, 3, -1)
    return mx.concatenate([mx.sigmoid(a) * b, mx.tanh(b) + c, c * a - b], -1)


def complex_product(p, q):
    a, b, c, d = p[..., 0], p[..., 1], q[..., 0], q[..., 1]
    return mx.stack([a * c - b * d, a * d + b * c], -1)


def kept(x, y):
    z = mx.sin(x) * 2
    return mx.concatenate([z, y], 0), z, mx.stack([z, z * 3, z], 1)


def waiting(x, w):
    a = mx.sin(x) * 2
    return mx.concatenate([a, mx.cos(a @ w) + 1], 0)


def one_in_another(x):
    a = x * mx.sin(x)
    b = mx.concatenate([a, a * 2], 1)
    return mx.concatenate([mx.sin(b), mx.tanh(a)], 1)


x, y, w = array(0, 6, 8), array(1, 5, 8), array(2, 8, 8)
KNOWN = {  # name: (function, arguments, calls written in place)
    "rope": (rope, (array(3, 2, 5, 8), array(4, 5, 4), array(5, 5, 4)), 1),
    "gates": (gated, (array(3, 4, 6),), 1),
    "complex numbers": (complex_product, (array(0, 7, 2), array(1, 7, 2)), 1),
    "unequal lengths": (lambda x, y: mx.concatenate([mx.exp(x), y * 2 + 1]), (x, y), 1),
    "a plain part": (lambda x, y: mx.concatenate([y, mx.exp(x) - 1], 0), (x, y), 1),
    "mostly plain": (lambda x, y: mx.concatenate([y, y, y, x * 2 + 1], 0), (x, y), 0),
    "one part twice": (lambda x: mx.concatenate([(v := mx.exp(x) - 1), x, v], 1), (x,), 1),
    "kept and twice used": (kept, (x, y), 2),
    "one in another": (one_in_another, (x,), 1),
    "parts that wait for each other": (waiting, (x, w), 0),
    "a part against the grain": (lambda x: mx.concatenate([mx.exp(x.T) - 1] * 2, 0), (x,), 0),
    "one column beside others": (
        lambda x, y: mx.concatenate([mx.exp(y[:, :1]), y * 2 - 1], 1), (x, y), 1,
    ),
    "columns": (lambda x: mx.concatenate([mx.exp(x[:, :1]), x[:, :1] * 2 + 1], 1), (x,), 1),
    "numbers": (lambda x, n: mx.concatenate([x * n - 1, x * n + x]), (x, 0.5), 1),
    "eight parts": (lambda x: mx.stack([x * i + 1 for i in range(8)], 1), (x,), 1),
    "read by another region": (lambda x: mx.stack([x * 2 + 1, x - x * x]).sum(0) * 2, (x,), 1),
}  # fmt: skip



@pytest.mark.parametrize("name", KNOWN)
def test_known_plans(name):
    plain, arguments, count = KNOWN[name]
    planned = plan(lift(simplify(traced(plain, *arguments).graph)), 10)
    assert sum(len(step.joins) for step in planned.joined) == count
    assert sum(step.reason == IN_PLACE for step in planned.natives) == count


@pytest.mark.parametrize("name", [name for name, case in KNOWN.items() if case[2]])
def test_values(name):
    plain, arguments, _ = KNOWN[name]
    close(listed(zmlx.fuse(plain)(*arguments)), listed(plain(*arguments)))


def listed(results):
    return results if isinstance(results, (list, tuple)) else [results]


def test_no_length_makes_a_trace_or_a_kernel():
    plain = lambda x, y: mx.concatenate([mx.exp(x), y, x * 2 - 1], 1)  # noqa: E731
    fused = zmlx.fuse(plain)
    for n in range(2, 40):
        x, y = array(n, 3, n), array(n, 3, 2 * n - n % 2)
        close(fused(x, y), plain(x, y))
    assert fused.cache_info().misses == 1
    (function,) = program_of(fused, x, y).joined
    specs = {function.kernel([(3, n), (3, 2 * n)]).digest for n in (2, 5, 40)}
    assert len(specs) == 1


def switched(**scope):
    plain = lambda x, y: mx.concatenate([mx.exp(x), y * 2 + 1])  # noqa: E731
    arguments = (array(0, 6, 8), array(1, 5, 8))
    with zmlx.config(**scope):
        close(zmlx.fuse(plain)(*arguments), plain(*arguments))


def test_checked():
    switched(check=True)


@pytest.mark.exhaustive
def test_under_the_sanitizer():
    switched(sanitize=True)


def test_sizes_of_none_and_one():
    plain = lambda x, y: mx.concatenate([mx.exp(x) + 1, y * 2 + 1], 0)  # noqa: E731
    fused = zmlx.fuse(plain)
    for rows, columns in [(0, 3), (4, 0), (1, 3), (1, 1), (4, 1)]:
        x, y = array(0, rows, columns), array(1, 2, columns)
        assert fused(x, y).shape == plain(x, y).shape
        close(fused(x, y), plain(x, y))
    with pytest.raises(ValueError, match="concatenate"):
        fused(array(0, 2, 3), array(1, 2, 4))


# -- any number of parts, types, axes -------------------------------------------------------------
def case(seed: int, kind: str | None = None):
    """A function that joins two to eight parts, and arrays for it, of the type `kind` or of any."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 5))
    shape = rng.integers(1, 6, rank).tolist()
    stacks = rng.random() < 0.4
    axis = int(rng.integers(-rank - stacks, rank + stacks))
    kinds = [k for k in dtypes.ALL if dtypes.has_msl(k)]
    dtype = dtype_of(rng.choice(kinds) if kind is None else kind)
    count = int(rng.integers(2, 9))
    arrays = []
    for _ in range(count):
        if not stacks and rng.random() < 0.6:
            shape[axis] = int(rng.integers(1, 6))
        arrays.append(mx.array(rng.normal(0, 2, shape)).astype(dtype))
    choices = rng.integers(0, 5, count).tolist()
    cut = rng.random() < 0.3

    def run(*given):
        parts = [MADE[choice](v) for choice, v in zip(choices, given, strict=True)]
        made = mx.stack(parts, axis) if stacks else mx.concatenate(parts, axis)
        return [made, parts[0]] if cut else [made]

    return run, arrays


MADE = (
    lambda v: v, lambda v: v * v + v, lambda v: mx.where(v > 0, v, v + v), lambda v: v - v * v,
    lambda v: mx.maximum(v, v * v) if v.dtype != mx.bool_ else v,
)  # fmt: skip


@hypothesis.settings(max_examples=5)
@hypothesis.given(st.integers(0, 2**31))
def test_bits(seed):
    bits(seed)


def test_derivatives():
    derivatives(4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(20))
def test_bits_and_derivatives_of_hundreds(block):
    for i in range(20):
        bits(100 * block + i)
        derivatives(100 * block + i)


def bits(seed: int) -> None:
    plain, arrays = case(seed)
    equal(zmlx.fuse(numerics="mlx")(plain)(*arrays), plain(*arrays))


def derivatives(seed: int) -> None:
    plain, arrays = case(seed, "float32")
    fused = zmlx.fuse(plain)
    rng = np.random.default_rng(seed)
    like = lambda a: mx.array(rng.normal(0, 1, a.shape).astype(np.float32))  # noqa: E731
    tangents, seeds = [like(a) for a in arrays], [like(r) for r in plain(*arrays)]
    close(mx.jvp(fused, arrays, tangents)[1], mx.jvp(plain, arrays, tangents)[1])
    close(mx.vjp(fused, arrays, seeds)[1], mx.vjp(plain, arrays, seeds)[1])
    stacks = [mx.stack([a, a * 0.5]) for a in arrays]
    close(mx.vmap(fused)(*stacks), mx.vmap(plain)(*stacks))
    close(mx.compile(fused)(*arrays), plain(*arrays))
    close(second(fused, arrays), second(plain, arrays))


def second(function, arrays):
    first, *rest = arrays
    slope = mx.grad(lambda a: (function(a, *rest)[0] ** 3).sum())
    return mx.grad(lambda a: slope(a).sum())(first)
