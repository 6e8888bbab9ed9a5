"""Python numbers beside arrays adopt the arrays' type as in plain MLX: rounded to half types,
wrapped or refused beside integers, as they are beside float64 and complex64; as arguments and as
constants, in any order of calls."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import pytest

import zmlx

NUMBERS = (0.1, -1e9, 1e9, 0.3, 2049, 65519.0, 70000, 3, 1e-8, float("inf"), float("nan"))


def equal(a: Any, b: Any) -> bool:
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and mx.array_equal(a, b, equal_nan=a.dtype != mx.bool_).item()


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result; an error's words do not matter, that there is one does."""
    try:
        return function(*arguments)
    except (ValueError, RuntimeError):
        return None


def check(plain: Callable[..., Any], fused: Callable[..., Any], *arguments: Any) -> None:
    want, got = outcome(plain, *arguments), outcome(fused, *arguments)
    assert (want is None) == (got is None), arguments
    assert want is None or equal(want, got), (arguments, want, got)


@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
@pytest.mark.parametrize("kind", [mx.float16, mx.bfloat16], ids=["float16", "bfloat16"])
def test_numbers_are_rounded_to_half_types(kind: mx.Dtype, numerics: str):
    def compared(x: Any, s: Any) -> Any:
        chosen = mx.where(x == s, 1.0, x * 2)
        return mx.where(mx.maximum(x, s) == x, chosen, mx.where(x >= s, -1.0, chosen))

    x = mx.array([0.1, -1e9, 0.3, 2049, 7.7, 0, float("inf")]).astype(kind)
    fused = zmlx.fuse(compared, numerics=numerics)
    for number in NUMBERS:
        check(compared, fused, x, number)


def test_a_mask_is_found_by_the_value_that_filled_it():
    mask = mx.array([0, -1e9], mx.bfloat16)
    function = lambda m: mx.where(m == -1e9, 0.0, m * 2)  # noqa: E731
    assert zmlx.fuse(function)(mask).tolist() == function(mask).tolist() == [0, 0]
    fixed = zmlx.fuse(lambda x: mx.where(x == 0.1, x + 1, x - 1))
    assert fixed(mx.array([0.1], mx.float16)).item() > 1


INTEGERS: dict[str, tuple[mx.array, Sequence[Any]]] = {
    "uint64": (mx.array([1, 0, 2**40], mx.uint64), (3, -1, -(2**63), 2**62, 5)),
    "bool": (mx.array([True, False]), (3, 2**31, 2**40, -(2**31) - 1, -1, True, 2.5)),
    "uint8": (mx.array([1, 2], mx.uint8), (3, -1, 300, 255)),
}


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_wrap_or_are_refused_in_any_order(kind: str):
    array, numbers = INTEGERS[kind]

    def function(a: Any, s: Any) -> Any:
        return mx.where((a > s) | (a == s), a + s, s)

    for first in numbers:
        fused = zmlx.fuse(function)
        outcome(fused, array, first)
        for number in numbers:
            check(function, fused, array, number)
        check(
            lambda a, s=first: function(a, s), zmlx.fuse(lambda a, s=first: function(a, s)), array
        )


OPERATORS = [
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"),
    *("eq", "ne", "lt", "le", "gt", "ge"),
]
FUNCTIONS = ["maximum", "minimum", "arctan2", "logaddexp", "power"]
WIDE = {
    "complex64": mx.array([1 + 2j, 3 - 1j], mx.complex64),
    "float64": mx.array([1.5, 2.5, -0.5], mx.float64),
}


@pytest.mark.parametrize("kind", WIDE)
def test_types_without_kernels_take_numbers(kind: str):
    functions = [getattr(operator, name) for name in OPERATORS]
    functions += [lambda a, s, n=name: getattr(mx, n)(a, s) for name in FUNCTIONS]
    functions += [lambda a, s: mx.where(a == s, a, s)]
    with mx.stream(mx.cpu):
        for function in functions:
            for plain in (function, lambda a, s, f=function: f(s, a * 1)):
                fused = zmlx.fuse(plain)
                for number in (2, 2.5, True, -1, 3e200):
                    check(plain, fused, WIDE[kind], number)
