"""The wide form of the generator's loop (16 bytes at a time, for CUDA), run watched on the CPU.

The text that a GPU alone would compile stands behind `#ifdef ZMLX_WIDE`. Here it gets the functions
it calls from the CUDA header itself, in every layout, with few and with many elements a thread.
"""

from __future__ import annotations

from math import prod
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from derive_cases import mx_dtype, record
from layouts import expected, random_view, values
from test_layouts_of_kernels import CASES, weighted

from tests.sanitized.watching import Watch
from zmlx.device import toolchain
from zmlx.device.base import Device
from zmlx.device.host_grid import HostGridLauncher
from zmlx.errors import SanitizeError
from zmlx.msl.emit import emit
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.trace.graph import Graph

GROUP = 32
LARGE = 5000  # elements; larger cases take seconds each


def wide_functions() -> str:
    """The header is plain C++ but for CUDA's markers."""
    found = (toolchain.HEADERS / "msl_wide_cuda.h").read_text("utf-8")
    assert "asm(" not in found and "::__" not in found
    return "#define ZMLX_UNROLL\n" + found.replace("__device__ ", "")


def wide(
    graph: Graph,
    elements: int,
    device: Any,
    *arrays: mx.array,
    spoil: tuple[str, str] = ("", ""),
    short: bool = False,
) -> mx.array | None:
    """What the kernel of `graph` computes as CUDA launches it; None where it has no such form.

    CUDA launches whole groups: some threads lie beyond the array. `spoil` replaces in the body.
    `short`: the form for short rows.
    """
    kernel = emit(graph)
    if "#ifdef ZMLX_WIDE" not in kernel.body or (short and "SHORT" not in kernel.body):
        return None
    spec = MetalKernelSpec(
        kernel.name, tuple(a.name for a in kernel.inputs), tuple(a.name for a in kernel.outputs),
        kernel.body.replace(*spoil) if spoil[0] else kernel.body,
        f"#define ZM_WIDEST {arrays[0].dtype.size}\n" + wide_functions() + kernel.header,
        ensure_row_contiguous=False,
    )  # fmt: skip
    shape = tuple(mx.broadcast_shapes(*[a.shape for a in arrays]))
    groups = -(-prod(shape) // (elements * GROUP))
    launch = Launch(
        (groups * GROUP, 1, 1), (GROUP, 1, 1), (shape,), (kernel.outputs[0].dtype,),
        (("ELEMS", elements), ("INDEX", "int32"), ("SHORT", short)),
    )  # fmt: skip
    (result,) = HostGridLauncher(device, spec, sanitize=True)(arrays, launch)
    mx.eval(result)
    return result


def layouts() -> dict[str, tuple[mx.array, ...]]:
    """Those of the loop's own tests that are not large, and what the wide form has branches for."""
    made = {name: make() for name, make in CASES.items()}
    found = {n: arrays for n, arrays in made.items() if all(0 < a.size <= LARGE for a in arrays)}
    found["across"] = (values(64, 32).T, values(32, 64))
    found["one element all over"] = (mx.broadcast_to(values(1), (32, 64)), values(32, 64))
    generator = np.random.default_rng(5)
    for i in range(12):
        shape = generator.integers(2, 12, generator.integers(1, 4)).tolist()
        found[f"random {i}"] = random_view(generator, shape), random_view(generator, shape)
    return found


def test_every_layout(host_device: Device, watch: Watch) -> None:
    count = 0
    for i, (name, arrays) in enumerate(layouts().items()):
        got = wide(weighted(*arrays), (4, 8)[i % 2], host_device, *arrays)
        if got is not None:
            count += 1
            np.testing.assert_array_equal(np.array(got), expected(*arrays), err_msg=name)
    assert count > 25
    watch.ran(count)


def test_short_rows_in_every_layout(host_device: Device, watch: Watch) -> None:
    """The lanes of a warp go on together; what no pattern broadcasts has no such form."""
    count = 0
    for i, (name, arrays) in enumerate(layouts().items()):
        got = wide(weighted(*arrays), (4, 8)[i % 2], host_device, *arrays, short=True)
        if got is not None:
            count += 1
            np.testing.assert_array_equal(np.array(got), expected(*arrays), err_msg=name)
    for shape in ((7, 33), (3, 5, 33), (2, 1, 3, 11), (40, 1, 3), (1, 31)):
        arrays = values(*shape), values(shape[-1])
        if max(shape[:-1]) > 1:
            got = wide(weighted(*arrays), 8, host_device, *arrays, short=True)
            count += 1
            np.testing.assert_array_equal(np.array(got), expected(*arrays), err_msg=str(shape))
    assert count > 10
    watch.ran(count)


@pytest.mark.parametrize(("dtype", "elements"), [("bfloat16", 16), ("uint8", 16), ("float16", 8)])
def test_narrow_types(dtype: str, elements: int, host_device: Device, watch: Watch) -> None:
    whole = values(64, 64).astype(mx.int32) % 50
    x = whole.astype(mx_dtype(dtype))
    for a, b in ((x, x), (x.T, x), (x[:, 1:], x[:, 1:]), (x, x[0]), (x[:, :1], x), (x[::2], x[1])):
        graph = record(lambda F, a, b: F.add(a, b), (a.shape, dtype), (b.shape, dtype))
        got = wide(graph, elements, host_device, a, b)
        assert got is not None and mx.array_equal(got, a + b).item()
    watch.ran(6)


@pytest.mark.smoke
def test_a_wrong_wide_form_is_found(host_device: Device, watch: Watch) -> None:
    """A size that is one too large: the last thread leaves the arrays."""
    for arrays in ((values(64), values(64)), (values(32, 11).T, values(11, 32))):
        with pytest.raises(SanitizeError, match="(read|write) outside a buffer"):
            wide(weighted(*arrays), 4, host_device, *arrays, spoil=("total = ", "total = 1 + "))
    watch.ran(2)
