"""What a function finds by itself, by the less usual ways, is what it is at each call; and what it
writes there is written at each call. Every program runs beside plain MLX."""

from __future__ import annotations

import contextvars
import itertools
import operator
import os
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx
from zmlx.errors import TraceError

Fuse = Callable[[Any], Any]
Program = Callable[[Fuse], Iterator[Any]]
PROGRAMS: dict[str, Program] = {}


def x() -> mx.array:
    return mx.array([1.0, 2.0, 3.0])


def program(run: Program) -> Program:
    PROGRAMS[run.__name__] = run
    return run


@program
def slots(fuse):
    class Slotted:
        __slots__ = ("k",)

    held = Slotted()
    f = fuse(lambda v: v * held.k + 1)
    for held.k in (2.0, 3.0, x(), x() * 2):
        yield f(x())
    held.k[0] = 7
    yield f(x())


@program
def code_and_defaults(fuse):
    def act(v, k=2.0, *, b=1.0):
        return v * k + b

    f, g = fuse(lambda v: act(v) + 1), fuse(act)
    for change in (
        lambda: None,
        lambda: setattr(act, "__defaults__", (3.0,)),
        lambda: setattr(act, "__kwdefaults__", {"b": 5.0}),
        lambda: act.__kwdefaults__.update(b=6.0),
        lambda: setattr(act, "__code__", (lambda v, k=0, *, b=0: v * 9 + k + b).__code__),
    ):
        change()
        yield f(x()), g(x())


@program
def classes(fuse):
    class Base:
        scale = 2.0

        @property
        def offset(self):
            return 1.0

        def act(self, v):
            return v * self.scale

        @classmethod
        def made(cls, v):
            return v * cls.scale

    class Inherits(Base):
        pass

    class Other:
        offset, scale = 5.0, 0.5
        act = staticmethod(lambda v: v * 7)

    held = Inherits()
    captured = fuse(lambda v: held.act(v) + held.offset)
    passed = fuse(lambda v, one: one.act(v) + one.offset)
    of_class = fuse(Base.made.__func__)
    for change in (
        lambda: None,
        lambda: setattr(Base, "scale", 3.0),
        lambda: setattr(Base, "offset", property(lambda self: 9.0)),
        lambda: setattr(Inherits, "scale", 4.0),
        lambda: setattr(held, "scale", 5.0),
        lambda: setattr(Base, "act", lambda self, v: v * 6),
        lambda: setattr(held, "act", lambda v: v * 8),
        lambda: delattr(held, "act"),
        lambda: setattr(held, "__class__", Other),
    ):
        change()
        yield captured(x()), passed(x(), held), of_class(Inherits, x())


@program
def globals_of_what_is_passed(fuse):
    space = {"__name__": "user", "mx": mx, "nn": nn}
    exec(
        "K = 2.0\n"
        "class M(nn.Module):\n"
        "    def __call__(self, v):\n"
        "        return v * K\n"
        "def act(v):\n"
        "    return v + K\n",
        space,
    )
    module = space["M"]()
    called, f = fuse(module), fuse(lambda v, fn: fn(v) + 1)
    for space["K"] in (2.0, 3.0, x()):
        yield called(x()), f(x(), module), f(x(), space["act"])
    space["M"].__call__ = lambda self, v: v * 100
    yield f(x(), module)


@program
def modules_and_names(fuse):
    module = sys.modules["a_users_settings"] = types.ModuleType("a_users_settings")
    space = {"__name__": "user"}
    exec(
        "K = 2.0\n"
        "def taken(v):\n"
        "    from a_users_settings import K\n"
        "    return v * K\n"
        "def asked(v):\n"
        "    import a_users_settings as s\n"
        "    return v * s.K\n"
        "def by_globals(v):\n"
        "    return v * globals()['K'] + eval('K * 2')\n",
        space,
    )
    functions = [fuse(space[name]) for name in ("taken", "asked", "by_globals")]
    try:
        for module.K in (2.0, 3.0, 4.0):
            space["K"] = module.K
            yield [f(x()) for f in functions]
    finally:
        del sys.modules["a_users_settings"]


@program
def names_that_are_computed(fuse):
    held = types.SimpleNamespace(a=types.SimpleNamespace(b=2.0), w=x())
    getter, caller, table = (
        operator.attrgetter("a.b"),
        operator.methodcaller("get", "k"),
        {"k": 3.0},
    )
    f = fuse(lambda v: v * getter(held) + caller(table) + operator.attrgetter("w")(held))
    named = fuse(lambda v, name: v * getattr(held, name))
    for change in (
        lambda: None,
        lambda: setattr(held.a, "b", 5.0),
        lambda: table.update(k=4.0),
        lambda: setattr(held, "w", x() * 2),
    ):
        change()
        yield f(x()), named(x(), "w")


@program
def without_places(fuse):
    flags, table, data = {"a"}, np.ones((3,), np.float32), bytearray(b"ab")
    variable = contextvars.ContextVar("variable", default=2.0)
    f = fuse(lambda v: v * (2 if "a" in flags else 3) + mx.array(table) + data[0] + variable.get())
    g = fuse(lambda v: v * float(os.environ.get("A_USERS_FACTOR", "2")))
    yield f(x()), g(x())
    flags.clear()
    yield f(x())
    table[0] = 9
    yield f(x())
    data[0] = 1
    yield f(x())
    variable.set(7.0)
    os.environ["A_USERS_FACTOR"] = "5"
    yield f(x()), g(x())
    del os.environ["A_USERS_FACTOR"]


@program
def held_weakly(fuse):
    class Node:
        pass

    node = Node()
    node.w, refers = x(), weakref.ref(node)
    table = weakref.WeakKeyDictionary({node: 2.0})
    f = fuse(lambda v: v * refers().w + table[node])
    yield f(x())
    node.w = x() * 3
    yield f(x())
    table[node] = 5.0
    node.w[0] = 7
    yield f(x())


@program
def inside_library_functions(fuse):
    module = nn.Linear(3, 3)
    module.weight, module.bias = mx.eye(3), mx.zeros((3,))
    kept = nn.utils.checkpoint(module)
    f = fuse(lambda v: kept(v) * 2)
    yield f(x())
    module.weight = module.weight * 2
    yield f(x())


def make(k: float) -> tuple[Callable[..., Any], Callable[[Any], None]]:
    def act(v):
        return v * k

    def put(new):
        nonlocal k
        k = new

    return act, put


@program
def functions_in_containers(fuse):
    act, put = make(2.0)
    held = types.SimpleNamespace(fns=[act])
    fused = [
        fuse(lambda v: sum(fn(v) for fn in held.fns)),
        fuse(lambda v: {"a": act}["a"](v) + 1),
        fuse(lambda v: sum(map(held.fns[0], [v, v]))),
    ]
    for value in (2.0, 5.0, x()):
        put(value)
        yield [f(x()) for f in fused]


@program
def values_that_are_read(fuse):
    w, d = x(), {"w": x()}

    def read(v, w, d):
        inner = zmlx.fuse(lambda: d["w"] * w)
        vector = mx.vmap(lambda q: q * w[0])(d["w"])
        number = w.tolist()[0] + d["w"].max().item() + float(d["w"][1])
        return v * number + inner() + vector + mx.array(np.array(w))

    f = fuse(lambda v: read(v, w, d))
    yield f(x())
    w[0] = 9
    yield f(x())
    d["w"][1] = 7
    yield f(x())
    d["w"] = x() * 5
    yield f(x())


@program
def counters(fuse):
    space = {"__name__": "user"}
    exec(
        "N = 0\n"
        "class Seen:\n"
        "    n = 0\n"
        "def f(v):\n"
        "    global N\n"
        "    N += 1\n"
        "    Seen.n += 1\n"
        "    return v * N + Seen.n\n",
        space,
    )
    n, listed, held = 0, [0], types.SimpleNamespace(n=0)

    def count(v, k, calls=[0]):  # noqa: B006 - a user's
        nonlocal n
        n += 1
        calls[0] += 1
        listed.append(n)
        held.n += 1
        if k > 2:  # a trace for each value, and one run more
            v = v * 2
        return v * n + calls[0] + len(listed) + held.n

    f, g = fuse(space["f"]), fuse(count)
    for k in (1.0, 3.0, 5.0, 1.0):
        yield f(x()), g(x(), k), n, list(listed), held.n


@program
def counters_in_gradients(fuse):
    held = types.SimpleNamespace(n=0)

    def loss(w):
        held.n += 1
        return (mx.sin(w @ w) * w).sum()

    f = fuse(lambda w: w - 0.1 * mx.grad(loss)(w))
    for _ in range(3):
        yield f(x()), held.n


@program
def tables_and_lazy_values(fuse):
    table: dict[int, Any] = {}

    class Lazy:
        made = None

        @classmethod
        def get(cls):
            if cls.made is None:
                cls.made = types.SimpleNamespace(k=2.0)
            return cls.made

    def entry(n):
        if n not in table:
            table[n] = (mx.arange(n) * 2.0, n)
        return table[n]

    f = fuse(lambda v: v * entry(v.shape[0])[0] + entry(v.shape[0])[1] * Lazy.get().k)
    for n in (3, 4, 3, 4):
        yield f(mx.ones((n,))), sorted(table)
    Lazy.made = None
    yield f(x())
    Lazy.made.k = 5.0
    yield f(x())


@program
def python_draws(fuse):
    random.seed(0)
    np.random.seed(0)
    gauss = random.gauss
    f = fuse(lambda v: v * random.random() if random.random() < 0.5 else v + np.random.rand())
    g = fuse(lambda v: v * gauss(0.0, 1.0))
    for _ in range(4):
        yield f(x()), g(x())


@program
def fused_inside(fuse):
    class Cache:
        def __init__(self):
            self.k, self.n = mx.zeros((3,)), 0

    def push(cache):
        cache.k, cache.n = cache.k + 1, cache.n + 1
        return cache.k * cache.n

    class Node:
        def __init__(self, v, *below):
            self.v, self.below = v, below

    inner, cache = fuse(push), Cache()
    outer = fuse(lambda c, v: inner(c) + inner(c) * v)

    @fuse
    def total(node):
        return sum((total(one) for one in node.below), node.v * 1)

    tree = Node(x(), Node(x() * 2), Node(x() * 3, Node(x())))
    for _ in range(3):
        yield outer(cache, x()), cache.k, cache.n, total(tree)
        tree.below[0].v = tree.below[0].v + 1


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.smoke] if name == "slots" else []) for name in PROGRAMS],
)
def test_as_plain(name):
    run = PROGRAMS[name]
    for want, got in zip(found(run, lambda fn: fn), found(run, zmlx.fuse), strict=True):
        compare(want, got)


def found(run: Program, fuse: Fuse) -> list[Any]:
    """What a program yields, as it was then: arrays may be written later."""
    return [mapped(value) for value in run(fuse)]


def mapped(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [mapped(item) for item in value]
    return np.array(value) if isinstance(value, mx.array) else value


def compare(want: Any, got: Any) -> None:
    if isinstance(want, list):
        assert len(want) == len(got)
        for one, other in zip(want, got, strict=True):
            compare(one, other)
    elif isinstance(want, np.ndarray):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    else:
        assert want == got


def test_a_trace_is_kept_where_nothing_changes():
    held = types.SimpleNamespace(k=2.0, flags={"a"}, table=np.ones(3, np.float32))
    f = zmlx.fuse(lambda v: v * held.k * len(held.flags) + mx.array(held.table))
    for _ in range(3):
        f(x())
    assert f.cache_info().misses == 1


def test_what_writes_outside_is_told(caplog):
    calls = [0]

    @zmlx.fuse
    def counted(v):
        calls[0] += 1
        return v * calls[0]

    for _ in range(10):
        counted(x())
    assert calls == [10]
    assert caplog.text.count("counted writes") == 1


def test_a_trace_that_is_refused_leaves_counters():
    calls = [0]

    @zmlx.fuse
    def branches(v):
        calls[0] += 1
        return v if v.sum() > 0 else -v

    with pytest.raises(TraceError, match="branch"):
        branches(x())
    assert calls == [0]


@pytest.mark.parametrize(
    ("source", "read"),
    [
        (itertools.count(), next),
        ((float(i) for i in range(9)), next),
        (iter([1.0, 2.0]), next),
        (random.Random(0), None),
        (np.random.default_rng(0), None),
    ],
    ids=["count", "generator", "iterator", "random", "numpy"],
)
def test_what_can_be_read_once_is_refused(source, read):
    def drawn(v):
        return v * (next(source) if read is next else source.random())

    for _ in range(2):
        with pytest.raises(TraceError, match="in drawn: .*first call only"):
            zmlx.fuse(drawn)(x())
    assert drawn(x()) is not None  # it was put back


def test_a_variable_is_named():
    total = mx.zeros((3,))

    @zmlx.fuse
    def adds(v):
        nonlocal total
        total = total + v
        return total * 2

    with pytest.raises(TraceError, match="is kept in total that"):
        adds(x())
    assert total.tolist() == [0, 0, 0]
