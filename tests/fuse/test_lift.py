"""Lifting: views between elementwise parts go to the inputs, and values stay what they were."""

from __future__ import annotations

import hypothesis
import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import array, close, equal, regions_of
from hypothesis import strategies as st
from tracing import traced
from viewed import evaluated, function, views

import zmlx
from zmlx.fuse import lift as lifting
from zmlx.fuse.lift import lift
from zmlx.fuse.regions import regions
from zmlx.fuse.simplify import simplify
from zmlx.fuse.views import PLACE, Lifted, kind_of
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph, OpaqueCall, Ref

pytestmark = pytest.mark.usefixtures("host_device")

seeds = st.integers(0, 2**31)
some = hypothesis.settings(max_examples=15)
x, y, b = array(0, 8, 64), array(1, 8, 64), array(2, 64)
w = array(3, 64, 64)


def rope(q, cos, sin):
    q = q * 0.125
    first, second = q[..., :32], q[..., 32:]
    return mx.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def heads(x, w, b):
    return mx.tanh((x @ w + b).reshape(4, 2, 4, 16).transpose(0, 2, 1, 3))


def quaternions(p, q):
    p, q = p * 0.5, q * 2
    (a, i), (c, d) = ((v[..., k] for k in range(2)) for v in (p, q))
    return mx.stack([a * c - i * d, a * d + i * c], -1)


def glu(x, w, b):
    value, gate = mx.split(x @ w + b, 2, -1)
    return value * mx.sigmoid(gate)


def outer(a, b):
    return mx.exp(a)[:, None] * mx.exp(b)[None, :]


def modulated(x, m):
    scale, shift = mx.split((m * 2 + 1)[:, None], 2, -1)
    return x * (1 + scale) + shift


PLANS = {  # name: (function, arguments, kernels that compute)
    "halves, as in RoPE": (rope, (x, b[:32], b[32:]), 1),
    "heads of a projection": (heads, (x, w, b), 1),
    "quaternions": (quaternions, (x.reshape(-1, 2), y.reshape(-1, 2)), 1),
    "a gated unit": (glu, (x, w, b), 1),
    "modulation": (modulated, (array(4, 8, 5, 32), x), 1),
    "flat": (lambda x, y: mx.tanh((x * y + 1).reshape(-1)) * 2, (x, y), 1),
    "shifted views of something cheap": (lambda x: (2 * x)[:, 1:] + (2 * x)[:, :-1], (x,), 1),
    "views of views": (lambda x: mx.sin((x * 2).reshape(8, 2, 32)[:, None].squeeze(1)), (x,), 1),
    "one view after another": (lambda x: ((x * 2)[:4] + 1).reshape(-1) * 3 - 1, (x,), 1),
    "a view that is stored too": (lambda x: [(v := (x * 2)[:4]) * 3, v], (x,), 1),
    "what is needed as it is": (lambda x: (mx.sin(x).reshape(-1) * 2, mx.sin(x) @ w), (x,), 2),
    "a row's factor": (lambda x, y: x * ((y[:, 0] - 1) * 2)[:, None] + 1, (x, y), 1),
    "a cast of what is spread": (
        lambda x: mx.broadcast_to((x[:, 0] * 2).astype(mx.float16), (2, 8)) + 1,
        (x,),
        2,
    ),
    "what is returned": (lambda x: (mx.sin(x).reshape(-1) * 2, mx.sin(x)), (x,), 2),
    "a dear op in a larger space": (outer, (b, array(5, 64)), 3),
    "a dear op of shifted views": (lambda x: mx.exp(x)[:, 1:] - mx.exp(x)[:, :-1], (x,), 2),
    "two inputs against the grain": (lambda x, y: (x * y).T * x.reshape(64, 8) + 1, (x, y), 2),
}


@pytest.mark.parametrize("name", PLANS)
def test_known_plans(name):
    plain, arguments, count = PLANS[name]
    graph = lift(simplify(traced(plain, *arguments).graph))
    graph.verify()
    assert len(regions(graph)) == count
    results = evaluated(graph, arguments)
    equal(results, plain(*arguments))


DEAR = [name for name, spec in OPS.items() if spec.cost >= 10]


def counts(graph: Graph) -> dict[str, int]:
    """Elements that each dear op computes."""
    found = dict.fromkeys(DEAR, 0)
    for group in regions(graph):
        space = max(int(np.prod(graph[n]["shape"])) for n in group)
        for node in group:
            if graph[node]["op"] in found:
                found[graph[node]["op"]] += space
    return found


@some
@hypothesis.given(seeds)
def test_lifting_computes_no_dear_op_more_often(seed):
    plain, arrays = function(seed)
    if not runs(plain, arrays):
        return
    before = simplify(traced(plain, *arrays).graph)
    after = lift(before)
    assert len(regions(after)) <= len(regions(before))
    old, new = counts(before), counts(after)
    assert all(new[name] <= old[name] for name in DEAR)


def runs(plain, arrays) -> bool:
    """Whether plain MLX takes what was generated (views of nothing can be refused)."""
    try:
        mx.eval(plain(*arrays))
    except ValueError:
        return False
    return True


@pytest.fixture(scope="module")
def eager():
    """All that can be lifted is, whatever it costs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"CHEAP": 10**9, "EXTRA": 10**9, "RUN": 0}.items():
            patch.setattr(lifting, name, value)
        yield


@some
@hypothesis.given(seeds)
def test_values_and_derivatives_stay(eager, seed):
    check(seed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(20))
def test_values_and_derivatives_stay_for_thousands(eager, block):
    assert sum(check(1000 * block + i) for i in range(200)) >= 20


def check(seed: int) -> bool:
    """Compare a lifted graph with the graph; returns whether anything was lifted."""
    plain, arrays = function(seed)
    if not runs(plain, arrays):
        return False
    before = simplify(traced(plain, *arrays).graph)
    after = lift(before)
    after.verify()
    results = evaluated(after, arrays)
    equal(results, evaluated(before, arrays))
    if after is before:
        return False
    rng = np.random.default_rng(seed)
    seeds = [mx.array(rng.normal(size=r.shape).astype(np.float32)) for r in results]
    # A gradient that goes through a half type keeps its digits only: x - half(x) has none left.
    halves = any(before[node]["dtype"] in ("float16", "bfloat16") for node in before)
    for transform in (
        lambda f: mx.vjp(f, arrays, seeds)[1],
        lambda f: mx.jvp(f, arrays, arrays)[1],
    ):
        close(
            transform(lambda *a: evaluated(after, a)),
            transform(lambda *a: evaluated(before, a)),
            rtol=1e-4,
            atol=8e-3 if halves else 1e-5,
        )
    check_mapped(plain, before, after, [mx.stack([a, a + 1]) for a in arrays])
    return True


NORMAL = {name: getattr(lifting, name) for name in ("CHEAP", "EXTRA", "RUN")}


def check_mapped(plain, before, after, stacks) -> None:
    """mx.vmap of the lifted graph's ops against its examples one by one.

    Where MLX's own mx.vmap of the views is wrong (it is for some chains of them, unlifted too),
    the fused function is held to the examples, lifted as it is for users.
    """
    want = each(lambda *a: evaluated(before, a), stacks)
    if not all(maps(graph, stacks, want) for graph in (before, after)):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in NORMAL.items():
                patch.setattr(lifting, name, value)
            got = mx.vmap(zmlx.fuse(plain))(*stacks)
        want = each(plain, stacks)
        close(list(got) if isinstance(got, (list, tuple)) else [got], want, rtol=1e-3, atol=1e-4)


def each(fn, stacks) -> list[mx.array]:
    """The results for every example, stacked."""
    rows = [fn(*[s[i] for s in stacks]) for i in range(2)]
    rows = [r if isinstance(r, (list, tuple)) else [r] for r in rows]
    return [mx.stack(pair) for pair in zip(*rows, strict=True)]


def maps(graph: Graph, stacks, want) -> bool:
    """Whether MLX's mx.vmap of the graph's ops gives `want`."""
    try:
        got = mx.vmap(lambda *a: evaluated(graph, a))(*stacks)
        close(got, want, rtol=1e-3, atol=1e-4)
    except (ValueError, AssertionError):
        return False
    return True


@hypothesis.given(seeds)
def test_views_of_broadcast_operands(seed):
    """All that a view can be asked of an operand, against the view of the operand spread out."""
    rng = np.random.default_rng(seed)
    full = rng.choice([1, 2, 3, 4, 6], int(rng.integers(1, 5))).tolist()
    shape = [1 if rng.random() < 0.5 else n for n in full][int(rng.integers(len(full) + 1)) :]
    small, wide = mx.random.normal(shape), mx.random.normal(full)
    for view in views(rng, full):
        if not runs(lambda a, view=view: view(a), [wide]):
            continue
        graph = traced(lambda a, view=view: view(a * 1.5), wide).graph
        node = next(n for n in graph if graph.kind(n) == "opaque")
        kind, call = kind_of(graph, node), graph[node]["call"]
        assert kind is not None
        lifted = Lifted(kind, call)
        mine, beside = lifted(small, wide), lifted(wide, small)
        want = call.fn(mx.broadcast_to(small, full), *call.args[1:], **call.kwargs)
        equal(spread(mine, beside), spread(want, beside))


def spread(results, beside):
    """The results as they meet those for the other operand."""
    pairs = zip(results, beside, strict=True) if type(results) is list else [(results, beside)]
    return [a * mx.ones_like(c) for a, c in pairs]


# -- through the whole of fuse --------------------------------------------------------------------
def everything(x, w, b, p):
    return [
        *[heads(x, w, b), rope(x, b[:32], b[32:]), modulated(p, x[:, :8])],
        mx.sin((x * b + 1)[::-1, ::2]).squeeze(),
        ((x * 2).T + 1)[None, :, 2:3] * 3,
    ]


def test_all_transformations():
    arguments = (x * 0.3, w * 0.1, b, array(4, 8, 5, 4))
    fused, arrays = zmlx.fuse(everything), list(arguments)
    results = everything(*arguments)
    close(fused(*arguments), results)
    seeds = [array(10 + i, *r.shape) for i, r in enumerate(results)]

    def pull(f):
        return lambda *a: mx.vjp(f, list(a), seeds)[1]

    close(pull(fused)(*arrays), pull(everything)(*arrays), rtol=1e-3, atol=1e-5)
    close(
        mx.vjp(pull(fused), arrays, arrays)[1],
        mx.vjp(pull(everything), arrays, arrays)[1],
        rtol=1e-3,
        atol=1e-5,
    )
    close(mx.jvp(fused, arrays, arrays)[1], mx.jvp(everything, arrays, arrays)[1], atol=1e-5)
    close(mx.compile(fused)(*arguments), results)
    axes = (0, None, None, 0)
    pairs = [
        mx.stack([a, a * 0.5]) if axis == 0 else a for a, axis in zip(arrays, axes, strict=True)
    ]
    close(mx.vmap(fused, axes)(*pairs), mx.vmap(everything, axes)(*pairs))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_exact_numerics_give_the_bits_of_mlx(dtype):
    arguments = [a.astype(dtype) for a in (x, w * 0.1, b, array(4, 8, 5, 4))]
    equal(zmlx.fuse(everything, numerics="mlx")(*arguments), everything(*arguments))


# -- what a trace cannot know ---------------------------------------------------------------------
def test_sizes_that_become_one():
    """y[5:] has more than one element in the trace and one later: it is spread then."""

    def plain(x, y):
        return mx.tanh((x + y[5:])[1:] * 2)

    fused = zmlx.fuse(plain)
    for length in (8, 6):
        arguments = (array(0, 3), array(1, length))
        close(fused(*arguments), plain(*arguments))
    assert fused.cache_info().misses == 1


@pytest.mark.parametrize(
    "view",
    [lambda v: v[:1], lambda v: v[0], lambda v: mx.split(v, [1])[0], lambda v: v.reshape(-1)],
    ids=["slice", "index", "split", "reshape"],
)
def test_operands_that_do_not_broadcast_are_refused(view):
    fused = zmlx.fuse(lambda x, y: view(x * y + 1) * 2)
    fused(array(0, 4, 6), array(1, 4, 6))
    with pytest.raises(ValueError, match="broadcast"):
        mx.eval(fused(array(0, 6, 4), array(1, 3, 8)))


def test_another_length_needs_no_new_trace():
    fused = zmlx.fuse(lambda x, b: mx.sin((x * b)[:, :2].transpose(1, 0).reshape(2, -1)) + 1)
    for length in (3, 7, 5):
        close(fused(array(0, length, 6), b[:6]), fused.__wrapped__(array(0, length, 6), b[:6]))
    assert fused.cache_info().misses == 1


def test_views_by_sizes_that_stay_symbolic():
    def plain(x, b):
        batch, length, width = x.shape
        h = (x @ x.swapaxes(1, 2) @ x + b).reshape(batch, length, 4, width // 4)
        return mx.tanh(h.transpose(0, 2, 1, 3) * 2)

    fused = zmlx.fuse(plain)
    for length in (3, 5):
        close(fused(array(0, 2, length, 64), b), plain(array(0, 2, length, 64), b), rtol=1e-4)
    assert fused.cache_info().misses == 1
    assert len(regions_of(fused, array(0, 2, 4, 64), b)) == 1


def test_a_function_that_is_called_like_a_view_is_none():
    @mx.compile
    def reshape(v):
        return v * 2

    graph = Graph()
    node = graph.add("input", shape=(3,))
    call = OpaqueCall(reshape, (Ref(0),), {}, "reshape")
    assert kind_of(graph, graph.add("opaque", (node,), shape=(3,), call=call, pure=True)) is None


def test_views_on_another_stream_stay_where_they_are():
    other = mx.new_stream(mx.cpu)

    def plain(x):
        with mx.stream(other):
            view = (x * 2 + 1).T
        return view * 3

    close(zmlx.fuse(plain)(x), plain(x))


def test_under_a_shapeless_compile():
    def plain(x, b):
        return mx.tanh((x * b + 1).transpose(1, 0)) * 2, mx.sin((x * b).reshape(-1)) * 2

    compiled = mx.compile(zmlx.fuse(plain), shapeless=True)
    for length in (3, 5):
        close(compiled(x[:length], b), plain(x[:length], b))


def test_equal_views_merge():
    graph = simplify(traced(lambda x: mx.sin(x.T) + mx.cos(x.T) + mx.tan(x.T[None])[0], x).graph)
    calls = [graph[n]["call"].label for n in graph if kind_of(graph, n) == PLACE]
    assert sorted(calls) == ["getitem", "transpose"]


def test_results_that_are_views():
    plain = lambda x: (x.T * 1, x[::-1], (x * 2).T, x.reshape(-1)[None])  # noqa: E731
    close(zmlx.fuse(plain)(x), plain(x))
