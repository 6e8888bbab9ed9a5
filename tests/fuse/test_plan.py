"""Plans: as few regions as can be, on functions whose best plan is known by hand."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close, equal, kernels, natives_of, primitives, program_of, regions_of

import zmlx
from zmlx.device.base import NEVER_ALONE
from zmlx.fuse.plan import Native, Region, plan
from zmlx.fuse.simplify import simplify
from zmlx.msl.emit import MAX_BUFFERS, buffer_slots
from zmlx.trace.graph import Graph

pytestmark = pytest.mark.usefixtures("host_device")

x, y = array(0, 4, 6), array(1, 4, 6)
w, b, column = array(2, 6, 6), array(3, 6), array(4, 4, 1)


def shared(x):
    e = mx.exp(x)
    return e * 2, e * 3 + 1


def before_and_after(x):
    e = mx.exp(x - mx.max(x, -1, keepdims=True))
    return e / mx.sum(e, -1, keepdims=True)


def two_matmuls(x, w):
    return mx.tanh(mx.tanh(x @ w + 1) @ w + 1)


def gelu(x):
    return 0.5 * x * (1 + mx.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


KNOWN = {  # name: (function, arguments, ops in each region, what MLX runs)
    "an intermediate used twice": (shared, (x,), [4], []),
    "side by side": (lambda x: (mx.exp(x) * 2, mx.sin(x) * 3 + 1), (x,), [5], []),
    "side by side, two inputs": (lambda x, y: (mx.exp(x) * 2, mx.sin(y) * 3), (x, y), [2, 2], []),
    "after a matmul": (lambda x, w, b: nn.silu(x @ w + b), (x, w, b), [3], ["[matmul]"]),
    "residual over a matmul": (lambda x, w: mx.tanh(x + 1) @ w * 2 + x, (x, w), [2, 2], 1),
    "used after a matmul only": (lambda x, w: (x * 2 + 1) + (x @ w) * 3, (x, w), [4], 1),
    "before and after a reduction": (before_and_after, (x,), [5], []),
    "two matmuls": (two_matmuls, (x, w), [2, 2], 2),
    "gelu": (gelu, (x,), [9], []),
    "row and column": (lambda x, b, c: mx.sigmoid(x + b) * c, (x, b, column), [3], []),
    "a small producer joins": (lambda x, b: x * mx.exp(b * 2), (x, b), [3], []),
    "two small producers": (lambda b, c: mx.exp(b) * mx.exp(c), (b, column), [3], []),
    "outputs of two shapes": (lambda x, b: (x * 2 + 1, mx.exp(b * 2)), (x, b), [2, 2], []),
    "an arange splits nothing": (lambda x: (x * 2, x * mx.arange(6) + 1), (x,), [3], ["[arange]"]),
    "of an arange, alone": (lambda: mx.arange(6) * 2.0, (), [1], ["[arange]"]),
    "of an arange, same shape": (lambda b: mx.exp(mx.arange(6) * -0.5) * b, (b,), [3], 1),
    "of an arange, once for all": (
        lambda x: x * mx.exp(mx.arange(6) * -0.5) + 1,
        (x,),
        [2, 2],
        ["[arange]"],
    ),
    "of an arange, summed": (
        lambda x: x * 2 + mx.cumsum(mx.exp(mx.arange(6) * -0.5)),
        (x,),
        [2, 2],
        ["[arange]", "[cumsum]"],
    ),
    "a lone cheap op": (lambda x: x + 1, (x,), [], ["add"]),
    "a lone dear op": (lambda x: mx.exp(x), (x,), [1], []),
    "nothing to do": (lambda x: x, (x,), [], []),
    "stop_gradient alone": (lambda x: mx.stop_gradient(x), (x,), [], ["stop_gradient"]),
    "only matmul": (lambda x, w: x @ w, (x, w), [], ["[matmul]"]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_plans(name):
    function, arguments, sizes, natives = KNOWN[name]
    fused = zmlx.fuse(function)
    found = natives_of(fused, *arguments)
    assert sorted(map(len, regions_of(fused, *arguments))) == sorted(sizes)
    assert len(found) == natives if isinstance(natives, int) else found == natives
    close(fused(*arguments), function(*arguments))


@pytest.mark.parametrize("name", ["an intermediate used twice", "side by side", "gelu"])
def test_one_region_is_one_primitive(name):
    """What mx.compile runs as two or three kernels is one kernel here, and nothing else."""
    function, arguments, _, _ = KNOWN[name]
    results = zmlx.fuse(function)(*arguments)
    results = results if isinstance(results, tuple) else (results,)
    assert len(primitives(*results)) == len(kernels(*results)) == 1


def chain(length):
    def function(x):
        for i in range(length):
            x = mx.abs(x) + 0.25 if i % 2 else x * 0.99
        return x

    return function


@pytest.mark.parametrize("length", [60, 400])
def test_a_chain_of_any_length_is_one_kernel(length):
    fused = zmlx.fuse(chain(length))
    result = fused(x)
    assert len(primitives(result)) == len(kernels(result)) == 1
    close(result, chain(length)(x), rtol=1e-4)


def test_a_very_long_chain_can_be_planned():
    """Nothing in tracing, simplifying or planning recurses along the chain."""
    graph = Graph()
    last = graph.add("input", shape=(4,))
    for _ in range(5000):
        last = graph.add("op", (last,), shape=(4,), op="sin", at="float32")
    graph.outputs = [last]
    (region,) = plan(simplify(graph), 1).steps
    assert isinstance(region, Region) and len(region.nodes) == 5000


def tree_sum(arrays):
    arrays = list(arrays)
    while len(arrays) > 1:
        odd = [arrays[-1]] if len(arrays) % 2 else []
        arrays = [a + b for a, b in zip(arrays[::2], arrays[1::2], strict=False)] + odd
    return arrays[0]


@pytest.mark.parametrize("function", [tree_sum, sum])
def test_a_sum_of_a_hundred_arrays_stays_below_the_limit_of_buffers(function):
    arrays = [array(i, 4, 6) for i in range(100)]
    fused = zmlx.fuse(lambda arrays: function(arrays))
    program = program_of(fused, arrays)
    shapes = [[r.graph[n]["shape"] for n in r.graph.inputs] for r in program.plan.regions]
    for region, made, shape in zip(program.plan.regions, program.functions, shapes, strict=True):
        assert made.specialized(shape).kernel is not None
        assert slots(region) <= MAX_BUFFERS
    assert len(program.plan.regions) <= 10 and not program.plan.natives
    truth = np.sum([np.array(a).astype(np.float64) for a in arrays], axis=0)
    np.testing.assert_allclose(np.array(fused(arrays)), truth, rtol=1e-4, atol=1e-5)


def slots(region: Region) -> int:
    return buffer_slots(region.graph)


def test_a_wide_function_of_many_outputs_is_split():
    plain = lambda x: [mx.sin(x) * (i + 1) + i for i in range(70)]  # noqa: E731
    fused = zmlx.fuse(plain)
    found = program_of(fused, x).plan.regions
    assert 2 < len(found) < 5 and all(slots(r) <= MAX_BUFFERS for r in found)
    close(fused(x), plain(x))


def test_split_regions_with_recomputed_small_producers():
    """Each of forty rows feeds a broadcast: too many buffers, and values of two shapes."""
    rows = [array(i, 6) for i in range(20)]

    def plain(x, rows):
        for i, row in enumerate(rows):
            x = x * 0.9 + mx.abs(row * (i + 2))
        return x

    fused = zmlx.fuse(plain)
    found = program_of(fused, x, rows).plan.regions
    assert all(slots(r) <= MAX_BUFFERS for r in found)
    close(fused(x, rows), plain(x, rows), rtol=1e-4)


def test_types_that_msl_has_not_stay_with_mlx():
    plain = lambda x: mx.exp(x * 2 + 1).astype(mx.complex64) * 2 + 1j  # noqa: E731
    fused = zmlx.fuse(plain)
    assert [len(r) for r in regions_of(fused, x)] == [3]
    assert natives_of(fused, x) == ["astype", "multiply", "add"]
    close([mx.real(fused(x)), mx.imag(fused(x))], [mx.real(plain(x)), mx.imag(plain(x))])
    wide = zmlx.fuse(lambda x: mx.exp(x.astype(mx.float64)) * 2 + 1)
    assert natives_of(wide, x) == ["astype", "exp", "multiply", "add"]
    equal(wide(x), mx.exp(x.astype(mx.float64)) * 2 + 1)


def test_every_step_says_why():
    def function(x, w):
        return (mx.exp(x) @ w).astype(mx.complex64) * 2, mx.cumsum(mx.cumsum(w) + 1)

    steps = program_of(function, x, w).plan.steps
    reasons = [s.reason for s in steps if isinstance(s, Native)]
    assert "not elementwise" in reasons and "complex64 does not exist in MSL" in reasons
    assert any("MLX's own kernel is as good" in r for r in reasons)


STREAMED = {
    "sum": lambda f, g, i, u: f + g,
    "product with a number": lambda f, g, i, u: f * 2,
    "larger": lambda f, g, i, u: mx.maximum(f, g),
    "cast": lambda f, g, i, u: f.astype(mx.int32),
}
SLOW = {
    "larger than a number": lambda f, g, i, u: mx.maximum(f, 0),
    "number first": lambda f, g, i, u: 1 - f,
    "whole numbers": lambda f, g, i, u: i + 1,
    "bytes": lambda f, g, i, u: u + 1,
    "root": lambda f, g, i, u: mx.sqrt(g),
    "rounded": lambda f, g, i, u: mx.floor(f),
    "cast to bytes": lambda f, g, i, u: g.astype(mx.uint8),
    "cast of bytes": lambda f, g, i, u: u.astype(mx.float32),
    "cast to a half": lambda f, g, i, u: f.astype(mx.float16),
}


@pytest.mark.parametrize("name", [*STREAMED, *SLOW])
def test_a_lone_op_stays_with_mlx_where_its_loop_is_as_fast(name):
    """MLX's own loops for the others take up to ten times as long on a CPU."""
    fn = {**STREAMED, **SLOW}[name]
    f, g = mx.array([-1.5, 2.25, 0.0, 7.5]), mx.array([1.0, 2.5, 3.0, 254.0])
    given = f, g, mx.array([3, 1, 2, 5]), mx.array([0, 7, 254, 255], mx.uint8)
    fused = zmlx.fuse(fn)
    assert (len(natives_of(fused, *given)) == 1) is (name in STREAMED)
    equal(fused(*given), fn(*given))


def test_an_op_between_two_calls_in_a_row_waits_for_neither():
    """Both regions' ops lie between matmuls that do not depend on them."""

    def plain(x, w):
        a = x @ w
        c = mx.tanh(a * 2 + 1)
        d = (x @ (w + 1)) @ w
        return mx.tanh(d * 2 + 1) + c

    fused = zmlx.fuse(plain)
    assert len(regions_of(fused, x, w)) == 1  # c is used once, beside d
    close(fused(x, w), plain(x, w), rtol=1e-4)


def test_draws_keep_their_order():
    def plain(x):
        a = mx.random.uniform(shape=(4, 6))
        c = mx.random.normal((4, 6))
        unused = mx.random.bernoulli(0.5, (3,))
        d = mx.random.uniform(shape=(4, 6))
        return mx.exp(x) * d + a, c * 2 + x, unused.shape[0]

    def twice(function):
        mx.random.seed(7)
        return [v for _ in range(2) for v in function(x)[:2]]

    close(twice(zmlx.fuse(plain)), twice(plain), rtol=1e-5)
    assert natives_of(plain, x) == [
        "[random.uniform]", "[random.normal]", "[random.bernoulli]", "[random.uniform]"
    ]  # fmt: skip


def test_a_device_without_kernels_of_its_own_worth_never_takes_a_lone_op():
    graph = Graph()
    first = graph.add("input", shape=(4,))
    graph.outputs = [graph.add("op", (first,), shape=(4,), op="exp", at="float32")]
    assert len(plan(graph, NEVER_ALONE).natives) == 1 and len(plan(graph, 10).regions) == 1
