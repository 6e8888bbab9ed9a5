"""zmlx.rowwise: softmax and norms written with map_reduce, against float64; what it refuses."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.rowwise_cases import (
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
from zmlx import metal, metal_check, registry, rowwise
from zmlx.device.base import Device
from zmlx.device.metal import MetalDevice
from zmlx.msl.spec import Launch
from zmlx.rows.layout import Setting
from zmlx.rows.text import MAX_GROUPS_Y


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


def test_constants_may_change_without_new_kernels(default_device: Device) -> None:
    registry.clear_cache()
    x, one, zero = drawn((2, 5)), mx.ones((5,)), mx.zeros((5,))
    f = op(LAYERNORM, 5)
    for eps in (1e-5, 1e-3, 1.0):
        (out,) = f(x, one, zero, mx.array(eps))
        np.testing.assert_allclose(
            wide(out), layernorm(wide(x), np.ones(5), np.zeros(5), eps), 1e-5, 1e-6
        )
    assert registry.cache_size() == 1
    # Row lengths do not stand in the text either.
    op(LAYERNORM, 6)(drawn((2, 6)), mx.ones((6,)), mx.zeros((6,)), mx.array(1.0))
    assert registry.cache_size() == 1


@pytest.mark.parametrize("what", [SOFTMAX, LAYERNORM], ids=["softmax", "layer"])
def test_threads_share_rows_and_rows_share_groups(
    default_device: Device, what: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a search for the best launch tries: the CPU plays a GPU."""
    monkeypatch.setattr(type(default_device), "takes_turns", False)
    for rows, d in ((1, 1), (5, 7), (9, 33), (3, 1000)):
        x = drawn((rows, d), seed=d)
        others = [drawn((d,), seed=i) for i in range(2)] + [mx.array([1e-3])]
        arrays = [x, *others[: len(what.get("input_names", ("inp",))) * 3 // 4]]
        wanted = softmax(wide(x))
        if len(arrays) > 1:
            wanted = layernorm(wide(x), wide(others[0]), wide(others[1]), 1e-3)
        f = op(what, d)
        for threads, lines in (
            (1, 32),
            (4, 8),
            (8, 2),
            (16, 4),
            (32, 1),
            (32, 4),
            (64, 4),
            (256, 1),
        ):
            (out,) = f.launch(arrays, Setting(threads, lines))
            np.testing.assert_allclose(wide(out), wanted, 1e-5, 1e-6, err_msg=f"{threads}x{lines}")


def test_a_setting_is_kept_for_rows_like_these(
    default_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    monkeypatch.setattr(type(default_device), "takes_turns", False)
    f, x = op(SOFTMAX, 1000), mx.zeros((5, 1000))
    assert f.setting(x) == Setting(256, 1)
    f.adopt(x, Setting(64, 4))
    assert f.setting(x) == f.setting(mx.zeros((7, 1000))) == Setting(64, 4)
    assert f.setting(mx.zeros((8, 1000))) == Setting(256, 1)
    assert f.setting(x.astype(mx.float16)) == Setting(128, 2)


def test_the_launch(host_device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each group along y, and on along z beyond what CUDA takes."""
    seen: list[Launch] = []

    def run(self: metal.MetalKernel, arrays: Any, launch: Launch) -> list[mx.array]:
        seen.append(launch)
        return [mx.zeros(s) for s in launch.output_shapes]

    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    monkeypatch.setattr(metal.MetalKernel, "run", run)
    op(SOFTMAX, 1000)(mx.zeros((5, 1000)))
    assert seen.pop().threadgroup == (1, 1, 1)  # on the CPU threads of a group take turns
    monkeypatch.setattr(type(host_device), "takes_turns", False)
    op(SOFTMAX, 1000)(mx.zeros((7, 1000)))
    op(SOFTMAX, 8, threadgroup=512)(mx.zeros((3, 8)))
    op(SOFTMAX, 8, threadgroup=4)(mx.zeros((8,)))
    op(SOFTMAX, 1)(mx.zeros((100_000, 1)))
    op(SOFTMAX, 1, threadgroup=1)(mx.zeros((100_000, 1)))
    grids = [(launch.grid, launch.threadgroup) for launch in seen]
    assert grids == [
        ((256, 7, 1), (256, 1, 1)),
        ((2, 256, 1), (2, 256, 1)),
        ((2, 2, 1), (2, 2, 1)),
        ((1, 100_096, 1), (1, 256, 1)),
        ((1, 32768, 4), (1, 1, 1)),
    ]


def test_more_rows_than_the_grid_has_along_y(default_device: Device) -> None:
    rows = 2 * MAX_GROUPS_Y + 3
    x = mx.arange(rows, dtype=mx.float32).reshape(rows, 1)
    (out,) = op(SOFTMAX, 1, write_expr="x + s1", threadgroup=1)(x)
    np.testing.assert_array_equal(np.array(out), 2 * np.array(x))


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


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("what", [SOFTMAX, LAYERNORM, RMSNORM], ids=["softmax", "layer", "rms"])
@pytest.mark.usefixtures("metal_check")
def test_metal_takes_the_text(what: dict[str, Any], name: str) -> None:
    f = op(what, 16)
    kernel = f.kernel((3, *[1] * (len(f.row.inputs) - 1)))
    others = f.row.inputs[1:]
    types = [(kind, name) for kind in ("O", "O0", *(f"{n}_type" for n in f.row.inputs))]
    for lanes, packs, group in ((4, 2, (4, 8, 1)), (1, 0, (64, 1, 1))):
        launch = Launch(
            (group[0], 8, 1), group, ((3, 16),), (name,),
            (("T", "float32"), *types, ("LANES", lanes), ("PACKS", packs)),
        )  # fmt: skip
        assert checked(kernel, launch, KINDS[name], len(others)) == []


def checked(kernel: metal.MetalKernel, launch: Launch, kind: mx.Dtype, others: int) -> list[Any]:
    run = MetalDevice().grid_launcher(kernel.spec)
    arrays = [mx.zeros((3, 16), kind), *[mx.zeros((16,), kind) for _ in range(others)]]
    return list(metal_check.check_function(lambda given: run(given, launch), arrays))
