"""Structures that the native module tells: what flattening would find, in every leaf."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict, deque, namedtuple
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmlx.device.rules import native_or_none
from zmlx.trace.known import written
from zmlx.trace.tree import flatten_call

pytestmark = pytest.mark.usefixtures("host_device")
Pair = namedtuple("Pair", "left right")
A, B, C = (mx.full((2,), float(i)) for i in range(3))


class Row(list):
    pass


class Named(dict):
    pass


class Held:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x


class Watched(Held):
    """Python code runs where its attributes are read."""

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)


def plain(x: Any) -> Any:
    return x


def other(x: Any) -> Any:
    return x


def known(args: Any, kwargs: Any = {}, states: Any = ()) -> Any:  # noqa: B006
    """What tells calls like this one; None where only Python can."""
    nodes = written(flatten_call(args, kwargs, states)[1], len(states))
    return nodes and native_or_none().Known(nodes, mx.random.state)


def as_flattened(told: Any, args: Any, kwargs: Any, states: Any, of: Any) -> bool:
    """Whether the call is told to be like `of`; then it must be, in every leaf."""
    found = told.match(args, kwargs, states)
    if found is None:
        return False
    first, structure = flatten_call(*of)
    leaves, same = flatten_call(args, kwargs, states)
    signature, arrays, numbers, objects, apart = found
    assert apart == (len(set(map(id, arrays))) == len(arrays))
    assert structure == same and hash(structure) == hash(same)
    assert [id(a) for a in arrays] == [id(a) for a in leaves.arrays]
    assert [(type(n), n) for n in numbers] == [(type(n), n) for n in leaves.numbers]
    assert [id(o) for o in objects] == [id(o) for o in leaves.objects]
    assert (first.soft, first.copied) == (leaves.soft, leaves.copied)
    assert signature == native_or_none().signature(leaves.arrays)
    return True


LEAVES = st.one_of(
    st.sampled_from([A, B, C, A.astype(mx.float16), mx.ones((2, 1))]), st.none(), st.booleans(),
    st.sampled_from(["add", "mul"]), st.integers(-2, 2), st.sampled_from([0.0, 0.5, -1.0]),
    st.sampled_from([plain, other, mx.float32, mx.random.state, Held, print]),
)  # fmt: skip
KEYS = st.sampled_from(["x", "y", "z", 1, 2, True, 1.0])


def trees() -> st.SearchStrategy[Any]:
    def wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        lists, dicts = st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)
        named = st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2)
        return st.one_of(
            lists, lists.map(tuple), dicts, lists.map(Row), dicts.map(Named),
            named.map(lambda d: Held(**d)), named.map(lambda d: Watched(**d)),
            lists.map(deque), dicts.map(OrderedDict), st.builds(Slotted, inner),
            inner.map(lambda x: [x, x]), st.builds(Pair, inner, inner),
            named.map(lambda d: types.SimpleNamespace(**d)),
            st.sets(st.sampled_from(["a", "b", 1])), st.builds(set),
        )  # fmt: skip

    return st.recursive(LEAVES, wider, max_leaves=8)


@given(st.lists(trees(), min_size=1, max_size=2), st.lists(trees(), min_size=1, max_size=2))
def test_what_is_told_to_be_alike_is(first: Any, second: Any) -> None:
    args, more = tuple(first), tuple(second)
    told = known(args)
    if told is not None:
        assert as_flattened(told, args, {}, (), (args, {}))
        as_flattened(told, more, {}, (), (args, {}))
        copied = copy.deepcopy(args, {id(mx.float32): mx.float32})  # a Dtype has no copies
        as_flattened(told, copied, {}, (), (args, {}))


def test_a_module_as_argument_and_as_state() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2, bias=False))
    for args, states in (((model, A), ()), ((A,), (model,)), ((A,), (model.state,))):
        told = known(args, {}, states)
        assert as_flattened(told, args, {}, states, (args, {}, states))
        model.layers[0].weight = mx.ones((2, 2))  # another array, of the same kind
        assert as_flattened(told, args, {}, states, (args, {}, states))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.more = nn.Linear(2, 2), [nn.Linear(2, 2), nn.Dropout(0.5)]
        self.act, self.name, self.table = plain, "m", {"w": A, 1: [B]}


def shared(m: Any) -> None:
    m.more[0] = m.first


def same_table(m: Any) -> None:
    m.table[1] = m.more


def with_default(m: Any) -> None:
    plain.__defaults__ = (1,)


def closing_over(m: Any) -> None:
    m.act = (lambda held: lambda x: x * held)(A)


CHANGES: dict[str, Any] = {
    "an attribute's value": lambda m: setattr(m, "name", "n"),
    "an attribute more": lambda m: setattr(m, "extra", 1),
    "an attribute less": lambda m: delattr(m, "name"),
    "a number's type": lambda m: setattr(m.more[1], "_p_1", 1),
    "an array for a number": lambda m: setattr(m.more[1], "_p_1", A),
    "another function": lambda m: setattr(m, "act", other),
    "a function that closes over": closing_over,
    "a function with a default": with_default,
    "a child of another class": lambda m: setattr(m, "first", nn.Identity()),
    "a child without bias": lambda m: setattr(m, "first", nn.Linear(2, 2, bias=False)),
    "a child twice": shared,
    "a list twice": same_table,
    "a longer list": lambda m: m.more.append(A),
    "a shorter list": lambda m: m.more.pop(),
    "another key": lambda m: m.table.update(v=m.table.pop("w")),
    "keys in another order": lambda m: m.table.update(w=m.table.pop("w")),
    "frozen": lambda m: m.freeze(),
    "one frozen": lambda m: m.first.freeze(keys="bias"),
    "in evaluation": lambda m: m.eval(),
    "a random state": lambda m: m.table.update({1: mx.random.state}),
    "None for an array": lambda m: m.table.update(w=None),
    "a subclass": lambda m: m.table.update({1: Row([B])}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_change_goes_unseen(name: str) -> None:
    model = Model()
    told, before = known((model, A)), flatten_call((model, A), {})[1]
    assert as_flattened(told, (model, A), {}, (), ((model, A), {}))
    defaults = plain.__defaults__
    try:
        CHANGES[name](model)
        assert told.match((model, A), {}, ()) is None
        assert flatten_call((model, A), {})[1] != before
    finally:
        plain.__defaults__ = defaults


def test_keyword_arguments_are_told_in_their_order() -> None:
    told = known((A,), {"a": [B, 2.0], "b": C})
    of = ((A,), {"a": [B, 2.0], "b": C})
    assert as_flattened(told, (B,), {"a": [C, 3.0], "b": A}, (), of)
    for kwargs in ({"b": C, "a": [B, 2.0]}, {"a": [B, 2]}, {"a": [B, 2.0], "c": C}, {}):
        assert told.match((A,), kwargs, ()) is None
    assert told.match((A, A), {"a": [B, 2.0], "b": C}, ()) is None
    assert told.match((A,), {"a": [B, 2.0], "b": C}, ([],)) is None


def test_what_went_is_not_what_comes_in_its_place() -> None:
    def made() -> Any:
        def gone(x: Any) -> Any:
            return x

        return gone

    function = made()
    told = known((function, A))
    assert told.match((function, A), {}, ()) is not None
    del function
    assert told.match((None, A), {}, ()) is None
    assert told.match((made(), A), {}, ()) is None
