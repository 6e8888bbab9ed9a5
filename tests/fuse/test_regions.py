"""Regions are legal on any graph: no cycles, one space, few enough buffers; symbolic shapes."""

from __future__ import annotations

import warnings
from typing import Any

import hypothesis
import mlx.core as mx
import pytest
from fuse_cases import array, close, equal, kernels, primitives, regions_of
from graph_strategy import graphs

import zmlx
from zmlx.device import signature
from zmlx.errors import PlanError
from zmlx.fuse.plan import Native, Plan, Region, _ordered, extract, plan
from zmlx.fuse.program import Program, make_program
from zmlx.fuse.regions import STEPS, ends, regions, unfusable
from zmlx.fuse.replay import op_function
from zmlx.fuse.runtime import Runtime
from zmlx.fuse.shapes import reshaped, symbolic_shapes
from zmlx.fuse.simplify import cost, simplify
from zmlx.msl.emit import MAX_BUFFERS, buffer_slots
from zmlx.trace.graph import Graph, OpaqueCall, Ref, broadcast

# -- a plan on any graph --------------------------------------------------------------------------
ALONE = 10


def check_legal(graph: Graph) -> Plan:
    """Everything that must hold of a plan, re-derived from the graph."""
    found = plan(graph, ALONE)
    place = {n: i for i, s in enumerate(found.steps) for n in nodes_of(s)}
    work = [n for n in graph if graph.kind(n) in STEPS]
    assert sorted(place) == work, "every node runs in exactly one step"
    assert sum(len(nodes_of(s)) for s in found.steps) == len(work)
    for node in work:
        for operand in graph.operands(node):
            assert place.get(operand, -1) <= place[node], "a step reads what a later one makes"
    effects = [place[n] for n in work if not graph[n].get("pure", True)]
    assert effects == sorted(effects), "effects keep their order"
    for region in found.regions:
        check_region(graph, region)
    return found


def nodes_of(step: Region | Native) -> tuple[int, ...]:
    if isinstance(step, Native):
        return (step.node,)
    return (*step.nodes, *[short for short in step.squeezes if short is not None])


def check_region(graph: Graph, region: Region) -> None:
    region.graph.verify()
    kinds = {region.graph.kind(n) for n in region.graph}
    folds = {"reduce", "count"} if region.folds else set()
    assert kinds <= {"input", "scalar", "const", "op", *folds}
    assert buffer_slots(region.graph) <= MAX_BUFFERS
    inputs = [region.graph[n]["shape"] for n in region.graph.inputs]
    space = broadcast(inputs)
    for node in region.graph.outputs:
        shape = region.graph[node]["shape"]
        assert shape == space or (region.folds and broadcast([shape, space]) == space)
    used = {u for n in region.nodes for u in graph.users(n)} - set(region.nodes)
    needed = {n for n in region.nodes if n in graph.outputs or used & set(graph.users(n))}
    assert set(region.ends.outputs) == needed, "exactly what others read is written"
    working = [n for n in region.nodes if graph.kind(n) == "op" and cost(graph, (n,)) > 0]
    dear = len(working) > 1 or cost(graph, working) >= ALONE
    worth = region.folds or dear or not all(streams(graph, n) for n in working)
    assert worth, "a kernel for a single op that MLX runs as fast"


def streams(graph: Graph, node: int) -> bool:
    """Whether MLX's own loop for an op alone is as fast as a kernel."""
    op, types = graph[node]["op"], {graph[n]["dtype"] for n in (node, *graph.operands(node))}
    words = types <= {"float32", "int32", "uint32"}
    numbers = any(graph.kind(o) in ("const", "scalar") for o in graph.operands(node))
    adds = op in ("add", "subtract", "multiply", "maximum", "minimum") and len(types) == 1
    return words and (op == "astype" or (adds and not numbers))


@hypothesis.given(graphs(most=40))
@hypothesis.settings(max_examples=150)
def test_every_plan_is_legal(graph):
    check_legal(simplify(graph))


@hypothesis.given(graphs(most=40))
def test_plans_of_graphs_that_are_not_simplified_are_legal_too(graph):
    check_legal(graph)


@pytest.mark.exhaustive
def test_thousands_of_plans_are_legal(tally):
    checked = 0

    @hypothesis.given(graphs(most=60))
    @hypothesis.settings(max_examples=4000)
    def check(graph):
        nonlocal checked
        check_legal(simplify(graph))
        checked += 1

    check()
    tally("generated plans", checked)


def run_in_order(graph: Graph, arrays: list[mx.array]) -> list[mx.array]:
    """The graph node by node, written here a second time."""
    values: dict[int, Any] = {}
    given = iter(arrays)
    for node in graph:
        data = graph[node]
        operands = [values[o] for o in graph.operands(node)]
        if data["kind"] == "input":
            values[node] = next(given)
        elif data["kind"] == "const":
            values[node] = mx.array(data["value"], mx.float32)
        elif data["kind"] == "item":
            values[node] = operands[0][data["index"]]
        elif data["kind"] == "reduce":
            fold = getattr(mx, data["op"])
            values[node] = fold(operands[0], axis=data["axes"], keepdims=True)
        elif data["kind"] == "count":
            values[node] = mx.array(float(mx.ones_like(operands[0]).sum(data["axes"]).max().item()))
        elif data["kind"] == "opaque":
            call = data["call"]
            values[node] = call.fn(*[operands[a.position] for a in call.args if type(a) is Ref])
        else:
            values[node] = op_function(graph, node)(*operands)
    return [values[n] for n in graph.outputs]


@hypothesis.given(graphs(most=30))
@hypothesis.settings(max_examples=60)
def test_programs_compute_their_graphs(graph):
    """Steps run in an order and with the values that the graph means; regions as MLX ops.

    Only the host gives up its kernels when asked to, so this is of the CPU; what kernels compute on
    the default device, in bits of their own, is test_property's.
    """
    with pytest.MonkeyPatch.context() as patch, mx.stream(mx.cpu), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that regions run as MLX ops
        patch.setenv("ZMLX_DEVICE", "replay")
        key = mx.random.key(3)
        arrays = [mx.random.normal(graph[n]["shape"], key=key) for n in graph.inputs]
        got = Program(graph, runtime(), "generated")(arrays)
        equal(got, run_in_order(graph, arrays))


def runtime(exact: bool = False) -> Runtime:
    return Runtime(exact, False, signature.portable, make_program)


# -- pieces ---------------------------------------------------------------------------------------
def diamond() -> tuple[Graph, list[int]]:
    """x -> a -> (call) -> c, and a -> b; d = b + c."""
    graph = Graph()
    x = graph.add("input", shape=(4,))
    a = graph.add("op", (x,), shape=(4,), op="sin", at="float32")
    b = graph.add("op", (a,), shape=(4,), op="exp", at="float32")
    call = graph.add("opaque", (a,), shape=(4,), call=OpaqueCall(abs, (Ref(0),)), pure=True)
    d = graph.add("op", (b, call), shape=(4,), op="add", at="float32")
    graph.outputs = [d]
    return graph, [a, b, call, d]


def test_a_path_through_a_call_splits_and_a_used_once_op_moves_along():
    graph, (a, b, _, d) = diamond()
    assert sorted(map(sorted, regions(graph))) == [[a], [b, d]]


def test_ends_of_a_set_of_nodes():
    graph, (a, b, call, d) = diamond()
    found = ends(graph, [a, b], graph.outputs)
    assert (found.inputs, found.scalars, found.outputs) == ((0,), (), (a, b))
    found = ends(graph, [b, d], graph.outputs)
    assert (found.inputs, found.outputs) == ((a, call), (d,))


def test_extract_makes_a_graph_of_its_own_with_arrays_before_scalars():
    graph = Graph()
    number = graph.add("scalar", dtype="float32", expr=("arg", 0))
    x = graph.add("input", shape=(4,))
    two = graph.add("const", dtype="float32", value=2.0)
    a = graph.add("op", (number, x), shape=(4,), op="multiply", at="float32")
    b = graph.add("op", (a, two), shape=(4,), op="add", at="float32")
    graph.outputs = [b]
    region = extract(graph, [a, b])
    region.graph.verify()
    assert [region.graph.kind(n) for n in region.graph.inputs] == ["input", "scalar"]
    assert (region.ends.inputs, region.ends.scalars) == ((x,), (number,))


def test_two_steps_that_wait_for_each_other_are_a_defect():
    graph, (a, b, call, d) = diamond()
    steps = [extract(graph, [a, d]), extract(graph, [b]), Native(call, "")]
    with pytest.raises(PlanError, match=r"\[zmlx.plan\] two regions wait for each other"):
        _ordered(graph, {i: [step] for i, step in enumerate(steps)})


def test_unfusable_names_the_type():
    graph = Graph()
    x = graph.add("input", shape=(4,), dtype="float64")
    y = graph.add("op", (x,), shape=(4,), dtype="float32", op="astype", at="float64")
    assert unfusable(graph, y) == "float64 does not exist in MSL"


def test_symbolic_shapes_join_what_ops_force_to_be_equal():
    graph = Graph()
    x = graph.add("input", shape=(3, 4))
    y = graph.add("input", shape=(4,))
    z = graph.add("input", shape=(3, 4))
    total = graph.add("op", (x, y), shape=(3, 4), op="add", at="float32")
    shapes = symbolic_shapes(graph)
    assert shapes[x] == shapes[total] and shapes[y] == shapes[x][1:]
    assert shapes[z] != shapes[x] and len(set(shapes[z])) == 2


def test_ones_are_no_symbols():
    graph = Graph()
    x = graph.add("input", shape=(1, 4))
    y = graph.add("input", shape=(3, 1))
    z = graph.add("op", (x, y), shape=(3, 4), op="add", at="float32")
    shapes = symbolic_shapes(graph)
    assert shapes[x] == (1, shapes[z][1]) and shapes[y] == (shapes[z][0], 1)
    assert broadcast([(1, 4), (3, 1)]) == (3, 4) and broadcast([(0,), (1,)]) == (0,)


def test_reshaped_keeps_everything_but_sizes():
    graph = Graph()
    x = graph.add("input", shape=(3, 4))
    graph.outputs = [graph.add("op", (x, x), shape=(3, 4), op="add", at="float32", loc="a.py:1")]
    other = reshaped(graph, [(2, 1, 5)])
    other.verify()
    assert other[other.outputs[0]]["shape"] == (2, 1, 5)
    assert other[other.outputs[0]]["loc"] == "a.py:1"


# -- regions whose inputs turn out otherwise ------------------------------------------------------
def test_a_region_splits_when_calls_return_other_patterns_of_ones(host_device):
    """Planned as one space; with a size of one in the middle it is two, even of two sizes."""

    def plain(a, c, s):
        b = s[::2]
        return a * 2 + b, c * 2 + b

    fused = zmlx.fuse(plain)

    def gradients(function, arrays):
        return mx.grad(lambda a: sum((r * r).sum() for r in function(*a)))(arrays)

    for sizes in ((4, 4, 8), (4, 5, 2), (4, 4, 2), (1, 1, 8), (4, 4, 8), (6, 6, 11)):
        arrays = [array(i, n) for i, n in enumerate(sizes)]
        close(fused(*arrays), plain(*arrays))
        close(gradients(fused, arrays), gradients(plain, arrays))
    assert fused.cache_info().misses == 2  # (1, 1, 8) has another signature
    assert len(kernels(*fused(*[array(i, n) for i, n in enumerate((4, 4, 8))]))) == 1


def test_a_batched_region_splits_into_kernels_not_into_single_ops(host_device):
    plain = lambda a, b, c: (mx.exp(a) * 2 + b, mx.exp(c) * 3 + b)  # noqa: E731
    fused = zmlx.fuse(plain)
    arrays, axes = (array(0, 3, 4), array(1, 4), array(2, 4)), (0, None, None)
    got = mx.vmap(fused, in_axes=axes)(*arrays)
    assert len(kernels(*got)) == 2 and set(primitives(*got)) - {"Broadcast"} == set(kernels(*got))
    close(got, mx.vmap(plain, in_axes=axes)(*arrays))


def test_a_batched_region_may_need_more_buffers_than_metal_has(host_device):
    """26 buffers as planned; batched, sizes come from two inputs, and outputs stay 26."""
    plain = lambda a, b, c: [mx.sin(a) * i + b * c for i in range(2, 26)]  # noqa: E731
    fused = zmlx.fuse(plain)
    arrays = array(0, 4, 4), array(1, 4, 4), array(2, 4, 4)
    assert len(regions_of(fused, *arrays)) == 1
    axes = (0, None, None)
    close(mx.vmap(fused, in_axes=axes)(*arrays), mx.vmap(plain, in_axes=axes)(*arrays))


def test_a_kernel_does_not_wait_for_itself_by_the_order_of_draws(host_device):
    """The second draw waits for the first, which waits for the sum beside what it scales."""

    def fn(x):
        y = mx.tanh(x * 2)
        total = y.sum(-1, keepdims=True)
        first = mx.random.bernoulli(mx.sort(mx.sigmoid(total), 0))
        second = mx.random.bernoulli(0.5, x.shape)
        return first, (y - total) * second

    x = array(1, 6, 8)
    mx.random.seed(3)
    want = fn(x)
    mx.eval(want)
    mx.random.seed(3)
    close(zmlx.fuse(fn, inputs=mx.random.state, outputs=mx.random.state)(x), want)
