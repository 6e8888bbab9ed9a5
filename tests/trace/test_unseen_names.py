"""Functions of MLX that nothing can stand before: the line where one is used is told."""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import pytest
from mlx.core import array as imported_array
from refusing import X, refused
from tracing import same

hidden = lru_cache(maxsize=0)  # calls what it got first, in C; nothing can be put in its place
hidden_exp, hidden_add = hidden(mx.exp), hidden(mx.add)


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
    refused(fn, X, *rate, words="could not see it")


def test_a_leak_into_state():
    state = {"a": mx.array(1.0)}

    def fn(x):
        state["a"] = hidden_exp(x)  # here
        return x

    refused(fn, X, inputs=[state], outputs=[state], words="could not see it")
    same(state, {"a": mx.array(1.0)})


def test_a_leak_that_reads_a_value():
    def fn(x):
        return x * len(hidden_exp(x).tolist())  # here

    refused(fn, X, words="read an array's value")

    def summed(x):
        return x * hidden_exp(x).sum().item()  # here

    refused(summed, X, words="could not see it")
