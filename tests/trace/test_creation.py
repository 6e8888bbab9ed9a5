"""Arrays made inside a traced function, and the name mx.array while a trace runs."""

from __future__ import annotations

import pickle
import sys
import threading
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest
from mlx.core import array as imported
from refusing import X, refused
from tracing import V, kinds, replayed, run, same, traced

from zmlx.errors import TraceError

MAKERS = {
    "zeros": lambda: mx.zeros((4,)),
    "ones": lambda: mx.ones(4, mx.int32),
    "full": lambda: mx.full((4,), 2.5),
    "full of an array": lambda: mx.full((4,), V[0]),
    "empty": lambda: mx.empty((4,)) * 0,
    "arange": lambda: mx.arange(1, 9, 2),
    "eye": lambda: mx.eye(4),
    "tri": lambda: mx.tri(4, k=-1),
    "identity": lambda: mx.identity(4),
    "linspace": lambda: mx.linspace(0, 1, 4),
    "zeros_like": lambda: mx.zeros_like(V),
    "ones_like": lambda: mx.ones_like(V),
    "full_like": lambda: mx.full_like(V, 3.0),
    "windows": lambda: mx.hanning(4) + mx.hamming(4) + mx.blackman(4) + mx.bartlett(4),
    "fft": lambda: mx.fft.fftfreq(4) + mx.fft.rfftfreq(7),
    "array of a list": lambda: mx.array([1, 2, 3, 4]),
    "array of lists": lambda: mx.array([[1.0, 2, 3, 4]], mx.float16),
    "array of a number": lambda: mx.array(2.5) + mx.zeros(4),
    "array of NumPy": lambda: mx.array(np.arange(4)),
    "array of an array": lambda: mx.array(V),
    "asarray": lambda: mx.asarray([1.0, 2, 3, 4]),
    "key": lambda: mx.random.uniform(shape=(4,), key=mx.random.key(7)),
    "computed": lambda: mx.cumsum(mx.exp(mx.arange(4) * -0.5)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_arrays_made_inside(name):
    make = MAKERS[name]

    def fn(x):
        made, written = make(), make()
        written[..., 1:3] = x[1:3].astype(written.dtype)
        written += x.astype(written.dtype)
        return made, written, made * x

    found = traced(fn, V)
    first, second = replayed(found, [V]), replayed(found, [V + 1])
    same(first, fn(V))
    same(second, fn(V + 1))


def test_new_arrays_are_captures_of_nothing():
    found = traced(lambda x: x + mx.arange(4) + mx.array([1.0, 2, 3, 4]), V)
    assert not found.captures and not found.decisions
    assert kinds(found.graph) == ["[arange]", "add", "add"]


def test_arrays_of_traced_values():
    def fn(x, rate):
        copied = mx.array(x)
        copied += 1
        return (
            copied,
            mx.array(x, mx.int32),
            mx.array(x, dtype=mx.float16),
            mx.array([x[0], 0.0, 1]),
            mx.array([[x[0], x[1]], [rate, 2.0]]),
            mx.array([x, x * 2]),
            mx.array(rate),
            mx.asarray(x),
            x,
        )

    same(run(fn, mx.array(V), 0.5), fn(mx.array(V), 0.5))


def test_values_of_arrays_made_of_constants_can_be_read():
    def fn(x):
        n, table = mx.array(3), mx.arange(4)
        if n > 2 and 3 in table:
            x = x * n.item() + float(table.sum()) + int(n) + [5, 6, 7, 8][n]
        mx.eval(table)
        for value in table.tolist():
            x = x + value
        return x * mx.array(np.array(table)), bool(n), len(table)

    same(run(fn, V), fn(V))


def test_values_of_a_constant_that_has_met_a_traced_array_cannot():
    def fn(x):
        total = mx.zeros((4,))
        first = total[0].item()
        total += x
        return first + total[0].item()  # here

    refused(fn, V, words="item")

    def written(x):
        total = mx.zeros((4,))
        total[0] = x[0]
        return float(total[0])  # here

    refused(written, V, words="float")


@dataclass
class Holder:
    array: mx.array


def test_the_name_of_the_class():
    """Every way to ask whether something is an array, of traced and of captured ones."""
    plain = mx.array([1.0])

    def fn(x):
        answers = []
        for value in (x, x * 2, mx.zeros(2), plain, 2.0, "text"):
            match value:
                case mx.array():
                    answers.append("matched")
            answers += [
                isinstance(value, mx.array),
                isinstance(value, (int, mx.array)),
                isinstance(value, mx.array | None),
                isinstance(value, imported),
                issubclass(type(value), mx.array),
                type(value) == mx.array,  # noqa: E721
                type(value) in (mx.array, str),
                value.__class__ is mx.array,
                value.__class__ is imported,
                {imported: "array"}.get(value.__class__),
                mx.array.__name__,
                mx.array == imported,
                repr(mx.array),
                hash(mx.array) == hash(imported),
            ]
        return answers, mx.array.sum(plain), Holder(1).array

    same(run(fn, X), fn(X))


def test_identity_of_types_is_refused_in_code_made_inside():
    """Where nothing could stand before the builtin `type`."""

    def fn(x):
        space = {"mx": mx}
        exec("def by_type(x): return x * 2 if type(x) is not mx.array else x", space)
        return space["by_type"](x)

    with pytest.raises(TraceError, match=r"Write isinstance\(x, mx.array\)"):
        run(fn, X)


def test_the_name_of_a_type():
    def fn(x):
        kind = type(x)
        return [kind.__name__, kind.__qualname__, kind.__module__, x * 2]

    same(run(fn, X), fn(X))


def test_a_subclass_made_inside():
    def fn(x):
        class Own(mx.array):
            pass

        return [Own.__mro__[1] is imported, x * 2]

    same(run(fn, X), [True, X * 2])


def test_other_threads_find_the_class_itself():
    """A thread that runs plain MLX beside a trace sees no stand-in."""
    inside, done = threading.Lock(), threading.Lock()
    assert inside.acquire() and done.acquire()
    kept = []

    def fn(x):
        kept.append(mx.array)
        inside.release()
        assert done.acquire(timeout=30)
        return mx.array([1.0]) * x

    tracing = threading.Thread(target=lambda: traced(fn, X))
    tracing.start()
    assert inside.acquire(timeout=30)
    try:
        made = mx.array([1.0, 2.0])
        assert mx.array is imported and type(made) is mx.array
        assert pickle.loads(pickle.dumps(made)).tolist() == [1.0, 2.0]
        same(mx.zeros(2) + made, made)
    finally:
        done.release()
        tracing.join(timeout=30)
    assert mx.array is imported and type(mx) is type(sys)
    assert kept[0] is not imported and kept[0] == imported
    same(kept[0]([1.0, 2.0]), mx.array([1.0, 2.0]))  # what was kept of it makes plain arrays


def test_specialized_code_of_python_asks_again():
    """Python's adaptive interpreter remembers nothing of the name."""

    def kind():
        return mx.array

    def make():
        return mx.array([1.0])

    for _ in range(100):
        assert kind() is imported and type(make()) is imported
    found = traced(lambda x: [make() * x for _ in range(100)], X)
    assert len(found.graph) > 100
    assert kind() is imported and type(make()) is imported
