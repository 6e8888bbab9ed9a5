"""What functions of the catalog refuse, with function, argument, what came and what is wanted."""

from __future__ import annotations

import re
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.catalog.cases import CASES, Case
from zmlx import kernels
from zmlx.kernels import norms, softmax, transformer

EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
THREADED = [case for case in CASES.values() if case.threads]
x, w, odd = mx.zeros((3, 8)), mx.zeros((8,)), mx.zeros((3, 7))

# Name of the case: names of its arrays, in order.
NAMES = {
    "softmax_grad": ("y", "cotan"),
    "log_softmax_grad": ("y", "cotan"),
    "rmsnorm": ("x", "weight"),
    "rmsnorm_grad": ("x", "weight", "cotan"),
    "layernorm": ("x", "gamma", "beta"),
    "layer_norm_dropout": ("x", "gamma", "beta"),
    "bias_swiglu": ("x", "bias"),
    "bias_geglu": ("x", "bias"),
    "rms_norm_dropout": ("x", "weight"),
    "rmsnorm_residual": ("x", "residual", "weight"),
    "layernorm_residual": ("x", "residual", "gamma", "beta"),
    "fused_add_rmsnorm": ("x1", "x2", "weight"),
    "fused_add_layernorm": ("x1", "x2", "gamma", "beta"),
}


def refused(
    case: Case, arrays: list[Any], words: list[str], kind: type = ValueError, **options: Any
) -> None:
    with pytest.raises(kind) as caught:
        case.run(*arrays, **options)
    text = str(caught.value)
    assert re.match(rf"\[zmlx\.(softmax|norms|transformer)\] {case.name}: ", text), text
    for word in (*words, "give "):
        assert word in text, text


def names(case: Case) -> tuple[str, ...]:
    return NAMES.get(case.name, ("x",))


@EACH
def test_what_is_no_array(case: Case) -> None:
    arrays: list[Any] = case.arrays((3, 8), mx.float32)
    for i, name in enumerate(names(case)):
        for wrong in (None, [1.0, 2.0], 3.0, np.zeros(arrays[i].shape, np.float32)):
            bad = [*arrays[:i], wrong, *arrays[i + 1 :]]
            refused(case, bad, [f"{name} is {type(wrong).__name__}", "mx.array"], TypeError)


@EACH
def test_other_types(case: Case) -> None:
    arrays = case.arrays((3, 8), mx.float32)
    for i, name in enumerate(names(case)):
        for kind in (mx.int32, mx.bool_, mx.uint8, mx.complex64, mx.float64):
            with mx.stream(mx.cpu):
                wrong = arrays[i].astype(kind)
                bad = [*arrays[:i], wrong, *arrays[i + 1 :]]
                refused(case, bad, [name, str(kind).removeprefix("mlx.core."), "bfloat16"])


@EACH
def test_rows_without_elements(case: Case) -> None:
    if case.name == "dropout":
        return  # any shape
    arrays = case.arrays((3, 8), mx.float32)
    for shape in ((), (0,), (3, 0)):
        bad = [mx.zeros(shape), *arrays[1:]]
        refused(case, bad, [names(case)[0], str(shape), "last axis"])


@EACH
def test_shapes_that_differ(case: Case) -> None:
    """Nothing broadcasts: neither a longer row, nor one element, nor another rank."""
    arrays = case.arrays((3, 8), mx.float32)
    for i, name in enumerate(names(case)[1:], 1):
        right = arrays[i].shape
        for shape in ((7,), (9,), (1,), (3, 1), (1, 8), (3, 9), (3, 8, 1), (8, 3), (1, 1, 8), ()):
            bad = [*arrays[:i], mx.zeros(shape), *arrays[i + 1 :]]
            refused(case, bad, [name, str(shape), str(right)])


@pytest.mark.parametrize("name", ["swiglu", "geglu", "bias_swiglu", "bias_geglu"])
def test_odd_rows_have_no_halves(name: str) -> None:
    arrays = [odd, mx.zeros((7,))][: len(CASES[name].takes)]
    refused(CASES[name], arrays, ["x is of shape (3, 7)", "even"])


@pytest.mark.parametrize("case", THREADED, ids=[case.name for case in THREADED])
def test_threadgroups(case: Case) -> None:
    arrays = case.arrays((3, 8), mx.float32)
    for wrong in (0, -1, 3, 48, 2048, 32.0, "32", None, True, (32, 1, 1)):
        refused(
            case, arrays, ["threadgroup", repr(wrong), "power of two", "1024"], threadgroup=wrong
        )


@EACH
def test_compute_types(case: Case) -> None:
    arrays = case.arrays((3, 8), mx.float32)
    for wrong in (mx.int32, mx.float64, mx.complex64, "float32", 32, np.float32):
        refused(case, arrays, ["compute_dtype", "float32"], compute_dtype=wrong)


@pytest.mark.parametrize("name", [case.name for case in CASES.values() if "norm" in case.name])
def test_eps(name: str) -> None:
    case = CASES[name]
    arrays = case.arrays((3, 8), mx.float32)
    for wrong in (
        -1e-6,
        float("nan"),
        float("inf"),
        "1e-6",
        None,
        True,
        mx.array(1e-6),
        1j,
        10**400,
    ):
        refused(case, arrays, ["eps", "number"], eps=wrong)


def test_numbers_of_numpy(host_device: object) -> None:
    x, w = mx.arange(24.0).reshape(3, 8) + 1, mx.ones((8,))
    one = norms.rmsnorm(x, w, eps=np.float32(0.5))
    assert mx.array_equal(one, norms.rmsnorm(x, w, eps=0.5)).item()
    assert not mx.array_equal(one, norms.rmsnorm(x, w, eps=5.0)).item()
    dropped = transformer.dropout(x, np.float64(0.5), np.int64(7))
    assert mx.array_equal(dropped, transformer.dropout(x, 0.5, 7)).item()
    assert not mx.array_equal(dropped, transformer.dropout(x, 0.5, 8)).item()


def dropouts(p: Any, seed: Any = 0) -> list[Any]:
    return [
        lambda: transformer.dropout(x, p, seed),
        lambda: transformer.rms_norm_dropout(x, w, p, seed),
        lambda: norms.layer_norm_dropout(x, w, w, p, seed),
    ]


@pytest.mark.parametrize("p", [1.0, 1, -0.1, 2, float("nan"), float("inf"), "0.5", None, True])
def test_shares(p: Any) -> None:
    for call in dropouts(p):
        with pytest.raises(ValueError, match=r"dropout: p is .* below 1") as caught:
            call()
        assert repr(p) in str(caught.value)


@pytest.mark.parametrize(
    "seed",
    [
        *(-1, 2**32, 0.5, "7", None, True),
        *(mx.array(1.0), mx.array([1, 2]), mx.array(True), mx.zeros((0,), mx.int32)),
    ],
    ids=str,
)
def test_seeds(seed: Any) -> None:
    for call in dropouts(0.5, seed):
        with pytest.raises(ValueError, match="dropout: seed is .*whole number"):
            call()


@pytest.mark.smoke
def test_call_forms() -> None:
    """p and seed by position or name, numbers after them by name alone."""
    assert mx.array_equal(transformer.dropout(x, p=0.5, seed=1), transformer.dropout(x, 0.5, 1))
    for call in (
        lambda: norms.rmsnorm(x, w, 1e-6),  # type: ignore[misc]
        lambda: softmax.softmax_lastdim(x, 32),  # type: ignore[misc]
        lambda: transformer.dropout(x),  # type: ignore[call-arg]
        lambda: transformer.swiglu(x, None),  # type: ignore[misc]
        lambda: transformer.swiglu(x, threadgroup=32),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError):
            call()


def test_the_import_path() -> None:
    for name in ("softmax", "norms", "transformer"):
        assert name in kernels.__all__ and name in dir(kernels)
    assert kernels.norms is norms
    with pytest.raises(AttributeError, match="no attribute 'norm'"):
        _ = kernels.norm
