"""What fused functions return and store: classes, identity, what is made anew at each call."""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import pytest

import zmlx

X = mx.array([1.0, 2.0, 3.0])
SETTINGS = {"a": [1]}


@dataclasses.dataclass
class Data:
    a: Any
    b: Any = None


class Pair(NamedTuple):
    p: Any
    q: Any


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Wrapping(dict):
    def __setitem__(self, key, value):
        super().__setitem__(key, ("wrapped", value))


class NoCopy:
    def __init__(self, a):
        self.a = a

    def __reduce_ex__(self, protocol):
        raise TypeError("not copied")


class Single:
    def __init__(self, a):
        self.a = a

    def __copy__(self):
        return self


class Failed(Exception):
    def __init__(self, text, value):
        super().__init__(text)
        self.value = value


def _layer(x):
    layer = nn.Linear(3, 3, bias=False)
    layer.weight = x * 2
    return layer


def plain(value: Any) -> Any:
    """A value as lists, for comparison."""
    if isinstance(value, mx.array):
        return (str(value.dtype), value.tolist())
    if isinstance(value, dict):
        items = [(k, plain(v)) for k, v in value.items()]
        return (type(value), items, plain(vars(value)) if hasattr(value, "__dict__") else None)
    if isinstance(value, (list, tuple, deque)):
        return (type(value), [plain(v) for v in value])
    if isinstance(value, Slotted):
        return (Slotted, plain(value.a))
    if isinstance(value, Exception):
        return (type(value), value.args, plain(vars(value)))
    if type(value).__module__ in (__name__, "types"):
        return (type(value), plain(vars(value)))
    return (type(value), value)


RESULTS = {
    "ordered dict": lambda x: OrderedDict(b=x, a=x * 2),
    "default dict": lambda x: defaultdict(list, a=x * 2),
    "dict subclass": lambda x: Wrapping(a=x * 2),
    "counter": lambda x: Counter("aab"),
    "user dict": lambda x: UserDict(a=x).data,
    "module": _layer,
    "nested": lambda x: Data([x, Data(x * 2)], {"a": (x, Pair(1, x))}),
    "slots": lambda x: Slotted([x * 2]),
    "deque": lambda x: deque([x, x * 2], maxlen=5),
    "no copy": lambda x: NoCopy(x * 2),
    "static, no copy": lambda x: NoCopy(1),
    "copies are itself": lambda x: Single(x * 2),
    "exception": lambda x: Failed("text", x * 2),
    "namespace": lambda x: SimpleNamespace(a=x),
    "static": lambda x: (x, Data({"n": 1}, [SimpleNamespace(k=[1])]), OrderedDict(a=[1])),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_of_their_class_and_new_each_time(name):
    fn = RESULTS[name]
    fused = zmlx.fuse(fn)
    for scale in (1, 2):
        assert plain(fused(X * scale)) == plain(fn(X * scale))
    first, again = fused(X), fused(X)
    assert first is not again
    if name == "default dict":
        first["new"].append(1)
        assert first["new"] == [1]


def test_static_objects_made_inside_are_new_at_each_call():
    fused = zmlx.fuse(RESULTS["static"])
    first = fused(X)
    first[1].a["n"] = 2
    first[1].b[0].k.append(5)
    first[2]["a"].append(5)
    assert plain(fused(X)) == plain(RESULTS["static"](X))


def test_objects_that_were_there_before_are_returned_as_they_are():
    held, params = SimpleNamespace(a=[1]), {"w": mx.ones(3)}
    fused = zmlx.fuse(lambda x: (x, held, held.a, {"k": held}, params, SETTINGS["a"]))
    for _ in range(2):
        result = fused(X)
        assert result[1] is held and result[2] is held.a and result[3]["k"] is held
        assert result[4] is params and result[5] is SETTINGS["a"]


def test_one_object_in_two_places_is_one_object():
    def fn(x):
        both, node = [x * 2], Data(x * 3)
        return {"a": both, "b": both, "c": node, "d": [node]}

    result = zmlx.fuse(fn)(X)
    assert result["a"] is result["b"] and result["c"] is result["d"][0]


def test_results_that_hold_themselves():
    def fn(x):
        parent = SimpleNamespace(v=x * 2)
        child = SimpleNamespace(v=x, up=parent)
        parent.down = [child, parent]
        return parent

    fused = zmlx.fuse(fn)
    first, again = fused(X), fused(X * 2)
    for scale, parent in ((1, first), (2, again)):
        child = parent.down[0]
        assert parent.down[1] is parent and child.up is parent
        assert mx.array_equal(child.v, X * scale) and mx.array_equal(parent.v, X * 2 * scale)
    assert first is not again


def test_what_is_stored_twice_is_one_object():
    def fn(owner, x):
        made = SimpleNamespace(v=x * 2, owner=owner)
        owner.last = made
        owner.all.append(made)
        return made

    owner, fused = SimpleNamespace(all=[]), zmlx.fuse(fn)
    for count in (1, 2, 3):
        made = fused(owner, X)
        assert owner.last is owner.all[-1] is made and made.owner is owner
        assert len(owner.all) == count


def _recent(cache, key, x):
    """A cache of the two used last."""
    if key in cache.kept:
        cache.kept.move_to_end(key)
    else:
        cache.kept[key] = x * 2
        if len(cache.kept) > 2:
            cache.kept.popitem(last=False)
    return cache.kept[key]


def _moved(cache, key, x):
    cache.kept[key] = cache.kept.pop(key, x) * 2
    return cache.kept[key]


@pytest.mark.parametrize("fn", [_recent, _moved])
def test_the_order_of_a_dict_is_written_back(fn):
    caches = [SimpleNamespace(kept=OrderedDict()) for _ in range(2)]
    fused = zmlx.fuse(fn)
    for key in "abacbcaab":
        assert mx.array_equal(fused(caches[0], key, X), fn(caches[1], key, X))
        assert plain(caches[0].kept) == plain(caches[1].kept)
        assert list(reversed(caches[0].kept)) == list(reversed(caches[1].kept))


def test_the_order_of_an_ordered_dict_is_in_the_key():
    ordered, fused = OrderedDict(a=X, b=X * 2), zmlx.fuse(lambda d: list(d.values())[0])
    assert mx.array_equal(fused(ordered), X)
    ordered.move_to_end("a")
    assert mx.array_equal(fused(ordered), X * 2)


def test_an_array_that_is_stored_again_is_the_same_array():
    def fn(owner, x):
        owner.first, owner.seen[:] = owner.weight, [*owner.seen, x]
        return x * owner.weight

    owners = [SimpleNamespace(weight=X * 1, first=None, seen=[]) for _ in range(2)]
    for owner, call in zip(owners, (zmlx.fuse(fn), fn), strict=True):
        given = X * 2
        for _ in range(2):
            call(owner, given)
            owner.weight += 1
            given *= 2
        assert owner.first is owner.weight and owner.seen[0] is owner.seen[1] is given
    assert plain(owners[0]) == plain(owners[1])
