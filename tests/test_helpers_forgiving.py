"""What helpers take beside the usual: semicolons, headers of None, numbers of NumPy, names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zmlx import autograd, autotune, codegen, elementwise, metal, registry, rowwise
from zmlx.device.base import Device

SUM: dict[str, Any] = {
    "name": "summed", "d": 33, "pass1_init": 0.0, "pass1_update": "acc1 + x * x",
    "pass1_reduce_op": "a + b",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _empty(host_device: Device) -> Iterator[None]:
    registry.clear_cache()
    yield
    registry.clear_cache()


def drawn(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(3).normal(size=shape).astype(np.float32))


def close(found: mx.array, wanted: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.array(found), np.array(wanted), tolerance, tolerance)


def test_semicolons_at_the_end_and_headers_of_none() -> None:
    x = drawn(4, 33)
    close(elementwise.unary(name="a", expr="x * 2;", header=None)(x), 2 * x)
    close(elementwise.binary(name="b", expr="a - b ; ;\n", header=None)(x, x), 0 * x)
    op = autograd.unary_from_expr(name="c", fwd_expr="x * x;", vjp_expr="g * x; ", header=None)
    close(mx.grad(lambda x: op(x).sum())(x), x)
    folds = {**SUM, "pass1_update": "acc1 + x * x;", "pass1_reduce_op": "a + b;"}
    (y,) = rowwise.map_reduce(**folds, write_expr="x / s1;", header=None)(x)
    close(y, x / (x * x).sum(-1, keepdims=True))
    for texts in (";", " ; "):
        with pytest.raises(ValueError, match="expr is empty"):
            elementwise.unary(name="a", expr=texts)


OWN = """
template <typename T> inline T kk_sigmoid(T x) { return x * (T)2; }
inline float mine(float v) { return kk_sigmoid(v) + 1.0f; }
"""


@pytest.mark.parametrize("raw", ["", " + 0 * inp[elem]"], ids=["read", "written"])
def test_the_functions_of_the_default_header_stay_known_beside_ones_own(raw: str) -> None:
    x = drawn(9)
    op = elementwise.unary(name="silu", expr=f"kk_silu(x) + mine(x){raw}", header=OWN)
    close(op(x), x * mx.sigmoid(x) + 2 * x + 1)
    folds = {**SUM, "pass1_update": f"acc1 + kk_silu(x) {'+ 0 * as_type<int>(x)' * bool(raw)}"}
    (y,) = rowwise.map_reduce(**{**folds, "d": 9}, write_expr="s1", header=OWN)(x[None])
    close(y, mx.full((1, 9), (x * mx.sigmoid(x)).sum()))


@pytest.mark.parametrize("raw", ["", " + 0 * inp[elem]"], ids=["read", "written"])
def test_a_prelude_may_name_its_own_x(raw: str) -> None:
    op = autograd.unary_from_expr(
        name="exp", fwd_expr="metal::exp(x)", vjp_expr=f"g * metal::exp(x){raw}",
        vjp_prelude="T x = metal::log(y);", use_output=True,
    )  # fmt: skip
    x = drawn(7)
    close(mx.grad(lambda x: op(x).sum())(x), mx.exp(x))


def test_numbers_of_numpy() -> None:
    x = drawn(4, 33)
    op = rowwise.map_reduce(
        **{**SUM, "d": np.int64(33), "pass1_init": np.float32(0)}, write_expr="s1",
        threadgroup=np.int32(64), row_outputs=["out"],
    )  # fmt: skip
    close(op(x)[0], (x * x).sum(-1))
    assert op.row.d == 33 and type(op.row.d) is int
    with pytest.raises(ValueError, match=r"d is .*33\.0"):
        rowwise.map_reduce(**{**SUM, "d": np.float64(33)}, write_expr="s1")
    texts = [
        codegen.rowwise_parallel_reduction_source(
            d=d, tg=tg, init_expr="0.0f", update_expr="acc + x", reduce_op="a + b",
            finalize_expr="s",
        )
        for d, tg in ((8, 4), (np.int64(8), np.uint8(4)))
    ]  # fmt: skip
    assert texts[0] == texts[1]
    double = metal.kernel(
        name="double", input_names=["inp"], output_names=["out"],
        source="uint i = thread_position_in_grid.x; out[i] = 2 * inp[i];",
    )  # fmt: skip
    found = autotune.autotune_threadgroup(
        double, inputs=[x], template=None, output_shapes=None, output_dtypes=None, grid=None,
        candidates=[np.int64(8), tuple(np.array([4, 2, 1]))], warmup=0, iters=1,
    )  # fmt: skip
    assert set(found.timings_ms) == {(8, 1, 1), (4, 2, 1)}


@pytest.mark.parametrize("length", ["d", "D"])
def test_the_length_of_a_row_has_two_names(length: str) -> None:
    x = drawn(4, 8)
    folds = {**SUM, "d": 8, "pass1_update": f"acc1 + x * {length}"}
    (y,) = rowwise.map_reduce(**folds, write_expr=f"s1 / {length}", row_outputs=["out"])(x)
    close(y, x.sum(-1))
    folds["pass1_update"] = f"metal::abs(x) * {length} > metal::abs(acc1) ? x * {length} : acc1"
    folds["pass1_reduce_op"] = "metal::abs(a) > metal::abs(b) ? a : b"  # runs as its text
    (y,) = rowwise.map_reduce(**folds, write_expr="s1", row_outputs=["out"])(x)
    close(y, [8 * row[np.argmax(np.abs(row))] for row in np.array(x)])
    how: dict[str, Any] = {"output_shapes": [(4,)], "template": [("T", mx.float32)]}
    source = codegen.rowwise_reduction_source(
        reduce_expr="acc + v;", init_expr="0.0f", finalize_expr=f"acc / (float){length}", d=8
    )
    close(kernel(source)(x, grid=(4, 1, 1), **how)[0], x.mean(-1))
    source = codegen.rowwise_mapreduce_source(
        d=8, tg=4, pass1_init="0.0f", pass1_update=f"acc1 + x / {length}",
        pass1_reduce_op="a + b", pass2_init="0.0f", pass2_update="acc2", pass2_reduce_op="a + b",
        write_expr=f"x - s1 * {length} / {length};",
    )  # fmt: skip
    how["output_shapes"] = [x.shape]
    found = kernel(source)(x, grid=(16, 1, 1), threadgroup=(4, 1, 1), **how)[0]
    close(found, x - x.mean(-1, keepdims=True))


def kernel(source: str) -> metal.MetalKernel:
    return metal.kernel(name="text", input_names=["inp"], output_names=["out"], source=source)


def test_an_input_may_be_called_d() -> None:
    op = rowwise.map_reduce(
        **{**SUM, "pass1_update": "acc1 + x * D"}, write_expr="s1", input_names=["x", "D"],
        row_outputs=["out"],
    )  # fmt: skip
    close(op(drawn(2, 33), 2.0)[0], 2 * drawn(2, 33).sum(-1))


def test_the_registry_sees_every_op_by_the_name_that_its_user_gave() -> None:
    elementwise.unary(name="plain", expr="metal::exp(x)", compute_dtype=mx.float32)
    assert registry.list_kernels() == ["plain"] and registry.cache_size() == 1
    raw = elementwise.unary(name="raw", expr="inp[elem] * x")
    autograd.unary_from_expr(name="given", fwd_expr="x", vjp_expr="g")
    autograd.unary_from_expr(name="derived", fwd_expr="x")
    rowwise.map_reduce(**SUM, write_expr="s1")
    elementwise.unary(name="unkept", expr="x", cache=False)
    wanted = ["plain", "raw", "given_fwd", "given_bwd", "derived_fwd", "summed"]
    assert registry.list_kernels() == wanted
    mx.eval(raw(drawn(3)), raw(drawn(3).astype(mx.float16)))
    elementwise.unary(name="plain", expr="metal::exp(x)", compute_dtype=mx.float32)
    assert registry.list_kernels() == wanted and registry.cache_size() == 6
    registry.clear_cache()
    assert registry.list_kernels() == [] and registry.cache_size() == 0
    elementwise.unary(name="plain", expr="metal::exp(x)", compute_dtype=mx.float32)
    assert registry.list_kernels() == ["plain"]
