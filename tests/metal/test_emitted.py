"""Every kernel that the project writes, as MLX would compile it on a Mac, is clean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msl_cases import FLOATS, TYPES
from test_graphs import Case, cases
from test_text import GRAPHS, source

from tests.emitted import (
    cast_kernels,
    composite_kernels,
    constant_kernels,
    derivatives,
    kernels_of_orders,
    row_kernels,
    spoilt,
)
from zmlx.metal_check import check, metal_text
from zmlx.msl.emit import emit
from zmlx.msl.kernel import KernelSource
from zmlx.ops.composite import COMPOSITES

Tally = Callable[[str, int], None]
FEW, MANY = 1, 9  # elements of a dimension: `constant` inputs, `device` inputs


def clean(kernel: KernelSource, *sizes: int) -> None:
    """Nothing to say, not even a warning, for inputs of each of the sizes."""
    for n in sizes:
        found = check(kernel, *[(n,) * arg.rank for arg in kernel.inputs])
        assert not found, f"{kernel.name} for size {n}\n" + "\n".join(map(str, found))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_row_of_the_table(dtype: str, exact: bool, tally: Tally) -> None:
    kernels = row_kernels(dtype, exact)
    assert len(kernels) > 30
    for kernel in kernels:
        clean(kernel, FEW if exact else MANY)
    tally("kernels of rows as Metal", len(kernels))


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", TYPES)
def test_every_row_in_the_other_address_space(dtype: str) -> None:
    for exact in (False, True):
        for kernel in row_kernels(dtype, exact):
            clean(kernel, MANY if exact else FEW)


@pytest.mark.parametrize("exact", [False, True])
def test_every_cast(exact: bool) -> None:
    for kernel in cast_kernels(exact):
        clean(kernel, MANY)


@pytest.mark.parametrize("dtype", FLOATS)
def test_constant_forms(dtype: str) -> None:
    for kernel in constant_kernels(dtype):
        clean(kernel, MANY)


@pytest.mark.parametrize("name", COMPOSITES)
def test_composites(name: str) -> None:
    for kernel in composite_kernels(name):
        clean(kernel, MANY)


@pytest.mark.parametrize("name", GRAPHS)
def test_golden_kernels(name: str) -> None:
    clean(source(name), FEW, MANY)


@pytest.mark.smoke
def test_more_elements_than_32_bits_count() -> None:
    """The index of a kernel of two dimensions then has 64 bits."""
    kernel = source("row_and_column")
    shapes = [(2**16, 2**15), (2**15,), (2**16, 1)]
    assert "int64_t>;" in metal_text(kernel, shapes)
    assert check(kernel, *shapes) == []


SPOILT = {
    "bfloat16_t(y0)": ("y0", "silu_gate", "assigning to 'bfloat16_t'"),
    "thread float&": ("float&", "gelu_tanh", "needs an address space"),
    "0.5f": ("0.5", "gelu_tanh", "has no suffix"),
    "metal::precise::tanh": ("metal::precise::erf", "gelu_tanh", "no member named 'erf'"),
    "in0_strides[0]": ("in0_strides(0)", "gelu_tanh", "not a function"),
    "const long at0": ("const long long at", "gelu_tanh", "undeclared identifier 'at0'"),
    "zmlx_int_floor_divide<short>": ("floor_divide<short>", "integers", "undeclared"),
    "out0[i + k]": ("in0[i + k]", "gelu_tanh", "read-only"),
}  # fmt: skip


@pytest.mark.parametrize("right", SPOILT)
def test_a_spoilt_kernel_is_found(right: str) -> None:
    wrong, name, words = SPOILT[right]
    kernel = spoilt(source(name), right, wrong)
    assert any(words in d.message for d in check(kernel)), check(kernel)


# -- generated graphs and their derivatives -------------------------------------------------------
def check_case(case: Case, exact: bool) -> None:
    clean(emit(case.graph, exact), FEW, MANY)
    for region in derivatives(case.graph):
        clean(emit(region, exact), MANY)


@given(cases(), st.booleans())
def test_generated_graphs_and_their_derivatives(case: Case, exact: bool) -> None:
    check_case(case, exact)


@pytest.mark.exhaustive
@given(cases(), st.booleans())
@settings(max_examples=2000)
def test_many_generated_graphs(case: Case, exact: bool) -> None:
    check_case(case, exact)


def check_orders(seed: int, dtype: str) -> tuple[int, int]:
    """How many kernels first and second derivatives have, which are all clean."""
    first, second = kernels_of_orders(seed, dtype)
    for kernel in (*first, *second):
        clean(kernel, MANY)
    return len(first), len(second)


@pytest.mark.parametrize("seed", range(9))
def test_first_and_second_derivatives(seed: int, tally: Tally) -> None:
    first, second = check_orders(seed, FLOATS[seed % 3])
    assert first and second
    tally("kernels of derivatives as Metal", first + second)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(20))
def test_many_derivatives(block: int) -> None:
    seeds = range(10 + 10 * block, 20 + 10 * block)
    counts = [check_orders(seed, FLOATS[seed % 3]) for seed in seeds]
    assert sum(first > 0 and second > 0 for first, second in counts) >= 5
