"""Composites against MLX's own functions: values, dtypes, gradients, signatures."""

from __future__ import annotations

import inspect
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from zmlx.ops.composite import COMPOSITES, parameters
from zmlx.ops.table import OPS

SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    6.0,
    -3.0,
    3.0,
    1e4,
    -1e4,
    np.inf,
    -np.inf,
    np.nan,
    2.5,
    3.5,
]
VALUES = np.concatenate([np.linspace(-8, 8, 113), SPECIAL]).astype(np.float32)
FLOATS = ("float16", "bfloat16", "float32")
INTS = ("int8", "int32", "uint8", "int64", "bool_")
EXTRA = {
    "clip": [dict(a_min=-1, a_max=1.5), dict(a_min=None, a_max=2), dict(a_min=0.5, a_max=None)],
    "round": [{}, dict(decimals=2), dict(decimals=-1)],
    "nan_to_num": [{}, dict(nan=1, posinf=3.0, neginf=-2)],
    "leaky_relu": [{}, dict(negative_slope=0.3)],
    "elu": [{}, dict(alpha=0.7)],
    "celu": [{}, dict(alpha=0.7)],
    "softshrink": [{}, dict(lambd=0.2)],
    "hard_shrink": [{}, dict(lambd=0.2)],
    "hard_tanh": [{}, dict(min_val=-2.0, max_val=0.5)],
    "step": [{}, dict(threshold=0.5)],
    "zeros_like": [{}, dict(dtype=mx.int8)],
    "ones_like": [{}, dict(dtype=mx.float16)],
}
# Functions of mlx.nn that are not elementwise; glu splits an axis and then is.
NOT_ELEMENTWISE = {"softmax", "log_softmax", "softmin", "glu"}


class MlxNamespace:
    """F over mlx.core itself."""

    def __getattr__(self, op: str):
        return getattr(mx, OPS[op].mx[0])


F = MlxNamespace()


def target(name: str):
    module, _, attribute = name.rpartition(".")
    return getattr({"mlx.core": mx, "mlx.nn": nn}[module], attribute)


CASES = [
    pytest.param(name, kwargs, id=f"{name}-{kwargs}")
    for name in COMPOSITES
    for kwargs in EXTRA.get(name.rsplit(".")[-1], [{}])
]


@pytest.fixture(autouse=True, scope="module")
def _plain_mlx():
    """nn's functions are compiled ones; op by op they give the same bits without the compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def operands(name: str, x: mx.array) -> list[mx.array]:
    count = sum(
        p.default is p.empty and p.name not in ("a_min", "a_max") and p.name != "alpha"
        for p in parameters(name)
    )
    second = [mx.array(np.roll(VALUES, 7)).astype(x.dtype)] if count == 2 else []
    return [x, *second, *([mx.array([0.25]).astype(x.dtype)] if name == "mlx.nn.prelu" else [])]


def same_bits(got: mx.array, want: mx.array) -> None:
    assert got.dtype == want.dtype
    a, b = (np.array(v.astype(mx.float32) if v.dtype == mx.bfloat16 else v) for v in (got, want))
    np.testing.assert_array_equal(a, b)
    assert (np.signbit(a) == np.signbit(b))[~np.isnan(a)].all()


@pytest.mark.parametrize("dtype", FLOATS + INTS)
@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_values_equal_mlx_bitwise(name, kwargs, dtype):
    values = VALUES if dtype in FLOATS else np.clip(np.nan_to_num(VALUES), 0, 100)
    args = operands(name, mx.array(values).astype(getattr(mx, dtype)))
    try:
        want = target(name)(*args, **kwargs)
    except ValueError:
        with pytest.raises(ValueError):
            COMPOSITES[name](F, *args, **kwargs)
        return
    same_bits(COMPOSITES[name](F, *args, **kwargs), want)


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_gradients_equal_mlx(name, kwargs):
    args = operands(name, mx.array(VALUES))

    def total(function):
        return lambda *a: (function(*a, **kwargs).astype(mx.float32) * mx.array(VALUES[:1])).sum()

    want = mx.grad(total(target(name)))(*args)
    got = mx.grad(total(lambda *a, **k: COMPOSITES[name](F, *a, **k)))(*args)
    np.testing.assert_array_equal(np.array(got), np.array(want))


@pytest.mark.parametrize("name", [n for n in COMPOSITES if n.startswith("mlx.nn.")])
def test_signature_of_nn(name):
    source = [(n, v) for n, v in nn.layers.activations.__dict__.items() if n == name.split(".")[-1]]
    text = inspect.getsource(nn.layers.activations)
    written = re.search(rf"^def {source[0][0]}\(([^)]*)\)", text, re.M).group(1)
    want = [part.split(":")[0].split("=")[0].strip() for part in written.split(",")]
    assert [p.name for p in parameters(name)] == want
    defaults = [float(part.split("=")[1]) for part in written.split(",") if "=" in part]
    assert [p.default for p in parameters(name) if p.default is not p.empty] == defaults


@pytest.mark.parametrize("name", [n for n in COMPOSITES if n.startswith("mlx.core.")])
def test_signature_of_core(name):
    first = target(name).__doc__.strip().splitlines()[0]
    written = re.search(r"\((.*)\) ->", first).group(1)
    parts = [
        p.strip() for p in written.split(",") if ":" in p and not p.strip().startswith("stream")
    ]
    assert [p.name for p in parameters(name)] == [p.split(":")[0] for p in parts]
    for parameter, part in zip(parameters(name), parts, strict=True):
        default = part.split("=")[1].strip() if "=" in part else None
        assert (parameter.default is parameter.empty) == (default is None)
        if default is not None:
            assert parameter.default == eval(default)


def test_every_activation_of_nn_has_a_composite():
    functions = {
        n for n, v in nn.layers.activations.__dict__.items()
        if n.islower() and not n.startswith("_") and callable(v) and n not in ("partial",)
    }  # fmt: skip
    assert functions - NOT_ELEMENTWISE == {
        n.removeprefix("mlx.nn.") for n in COMPOSITES if n.startswith("mlx.nn.")
    }
