"""Arguments: one fused function called with many kinds of argument trees in turn."""

from __future__ import annotations

import dataclasses
import types
from collections import OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zmlx

pytestmark = pytest.mark.usefixtures("on_cpu")

Pair = namedtuple("Pair", "left right")
A, B = mx.array([1.0, 2.0]), mx.array([3.0, 4.0])


class Ordered(OrderedDict):
    pass


class Row(list):
    pass


class Span(tuple):
    pass


@dataclasses.dataclass
class Data:
    x: Any
    y: Any = 2.0


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y


def total(tree: Any, mode: Any = None) -> Any:
    """A number that tells every leaf, its place, its type and the class of its container."""
    if isinstance(tree, mx.array):
        return tree.astype(mx.float32).sum() * (2 if tree.dtype == mx.float16 else 1)
    if tree is None or isinstance(tree, (str, bool)):
        return float(len(str(tree)))
    if isinstance(tree, (int, float)):
        return tree * (1.5 if isinstance(tree, float) else 1.25)
    weight = 0.5 * len(type(tree).__name__)
    if isinstance(tree, dict):
        parts = [total(v, mode) * (i + 1 + len(str(k))) for i, (k, v) in enumerate(tree.items())]
    elif isinstance(tree, (list, tuple, deque)):
        parts = [total(v, mode) * (i + 1) for i, v in enumerate(tree)]
    else:
        names = getattr(tree, "__slots__", None) or vars(tree)
        parts = [total(getattr(tree, name), mode) * len(name) for name in names]
    result = mx.array(weight)
    for part in parts:
        result = result - part if mode == "minus" else result + part
    return result


def arrays() -> st.SearchStrategy[mx.array]:
    types = st.sampled_from([mx.float32, mx.float16, mx.int32])
    shapes = st.sampled_from([(), (1,), (2,), (3, 2)])
    return st.builds(
        lambda s, t, v: mx.full(s, v).astype(t), shapes, types, st.integers(-3, 3).map(float)
    )


LEAVES = st.one_of(
    arrays(), arrays(), st.none(), st.booleans(), st.sampled_from(["add", "mul", ""]),
    st.integers(-2, 2), st.sampled_from([0.0, 0.5, 1.0, -1.0]),
)  # fmt: skip
KEYS = st.sampled_from(["x", "y", "z", 1, True, 1.0, (1, 2)])


def trees() -> st.SearchStrategy[Any]:
    def wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        lists = st.lists(inner, max_size=3)
        dicts = st.dictionaries(KEYS, inner, max_size=3)
        return st.one_of(
            lists, lists.map(tuple), dicts, lists.map(Row), lists.map(Span), lists.map(deque),
            dicts.map(Ordered), dicts.map(lambda d: defaultdict(list, d)),
            st.builds(Pair, inner, inner), st.builds(Data, inner, inner), st.builds(Frozen, inner),
            st.builds(Slotted, inner, inner),
            st.builds(types.SimpleNamespace, left=inner, right=inner),
        )  # fmt: skip

    return st.recursive(LEAVES, wider, max_leaves=6)


CALLS = st.lists(
    st.tuples(st.lists(trees(), min_size=1, max_size=3), st.sampled_from([None, "plus", "minus"])),
    min_size=2,
    max_size=5,
)


def as_plain(function: Any, fused: Any, calls: list[tuple[Any, ...]]) -> None:
    for args, mode in calls:
        named = {} if mode is None else {"mode": mode}
        want, got = function(*args, **named), fused(*args, **named)
        assert mx.array_equal(got, want), (args, mode, got, want)


def function(*trees: Any, mode: Any = None) -> mx.array:
    return total(list(trees), mode)


SHARED = zmlx.fuse(function, cache_size=1000)


@given(CALLS)
def test_many_trees_in_turn_on_one_function(calls):
    """One function for all examples, so that traces of one meet calls of another."""
    as_plain(function, SHARED, calls)


@given(st.lists(trees(), min_size=2, max_size=4))
def test_a_tree_comes_back_as_it_is(trees):
    @zmlx.fuse
    def kept(tree):
        return tree

    for tree in trees:
        back = kept(tree)
        assert type(back) is type(tree)
        assert mx.array_equal(total(back), total(tree))


@pytest.mark.parametrize(
    ("fn", "calls"),
    [
        (lambda pair, mode: pair[0] + pair[1] if mode == "add" else pair[0] * pair[1],
         [([A, B], "add"), ([A, B], "mul"), ((A, B), "add")]),
        (lambda s, k: s["x"] * k + s["y"],
         [({"x": A, "y": B}, 2.0), ({"y": A, "x": B}, 2.0), ({"x": A, "y": B}, 3)]),
        (lambda tree, flag: sum(tree) * (2 if flag else 3),
         [([A, A], True), ([A, A], False), ([A, 2.0, A], True), ([A], False)]),
        (lambda a, b: a + b, [(A, B), (A.astype(mx.float16), B), (A, 1), (A, 1.0), (1, A)]),
        (lambda a, dtype: a.astype(dtype) * 2.5, [(A, mx.float16), (A, mx.int32), (A, mx.float32)]),
        (lambda a, s: a[s] * 2, [(A, slice(0, 1)), (A, slice(None, 1)), (A, slice(0, 1))]),
        (lambda a, n: a * n, [(A, True), (A, 1), (A, 1.0)]),
    ],
)  # fmt: skip
def test_unlike_calls_have_unlike_keys(fn, calls):
    fused = zmlx.fuse(fn)
    for args in (*calls, *calls):
        want, got = fn(*args), fused(*args)
        assert got.dtype == want.dtype and mx.array_equal(got, want), args
    assert fused.cache_info().misses == len({repr(c) for c in map(described, calls)})


def described(args: tuple[Any, ...]) -> list[Any]:
    """What a trace is made for."""
    def one(value: Any) -> Any:
        if isinstance(value, mx.array):
            return str(value.dtype), value.ndim
        if isinstance(value, (list, tuple)):
            return type(value), [one(v) for v in value]
        if isinstance(value, dict):
            return [(k, one(v)) for k, v in value.items()]
        return type(value) if type(value) in (int, float) else repr(value)

    return [one(value) for value in args]


def test_equal_calls_share_a_trace():
    fused = zmlx.fuse(lambda a, tree: a * tree["k"] + tree["more"].x)
    for i in range(5):
        fused(A, OrderedDict(k=float(i), more=Data(B + i, i)))
    assert fused.cache_info()[:2] == (3, 2)  # the second call shows which numbers move


def test_one_array_passed_twice_and_written():
    def fn(a, b):
        a += 1
        return a * b

    fused = zmlx.fuse(fn)
    for first, second in ((0, 0), (0, 1), (0, 0), (1, 1)):
        want_args, got_args = ([A * 1, B * 1] for _ in range(2))
        want = fn(want_args[first], want_args[second])
        got = fused(got_args[first], got_args[second])
        assert mx.array_equal(got, want)
        for g, w in zip(got_args, want_args, strict=True):
            assert mx.array_equal(g, w)


def test_a_function_that_closes_over_something_new_is_another_argument():
    fused = zmlx.fuse(lambda x, f: f(x) + 1)
    rate = 2.0
    close = lambda x: x * rate  # noqa: E731
    assert mx.array_equal(fused(A, close), A * 2 + 1)
    rate = 3.0
    assert mx.array_equal(fused(A, close), A * 3 + 1)


def test_containers_that_hold_themselves_and_each_other():
    loop: list[Any] = [A]
    loop.append(loop)
    shared = {"w": B}
    fused = zmlx.fuse(lambda t, p, q: t[1][1][0] * p["w"] + (2 if p is q else 3))
    assert mx.array_equal(fused(loop, shared, shared), A * B + 2)
    assert mx.array_equal(fused(loop, shared, dict(shared)), A * B + 3)
