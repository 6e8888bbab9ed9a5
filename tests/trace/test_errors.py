"""Reads of values raise and name the user's line; what a function raises leaves MLX as it was."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.core import exp as imported_exp
from refusing import X, refused
from tracing import run, same, traced

from zmlx.errors import TraceError
from zmlx.trace import intercept
from zmlx.trace.tracer import Tracer


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
    branch, loop, as_float, as_int, as_complex, as_index, item, tolist, contains,
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


def test_writing_to_a_captured_array():
    """With traced values and without: it would happen at the first call only."""
    table = mx.zeros((3,))

    def traced_item(x):
        table[0] = x[0]  # here
        return table * x

    def constant_item(x):
        table[0] = 1.0  # here
        return table * x

    def traced_operator(x):
        local = table
        local += x  # here
        return local

    def constant_operator(x):
        local = {"a": table}
        local["a"] *= 2  # here
        return local["a"] * x

    for fn in (traced_item, constant_item, traced_operator, constant_operator):
        refused(fn, X, words="written in place.*inputs= and outputs=.*mx.array")
    same(table, mx.zeros((3,)))

    def copied(x):
        local = mx.array(table)
        local += x
        return local

    same(run(copied, X), X)


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
        assert hasattr(mx.exp, "__zmlx_original__")
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
