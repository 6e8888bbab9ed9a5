"""Objects as arguments and as `self`: read anew at every call, and written back."""

from __future__ import annotations

import gc
import types
import weakref
from collections import UserDict, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import zmlx

pytestmark = pytest.mark.usefixtures("on_cpu")

X = mx.array([1.0, 2.0, 3.0])


class Layer:
    """A user's class of no special kind."""

    def __init__(self) -> None:
        self.w, self.k, self.names = mx.array(2.0), 1.0, ["a"]

    def apply(self, x: mx.array) -> mx.array:
        return x * self.w * self.k + len(self.names)


class Slotted:
    __slots__ = ("__hidden", "k", "names", "w")

    def __init__(self) -> None:
        self.w, self.k, self.names, self.__hidden = mx.array(2.0), 1.0, ["a"], 3.0

    def apply(self, x: mx.array) -> mx.array:
        return x * self.w * self.k + len(self.names) * self.__hidden


@dataclass
class Record:
    w: Any = field(default_factory=lambda: mx.array(2.0))
    k: float = 1.0
    names: list[str] = field(default_factory=lambda: ["a"])

    def apply(self, x: mx.array) -> mx.array:
        return x * self.w * self.k + len(self.names)


class Namespace(types.SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(w=mx.array(2.0), k=1.0, names=["a"])

    apply = Layer.apply


class Holder:
    """An object inside an object, in a dict and a tuple."""

    def __init__(self) -> None:
        self.inner = {"layer": (Layer(),)}

    w = property(lambda s: s.layer.w, lambda s, v: setattr(s.layer, "w", v))
    k = property(lambda s: s.layer.k, lambda s, v: setattr(s.layer, "k", v))
    names = property(lambda s: s.layer.names)
    layer = property(lambda s: s.inner["layer"][0])

    def apply(self, x: mx.array) -> mx.array:
        return self.layer.apply(x)


CLASSES = [Layer, Slotted, Record, Namespace, Holder]


def changes(item: Any) -> Any:
    """Changes that a later call must see, one after another."""
    yield
    item.w = mx.array(50.0)
    yield
    item.k = 3.0
    yield
    item.k = -1.0
    yield
    item.names.append("b")
    yield
    item.w = mx.array([1.0, 2.0, 3.0])
    yield
    item.w *= 2
    yield


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("way", ["argument", "bound", "decorated"])
def test_changes_of_an_object_are_seen(cls, way):
    item = cls()
    if way == "argument":
        fused = zmlx.fuse(lambda x, item: item.apply(x))
        run = lambda: fused(X, item)  # noqa: E731
    elif way == "bound":
        fused = zmlx.fuse(item.apply)
        run = lambda: fused(X)  # noqa: E731
    else:
        fused = zmlx.fuse(cls.apply)
        run = lambda: fused(item, X)  # noqa: E731
    for _ in changes(item):
        for _ in range(2):
            assert mx.array_equal(run(), item.apply(X))


class Cache:
    """A cache as language models have it: arrays, a count, a history."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.offset, self.log = 0, deque(maxlen=3)
        self.seen: dict[str, Any] = defaultdict(int)

    def update(self, x: mx.array) -> mx.array:
        self.keys = x if self.keys is None else mx.concatenate([self.keys, x])
        self.offset += x.shape[0]
        self.log.append(x.sum())
        self.seen["calls"] += 1
        self.seen["last"] = x * 0.5
        return self.keys


def stepped(function: Any, steps: int = 6) -> list[Any]:
    cache, found = Cache(), []
    for step in range(steps):
        found.append(function(mx.arange(2.0 + step % 2) + step, cache))
    found += [cache.keys, *cache.log, cache.seen["last"]]
    found += [mx.array(cache.offset), mx.array(cache.seen["calls"]), mx.array(len(cache.log))]
    assert type(cache.log) is deque and cache.log.maxlen == 3
    assert type(cache.seen) is defaultdict
    return found


def test_a_cache_object_is_written_back():
    def attend(x, cache):
        return (cache.update(x * 2) * mx.sigmoid(x.sum())).sum() + cache.offset

    for got, want in zip(stepped(zmlx.fuse(attend)), stepped(attend), strict=True):
        assert got.dtype == want.dtype and mx.allclose(got, want, rtol=1e-6)


def test_counters_need_no_trace_for_each_value():
    class Counter:
        def __init__(self) -> None:
            self.n, self.rate = 0, 0.5

        def __call__(self, x: mx.array) -> mx.array:
            self.n += 1
            self.rate *= 0.5
            return x * self.n + self.rate

    plain, counter = Counter(), Counter()
    fused = zmlx.fuse(counter)
    for _ in range(20):
        assert mx.allclose(fused(X), plain(X))
    assert counter.n == plain.n == 20 and counter.rate == plain.rate
    assert fused.cache_info().misses == 2  # the second call shows that the numbers move


def test_containers_that_are_written():
    def fn(x, d, items, box):
        d["new"] = x * 2
        d["old"] += 1
        items.append(x + d["old"])
        items[0] = items[0] * 3
        box.data.clear()
        box.data["only"] = x - 1
        return x.sum()

    def made() -> tuple[Any, ...]:
        return {"old": mx.array(1.0), "gone": 1}, [mx.ones(2)], UserDict(a=mx.ones(1))

    fused = zmlx.fuse(fn)
    want, got = made(), made()
    for _ in range(3):
        assert mx.array_equal(fn(X, *want), fused(X, *got))
    trees = [nn.utils.tree_flatten([t[0], t[1], t[2].data]) for t in (want, got)]
    for (key, w), (other, g) in zip(*trees, strict=True):
        assert key == other and (w == g if isinstance(w, int) else mx.array_equal(w, g))


def test_an_object_comes_back_as_itself():
    item = Layer()

    @zmlx.fuse
    def moved(item, x):
        item.w = x
        return item, [item]

    back, [again] = moved(item, X)
    assert back is item and again is item and mx.array_equal(item.w, X)
    back, _ = moved(item, X * 2)
    assert back is item and mx.array_equal(item.w, X * 2)


def test_an_error_leaves_an_object_as_it_was():
    cache = Cache()
    cache.update(X)
    keys, log = cache.keys, list(cache.log)

    @zmlx.fuse
    def broken(x, cache):
        cache.update(x)
        cache.extra = x
        return float(x.sum())

    for _ in range(2):
        with pytest.raises(zmlx.errors.TraceError, match=r"test_objects.py:\d+.*float"):
            broken(X, cache)
        assert cache.keys is keys and cache.offset == 3 and list(cache.log) == log
        assert not hasattr(cache, "extra")


def test_gradients_reach_the_arrays_of_objects():
    @zmlx.fuse
    def apply(item, x):
        return mx.tanh(x * item.w).sum()

    def loss(function, w):
        item = Layer()
        item.w = w
        return function(item, X)

    w = mx.array([0.1, 0.2, 0.3])
    want = mx.grad(lambda w: loss(lambda item, x: mx.tanh(x * item.w).sum(), w))(w)
    assert mx.allclose(mx.grad(lambda w: loss(apply, w))(w), want, rtol=1e-5)


# -- many instances -------------------------------------------------------------------------------
class Norm(nn.Module):
    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = mx.random.normal((size,)), eps

    @zmlx.fuse(cache_size=4)
    def __call__(self, x: mx.array) -> mx.array:
        return x * mx.rsqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weight

    def plain(self, x: mx.array) -> mx.array:
        return x * mx.rsqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weight


def test_instances_of_equal_structure_share_a_trace():
    before = Norm.__call__.cache_info()
    x, norms = mx.random.normal((2, 8)), [Norm(8) for _ in range(30)]
    for _ in range(2):
        for norm in norms:
            assert mx.allclose(norm(x), norm.plain(x), rtol=1e-5)
    assert Norm.__call__.cache_info().misses == before.misses + 1
    norms[3].eps = 1e-3  # a setting that differs travels as a number from then on
    for norm in norms:
        assert mx.allclose(norm(x), norm.plain(x), rtol=1e-5)
    assert Norm.__call__.cache_info().misses <= before.misses + 2


def test_nothing_is_kept_alive():
    @zmlx.fuse
    def apply(item, x):
        return item.plain(x) if isinstance(item, Norm) else item.apply(x)

    kept = []
    for _ in range(5):
        for item in (Norm(4), Layer(), Slotted.__new__(Slotted), Record()):
            if isinstance(item, Slotted):
                continue
            apply(item, mx.ones((2, 4)))
            kept.append(weakref.ref(item))
    del item
    gc.collect()
    assert not any(ref() is not None for ref in kept)


def test_passing_the_bound_is_told_once(caplog):
    @zmlx.fuse(cache_size=2)
    def rounded(x, places):
        return mx.round(x, places) + 1

    for places in range(5):
        rounded(X, places)
    told = [r.getMessage() for r in caplog.records if "cache_size=2" in r.getMessage()]
    assert len(told) == 1 and "rounded" in told[0]
    assert rounded.cache_info().currsize == 2


def test_objects_of_classes_without_a_module_are_looked_past() -> None:
    named = type("named", (), {"size": 2.0})
    named.__module__ = None  # as sympy's functions have it
    held = [named, named()]

    def fn(x: Any) -> Any:
        return x * held[1].size

    x = mx.array([1.0, 3.0])
    assert zmlx.fuse(fn)(x).tolist() == [2.0, 6.0]
    assert zmlx.fuse(lambda x, f: x * f.size)(x, named()).tolist() == [2.0, 6.0]
