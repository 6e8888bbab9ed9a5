"""Python numbers as arguments: computed with at call time, static where their value is read."""

from __future__ import annotations

import enum
import math

import mlx.core as mx
import numpy as np
import pytest
from tracing import call_of, kinds, replayed, run, same, traced

import zmlx
from zmlx.trace.exprs import evaluate
from zmlx.trace.run import trace
from zmlx.trace.scalars import ScalarProxy, Specialize
from zmlx.trace.tree import Leaves, flatten

X = mx.array([0.5, -1.0, 2.0])
W = mx.array([1.0, 2.0, 3.0])


def again(fn, first: tuple, second: tuple) -> None:
    """One trace, made with the first numbers, gives plain MLX's results for the second ones."""
    call = call_of((X, *first), {})
    found = trace(fn, call)
    found.graph.verify()
    assert not found.static_numbers
    same(replayed(found, [X], first), fn(X, *first))
    same(replayed(found, [X], second), fn(X, *second))


ARITHMETIC = {
    "beside an array": lambda x, r: x * r + 1,
    "on the left": lambda x, r: r - x,
    "sum": lambda x, r: x * (r + 1),
    "difference": lambda x, r: x * (1 - r),
    "product": lambda x, r: x * (2 * r * r),
    "quotient": lambda x, r: x * (1 / r),
    "floor": lambda x, r: x * (r // 2),
    "mod": lambda x, r: x * (r % 3),
    "power": lambda x, r: x * r**2,
    "base": lambda x, r: x * 2.0**r,
    "negative": lambda x, r: x * -r,
    "abs": lambda x, r: x * abs(-r),
    "plus": lambda x, r: +r * x,
    "captured left": lambda x, r: x + W * r,
    "captured right": lambda x, r: x + r * W,
    "compared": lambda x, r: (x > r, r > x, r > W, r == W),
    "function": lambda x, r: mx.maximum(r, mx.add(W, r)) + x,
    "where": lambda x, r: mx.where(x > r, r, x),
    "clip": lambda x, r: mx.clip(x, -r, r),
    "in place": lambda x, r: twice(x, r),
    "opaque": lambda x, r: mx.addmm(x, x[None], mx.eye(3), alpha=r)[0],
    "written": lambda x, r: written(x * 1, r),
    "array": lambda x, r: x * mx.array(r) + mx.array(r, mx.float16),
    "array of a list": lambda x, r: x * mx.array([r, 1.0, 2]),
    "full": lambda x, r: mx.full((3,), r) * x,
    "returned": lambda x, r: (x * 1, r, {"twice": 2 * r}),
    "exp of a number": lambda x, r: mx.exp(r) * x,
    "numpy's own number": lambda x, r: x * (np.float64(2) * r + np.float64(1)),
    "twice used": lambda x, r: x * r + r,
}


def twice(x, r):
    x = x * 1
    x *= r
    x -= r
    return x


def written(x, r):
    x[0] = r
    return x


@pytest.mark.parametrize("case", ARITHMETIC)
def test_a_new_value_needs_no_new_trace(case):
    again(ARITHMETIC[case], (0.5,), (3.25,))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, n: x * n,
        lambda x, n: x / (n + 2),
        lambda x, n: x * (n // 2) + n % 3,
        lambda x, n: x.astype(mx.int32) * n,
        lambda x, n: (x > 0) * n,
        lambda x, n: (x, -n * 2),
    ],
)
def test_ints_stay_ints(fn):
    again(fn, (3,), (8,))


def test_two_numbers():
    again(lambda x, a, b: x * (a * b - a) + b, (0.5, 2), (1.5, 7))


@pytest.mark.smoke
def test_number_nodes_are_shared_and_typed():
    found = traced(lambda x, r: x * r + r * x + x.astype(mx.float16) * r, X, 0.5)
    scalars = [found.graph[n] for n in found.graph if found.graph.kind(n) == "scalar"]
    assert [(s["expr"], s["dtype"]) for s in scalars] == [
        (("arg", 0), "float32"),
        (("arg", 0), "float16"),
    ]


def test_numbers_equal_by_value_do_not_collide():
    def fn(x, r):
        return x / (r * 0.0), x / (r * -0.0), x * (r * 1), x * (r + True), x * (r * 1.0)

    found = traced(fn, X, 2)
    same(replayed(found, [X], [2]), fn(X, 2))
    exprs = [
        repr(found.graph[n]["expr"]) for n in found.graph.inputs if found.graph.kind(n) == "scalar"
    ]
    assert len(exprs) == len(set(exprs)) == 5


READS = {
    "branch": lambda x, r: x if r > 1 else -x,
    "bool": lambda x, r: x if r else -x,
    "sqrt": lambda x, r: x * math.sqrt(r),
    "equal": lambda x, r: x * (r == 2),
    "str": lambda x, r: x * len(str(r)),
    "format": lambda x, r: x * len(f"{r}"),
    "repr": lambda x, r: x * len(repr(r)),
    "round": lambda x, r: x * round(r),
    "int": lambda x, r: x * int(r),
    "hash": lambda x, r: x * {2.0: 3}.get(r, 1),
    "in": lambda x, r: x * (r in (1, 2)),
    "percent": lambda x, r: x * len("%g" % r),  # noqa: UP031
    "max": lambda x, r: x * max(r, 1),
    "method": lambda x, r: x * r.is_integer() if isinstance(r, float) else x * r.bit_length(),
    "numpy": lambda x, r: x * mx.array(np.array([r, r, r])),
    "numpy function": lambda x, r: x * float(np.sqrt(r) + np.add(r, [1, 2])[0]),
    "numpy array": lambda x, r: x * mx.array(np.ones(3) * r),
    "complex": lambda x, r: x * (r * 1j),
    "arange": lambda x, r: x + mx.arange(0.0, r).sum(),
    "power": lambda x, r: x * r**r,
    "divmod": lambda x, r: x * divmod(r, 2)[1],
    "nan_to_num": lambda x, r: mx.nan_to_num(x, r),
    "floor": lambda x, r: x * math.floor(r),
    "unseen": lambda x, r: x + W.reshape(int(r) // 2, -1)[0],
}


@pytest.mark.parametrize("case", READS)
def test_a_number_that_is_read_becomes_static(case):
    found = traced(READS[case], X, 2.0)
    assert found.static_numbers == {0}
    assert not any(found.graph.kind(n) == "scalar" for n in found.graph)
    same(run(READS[case], X, 2.0), READS[case](X, 2.0))


@pytest.mark.parametrize("case", READS)
def test_an_int_that_is_read_is_static_or_decided(case):
    found = traced(READS[case], X, 2)
    same(run(READS[case], X, 2), READS[case](X, 2))
    if not (found.static_numbers or any(type(d.value) is not bool for d in found.decisions)):
        for other in (2, 3, 7):  # at which all that was asked has the same answer
            if all(evaluate(d.expr, [other], [X]) == d.value for d in found.decisions):
                same(replayed(found, [X], [other]), READS[case](X, other))


INTS = {
    "range": lambda x, n: sum(x * k for k in range(n)),
    "index": lambda x, n: x[n - 1],
    "slice": lambda x, n: x[:n],
    "shape": lambda x, n: mx.broadcast_to(x, (n, 3)),
    "axis": lambda x, n: x[None, None].sum(axis=n),
    "list": lambda x, n: x * [1, 2, 3][n],
    "zeros": lambda x, n: x[0] + mx.zeros((n,)),
    "captured": lambda x, n: x[0] + W[n],
    "captured slice": lambda x, n: x[0] + W[:n],
    "captured reshape": lambda x, n: x + mx.ones((6,)).reshape(n, 3),
    "captured sum": lambda x, n: x + mx.ones((1, 1, 3)).sum(axis=n),
    "split": lambda x, n: mx.concatenate(mx.split(mx.concatenate([x, x]), n)),
    "power": lambda x, n: x * 2**n,
    "shift": lambda x, n: x * (1 << n),
    "bits": lambda x, n: x.astype(mx.int32) & n if n > 0 else x,
    "repeat": lambda x, n: mx.concatenate([x] * n),
    "decimals": lambda x, n: mx.round(x, n),
    "no array": lambda x, n: x * mx.exp(n),
}


KEPT = (
    "index", "slice", "shape", "zeros", "captured", "captured slice", "captured reshape", "power",
    "shift", "bits",
)  # fmt: skip


@pytest.mark.parametrize("case", INTS)
def test_an_int_that_is_read_steers_the_trace(case):
    """It cuts slices and makes shapes at call time; where Python needs the value it is decided."""
    found = traced(INTS[case], X, 2)
    same(run(INTS[case], X, 2), INTS[case](X, 2))
    asked = found.static_numbers or {
        0 for d in found.decisions if d.expr == ("arg", 0) and d.value == 2
    }
    assert asked == (set() if case in KEPT else {0})
    if case in KEPT and case not in ("captured reshape", "shape"):
        same(replayed(found, [X], [1]), INTS[case](X, 1))


def test_ints_whose_values_make_other_types_or_counts():
    def fn(x, n):
        wide = mx.array(n) * x.astype(mx.int32) + mx.full((3,), n)
        return wide, mx.split(mx.zeros((4,)), indices_or_sections=min(abs(n), 2))

    fused = zmlx.fuse(fn)
    for n in (1, 2, 2**31, 5, -(2**40), 2):
        same(fused(X, n), fn(X, n))


def test_only_the_numbers_read_become_static():
    found = traced(lambda x, a, b, c: x * a if b > 1 else x * c, X, 0.5, 2.0, 3.0)
    assert found.static_numbers == {1}
    found = traced(lambda x, a, b, c: x * a if b > 1 else x * c, X, 1, 2, 3)
    assert not found.static_numbers
    (decision,) = found.decisions
    assert (decision.expr, decision.value) == (("gt", ("arg", 1), ("value", 1)), True)


def test_a_read_that_is_caught_still_counts():
    def fn(x, r):
        try:
            scale = math.sqrt(r)
        except:  # noqa: E722
            scale = -1.0
        return x * scale

    assert traced(fn, X, 4.0).static_numbers == {0}
    same(run(fn, X, 4.0), X * 2)


def test_a_read_inside_an_inner_transformation():
    def fn(x, r):
        return mx.grad(lambda w: (w * r * X).sum() + mx.exp(r * w).sum())(x)

    found = traced(fn, X, 2.0)
    assert found.static_numbers == frozenset()
    for rate in (2.0, 3.0):
        same(replayed(found, [X], [rate]), fn(X, rate))
    same(run(fn, X, 2.0), fn(X, 2.0))


def test_isinstance_holds():
    def fn(x, r, n):
        assert isinstance(r, float) and isinstance(n, int) and not isinstance(r, int)
        return x * r * n

    assert not traced(fn, X, 0.5, 3).static_numbers


class Mode(enum.Enum):
    FAST = 1


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    "value", [True, None, "exact", Mode.FAST, mx.float16, 1j, np.bool_(True), ("b", "a")]
)
def test_static_arguments(value):
    seen = []
    found = traced(lambda x, v: seen.append(v) or x * 2, X, value)
    assert seen[0] == value and type(seen[0]) is type(value)
    assert not found.static_numbers and kinds(found.graph) == ["multiply"]


def structure(tree):
    return flatten(tree, Leaves())


def test_keys_of_numbers_and_statics():
    assert structure(1) == structure(2) != structure(1.0) != structure(True)
    assert structure(0.5) == structure(-0.0)
    different = [
        True,
        False,
        1j,
        0j,
        complex(0, -0.0),
        np.float32(0),
        np.int8(0),
        "0",
        None,
    ]
    for i, a in enumerate(different):
        for b in different[i + 1 :]:
            assert structure(a) != structure(b), (a, b)
    assert structure({1: X}) != structure({True: X}) != structure({1.0: X})
    assert structure((1, X)) != structure([1, X])


def test_ints_that_do_not_fit_raise_as_mlx_does():
    small = mx.array([1, 2], mx.uint8)
    for value in (300, -1):
        with pytest.raises(ValueError, match="overflow"):
            traced(lambda x, n: x + n, small, value)
        with pytest.raises(ValueError, match="overflow"):
            traced(lambda x: x + value, small)  # noqa: B023


def test_evaluate():
    expr = ("add", ("mul", ("arg", 1), ("value", 2)), ("neg", ("arg", 0)))
    assert evaluate(expr, [1, 5]) == 9
    with pytest.raises(ZeroDivisionError):
        traced(lambda x, r: x * (1 / r), X, 0.0)


def test_a_number_without_a_tracer_can_be_read_nowhere():
    lone = ScalarProxy(("arg", 3), 2.0)
    with pytest.raises(Specialize) as caught:
        float(lone)
    assert caught.value.tokens == {3}
