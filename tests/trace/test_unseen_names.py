"""Functions of MLX that nothing can stand before: their graphs are read, the line is told."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hidden import hide
from mlx.core import array as imported_array
from refusing import X, line_of, refused
from tracing import kinds, random_state, replay, same, traced

from zmlx.errors import LostTraceError
from zmlx.trace.recipe import Given, rebuild

hidden_exp, hidden_add, hidden_normal = hide(mx.exp), hide(mx.add), hide(mx.random.normal)
KEY, FILE = mx.random.key(0), "test_unseen_names.py"


def leaked_return(x):
    y = x + 1
    return hidden_exp(y)  # here


def leaked_local(x):
    y = hidden_exp(x)  # here
    z = [y, x]
    return z


def leaked_inner(x):
    def inner(v):
        return hidden_exp(v) * 2  # here

    return {"a": inner(x)}


def leaked_beside(x):
    return x * hidden_exp(x)  # here


def leaked_both(x):
    return hidden_add(x, x) * x  # here


def leaked_opaque(x):
    y = hidden_exp(x)
    return mx.sum(x) + mx.matmul(x, y)  # here


def leaked_copy(x):
    return imported_array(x) + x  # here


def leaked_list(x):
    y = imported_array([x[0], x[1]])
    return y * x[0]  # here


def leaked_draw(x):
    return x + hidden_exp(mx.random.normal((3,)))  # here


def leaked_zeros(x):
    return x + hidden_exp(mx.zeros_like(x))  # here


def leaked_sum(x):
    return x + hidden_exp(mx.sum(mx.ones_like(x)))  # here


def leaked_number(x, rate=0.5):
    return x + hidden_exp(X * rate)  # here


def leaked_number_alone(x, rate=0.5):
    return x + hidden_exp(mx.exp(rate))  # here


LEAKS = [
    leaked_return, leaked_local, leaked_inner, leaked_beside, leaked_both, leaked_opaque,
    leaked_copy, leaked_list, leaked_draw, leaked_zeros, leaked_sum, leaked_number,
    leaked_number_alone,
]  # fmt: skip


@pytest.mark.parametrize("fn", LEAKS, ids=lambda f: f.__name__)
def test_unseen_functions(fn):
    rate = (0.5,) if "number" in fn.__name__ else ()
    found = traced(fn, X, *rate)
    if fn is not leaked_draw:
        got = rebuild(found.result, Given(replay(found.graph, [X], rate), rate))
        for one, other in zip(listed(got), listed(fn(X, *rate)), strict=True):
            same(one, other)
    if fn not in (leaked_copy, leaked_list):  # nothing was computed there
        assert found.exported.startswith("traced by mx.export_function: ")
        returned = fn in (leaked_return, leaked_local)  # told by the function's first line
        line = f"{FILE}:{fn.__code__.co_firstlineno}" if returned else line_of(fn, "# here")[:-1]
        assert line in found.exported


def listed(result):
    found = result.values() if isinstance(result, dict) else result
    return list(found) if isinstance(result, (dict, list)) else [result]


def test_draws_are_new():
    found = traced(leaked_draw, X)
    first, second = (replay(found.graph, [X])[0] for _ in range(2))
    assert not mx.array_equal(first, second)
    state = random_state()
    traced(leaked_draw, X)
    assert random_state() == state


def test_a_leak_into_state():
    state = {"a": mx.array(1.0)}

    def fn(x):
        state["a"] = hidden_exp(x)
        return x

    found = traced(fn, X, inputs=[state], outputs=[state])
    same(state, {"a": mx.array(1.0)})
    values = replay(found.graph, [X, state["a"]])
    same(values[found.updates[0].content["a"].index], mx.exp(X))


def test_a_leak_that_reads_a_value():
    def fn(x):
        return x * len(hidden_exp(x).tolist())  # here

    refused(fn, X, words="read an array's value")

    def summed(x):
        return x * hidden_exp(x).sum().item()  # here

    refused(summed, X, words="item.. needs a value")


UNREADABLE = {
    "Contiguous": hide(mx.contiguous),
    "BitwiseInvert": hide(mx.bitwise_invert),
    "CumLogAddExp": hide(mx.logcumsumexp),
    "an odd number": lambda key: hidden_normal((3,), key=key),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_mlx_does_not_report_is_named(name):
    argument = {"BitwiseInvert": mx.array([1, 2, 3]), "an odd number": KEY}.get(name, X)
    with pytest.raises(LostTraceError, match=name) as caught:
        traced(lambda x: UNREADABLE[name](x) * 2, argument)
    assert not caught.value.needs_values


def test_stop_gradients_are_kept():
    """mx.export_function leaves them out."""
    stopped = hide(mx.stop_gradient)

    def fn(x):
        return stopped(x * x) * x + hidden_exp(stopped(x))

    found = traced(fn, X)
    slope = mx.grad(lambda x: replay(found.graph, [x])[0].sum())(X)
    same(slope, mx.grad(lambda x: fn(x).sum())(X))
    assert kinds(found.graph).count("stop_gradient") == 2


def test_writes_out_of_sight_are_refused():
    add = hide(mx.array.__iadd__)
    one = mx.array([1.0])

    def argument(x):
        add(x, one)
        return x * 2

    def made(x):
        y = x * 2
        z = hidden_exp(x)
        add(y, z)
        return y * z

    for fn in (argument, made):
        with pytest.raises(LostTraceError, match="written in place"):
            traced(fn, X)
    same(X, mx.array([0.5, -1.0, 2.0]))


def test_what_is_made_out_of_sight_may_be_written():
    def fn(x, rate):
        y = hidden_exp(x)
        z = y
        y += rate
        y[1:] = x[0] * rate
        y *= mx.array([[1.0], [2.0]]) if y.ndim == 2 else x
        return y, z.at[mx.array([0, 0])].add(x[:2]), len(y), y.size

    found = traced(fn, X, 0.5)
    for rate in (0.5, 2.0):
        got = rebuild(found.result, Given(replay(found.graph, [X], [rate]), [rate]))
        for one, other in zip(got, fn(X, rate), strict=True):
            same(one, other)


def test_what_is_kept_outside_is_refused():
    kept = []

    def fn(x):
        kept.append([hidden_exp(x)])
        return x * 2

    with pytest.raises(LostTraceError, match="kept where later calls would not renew it"):
        traced(fn, X)
    assert kept == []


def test_draws_out_of_sight_are_refused():
    state = random_state()
    with pytest.raises(LostTraceError, match="random numbers were drawn"):
        traced(lambda x: hidden_normal((3,)) * x, X)
    assert random_state() == state
