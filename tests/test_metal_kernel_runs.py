"""Hand-written kernels that run: on the CPU, through zmlx.metal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zmlx import metal, registry
from zmlx.device.base import Device
from zmlx.errors import DeviceError

DOUBLE = """
    uint i = thread_position_in_grid.x;
    uint n = 1;
    for (int k = 0; k < inp_ndim; ++k) { n *= uint(inp_shape[k]); }
    if (i < n) { out[i] = T(inp[i] + inp[i]); }
"""


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    registry.clear_cache()
    yield
    registry.clear_cache()


def made(name: str, source: str, **changes: Any) -> metal.MetalKernel:
    parts: dict[str, Any] = {"input_names": ["inp"], "output_names": ["out"]}
    return metal.kernel(name=name, source=source, **parts | changes)


def test_results_are_a_list_of_the_right_values(default_device: Device) -> None:
    k = made("double", DOUBLE)
    for shape in [(), (1,), (5,), (3, 4), (2, 3, 300)]:
        x = mx.random.normal(shape)
        result = k(x, template=[("T", mx.float32)])
        assert isinstance(result, list) and len(result) == 1
        assert result[0].dtype == x.dtype
        np.testing.assert_array_equal(np.array(result[0]), 2 * np.array(x))


def test_a_template_decides_the_type(default_device: Device) -> None:
    k = made("double", DOUBLE)
    for kind in (mx.float16, mx.int32, mx.uint8):
        (out,) = k(mx.array([1, 2, 100]).astype(kind), template=[("T", kind)])
        assert out.dtype == kind and out.tolist() == [2, 4, 200]


def test_an_input_without_contiguous_rows(default_device: Device) -> None:
    k = made("double", DOUBLE)
    x = mx.arange(24, dtype=mx.float32).reshape(4, 6)
    for view in (x.T, x[::2, 1:5], x[:, ::-1]):
        (out,) = k(view, template=[("T", mx.float32)])
        np.testing.assert_array_equal(np.array(out), 2 * np.array(view))


STRIDED = """
    uint i = thread_position_in_grid.x;
    uint j = thread_position_in_grid.y;
    if (i < uint(inp_shape[1]) && j < uint(inp_shape[0])) {
      out[j * uint(inp_shape[1]) + i] = inp[j * inp_strides[0] + i * inp_strides[1]];
    }
"""


def test_strides_are_seen_where_inputs_come_as_they_lie(default_device: Device) -> None:
    k = made("strided", STRIDED, ensure_row_contiguous=False)
    x = mx.arange(24, dtype=mx.float32).reshape(4, 6)
    mx.eval(x)
    for view in (x, x.T, x[::2, 1:5]):
        rows, columns = view.shape
        (out,) = k(view, grid=(columns, rows, 1), threadgroup=(2, 2, 1))
        np.testing.assert_array_equal(np.array(out), np.array(view))


def test_init_value_fills_what_no_thread_writes(default_device: Device) -> None:
    k = made("one", "if (thread_position_in_grid.x == 1) { out[1] = inp[1]; }")
    (out,) = k(mx.array([5.0, 6.0, 7.0]), init_value=-1.5)
    assert out.tolist() == [-1.5, 6.0, -1.5]


HISTOGRAM = """
    uint i = thread_position_in_grid.x;
    if (i < uint(inp_shape[0])) {
      atomic_fetch_add_explicit(&out[inp[i]], 1, memory_order_relaxed);
    }
"""


def test_atomics_add_up(default_device: Device) -> None:
    k = made("histogram", HISTOGRAM, header="using namespace metal;\n", atomic_outputs=True)
    drawn = np.random.default_rng(0).integers(0, 7, 5000).astype(np.int32)
    (out,) = k(
        mx.array(drawn), output_shapes=[(7,)], output_dtypes=[mx.int32], init_value=0,
        grid=(5000, 1, 1), threadgroup=(128, 1, 1),
    )  # fmt: skip
    assert out.tolist() == np.bincount(drawn, minlength=7).tolist()


def test_inside_mx_compile_and_on_a_stream(default_device: Device) -> None:
    k = made("double", DOUBLE)

    def f(x: mx.array) -> mx.array:
        return mx.exp(k(x - 1, template=[("T", mx.float32)])[0])

    x = mx.random.normal((33,))
    wanted = np.exp(2 * (np.array(x, np.float64) - 1))
    for function in (f, mx.compile(f)):
        np.testing.assert_allclose(np.array(function(x)), wanted, rtol=1e-5)
    with mx.stream(mx.new_stream(mx.cpu)):
        np.testing.assert_allclose(np.array(f(x)), wanted, rtol=1e-5)


def test_several_threads_call_one_kernel(default_device: Device) -> None:
    k = made("double", DOUBLE)
    wrong: list[object] = []

    def call(seed: int) -> None:
        try:
            with mx.stream(mx.new_stream(mx.cpu)):
                x = mx.full((1000 + seed,), float(seed))
                (out,) = k(x, template=[("T", mx.float32)])
                if not np.array_equal(np.array(out), np.full(1000 + seed, 2.0 * seed)):
                    wrong.append(seed)
        except Exception as problem:  # noqa: BLE001 - a thread's failure must reach the test
            wrong.append(problem)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_text_that_does_not_compile_is_a_device_error(host_device: Device) -> None:
    k = made("broken", "out[0] = nothing_of_that_name;")
    with pytest.raises(DeviceError, match="nothing_of_that_name"):
        mx.eval(k(mx.zeros(1)))
