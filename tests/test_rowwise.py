"""zmlx.rowwise: softmax and norms written with map_reduce, against float64; what it refuses."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from tests.rowwise_cases import (
    FARTHEST,
    KINDS,
    LAYERNORM,
    RMSNORM,
    RTOL,
    SIZES,
    SOFTMAX,
    drawn,
    layernorm,
    op,
    rmsnorm,
    softmax,
    wide,
)
from zmlx import metal, rowwise
from zmlx.device.base import Device
from zmlx.errors import CheckError, DeviceError
from zmlx.fuse import walked
from zmlx.helpers import rowfold
from zmlx.msl.spec import Launch


@pytest.mark.parametrize("name", KINDS)
def test_softmax_over_sizes(default_device: Device, name: str) -> None:
    for d in SIZES:
        for rows in (0, 1, 3, 100):
            x = drawn((rows, d), KINDS[name], d) * 3
            out = op(SOFTMAX, d)(x)
            assert len(out) == 1 and out[0].shape == x.shape and out[0].dtype == x.dtype
            if rows:
                np.testing.assert_allclose(wide(out[0]), softmax(wide(x)), RTOL[name], 1e-7)


@pytest.mark.parametrize("name", KINDS)
def test_norms_over_sizes(default_device: Device, name: str) -> None:
    kind = KINDS[name]
    for d in SIZES:
        x = drawn((2, 3, d), kind, d)
        w, beta = drawn((d,), kind, 1), drawn((d,), kind, 2)
        (out,) = op(RMSNORM, d)(x, w)
        np.testing.assert_allclose(wide(out), rmsnorm(wide(x), wide(w)), RTOL[name], 1e-6)
        (out,) = op(LAYERNORM, d)(x, w, beta, mx.array(1e-3))
        exact = layernorm(wide(x), wide(w), wide(beta), 1e-3)
        np.testing.assert_allclose(wide(out), exact, RTOL[name], 3 * RTOL[name])


def test_rows_far_from_zero_keep_their_variance(default_device: Device) -> None:
    """Mean 1000, deviation 0.01: the peer's mean of squares would lose all of it."""
    x = 1000 + 0.01 * drawn((3, 256))
    one, zero = mx.ones((256,)), mx.zeros((256,))
    (out,) = op(LAYERNORM, 256)(x, one, zero, mx.array([1e-12]))
    exact = layernorm(wide(x), np.ones(256), np.zeros(256), 1e-12)
    # The float32 mean is off by some 2e-7 of 1000, which is 0.02 deviations.
    assert np.abs(wide(out) - exact).max() < 0.05


@pytest.mark.parametrize("threads", [1, 2, 16, 64, 512, 1024])
def test_results_do_not_depend_on_the_threadgroup(
    default_device: Device, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU would leave a row to one thread; here it plays a GPU."""
    monkeypatch.setattr(type(default_device), "takes_turns", False)
    for d in (7, 33, 1000):
        x = drawn((5, d), seed=d)
        (out,) = op(SOFTMAX, d, threadgroup=threads)(x)
        np.testing.assert_allclose(wide(out), softmax(wide(x)), 4e-6, 1e-8)


def test_leading_axes_and_layouts(default_device: Device) -> None:
    base = drawn((6, 8, 40))
    views = [
        base, base[0], base[0, 0], base[::2, 1:7], base.transpose(1, 0, 2), base[:, ::-1],
        base.swapaxes(1, 2)[..., :8], mx.broadcast_to(base[0, :1], (4, 8, 40)),
    ]  # fmt: skip
    for view in views:
        (out,) = op(SOFTMAX, view.shape[-1])(view)
        assert out.shape == view.shape
        np.testing.assert_allclose(wide(out), softmax(wide(view)), 4e-6, 1e-8)


def test_other_inputs_broadcast(default_device: Device) -> None:
    plus = dict(SOFTMAX, write_expr="x + other", input_names=("inp", "other"))
    x = drawn((3, 4, 9))
    for shape in [(), (1,), (9,), (1, 9), (3, 4, 1), (4, 1), (3, 1, 9), (3, 1, 1), (3, 4, 9)]:
        other = drawn(shape, seed=3)
        (out,) = op(plus, 9)(x, other)
        np.testing.assert_allclose(wide(out), wide(x) + wide(other), 1e-6, 1e-6)
    for kind in (mx.int32, mx.bool_, mx.bfloat16):
        other = (drawn((9,)) > 0).astype(kind)
        np.testing.assert_allclose(wide(op(plus, 9)(x, other)[0]), wide(x) + wide(other), 1e-6)
    one = drawn((3, 4, 1))  # rows of one element: every form is the same
    for shape in [(1,), (3, 4, 1), (4, 1), (3, 1, 1)]:
        other = drawn(shape, seed=5)
        (out,) = op(plus, 1)(one, other)
        np.testing.assert_allclose(wide(out), wide(one) + wide(other), 1e-6, 1e-6)


def test_several_outputs_and_names(default_device: Device) -> None:
    both = op(
        SOFTMAX, 20, write_expr=("x - s1", "y * d + s2 * 0.0f"), input_names=("x", "y"),
        output_names=("shifted", "scaled"),
    )  # fmt: skip
    x, y = drawn((5, 20)), drawn((5, 20), seed=1)
    shifted, scaled = both(x, y)
    np.testing.assert_allclose(wide(shifted), wide(x - x.max(-1, keepdims=True)), 1e-6, 1e-6)
    np.testing.assert_allclose(wide(scaled), 20 * wide(y), 1e-6)


def test_an_operator_of_its_own(default_device: Device) -> None:
    """Neither a sum nor an extremum: the product, and the number of largest magnitude."""
    strange = op(
        {
            "pass1_init": "1.0f", "pass1_update": "acc1 * x", "pass1_reduce_op": "a * b",
            "pass2_init": "0.0f",
            "pass2_update": "metal::abs(x) > metal::abs(acc2) ? x : acc2",
            "pass2_reduce_op": "metal::abs(a) > metal::abs(b) ? a : b",
            "write_expr": ("s1", "s2"), "output_names": ("product", "far"),
        },
        100, threadgroup=64,
    )  # fmt: skip
    x = drawn((4, 100)) * 0.1 + 1
    product, far = strange(x)
    exact = wide(x)
    np.testing.assert_allclose(wide(product)[:, 0], exact.prod(-1), 2e-5)
    picked = exact[np.arange(4), np.abs(exact).argmax(-1)]
    np.testing.assert_array_equal(wide(far), np.broadcast_to(picked[:, None], (4, 100)))


def test_infinite_and_missing_numbers(default_device: Device) -> None:
    rows = [[0.0, -np.inf, 1.0], [np.nan, 1.0, 2.0], [-np.inf] * 3, [1.0, np.inf, 0.0]]
    x = mx.array(rows * 20)
    (out,) = op(SOFTMAX, 3)(x)
    found = wide(out)[:4]
    np.testing.assert_allclose(found[0], softmax(np.array(rows[0])), 1e-6)
    assert np.isnan(found[1]).all() and np.isnan(found[2]).all()
    np.testing.assert_allclose(found, wide(mx.softmax(x, axis=-1))[:4], 2e-7)


def test_constants_may_change_without_new_traces(default_device: Device) -> None:
    x, one, zero = drawn((2, 5)), mx.ones((5,)), mx.zeros((5,))
    f = op(LAYERNORM, 5)
    for eps in (1e-5, 1e-3, 1.0):
        (out,) = f(x, one, zero, mx.array(eps))
        np.testing.assert_allclose(
            wide(out), layernorm(wide(x), np.ones(5), np.zeros(5), eps), 1e-5, 1e-6
        )
    assert f.explain(x, one, zero, mx.array(1.0)).kernels_after == 1
    assert len({kernel_texts(op(LAYERNORM, d), d) for d in (5, 6)}) == 1


def kernel_texts(f: Any, d: int) -> str:
    """What one row's kernels say: the lengths of rows do not stand there."""
    x, row = drawn((2, d)), mx.ones((d,))
    return "\n".join(region.msl for region in f.explain(x, row, row, mx.array(1.0)).regions)


@pytest.mark.parametrize("threads", [1, 8, 32, 64, 256])
def test_an_operator_that_runs_as_its_text(
    default_device: Device, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reduction of the op table: it has a kernel, with as many threads a row as were asked."""
    seen: list[Launch] = []
    run = metal.MetalKernel.run

    def watched(self: metal.MetalKernel, arrays: Any, launch: Launch) -> list[mx.array]:
        seen.append(launch)
        return run(self, arrays, launch)

    monkeypatch.setattr(metal.MetalKernel, "run", watched)
    f, x, w = op(FARTHEST, 100, threadgroup=threads), drawn((3, 4, 100)), drawn((4, 1), seed=1)
    far, over = f(x, w)
    exact = wide(x)
    picked = np.take_along_axis(exact, np.abs(exact).argmax(-1)[..., None], -1)
    np.testing.assert_array_equal(wide(far), np.broadcast_to(picked, exact.shape))
    number = (exact > picked * wide(w)).sum(-1, keepdims=True)
    np.testing.assert_array_equal(wide(over), np.broadcast_to(number, exact.shape))
    wanted = min(threads, 128)  # a hundred columns
    assert {(s.grid, s.threadgroup) for s in seen} == {((wanted, 12, 1), (wanted, 1, 1))}


def test_more_rows_of_such_than_a_grid_has_along_y(
    default_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowfold, "_MOST_Y", 8)
    x = drawn((21, 5)).astype(mx.bfloat16)
    far, _ = op(FARTHEST, 5)(x, mx.zeros((1,)))
    exact = wide(x)
    picked = exact[np.arange(21), np.abs(exact).argmax(-1)]
    np.testing.assert_array_equal(wide(far)[:, 0], picked)
    mapped = mx.vmap(lambda a: op(FARTHEST, 5)(a, mx.zeros((1,)))[0], in_axes=1)(x[None])
    assert mapped.shape == (21, 1, 5)
    np.testing.assert_array_equal(wide(mapped)[:, 0, 0], picked)


def test_an_operator_that_does_not_compile_says_its_line() -> None:
    wrong = dict(FARTHEST, pass1_update="x > w ? ODD : acc1", header="#define ODD strange\n")
    with pytest.raises(DeviceError, match="does not compile") as caught:
        mx.eval(op(wrong, 4)(mx.zeros((2, 4)), mx.zeros((1,))))
    assert "strange" in str(caught.value)


def test_what_cannot_be_read_runs_between_kernels(default_device: Device) -> None:
    """One expression as its text, the others on the one road."""
    bits = "as_type<float>(as_type<uint>(x) & 0xFFFF0000u)"
    x = drawn((4, 33))
    cut = np.array(x).view(np.uint32) & np.uint32(0xFFFF0000)
    low = cut.view(np.float32).astype(np.float64)
    (out,) = op(SOFTMAX, 33, write_expr=f"({bits} - s1) / s2")(x)
    top = wide(x).max(-1, keepdims=True)
    total = np.exp(wide(x) - top).sum(-1, keepdims=True)
    np.testing.assert_allclose(wide(out), (low - top) / total, 1e-5, 1e-6)
    (out,) = op(SOFTMAX, 33, pass1_update=f"max(acc1, {bits})", write_expr="s1")(x)
    np.testing.assert_array_equal(wide(out)[:, 0], low.max(-1))


def test_extrema_begin_at_their_init_and_leave_missing_numbers_out(default_device: Device) -> None:
    """As C's max and min do."""
    rows = [[np.nan, -3.0, -2.0], [np.nan] * 3, [5.0, 1.0, np.nan], [-np.inf] * 3]
    x = mx.array(rows)
    f = op(
        SOFTMAX, 3, pass1_init="-2.5f", pass2_init="INFINITY", pass2_update="min(acc2, x)",
        pass2_reduce_op="min(a, b)", write_expr=("s1", "s2"), output_names=("top", "low"),
    )  # fmt: skip
    top, low = f(x)
    np.testing.assert_array_equal(wide(top)[:, 0], [-2.0, -2.5, 5.0, -2.5])
    np.testing.assert_array_equal(wide(low)[:, 0], [-3.0, np.inf, 1.0, -np.inf])


@pytest.mark.parametrize("what", [SOFTMAX, LAYERNORM], ids=["softmax", "layer"])
def test_an_op_is_one_kernel_and_joins_others(what: dict[str, Any]) -> None:
    f, x = op(what, 64), drawn((8, 64))
    arrays = [x, x[0], x[1], mx.array(1e-3)] if what is LAYERNORM else [x]
    assert f.explain(*arrays).kernels_after == 1
    around = zmlx.explain(lambda *a: mx.tanh(f(mx.exp(a[0]), *a[1:])[0]) * 2, *arrays)
    assert around.kernels_after == 1


def test_shapeless_compile_and_new_sizes(default_device: Device) -> None:
    f = op(SOFTMAX, 20)
    compiled = mx.compile(lambda a: f(a * 2)[0], shapeless=True)
    fused = zmlx.fuse(lambda a: f(a * 2)[0])
    for rows in (3, 8):
        x = drawn((rows, 20), seed=rows)
        for g in (compiled, fused):
            np.testing.assert_allclose(wide(g(x)), softmax(2 * wide(x)), 4e-6, 1e-8)
    with pytest.raises(ValueError, match="its last axis must be d = 20"):
        fused(drawn((3, 21)))


@pytest.mark.usefixtures("host_device")
def test_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZMLX_CHECK compares the kernel with MLX's ops: a wrong one is an error."""
    x = drawn((4, 40))
    real = walked.Made.finished
    with zmlx.config(check=True):
        np.testing.assert_allclose(wide(op(SOFTMAX, 40)(x)[0]), softmax(wide(x)), 4e-6, 1e-8)
        monkeypatch.setattr(
            walked.Made, "finished", lambda self, raw: [a + 1.0 for a in real(self, raw)]
        )
        with pytest.raises(CheckError, match="row_op.*part"):
            op(SOFTMAX, 40)(x)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d": 0}, "d is 0"),
        ({"d": 2.5}, "d is 2.5"),
        ({"threadgroup": 0}, "power of two"),
        ({"threadgroup": 48}, "power of two"),
        ({"threadgroup": 2048}, "power of two"),
        ({"threadgroup": 32.0}, "power of two"),
        ({"compute_dtype": mx.int32}, "compute_dtype"),
        ({"input_names": ()}, "no input"),
        ({"input_names": ("inp", "inp")}, "twice"),
        ({"input_names": ("in put",)}, "no identifier"),
        ({"input_names": ("s1",)}, "is taken"),
        ({"input_names": ("inp", "x")}, "is taken"),
        ({"output_names": ("inp",)}, "twice"),
        ({"output_names": ("one", "two")}, "1 expressions"),
        ({"write_expr": ("x", "x")}, "2 expressions"),
        ({"pass2_update": " "}, "empty"),
        ({"name": "two words"}, "no identifier"),
    ],
)
def test_ops_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rowwise.map_reduce(**{"name": "row_op", "d": 8, **SOFTMAX, **changes})


def test_calls_refused() -> None:
    f = op(SOFTMAX, 8)
    with pytest.raises(ValueError, match=r"\(2, 9\); its last axis must be d = 8"):
        f(mx.zeros((2, 9)))
    with pytest.raises(ValueError, match="last axis"):
        f(mx.array(1.0))
    with pytest.raises(ValueError, match="2 arrays"):
        f(mx.zeros((2, 8)), mx.zeros((2, 8)))
    with pytest.raises(ValueError, match="int32"):
        f(mx.zeros((2, 8), mx.int32))
    with pytest.raises(TypeError, match="no mx.array"):
        f([1.0] * 8)
    g = op(RMSNORM, 8)
    for shape in [(7,), (2, 1, 8), (3, 8), (2, 2)]:
        with pytest.raises(ValueError, match="does not broadcast"):
            g(mx.zeros((2, 8)), mx.zeros(shape))
