"""Every kernel that the generator writes compiles as CUDA.

By default most of them get as far as PTX; the exhaustive tier makes machine code of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import pytest
from derive_cases import record
from hypothesis import given, settings
from hypothesis import strategies as st
from msl_cases import FLOATS, TYPES, row_graph, row_types, rows
from on_cuda import AMPERE, HOPPER, gpu
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
from zmlx.errors import DeviceError
from zmlx.msl.emit import emit
from zmlx.msl.kernel import KernelSource
from zmlx.ops.composite import COMPOSITES
from zmlx.ops.spec import OpSpec

pytestmark = pytest.mark.usefixtures("host_device")  # whose blank kernel stands in for launches

Tally = Callable[[str, int], None]
JOINED = 20  # rows in a kernel: with shapes and strides, fewer than 31 buffers


def joined(specs: Sequence[OpSpec], dtype: str, exact: bool) -> KernelSource:
    """Several rows in one kernel, which compiles in a fourth of the time that each alone takes."""

    def work(F, x, test):
        operands = [
            [test if kind == "bool" else x for kind in row_types(spec, dtype)] for spec in specs
        ]
        return tuple(getattr(F, spec.name)(*xs) for spec, xs in zip(specs, operands, strict=True))

    return emit(record(work, ((4,), dtype), ((4,), "bool")), exact)


def joined_casts(have: str, exact: bool) -> KernelSource:
    def work(F, x):
        return tuple(F.astype(x, want) for want in TYPES)

    return emit(record(work, ((4,), have)), exact)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_row_of_the_table(dtype: str, exact: bool, tally: Tally) -> None:
    specs = [s for s in rows() if row_graph(s, row_types(s, dtype)) is not None]
    assert len(specs) > 30
    with gpu(machine=False) as device:
        for i in range(0, len(specs), JOINED):
            device.compile(joined(specs[i : i + JOINED], dtype, exact))
        device.compile(joined_casts(dtype, exact))
        assert device.count > len(specs) // JOINED
    tally("rows as CUDA", len(specs))


@pytest.mark.exhaustive
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_row_alone(dtype: str, exact: bool) -> None:
    kernels = row_kernels(dtype, exact)
    with gpu() as device:
        for kernel in kernels:
            device.compile(kernel)
        assert device.count == len({kernel.name for kernel in kernels}) > 30


@pytest.mark.exhaustive
@pytest.mark.parametrize("exact", [False, True])
def test_every_cast(exact: bool) -> None:
    with gpu() as device:
        for kernel in cast_kernels(exact):
            device.compile(kernel)


@pytest.mark.parametrize("dtype", FLOATS)
def test_constant_forms(dtype: str) -> None:
    with gpu() as device:
        for kernel in constant_kernels(dtype):
            device.compile(kernel)
        assert device.count > 3


def check_composite(name: str, dtypes: Sequence[str], machine: bool) -> None:
    with gpu(machine=machine) as device:
        for kernel in composite_kernels(name, dtypes):
            device.compile(kernel)
        assert device.count >= len(dtypes)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, FLOATS[i % 3]) for i, name in enumerate(COMPOSITES)]
)
def test_composites(name: str, dtype: str) -> None:
    check_composite(name, [dtype], machine=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_in_every_type(name: str) -> None:
    check_composite(name, FLOATS, machine=True)


@pytest.mark.parametrize("capability", [HOPPER, AMPERE])
@pytest.mark.parametrize("name", GRAPHS)
def test_golden_kernels(name: str, capability: tuple[int, int]) -> None:
    with gpu(capability) as device:
        device.compile(source(name), across=True)
        assert device.count


@pytest.mark.smoke
def test_transposed_inputs_and_more_elements_than_32_bits_count() -> None:
    """Launches that differ in the elements of a thread, and in the type of the index."""
    kernel = source("silu_gate")
    with gpu() as device:
        device.compile(kernel, across=True)
        device.build([kernel])[0]([mx.zeros((2**16, 2**15), mx.bfloat16)] * 2)
        texts = device.compiler.texts
    assert len(texts) == 3 and sum("using INDEX = int64_t;" in text for text in texts) == 1
    assert len({text.partition("ELEMS = ")[2].partition(";")[0] for text in texts}) == 2


SPOILT = {
    "in0_strides[0]": ("in0_strides(0)", "gelu_tanh", "function type"),
    "metal::precise::tanh": ("metal::precise::none", "gelu_tanh", 'has no member "none"'),
    "out0[i + k]": ("in0[i + k]", "gelu_tanh", "must be a modifiable lvalue"),
    "zmlx_int_floor_divide<short>": ("floor_divide<short>", "integers", "is undefined"),
    "bfloat16_t(y0)": ("float4(y0)", "silu_gate", "no suitable constructor"),
}  # fmt: skip


@pytest.mark.parametrize("right", SPOILT)
def test_a_spoilt_kernel_is_found(right: str) -> None:
    wrong, name, words = SPOILT[right]
    kernel = spoilt(source(name), right, wrong)
    with gpu(machine=False) as device, pytest.raises(DeviceError) as caught:
        device.compile(kernel)
    assert words in str(caught.value)


# -- generated graphs and their derivatives -------------------------------------------------------
def check_case(case: Case, exact: bool) -> None:
    with gpu() as device:
        device.compile(emit(case.graph, exact))
        for region in derivatives(case.graph):
            device.compile(emit(region, exact))


@given(cases(), st.booleans())
@settings(max_examples=8)
def test_generated_graphs_and_their_derivatives(case: Case, exact: bool) -> None:
    check_case(case, exact)


@pytest.mark.exhaustive
@given(cases(), st.booleans())
@settings(max_examples=150)
def test_many_generated_graphs(case: Case, exact: bool) -> None:
    check_case(case, exact)


def check_orders(seed: int, machine: bool = True) -> int:
    """How many kernels the first and second derivatives have together."""
    with gpu(machine=machine) as device:
        for kernels in kernels_of_orders(seed, FLOATS[seed % 3]):
            for kernel in kernels:
                device.compile(kernel)
        return device.count


@pytest.mark.parametrize("seed", range(3))
def test_first_and_second_derivatives(seed: int, tally: Tally) -> None:
    count = check_orders(seed)
    assert count > 2
    tally("kernels of derivatives as CUDA", count)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(3))
def test_many_derivatives(block: int) -> None:
    assert sum(check_orders(seed) for seed in range(10 + 10 * block, 20 + 10 * block)) > 20
