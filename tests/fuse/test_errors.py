"""Errors: what is refused, in which words, and that MLX and the fused function are as before."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close, kernels

import zmlx
from zmlx.errors import TraceError
from zmlx.trace import intercept

pytestmark = pytest.mark.usefixtures("default_device")

x, row = array(0, 4, 6), array(1, 6)
ORIGINAL = {name: getattr(mx, name) for name in ("exp", "add", "matmul", "eval", "sum")}
OPERATORS = {name: getattr(mx.array, name) for name in ("__mul__", "__add__", "__getitem__")}


@pytest.fixture(autouse=True)
def mlx_is_left_as_it_was():
    yield
    assert intercept.current() is None
    assert {name: getattr(mx, name) for name in ORIGINAL} == ORIGINAL
    assert {name: getattr(mx.array, name) for name in OPERATORS} == OPERATORS


# -- arguments of fuse ----------------------------------------------------------------------------
WRONG_OPTIONS = [
    ({"numerics": "fp16"}, ValueError, r"\[zmlx.fuse\] numerics is 'fp16'; wanted one of"),
    ({"numerics": None}, ValueError, "numerics is None"),
    ({"cache_size": 0}, ValueError, "cache_size is 0; wanted an int of 1 or more"),
    ({"cache_size": 2.5}, ValueError, "cache_size is 2.5"),
    ({"cache_size": True}, ValueError, "cache_size is True"),
    ({"inputs": 3}, TypeError, "inputs is a int; wanted a list, dict or object"),
    ({"outputs": mx.zeros(2)}, TypeError, "outputs is a array"),
]


@pytest.mark.parametrize(("options", "kind", "words"), WRONG_OPTIONS)
def test_options_are_checked_when_decorating(options, kind, words):
    with pytest.raises(kind, match=words):
        zmlx.fuse(**options)
    with pytest.raises(kind, match=words):
        zmlx.fuse(lambda x: x, **options)


@pytest.mark.parametrize("what", [3, "mlx", x, [lambda x: x]])
def test_what_cannot_be_called_cannot_be_fused(what):
    with pytest.raises(TypeError, match=r"\[zmlx.fuse\] fn is a .*Options go by name"):
        zmlx.fuse(what)


def test_unknown_options_and_positions():
    with pytest.raises(TypeError):
        zmlx.fuse(lambda x: x, "mlx")
    with pytest.raises(TypeError):
        zmlx.fuse(lambda x: x, shapeless=True)


def test_the_module_is_the_decorator():
    import zmlx.fuse as module

    assert module is zmlx.fuse and callable(module)
    assert type(module(lambda x: x)) is zmlx.FusedFunction
    assert module.api.fuse.__doc__.startswith("Make a function's elementwise regions")


# -- arguments of calls ---------------------------------------------------------------------------
@pytest.mark.smoke
def test_arguments_that_are_no_arrays():
    with pytest.raises(TypeError, match=r"\[zmlx.fuse\] .*: \w+ is a NumPy array"):
        zmlx.fuse(lambda x: x * 2)(np.ones(3))
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        zmlx.fuse(lambda x, y: x * y)(x)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        zmlx.fuse(lambda x: x)(x, z=1)
    assert zmlx.fuse(lambda a, b: (a, b))("text", None) == ("text", None)
    thing = object()
    assert zmlx.fuse(lambda a, b: b)(x, thing) is thing


def test_numbers_that_do_not_fit():
    n = mx.array([1, 2], mx.uint8)
    plain = lambda n, k: n * k + k  # noqa: E731
    fused = zmlx.fuse(plain)
    close(fused(n, 3), plain(n, 3))
    for function in (fused, plain):
        with pytest.raises(ValueError, match="300"):
            mx.eval(function(n, 300))
    close(fused(n, 4), plain(n, 4))


# -- the function's own errors --------------------------------------------------------------------
class Own(Exception):
    pass


@pytest.mark.parametrize(
    "kind", [Own, ValueError, TypeError, RuntimeError, KeyError, StopIteration]
)
def test_exceptions_of_the_function_pass_through(kind):
    error = kind("mine")

    @zmlx.fuse
    def fails(x):
        mx.exp(x)
        raise error

    for _ in range(2):
        with pytest.raises(kind) as caught:
            fails(x)
        assert caught.value is error
    assert fails.cache_info().currsize == 0


def test_interrupts_leave_everything_in_order():
    switch = {"on": True}

    @zmlx.fuse
    def stops(x):
        y = mx.exp(x)
        if switch["on"]:
            raise KeyboardInterrupt
        return y * 2

    with pytest.raises(KeyboardInterrupt):
        stops(x)
    switch["on"] = False
    close(stops(x), mx.exp(x) * 2)


def test_an_error_in_a_nested_fused_function():
    inner = zmlx.fuse(lambda a: a.no_such_attribute)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        zmlx.fuse(lambda a: inner(a * 2) + 1)(x)


# -- shapes ---------------------------------------------------------------------------------------
def plain(a, b):
    return mx.exp(a) * 2 + b


def mlx_words(function: Any, *arrays: mx.array) -> str:
    with pytest.raises(ValueError) as caught:
        mx.eval(function(*arrays))
    return str(caught.value)


def test_shapes_that_do_not_broadcast_raise_the_error_of_mlx():
    bad = array(2, 5)
    assert mlx_words(zmlx.fuse(plain), x, bad) == mlx_words(plain, x, bad)
    fused = zmlx.fuse(plain)
    fused(x, row)
    for _ in range(2):  # at a later call, with the key of the first
        assert "cannot be broadcast" in mlx_words(fused, x, bad)
    got = fused(x, row)
    assert len(kernels(got)) == 1
    close(got, plain(x, row))


def test_wrong_shapes_first_do_not_spoil_the_right_ones():
    fused = zmlx.fuse(plain)
    mlx_words(fused, x, array(2, 5))
    assert len(kernels(fused(x, row))) == 1
    close(fused(x, row), plain(x, row))


def test_wrong_shapes_inside_transformations():
    fused, bad = zmlx.fuse(plain), array(2, 5)
    mx.eval(mx.grad(lambda a, b: fused(a, b).sum(), argnums=(0, 1))(x, row))
    with pytest.raises(ValueError, match="broadcast"):
        mx.eval(mx.grad(lambda a, b: fused(a, b).sum(), argnums=(0, 1))(x, bad))
    with pytest.raises(ValueError, match="broadcast"):
        mx.eval(mx.vmap(fused, in_axes=(0, None))(x, bad))
    with pytest.raises(ValueError, match="broadcast"):
        mx.eval(mx.compile(fused)(x, bad))


def test_a_matmul_of_wrong_shapes_at_a_later_call():
    fused = zmlx.fuse(lambda a, w: mx.tanh(a @ w + 1))
    w = array(3, 6, 6)
    fused(x, w)
    with pytest.raises(ValueError, match="matmul"):
        mx.eval(fused(x, array(4, 5, 6)))
    close(fused(x, w), mx.tanh(x @ w + 1))


# -- values ---------------------------------------------------------------------------------------
NEEDS_VALUES = {
    "if": lambda a: a if a.sum() > 0 else -a,
    "float": lambda a: a * float(a.sum()),
    "item": lambda a: a * a.sum().item(),
    "tolist": lambda a: a * len(a.tolist()),
    "eval": lambda a: (mx.eval(a * 2), a)[1],
    "numpy": lambda a: mx.array(np.array(a)) * 2,
    "math": lambda a: a * int(a[0, 0]),
}


@pytest.mark.parametrize("name", NEEDS_VALUES)
def test_reading_a_value_names_the_line(name):
    with pytest.raises(TraceError, match=r"\[zmlx.trace\].*test_errors.py:\d+"):
        zmlx.fuse(NEEDS_VALUES[name])(x)


def test_a_failed_trace_can_be_tried_again():
    box = {"bad": True}
    fused = zmlx.fuse(lambda a: a if box["bad"] and a.sum() > 0 else mx.exp(a) + 1)
    with pytest.raises(TraceError):
        fused(x)
    box["bad"] = False
    close(fused(x), mx.exp(x) + 1)


# -- explain --------------------------------------------------------------------------------------
def test_explain_refuses_what_fuse_refuses():
    with pytest.raises(TypeError, match=r"\[zmlx.fuse\] fn is a int"):
        zmlx.explain(3, x)
    with pytest.raises(TraceError, match="test_errors.py"):
        zmlx.explain(NEEDS_VALUES["if"], x)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        zmlx.explain(plain, x)
    with pytest.raises(ValueError, match="broadcast"):
        zmlx.explain(plain, x, array(2, 5))


def test_explain_takes_what_fuse_takes():
    assert len(zmlx.explain(zmlx.fuse(plain), x, row).regions) == 1
    assert len(zmlx.explain(plain, x, b=row).regions) == 1
    assert len(zmlx.explain(nn.GELU(), x).regions) == 1
    assert len(zmlx.fuse(nn.GELU()).explain(x).regions) == 1
