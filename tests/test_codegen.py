"""zmlx.codegen: the texts, run through zmlx.metal against float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zmlx import codegen, metal, metal_check
from zmlx.device.base import Device
from zmlx.device.metal import MetalDevice
from zmlx.msl.spec import Launch

HEADER = "#include <metal_stdlib>\nusing namespace metal;\n"
KINDS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
ROUNDING = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
SOFTMAX: dict[str, Any] = {
    "pass1_init": "-INFINITY",
    "pass1_update": "metal::max(acc1, x)",
    "pass1_reduce_op": "metal::max(a, b)",
    "pass2_init": "0.0f",
    "pass2_update": "acc2 + metal::exp(x - s1)",
    "pass2_reduce_op": "a + b",
    "write_expr": "metal::exp(x - s1) / s2",
}
SUM_OF_SQUARES: dict[str, Any] = {
    "init_expr": "0.0f",
    "update_expr": "acc + x * x",
    "reduce_op": "a + b",
    "finalize_expr": "metal::sqrt(s)",
}


def built(source: str, inputs: tuple[str, ...] = ("inp",)) -> metal.MetalKernel:
    return metal.kernel(
        name="generated", input_names=inputs, output_names=["out"], source=source, header=HEADER
    )


def rows(count: int, d: int, kind: mx.Dtype) -> tuple[mx.array, np.ndarray]:
    x = mx.array(np.random.default_rng(d).normal(size=(count, d))).astype(kind)
    return x, np.array(x.astype(mx.float32), np.float64)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def wide(values: mx.array) -> np.ndarray:
    return np.array(values.astype(mx.float32), np.float64)


@pytest.mark.parametrize("name", KINDS)
def test_unary(default_device: Device, name: str) -> None:
    kind = KINDS[name]
    source = codegen.elementwise_unary_source(expr="metal::exp(-float(x)) + 1.0f")
    for shape in [(), (1,), (7, 9), (3, 1, 500)]:
        x = mx.random.normal(shape).astype(kind)
        # A grid of whole threadgroups, beyond the array: the text guards its index.
        grid = (-(-x.size // 64) * 64, 1, 1)
        (out,) = built(source)(x, template=[("T", kind)], grid=grid, threadgroup=(64, 1, 1))
        assert out.dtype == kind and out.shape == shape
        np.testing.assert_allclose(wide(out), np.exp(-wide(x)) + 1, rtol=ROUNDING[name])


def test_binary_and_other_names(default_device: Device) -> None:
    source = codegen.elementwise_binary_source(
        expr="a * b + x", lhs="first", rhs="second", out="out"
    )
    a, b = mx.random.normal((33, 5)), mx.random.normal((33, 5))
    (out,) = built(source, ("first", "second"))(a, b, template=[("T", mx.float32)])
    np.testing.assert_allclose(wide(out), wide(a) * wide(b) + wide(a), rtol=1e-5, atol=1e-6)


def test_integers_stay_integers(default_device: Device) -> None:
    source = codegen.elementwise_unary_source(expr="x / 3")
    x = mx.array([2**30 + 7, -8, 2], mx.int32)
    (out,) = built(source)(x, template=[("T", mx.int32)])
    assert out.tolist() == [(2**30 + 7) // 3, -2, 0]


@pytest.mark.parametrize("d", [1, 5, 100])
def test_a_thread_for_each_row(default_device: Device, d: int) -> None:
    source = codegen.rowwise_reduction_source(
        reduce_expr="acc + v * v", init_expr="0.0f", finalize_expr="metal::sqrt(acc)", d=d
    )
    x, exact = rows(11, d, mx.float32)
    (out,) = built(source)(
        x, template=[("T", mx.float32)], grid=(16, 1, 1), threadgroup=(16, 1, 1),
        output_shapes=[(11,)],
    )  # fmt: skip
    np.testing.assert_allclose(wide(out), np.sqrt((exact**2).sum(-1)), rtol=2e-6)


@pytest.mark.parametrize(("d", "tg"), [(1, 1), (1, 64), (5, 4), (32, 32), (33, 32), (1000, 256)])
def test_a_threadgroup_for_each_row(default_device: Device, d: int, tg: int) -> None:
    source = codegen.rowwise_parallel_reduction_source(d=d, tg=tg, **SUM_OF_SQUARES)
    for name in ("float32", "bfloat16") if tg == 32 else ("float32",):
        x, exact = rows(6, d, KINDS[name])
        (out,) = built(source)(
            x, template=[("T", KINDS[name])], grid=(6 * tg, 1, 1), threadgroup=(tg, 1, 1),
            output_shapes=[(6,)],
        )  # fmt: skip
        np.testing.assert_allclose(wide(out), np.sqrt((exact**2).sum(-1)), rtol=ROUNDING[name])


@pytest.mark.parametrize(("d", "tg"), [(1, 2), (7, 1), (33, 32), (1000, 128)])
def test_map_reduce_is_a_softmax(default_device: Device, d: int, tg: int) -> None:
    source = codegen.rowwise_mapreduce_source(d=d, tg=tg, **SOFTMAX)
    for name in KINDS if tg == 32 else ("float32",):
        x, exact = rows(5, d, KINDS[name])
        (out,) = built(source)(
            x, template=[("T", KINDS[name])], grid=(5 * tg, 1, 1), threadgroup=(tg, 1, 1)
        )
        np.testing.assert_allclose(wide(out), softmax(exact), rtol=2 * ROUNDING[name], atol=1e-6)


def test_the_reduce_op_joins_threads(default_device: Device) -> None:
    """A minimum of maxima is neither; one per thread shows what `a` and `b` are."""
    source = codegen.rowwise_parallel_reduction_source(
        d=8, tg=4, init_expr="-INFINITY", update_expr="metal::max(acc, x)",
        reduce_op="metal::min(a, b)", finalize_expr="s",
    )  # fmt: skip
    x = mx.array([[1.0, 9.0, 3.0, 4.0, 5.0, 2.0, 7.0, 8.0]])  # thread i holds x[i], x[i + 4]
    (out,) = built(source)(
        x, template=[("T", mx.float32)], grid=(4, 1, 1), threadgroup=(4, 1, 1),
        output_shapes=[(1,)],
    )  # fmt: skip
    assert out.item() == 5.0


@pytest.mark.parametrize("name", KINDS)
def test_metal_takes_the_texts(name: str) -> None:
    if problem := metal_check.unavailable():
        pytest.skip(f"the Metal check {problem}")
    sources = [
        codegen.elementwise_unary_source(expr="x * x"),
        codegen.rowwise_reduction_source(
            reduce_expr="acc + v", init_expr="0.0f", finalize_expr="acc", d=16
        ),
        codegen.rowwise_parallel_reduction_source(d=16, tg=16, **SUM_OF_SQUARES),
        codegen.rowwise_mapreduce_source(d=16, tg=16, **SOFTMAX),
    ]
    launch = Launch((16, 1, 1), (16, 1, 1), ((1, 16),), (name,), (("T", name),))
    for source in sources:
        run = MetalDevice().grid_launcher(built(source).spec)
        arrays = [mx.zeros((1, 16), KINDS[name])]
        assert metal_check.check_function(lambda a, run=run: run(a, launch), arrays) == []


def test_sizes_refused() -> None:
    for d in (0, -1, 1.0):
        with pytest.raises(ValueError, match="d is"):
            codegen.rowwise_mapreduce_source(d=d, tg=32, **SOFTMAX)  # type: ignore[arg-type]
    for tg in (0, 3, 48, 2048):
        with pytest.raises(ValueError, match="power of two"):
            codegen.rowwise_parallel_reduction_source(d=8, tg=tg, **SUM_OF_SQUARES)


def test_elementwise_spec() -> None:
    spec = codegen.ElementwiseSpec("sq", "x * x", 1, ("inp",))
    assert spec.output_names == ("out",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.arity = 2  # type: ignore[misc]
