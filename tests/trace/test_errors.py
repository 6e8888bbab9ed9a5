"""Every way out of the tracer's sight raises, names the user's line, and leaves MLX as it was."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.core import add as imported_add
from mlx.core import exp as imported_exp
from mlx.core import zeros_like as imported_zeros_like
from tracing import run, same, traced

from zmlx.errors import TraceError
from zmlx.trace import intercept
from zmlx.trace.tracer import Tracer

X = mx.array([0.5, -1.0, 2.0])


def line_of(fn, text: str) -> str:
    """`test_errors.py:n` of the only line of `fn` that holds `text`."""
    source = Path(__file__).read_text().splitlines()
    first = fn.__code__.co_firstlineno
    numbers = [i for i, line in enumerate(source, 1) if text in line and i >= first]
    return f"test_errors.py:{numbers[0]}:"


def refused(fn, *args, marker: str = "# here", words: str = "", **kwargs) -> str:
    with pytest.raises(TraceError) as caught:
        traced(fn, *args, **kwargs)
    text = str(caught.value)
    assert text.startswith(f"[zmlx.trace] {line_of(fn, marker)}"), text
    assert re.search(words, text), text
    return text


def branch(x):
    return x if x.sum() > 0 else -x  # here


def loop(x):
    while x.max() > 1:  # here
        x = x / 2
    return x


def as_float(x):
    return x * float(x[0])  # here


def as_int(x):
    return x * int(x[0])  # here


def as_complex(x):
    return x * complex(x[0])  # here


def as_index(x):
    return [1, 2, 3][x.astype(mx.int32)[0]]  # here


def item(x):
    return x * x[0].item()  # here


def tolist(x):
    return x * len(x.tolist())  # here


def iterate(x):
    return sum(v for v in x)  # here


def unpack(x):
    a, b, c = x  # here
    return a + b + c


def contains(x):
    return x * (1 if 0.5 in x else 2)  # here


def numpy_array(x):
    return x * np.array(x).sum()  # here


def numpy_asarray(x):
    return x * np.asarray(x).sum()  # here


def numpy_function(x):
    return x * np.exp(x)  # here


def numpy_of_list(x):
    return x * np.array([x[0], x[1]]).sum()  # here


def memory(x):
    return x * len(memoryview(x))  # here


def pickled(x):
    return x * len(pickle.dumps(x))  # here


def evaluated(x):
    y = x * 2
    mx.eval(y)  # here
    return y


def evaluated_tree(x):
    mx.async_eval({"a": [x]})  # here
    return x


def saved(x):
    mx.save("/nowhere", x)  # here
    return x


def seeded(x):
    mx.random.seed(0)  # here
    return x


def device_set(x):
    mx.set_default_device(mx.cpu)  # here
    return x


def membership(x):
    return x * (1 if x in [X, X] else 2)  # here


def chained(x):
    return mx.where(0 < x < 1, x, 0)  # here


def logic(x):
    return x if x.any() and x.all() else -x  # here


def not_(x):
    return x * (not x[0])  # here


READS = [
    branch, loop, as_float, as_int, as_complex, as_index, item, tolist, iterate, unpack, contains,
    numpy_array, numpy_asarray, numpy_function, numpy_of_list, memory, pickled, evaluated,
    evaluated_tree, saved, seeded, device_set, membership, chained, logic, not_,
]  # fmt: skip


@pytest.mark.parametrize("fn", READS, ids=lambda f: f.__name__)
def test_reads_of_values(fn):
    text = refused(fn, mx.array(X))
    assert re.search(r"\. [A-Z].*\.$", text), f"no way out: {text}"


def test_a_refusal_that_is_caught_still_counts():
    def fn(x):
        try:
            scale = float(x[0])  # here
        except Exception:
            scale = 1.0
        return x * scale

    refused(fn, X)


def test_a_refusal_of_a_kept_array_that_is_caught_still_counts():
    kept, number = kept_from_a_trace()

    def fn(x):
        with contextlib.suppress(Exception):
            x = x * kept
        with contextlib.suppress(Exception):
            x = x * number
        return x

    with pytest.raises(TraceError, match="a trace that has ended"):
        traced(fn, X)


def test_writing_to_a_captured_array():
    table = mx.zeros((3,))

    def fn(x):
        table[0] = x[0]  # here
        return table

    refused(fn, X, words="written in place.*mx.where")
    same(table, mx.zeros((3,)))


# -- names that the tracer cannot see -------------------------------------------------------------
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
    return mx.array(x) + x  # here


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
    y = mx.array([x[0], x[1]])
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
    assert found.shape_reads
    assert not traced(lambda x: x + mx.zeros((1,)), X).shape_reads


# -- closures and traces that have ended ----------------------------------------------------------
def test_closures_over_traced_arrays():
    def operator(x):
        return mx.grad(lambda w: (w * x).sum())(x)  # here

    def function(x):
        return mx.grad(lambda w: mx.sum(mx.exp(x)) * w.sum())(x)  # here

    def index(x):
        at = x.astype(mx.int32)
        return mx.grad(lambda w: X[at].sum() * w.sum())(x)  # here

    def in_place(x):
        def inner(w):
            w = w * 1
            w += x  # here
            return w.sum()

        return mx.grad(inner)(x)

    def activation(x):
        return mx.grad(lambda w: (nn.gelu(x) * w).sum())(x)  # here

    def untraced(x):
        return mx.grad(lambda w: (w * x).sum())(X)  # here

    def product(x):
        return mx.vjp(lambda w: w * x, [X], [X])  # here

    for fn in (operator, function, index, in_place, activation, untraced, product):
        refused(fn, X, words="closure.*as an argument")


def kept_from_a_trace():
    kept = []
    traced(lambda x: kept.append(x) or x * 2, X)
    traced(lambda x, rate: kept.append(rate) or x * rate, X, 0.5)
    return kept


USES = {
    "operator": lambda k, x: k + 1, "reflected": lambda k, x: x * k, "method": lambda k, x: k.sum(),
    "item": lambda k, x: k.tolist(), "function": lambda k, x: mx.exp(k) + x,
    "opaque": lambda k, x: mx.matmul(x, k), "returned": lambda k, x: (k, x),
    "index": lambda k, x: k[0], "activation": lambda k, x: nn.silu(k), "copy": lambda k, x: +k,
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_a_proxy_of_a_finished_trace(use):
    kept, _ = kept_from_a_trace()
    with pytest.raises(TraceError, match="a trace that has ended|needs a value"):
        traced(lambda x: USES[use](kept, x), X)
    if use not in ("function", "opaque", "returned", "activation"):  # outside, MLX alone sees them
        with pytest.raises(TraceError, match="a trace that has ended|needs a value"):
            USES[use](kept, X)


def test_mlx_itself_refuses_a_proxy_of_a_finished_trace():
    kept, _ = kept_from_a_trace()
    for use in (mx.exp, nn.silu, lambda k: mx.matmul(X, k), np.array):
        with pytest.raises((RuntimeError, TraceError)):
            mx.eval(use(kept))
    with pytest.raises(RuntimeError):
        mx.eval(kept)
    assert "Proxy" in repr(kept) and kept.shape == (3,)


def test_a_number_of_a_finished_trace():
    _, kept = kept_from_a_trace()
    assert "ScalarProxy" in repr(kept)
    for fn in (lambda x: x * kept, lambda x: x * (kept + 1), lambda x: (x, kept)):
        with pytest.raises(TraceError, match="number of a trace that has ended"):
            traced(fn, X)
    for use in (float, bool, str, lambda k: k > 0):
        with pytest.raises(TraceError, match="number of a trace that has ended"):
            use(kept)


def test_an_outer_traces_array_in_an_inner_trace():
    def fn(x):
        return traced(lambda y: x * y, X)  # here

    refused(fn, X, words="closure")


@dataclass
class Box:
    array: mx.array


def test_arrays_hidden_in_objects():
    with pytest.raises(TraceError, match="a Box that holds traced arrays"):
        traced(lambda x: Box(x * 2), X)
    with pytest.raises(TraceError, match="a set that holds traced arrays"):
        traced(lambda x: {x * 2}, X)


# -- what a function raises -----------------------------------------------------------------------
class Own(Exception):
    pass


def names_of_mlx() -> dict:
    owners = [*intercept.MODULES.values(), mx.array, type(mx.compile(abs)), mx.custom_function]
    return {(id(o), n): id(v) for o in owners for n, v in vars(o).items() if n != "__dict__"}


@pytest.mark.parametrize(
    "error", [Own("mine"), KeyboardInterrupt(), SystemExit(3), ValueError("x"), RuntimeError("y"),
              TypeError("z"), TraceError("t"), GeneratorExit()], ids=repr,
)  # fmt: skip
def test_own_exceptions_pass_unchanged_and_mlx_is_restored(error):
    before = names_of_mlx()
    state = {"a": mx.array(1.0)}

    def fn(x, rate):
        state["a"] = x * rate
        assert mx.exp is not imported_exp
        raise error

    with pytest.raises(type(error)) as caught:
        traced(fn, X, 0.5, inputs=[state], outputs=[state])
    assert caught.value is error
    assert names_of_mlx() == before and mx.exp is imported_exp
    assert intercept.current() is None and not intercept._installed
    same(state, {"a": mx.array(1.0)})


def test_errors_of_mlx_are_its_own():
    for fn in (
        lambda x: x + mx.ones((5,)), lambda x: x @ mx.ones((5,)), lambda x: x.reshape(7),
        lambda x: x + [1, 2], lambda x: x + None, lambda x: mx.add(x, "a"), lambda x: mx.exp(x, x),
        lambda x: mx.sum(x, axis=4), lambda x: x & 1, lambda x: mx.clip(x, None, None),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError, RuntimeError, IndexError)) as plain:
            mx.eval(fn(X))
        with pytest.raises((ValueError, TypeError, RuntimeError, IndexError)) as mine:
            traced(fn, X)
        assert not isinstance(mine.value, TraceError)
        bitwise = "bitwise" in str(plain.value)  # the operator and the function differ in MLX
        assert type(mine.value) is type(plain.value) or bitwise


def test_comparisons_with_strangers_are_plain_values():
    assert run(lambda x: [x == "a", x != "a", x == [1]], X) == [False, True, False]


def test_a_failed_installation_restores_everything(monkeypatch):
    before = names_of_mlx()
    calls = []

    def replace(owner, name, wrap, real=intercept._replace):
        calls.append(name)
        if len(calls) == 50:
            raise KeyboardInterrupt
        real(owner, name, wrap)

    monkeypatch.setattr(intercept, "_replace", replace)
    with pytest.raises(KeyboardInterrupt):
        traced(lambda x: x * 2, X)
    assert names_of_mlx() == before and intercept.current() is None


def test_copies_are_arrays_of_their_own():
    def fn(x):
        y, z = copy.copy(x), copy.deepcopy([x])[0]
        y += 1
        z *= 2
        return x, y, z

    same(run(fn, X), (X, X + 1, X * 2))


def test_reads_raise_where_mlx_does_not_compile():
    """In a new process, as MLX_DISABLE_COMPILE=1 is read once."""
    code = (
        "import mlx.core as mx; from tracing import traced; import numpy as np; x = mx.ones(3)\n"
        "try: traced(lambda x: x * np.array(x), x)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    for setting in ("0", "1"):
        env = {**os.environ, "PYTHONPATH": paths, "MLX_DISABLE_COMPILE": setting}
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "TraceError"


def test_a_tracer_alone_records_nothing():
    assert intercept.current() is None and intercept.paused() is None
    assert not Tracer().sees([X, {"a": (1, X)}, slice(0, 2)])
