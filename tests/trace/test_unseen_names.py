"""Names of mlx.core imported before the trace, which the tracer cannot see: refused where used."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx.core import add as imported_add
from mlx.core import array as imported_array
from mlx.core import exp as imported_exp
from mlx.core import zeros_like as imported_zeros_like
from refusing import X, refused
from tracing import same, traced


def leaked_return(x):
    y = x + 1
    return imported_exp(y)  # here


def leaked_local(x):
    y = imported_exp(x)  # here
    z = [y, x]
    return z


def leaked_inner(x):
    def inner(v):
        return imported_exp(v) * 2  # here

    return {"a": inner(x)}


def leaked_beside(x):
    return x * imported_exp(x)  # here


def leaked_both(x):
    return imported_add(x, x) * x  # here


def leaked_opaque(x):
    y = imported_exp(x)
    return mx.sum(x) + mx.matmul(x, y)  # here


def leaked_copy(x):
    return imported_array(x) + x  # here


def leaked_draw(x):
    return x + imported_exp(mx.random.normal((3,)))  # here


def leaked_zeros(x):
    return x + imported_exp(mx.zeros_like(x))  # here


def leaked_sum(x):
    return x + imported_exp(mx.sum(mx.ones_like(x)))  # here


def leaked_number(x, rate=0.5):
    return x + imported_exp(X * rate)  # here


def leaked_number_alone(x, rate=0.5):
    return x + imported_exp(mx.exp(rate))  # here


def leaked_list(x):
    y = imported_array([x[0], x[1]])
    return y * x[0]  # here


LEAKS = [
    leaked_return, leaked_local, leaked_inner, leaked_beside, leaked_both, leaked_opaque,
    leaked_copy, leaked_draw, leaked_zeros, leaked_sum, leaked_number, leaked_number_alone,
    leaked_list,
]  # fmt: skip


@pytest.mark.parametrize("fn", LEAKS, ids=lambda f: f.__name__)
def test_names_imported_before_the_trace(fn):
    rate = (0.5,) if "number" in fn.__name__ else ()
    refused(fn, X, *rate, words="from mlx.core import")


def test_a_leak_into_state():
    state = {"a": mx.array(1.0)}

    def fn(x):
        state["a"] = imported_exp(x)  # here
        return x

    refused(fn, X, inputs=[state], outputs=[state], words="from mlx.core import")
    same(state, {"a": mx.array(1.0)})


def test_a_leak_that_reads_a_value():
    def fn(x):
        return x * imported_exp(x).sum().item()  # here

    refused(fn, X, words="read an array's value")


def test_filled_like_by_an_unseen_name_holds_for_its_sizes_only():
    found = traced(lambda x: x + imported_zeros_like(x), X)
    assert found.decisions
    assert not traced(lambda x: x + mx.zeros((1,)), X).decisions
