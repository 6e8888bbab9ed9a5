"""What MLX would make of the emitter's kernels on a Mac, as mx.export_function reports it."""

from __future__ import annotations

import re

import mlx.core as mx
import pytest
from derive_cases import mx_dtype, record
from msl_cases import metal_text, scalar, signature, traced

from zmlx.device.gpu import INT32_MAX, elements_of_a_thread
from zmlx.device.metal import ELEMENTS, THREADGROUP, MetalDevice
from zmlx.msl.emit import emit


def silu_gate(shape=(4, 5), dtype="bfloat16"):
    return record(
        lambda F, a, b, s: F.multiply(F.multiply(a, F.sigmoid(a)), F.multiply(b, s)),
        (shape, dtype), (shape[-1:], "float32"), ((), "float32", "scalar"),
    )  # fmt: skip


def whole_numbers(primitive) -> list[int]:
    return [a for a in primitive["arguments"] if type(a) is int][:6]


def test_signature_template_and_grid() -> None:
    source = emit(silu_gate())
    primitive = traced(source, mx.ones((40, 50), mx.bfloat16), mx.ones(50), scalar(2.0))
    assert signature(primitive) == [
        "const device bfloat16_t* in0 [[buffer(0)]]",
        "const constant int* in0_shape [[buffer(1)]]",
        "const constant int64_t* in0_strides [[buffer(2)]]",
        "const device float* in1 [[buffer(3)]]",
        "const constant int64_t* in1_strides [[buffer(4)]]",
        "const constant float* s0 [[buffer(5)]]",
        "device float* out0 [[buffer(6)]]",
        "uint3 thread_position_in_grid [[thread_position_in_grid]]",
    ]
    text = metal_text(primitive)
    assert "template <int ELEMS, typename INDEX>" in text
    assert f"<{ELEMENTS}, int32_t>" in text
    assert f"custom_kernel_{source.name}_" in text
    assert source.header in text and source.body in text
    assert primitive["outputs"][0][1:] == ((40, 50), mx.float32)
    threads = 40 * 50 // ELEMENTS
    assert whole_numbers(primitive) == [threads, 1, 1, THREADGROUP, 1, 1]


def test_small_inputs_come_as_constants() -> None:
    """Fewer than eight elements change the address space, which the text must not name."""
    source = emit(silu_gate((2, 3)))
    primitive = traced(source, mx.ones((2, 3), mx.bfloat16), mx.ones(3), scalar(2.0))
    assert "const constant bfloat16_t* in0 [[buffer(0)]]" in signature(primitive)
    assert whole_numbers(primitive) == [2, 1, 1, 2, 1, 1]
    body = re.sub(r"#ifdef ZMLX_WIDE.*?#(else|endif)", "", source.body, flags=re.DOTALL)
    for name in ("in0", "in1", "s0"):
        assert re.findall(rf"\b{name}\b(?!\[)", body) == []  # only ever indexed


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_element(shape) -> None:
    """MLX passes rank 0 as a reference; the launcher makes an array of one element of it."""
    graph = record(lambda F, x: F.exp(x), (shape, "float32"))
    primitive = traced(emit(graph), mx.ones(shape))
    assert signature(primitive)[:2] == [
        "const constant float* in0 [[buffer(0)]]",
        "device float* out0 [[buffer(1)]]",
    ]
    assert primitive["outputs"][0][1:] == (shape, mx.float32)


def test_size_zero_launches_nothing() -> None:
    launcher = MetalDevice().build([emit(silu_gate())])[0]
    (result,) = launcher([mx.ones((0, 5), mx.bfloat16), mx.ones(5), scalar(1.0)])
    assert result.shape == (0, 5) and result.dtype == mx.float32


def test_outputs_of_several_types() -> None:
    graph = record(lambda F, x: (F.less(x, 0), F.astype(x, "int8"), F.exp(x)), ((9,), "float16"))
    primitive = traced(emit(graph), mx.ones(9, mx.float16))
    assert [o[2] for o in primitive["outputs"]] == [mx.bool_, mx.int8, mx.float16]
    lines = [line.split(" [[")[0] for line in signature(primitive)]
    assert lines[3:6] == ["device bool* out0", "device int8_t* out1", "device float16_t* out2"]


@pytest.mark.parametrize(
    ("shape", "index"),
    [((2**15, 2**15), "int32_t"), ((2**16, 2**15), "int64_t"), ((7,), "int64_t")],
)
def test_index_type_counts_all_elements(shape, index) -> None:
    graph = record(lambda F, x: F.add(x, 1), (shape, "int8"))
    base = mx.zeros(1, mx.int8)
    primitive = traced(emit(graph), mx.broadcast_to(base, shape))
    assert f"<{ELEMENTS}, {index}>" in metal_text(primitive)


def test_a_grid_has_31_bits() -> None:
    assert elements_of_a_thread(ELEMENTS * INT32_MAX, ELEMENTS) == ELEMENTS
    assert elements_of_a_thread(ELEMENTS * INT32_MAX + 1, ELEMENTS) == 2 * ELEMENTS


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("bool", "bool"), ("int8", "int8_t"), ("uint64", "uint64_t"), ("float16", "float16_t"),
     ("bfloat16", "bfloat16_t"), ("float32", "float")],
)  # fmt: skip
def test_types_are_what_mlx_calls_them(dtype, name) -> None:
    graph = record(lambda F, x: F.where(F.not_equal(x, 0), x, x), ((9,), dtype))
    primitive = traced(emit(graph), mx.ones(9).astype(mx_dtype(dtype)))
    assert f"const device {name}* in0 [[buffer(0)]]" in signature(primitive)


def test_numbers_travel_as_arrays_of_one_element() -> None:
    graph = record(lambda F, x, s: F.multiply(x, s), ((9,), "int8"), ((), "int8", "scalar"))
    source = emit(graph)
    assert [(a.name, a.dtype, a.rank) for a in source.inputs] == [
        ("in0", "int8", 1), ("s0", "int8", 1)
    ]  # fmt: skip
    primitive = traced(source, mx.ones(9, mx.int8), scalar(2, "int8"))
    assert "const constant int8_t* s0" in "".join(signature(primitive))
