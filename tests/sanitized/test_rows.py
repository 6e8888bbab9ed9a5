"""Every row of the op table, every cast and every constant form under the sanitizer, in each type.

Rows of one type share kernels, as many as Metal has buffers for: a run of the compiler costs more
than what it compiles. A row that is added to the table is in here.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from derive_cases import mx_dtype, name_of, record, run_mlx
from msl_cases import FLOATS, TYPES, row_graph, row_types, rows

from tests.sanitized.watching import Watch, watched_run
from zmlx import dtypes
from zmlx.device.base import Device
from zmlx.msl.emit import emit
from zmlx.ops.spec import OpSpec
from zmlx.trace.graph import Graph

pytestmark = watched_run

Tally = Callable[[str, int], None]
SHARED = 20  # rows in a kernel: with three inputs, 27 of Metal's 31 buffers
LIMIT = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}
SIZE = 37  # elements: threads of four leave one over


def operands(dtype: str) -> list[mx.array]:
    """A condition and three operands that no row traps on: shift counts, no division by zero."""
    generator = np.random.default_rng(2)
    low = -3 if dtype in (*dtypes.SIGNED, *FLOATS) else 0
    if dtype in FLOATS:
        x, y, z = (generator.uniform(a, 3, SIZE) for a in (low, 0.5, low))
    else:
        x, y, z = (generator.integers(a, 6, SIZE) for a in (low, 1, low))
    arrays = [mx.array(v.astype(np.float32)).astype(mx_dtype(dtype)) for v in (x, y, z)]
    return [mx.array(generator.random(SIZE) < 0.5), *arrays]


def applied(F, spec: OpSpec, values):  # type: ignore[no-untyped-def]
    test, *arrays = values
    chosen = [test, *arrays[:2]] if spec.name == "where" else arrays[: spec.arity]
    return getattr(F, spec.name)(*chosen)


def check(graph: Graph, exact: bool, arrays: list[mx.array], device: Device, what: str) -> None:
    """The graph's kernel, watched, gives what MLX gives node by node."""
    (launch,) = device.build([emit(graph, exact)])
    for got, want in zip(launch(arrays), run_mlx(graph, arrays), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape, what
        a, b = (np.array(v.astype(mx.float32)) for v in (got, want))
        limit = LIMIT.get(name_of(got.dtype), 0.0)
        np.testing.assert_allclose(a, b, rtol=limit, atol=limit, err_msg=what)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_row(
    dtype: str, exact: bool, host_device: Device, watch: Watch, tally: Tally
) -> None:
    known = [spec for spec in rows() if row_graph(spec, row_types(spec, dtype)) is not None]
    inputs = [((4,), "bool"), *[((4,), dtype)] * 3]
    for first in range(0, len(known), SHARED):
        some = known[first : first + SHARED]
        graph = record(lambda F, *v, s=some: tuple(applied(F, spec, v) for spec in s), *inputs)
        check(graph, exact, operands(dtype), host_device, str([spec.name for spec in some]))
    watch.ran(-(-len(known) // SHARED))
    tally("rows under the sanitizer", len(known))


@pytest.mark.parametrize("exact", [False, True])
def test_every_cast(exact: bool, host_device: Device, watch: Watch) -> None:
    for have in TYPES:
        graph = record(lambda F, x: tuple(F.astype(x, want) for want in TYPES), ((4,), have))
        check(graph, exact, [mx.abs(operands(have)[1])], host_device, have)
    watch.ran(len(TYPES))


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_constant_form(dtype: str, host_device: Device, watch: Watch) -> None:
    forms = [(spec.name, number) for spec in rows() for number, _ in spec.msl_const]
    graph = record(
        lambda F, x: tuple(getattr(F, name)(x, number) for name, number in forms), ((4,), dtype)
    )
    assert "power" in {name for name, _ in forms}
    check(graph, False, operands(dtype)[1:2], host_device, str(forms))
    watch.ran()
