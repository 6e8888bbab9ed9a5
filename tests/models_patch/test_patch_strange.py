"""Models that a stranger would try next: state, draws, odd signatures, threads, transformations."""

from __future__ import annotations

import functools
import threading
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from comparing import assert_near, assert_same

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")


class Cache:
    """Keys that grow."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None

    def add(self, keys: mx.array) -> mx.array:
        joined = keys if self.keys is None else mx.concatenate([self.keys, keys], axis=1)
        self.keys = joined
        return joined


class Mixer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)

    def __call__(self, x: mx.array, cache: Cache | None = None) -> mx.array:
        keys = x if cache is None else cache.add(x)
        return self.proj(mx.softmax(x @ keys.swapaxes(1, 2), axis=-1) @ keys)


class Layer(nn.Module):
    """A layer as mlx-lm's: what comes before and after `mixer` can be overridden."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.mixer, self.norm = Mixer(width), nn.RMSNorm(width)
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)

    def before(self, x: mx.array) -> mx.array:
        return self.norm(x) * 1.5

    def after(self, x: mx.array, mixed: mx.array) -> mx.array:
        h = x + mixed
        return h + self.down(nn.silu(self.up(h)))

    def __call__(self, x: mx.array, cache: Cache | None = None) -> mx.array:
        return self.after(x, self.mixer(self.before(x), cache))


class Model(nn.Module):
    def __init__(self, layer: type = Layer, count: int = 2) -> None:
        super().__init__()
        mx.random.seed(3)
        self.layers = [layer() for _ in range(count)]
        mx.eval(self.parameters())

    def __call__(self, x: mx.array, caches: Any = None) -> mx.array:
        for layer, cache in zip(self.layers, caches or [None] * len(self.layers), strict=True):
            x = layer(x, cache)
        return x


def rows(seed: int = 0, length: int = 3) -> mx.array:
    return mx.random.normal((1, length, 16), key=mx.random.key(seed))


def steps(model: nn.Module) -> list[mx.array]:
    """A prompt and two tokens, with caches."""
    mx.random.seed(9)
    caches = [Cache() for _ in model.layers]
    found = [model(rows(n, length), caches) for n, length in enumerate((3, 1, 1))]
    mx.eval(found)
    return [*found, *[cache.keys for cache in caches]]


def ways(report: Any, path: str = "layers.0") -> set[tuple[str, str]]:
    return {(key.mode, d.way) for key, d in report[path].decisions.items()}


def checked(layer: type, way: str) -> tuple[nn.Module, Any]:
    """A model of such layers with caches, patched beside plain: values, and how the layers run."""
    plain, model = Model(layer), Model(layer)
    report = zmlx.patch(model, measure=False)
    assert_near(steps(model), steps(plain), 1e-5)
    assert ways(report) == {("cache", way)}, report["layers.0"].lines()
    return model, report


def test_ones_own_cache() -> None:
    checked(Layer, "in pieces")


def test_what_a_layer_counts_is_counted_once() -> None:
    class Counting(Layer):
        def before(self, x: mx.array) -> mx.array:
            self.calls = getattr(self, "calls", 0) + 1
            return super().before(x)

    model, report = checked(Counting, "plain")
    assert [layer.calls for layer in model.layers] == [3, 3]
    assert "write what it writes twice" in report["layers.0"].lines()[0]


def test_what_is_drawn_is_drawn_once() -> None:
    class Noisy(Layer):
        def before(self, x: mx.array) -> mx.array:
            return super().before(x + mx.random.normal(x.shape))

    checked(Noisy, "plain")


def test_a_product_before_the_mixer_that_is_used_after_it() -> None:
    class Gated(Layer):
        def __call__(self, x: mx.array, cache: Cache | None = None) -> mx.array:
            product = self.down(self.up(x))
            return self.after(product, self.mixer(product, cache))

    _, report = checked(Gated, "plain")
    assert "twice" in report["layers.0"].lines()[0]


def test_two_calls_with_the_cache() -> None:
    class Twice(Layer):
        def __call__(self, x: mx.array, cache: Cache | None = None) -> mx.array:
            h = self.after(x, self.mixer(self.before(x), cache))
            return self.after(h, self.mixer(h * 0.5, cache))

    class Added(Layer):
        def __call__(self, x: mx.array, cache: Cache | None = None) -> mx.array:
            h = x + self.mixer(self.before(x), cache)
            return h + self.mixer(h * 0.5, cache)

    checked(Twice, "plain")  # the first MLP would run in two pieces
    checked(Added, "in pieces")


def test_a_mixer_that_gives_a_tuple_and_takes_keywords() -> None:
    class Pair(Mixer):
        def __call__(self, *, x: mx.array, cache: Any, scale: float) -> Any:  # type: ignore[override]
            return super().__call__(x, cache) * scale, {"seen": x.sum()}

    class Unpacking(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = Pair(16)

        def __call__(self, x: mx.array, cache: Cache | None = None) -> mx.array:
            mixed, other = self.mixer(x=self.before(x), cache=cache, scale=0.5)
            return self.after(x, mixed) + other["seen"]

    checked(Unpacking, "in pieces")


def test_a_branch_on_whether_there_is_a_cache_and_its_class() -> None:
    class Asking(Layer):
        def before(self, x: mx.array) -> mx.array:
            return super().before(x) * self.factor

        def __call__(self, x: mx.array, cache: Cache | None = None) -> mx.array:
            self.__dict__["factor"] = 1.0
            if cache is not None and isinstance(cache, Cache):
                return super().__call__(x, cache) * 2
            return super().__call__(x, cache) * 3

    plain, model = Model(Asking), Model(Asking)
    zmlx.patch(model, measure=False)
    assert_near(steps(model), steps(plain), 1e-5)
    assert_near(model(rows()), plain(rows()), 1e-5)


def test_a_layer_without_a_module_that_takes_the_cache() -> None:
    class Alone(Layer):
        def __call__(self, x: mx.array, cache: Cache | None = None) -> mx.array:
            keys = x if cache is None else cache.add(x)
            return self.after(x, keys.mean(axis=1, keepdims=True))

    checked(Alone, "plain")


def test_running_statistics_of_one_call() -> None:
    def made() -> nn.Module:
        mx.random.seed(4)
        return nn.Sequential(nn.Linear(16, 16), nn.BatchNorm(16), nn.ReLU(), nn.Linear(16, 16))

    plain, model = made(), made()
    zmlx.patch(model)  # measured too
    for _ in range(2):
        assert_near(model(rows()[0]), plain(rows()[0]), 1e-5)
    assert_near(model.state, plain.state, 1e-5)


def test_mapped_and_pushed_forward() -> None:
    plain, model = Model(), Model()
    zmlx.patch(model, measure=False)
    x = mx.random.normal((4, 1, 3, 16), key=mx.random.key(2))
    assert_near(mx.vmap(model)(x), mx.vmap(plain)(x), 1e-5)
    pushed = [mx.jvp(m, [rows()], [rows(1)]) for m in (model, plain)]
    assert_near(pushed[0], pushed[1], 1e-5)


@pytest.mark.exhaustive
def test_differentiated_twice() -> None:
    plain, model = Model(), Model()
    zmlx.patch(model, measure=False)

    slopes = [
        mx.grad(lambda x, m=m: mx.grad(lambda y: m(y).sum())(x).square().sum())
        for m in (model, plain)
    ]
    assert_near(slopes[0](rows()), slopes[1](rows()), 1e-4)


def test_threads() -> None:
    plain, model = Model(), Model()
    zmlx.patch(model, measure=False)
    expected, found = steps(plain), {}

    def run(number: int) -> None:
        with mx.stream(mx.cpu):
            caches = [Cache() for _ in model.layers]
            found[number] = [model(rows(n, length), caches) for n, length in enumerate((3, 1, 1))]
            mx.eval(found[number])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(3):
        assert_near(found[n], expected[:3], 1e-5)


def test_one_module_at_two_places() -> None:
    class Tied(Model):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [self.layers[0], self.layers[0]]

    plain, model = Tied(), Tied()
    report = zmlx.patch(model, measure=False)
    assert_near(model(rows()), plain(rows()), 1e-5)
    assert report["layers.0"].paths == ["layers.0"]
    zmlx.unpatch(model)
    assert_same(model(rows()), plain(rows()))


def test_what_a_class_counts() -> None:
    class Counted(Layer):
        made = 0

        def __call__(self, x: mx.array, cache: Cache | None = None) -> mx.array:
            type(self).made = type(self).made + 1
            return super().__call__(x, cache)

    model = Model(Counted)
    zmlx.patch(model, measure=False)
    with zmlx.config(fuse=False):
        model(rows())
    assert Counted.made == 2 and "made" not in vars(type(model.layers[0]))


def test_a_class_that_refuses_subclasses() -> None:
    class Final(Layer):
        def __init_subclass__(cls) -> None:
            raise TypeError("Final is final")

    model, plain = Model(Final), Model(Final)
    report = zmlx.patch(model, measure=False)
    assert "Final is final" in report["layers.0"].why
    assert_near(steps(model), steps(plain), 1e-5)


def test_a_patched_layer_in_a_fused_function() -> None:
    model, plain = Model(), Model()
    zmlx.patch(model, measure=False)
    fused = zmlx.fuse(lambda model, x: model(x).square().mean())
    assert_near(fused(model, rows()), plain(rows()).square().mean(), 1e-5)
    assert fused.cache_info().misses == 1


def test_fusion_switched_off() -> None:
    model, plain = Model(), Model()
    report = zmlx.patch(model, measure=False)
    with zmlx.config(fuse=False):
        assert_same(steps(model), steps(plain))
    assert not report["layers.0"].decisions


class Holder(nn.Module):
    """What it holds, Python cannot copy: functions of MLX, types of arrays, modules, a lock."""

    def __init__(self, locked: bool) -> None:
        super().__init__()
        self.up, self.act, self.acts = nn.Linear(8, 8), mx.tanh, [nn.silu, mx.exp]
        self.kind, self.xp = mx.float32, mx
        self.total = functools.partial(mx.sum, axis=-1, keepdims=True)
        self.lock = threading.Lock() if locked else None

    def __call__(self, x: mx.array) -> mx.array:
        y = self.acts[0](self.act(self.up(x).astype(self.kind)))
        return self.xp.exp(-y) * self.acts[1](y * 0.1) + self.total(y)


@pytest.mark.parametrize(("locked", "measure"), [(False, False), (False, True), (True, False)])
def test_what_python_does_not_copy(locked: bool, measure: bool) -> None:
    """What only refers to code is shared with the stand-in; with a lock it stays plain."""
    model, x = Holder(locked), mx.random.normal((4, 8), key=mx.random.key(1))
    expected = model(x)
    gradient = mx.grad(lambda x: model(x).sum())(x)
    report = zmlx.patch(model, measure=measure)
    assert_near(model(x), expected, 1e-5)
    assert_near(mx.grad(lambda x: model(x).sum())(x), gradient, 1e-5)
    ways = {d.way for d in report[""].decisions.values()}
    assert ways == {"plain"} if locked else measure or ways == {"whole"}
    assert not locked or "copy" in "".join(report[""].lines())
