"""Trees: what a user passes and returns, modules and state, in and out of a trace."""

from __future__ import annotations

from collections import namedtuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from tracing import call_of, recorded, replay, replayed, run, same, traced

import zmlx
from zmlx.trace.recipe import Given, update
from zmlx.trace.run import trace
from zmlx.trace.static import Static
from zmlx.trace.tree import Leaves, flatten, flatten_call, flatten_state
from zmlx.trace.unflatten import Source, restored, unflatten

X = mx.array([0.5, -1.0, 2.0])
Y = mx.array([1.0, 2.0, 3.0])
Pair = namedtuple("Pair", "left right")

TREES = {
    "list": [X, Y], "tuple": (X, (Y,)), "dict": {"b": X, "a": [Y, {"c": X}]},
    "named": Pair(X, Pair(Y, 2)), "empty": {"a": [], "b": (), "c": {}, "d": X},
    "mixed": [X, 2, 0.5, True, None, "s", 1j], "keys": {1: X, "1": Y, (2, 3): X},
    "same array": [X, X, {"again": X}],
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_flatten_and_unflatten_are_inverse(name):
    leaves = Leaves()
    structure = flatten(TREES[name], leaves)
    hash(structure)
    source = Source(iter(leaves.arrays), iter(leaves.numbers), leaves.objects)
    same(unflatten(structure, source), TREES[name])


@pytest.mark.parametrize("name", TREES)
def test_trees_go_in_and_out(name):
    def double(tree):
        if isinstance(tree, mx.array):
            return tree * 2
        if isinstance(tree, Pair):
            return Pair(*map(double, tree))
        if isinstance(tree, (list, tuple)):
            return type(tree)(map(double, tree))
        return {k: double(v) for k, v in tree.items()} if isinstance(tree, dict) else tree

    same(run(double, TREES[name]), double(TREES[name]))
    same(run(lambda *, tree: double(tree), tree=TREES[name]), double(TREES[name]))


def test_outputs_that_are_one_array_are_one_output():
    found = traced(lambda x: [x, x, {"a": x * 1}, x + Y, X], X)
    assert len(found.graph.outputs) == 4  # x; x * 1; x + Y; the captured X
    assert found.result[0] == found.result[1]
    same(replayed(found, [Y]), [Y, Y, {"a": Y}, Y + Y, X])


def test_the_order_of_keys_does_not_change_results():
    def fn(d):
        return d["a"] - d["b"], {k: v for k, v in d.items()}

    for tree in ({"a": X, "b": Y}, {"b": Y, "a": X}):
        same(run(fn, tree), fn(tree))


def test_keys_keep_their_types():
    assert [type(k) for k in run(lambda d: d, {True: X, 2: Y, 0.5: X})] == [bool, int, float]


def test_static_values():
    shared = {"unhashable"}
    assert Static(shared) == Static(shared) != Static({"unhashable"})
    assert Static(1) != Static(1.0) != Static(True) and Static(0.0) != Static(-0.0)
    assert Static("a") == Static("a") and hash(Static("a")) == hash(Static("a"))
    assert Static((1, 2)) == Static((1, 2)) != Static((1, 2.0))
    assert Static(complex("nan")) == Static(complex("nan")) and Static(1j) != Static(2j)
    assert hash(Static(complex("nan"))) == hash(Static(complex("nan")))
    seen = []
    traced(lambda x, s: seen.append(s) or x * 2, X, shared)
    assert seen == [shared] and seen[0] is shared


def test_numpy_arrays_are_refused_by_name():
    fused = zmlx.fuse(lambda x, params, *rest: x * params["w"][1])
    for args, name in (
        ((np.ones(3), {}), "x is"), ((X, {"w": [X, np.ones(3)]}), r"params\['w'\]\[1\] is"),
        ((X, {}, np.ones(3)), r"rest\[0\] is"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=rf"<lambda>: {name} a NumPy array of shape \(3,\)"):
            fused(*args)


# -- modules --------------------------------------------------------------------------------------
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2)]
        self.extra = {"gain": mx.array([2.0, 3.0]), "list": [mx.array(1.0)]}
        self.scale = 0.5

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.extra["gain"] * self.scale + self.extra["list"][0]


def test_a_modules_arrays_are_inputs():
    net = Net()
    before = {id(p) for _, p in nn.utils.tree_flatten(net.parameters())}
    call = call_of((net, X), {})
    found = recorded(Net.__call__, call)
    found.graph.verify()
    assert not found.captures and len(found.graph.inputs) == 8
    assert {id(p) for _, p in nn.utils.tree_flatten(net.parameters())} == before
    same(replayed(found, call.leaves.arrays), net(X))
    net.update(nn.utils.tree_map(lambda p: p + 1, net.parameters()))
    new = call_of((net, X), {})
    assert new.structure == call.structure
    same(replayed(found, new.leaves.arrays), net(X))


def test_a_module_passed_twice_and_shared_layers():
    net = Net()
    net.layers[2] = net.layers[0]
    net.layers = [net.layers[0], nn.ReLU(), lambda x: x[:, :3], net.layers[2], lambda x: x[:, :2]]

    def fn(a, b, x):
        return a(x) + b(x)

    same(run(fn, net, net, X[None]), fn(net, net, X[None]))


def test_a_module_in_a_closure_is_captured():
    net = Net()
    found = traced(lambda x: net(x), X)
    assert len(found.captures) == 7
    same(replayed(found, [X]), net(X))


def test_a_modules_settings_are_part_of_the_structure():
    net = Net()
    leaves = Leaves()
    first = flatten(net, leaves)
    assert flatten(net, Leaves()) == first and 0.5 in leaves.numbers
    net.scale = 1
    assert flatten(net, Leaves()) != first
    net.scale = 0.5
    net.eval()
    assert flatten(net, Leaves()) != first
    net.train()
    assert flatten(net, Leaves()) == first == flatten(Net(), Leaves())


def test_a_module_is_restored_after_an_error():
    net = Net()
    weight = net.layers[0].weight

    def fn(model, x):
        model.layers[0].weight = model.layers[0].weight * 2
        model.layers.append(x)
        model.extra["new"] = x
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trace(fn, call_of((net, X), {}, outputs=[net]))
    assert net.layers[0].weight is weight and len(net.layers) == 3 and "new" not in net.extra


@pytest.mark.smoke
def test_a_step_of_training_with_state():
    """A module's gradient and update inside one trace, as a training step is written."""
    net = Net()
    optimizer = nn.Module()
    optimizer.momentum = nn.utils.tree_map(mx.zeros_like, net.trainable_parameters())

    def step(model, memory, x, rate):
        def loss(parameters, x):
            model.update(parameters)
            return (model(x) ** 2).mean()

        value, grads = mx.value_and_grad(loss)(model.trainable_parameters(), x)
        memory.momentum = nn.utils.tree_map(lambda m, g: 0.9 * m + g, memory.momentum, grads)
        return value, nn.utils.tree_map(lambda m: rate * m, memory.momentum)

    call = call_of((net, optimizer, X, 0.5), {}, outputs=[optimizer])
    found = recorded(step, call)
    found.graph.verify()
    got = replayed(found, call.leaves.arrays, call.leaves.numbers)
    want = step(net, optimizer, X, 0.5)
    same(got, want)


# -- captured state -------------------------------------------------------------------------------
def traced_state(fn, state, *args):
    call = call_of(args, {}, inputs=[state], outputs=[state])
    found = recorded(fn, call)
    found.graph.verify()
    return found, call


def test_state_is_read_and_written():
    state = {"count": mx.array(1.0), "nested": {"list": [X, Y]}, "name": "s"}
    arrays = state["count"], state["nested"]["list"][0]

    def fn(x):
        state["count"] = state["count"] + 1
        state["nested"]["list"][0] = x * state["count"]
        state["new"] = x
        return state["nested"]["list"][1] + x

    found, call = traced_state(fn, state, X)
    assert state["count"] is arrays[0] and state["nested"]["list"][0] is arrays[1]
    assert "new" not in state
    values = replay(found.graph, call.leaves.arrays)
    inner = state["nested"]["list"]
    given = Given(values, call.leaves.numbers, call.leaves.objects, arrays=call.leaves.arrays)
    update(found.updates, given)
    want = {"count": mx.array(2.0), "nested": {"list": [X * 2, Y]}, "name": "s", "new": X}
    same(state, want)
    assert state["nested"]["list"] is inner


def test_a_list_of_state_may_grow_and_shrink():
    for change, want in (
        (lambda s, x: s.append(x), [X, Y, Y]), (lambda s, x: s.__delitem__(1), [X]),
        (lambda s, x: s.__setitem__(slice(None), [x]), [Y]), (lambda s, x: s.clear(), []),
    ):  # fmt: skip
        state = [X, Y]
        found, call = traced_state(lambda x: [change(state, x)], state, Y)  # noqa: B023
        assert state[0] is X and state[1] is Y
        values = replay(found.graph, call.leaves.arrays)
        given = Given(values, (), call.leaves.objects, arrays=call.leaves.arrays)
        update(found.updates, given)
        same(state, want)


def test_numbers_and_deletions_in_state():
    state = {"rate": 0.5, "gone": X, "kept": Y}

    def fn(x, rate):
        state["rate"] = rate * 2
        del state["gone"]
        return x

    call = call_of((X, 0.25), {}, inputs=[state], outputs=[state])
    found = recorded(fn, call)
    assert state["gone"] is X and state["rate"] == 0.5
    assert found.written_numbers == {1} == set(call.leaves.soft)
    given = Given([X, Y], [0.75, 0.5], call.leaves.objects, arrays=call.leaves.arrays)
    update(found.updates, given)
    same(state, {"rate": 1.5, "kept": Y})


def test_random_state_may_be_named_as_state():
    state = [{"w": X}, mx.random.state]

    def fn(x):
        state[0]["w"] = state[0]["w"] + mx.random.normal((3,))
        return x

    found, call = traced_state(fn, state, X)
    mx.random.seed(4)
    values = replay(found.graph, call.leaves.arrays)
    moved = mx.random.state[0].tolist()
    given = Given(values, (), call.leaves.objects, arrays=call.leaves.arrays)
    update(found.updates, given)
    assert state[1] is mx.random.state and mx.random.state[0].tolist() == moved
    mx.random.seed(4)
    same(state[0]["w"], X + mx.random.normal((3,)))
    alone, _ = traced_state(lambda x: x * 2, mx.random.state, X)
    assert alone.updates == ()


def test_state_of_other_kinds_is_refused():
    for state in ((X,), X, 3):
        with pytest.raises(TypeError, match="must be a list, a dict or an object"):
            flatten_state(state, Leaves())


def test_what_was_used_in_place_is_restored():
    inner = {"b": Y}
    state = {"a": [X, inner], "c": 1}
    leaves, structure = flatten_call((), {}, [state])
    assert leaves.objects == [state, state["a"], inner] and leaves.soft == [0]
    with restored(leaves.objects):
        unflatten(structure[2][0], Source(iter([10, 20]), iter([30]), leaves.objects))
        assert state == {"a": [10, {"b": 20}], "c": 30} and state["a"][1] is inner
        state["a"].append(7)
        state["d"] = 8
    same(state, {"a": [X, {"b": Y}], "c": 1})
    with restored([]):
        pass
