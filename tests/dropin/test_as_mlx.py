"""metal.kernel is made and called as mx.fast.metal_kernel is: what MLX asks of its own."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zmlx import metal
from zmlx.device.base import Device
from zmlx.device.cuda_text import cuda_text
from zmlx.device.metal import MetalDevice
from zmlx.errors import DeriveError, DeviceError
from zmlx.msl.spec import MetalKernelSpec

PLACE = "uint elem = thread_position_in_grid.x;"
FOUR = {"grid": (4, 1, 1), "threadgroup": (2, 1, 1), "output_shapes": [(2, 2)]}


@pytest.fixture(autouse=True)
def _on_the_host(host_device: Device) -> None:
    """All of these run."""


def test_inputs_come_as_a_list_and_a_stream_may_be_named() -> None:
    a = mx.random.normal((2, 2))
    kernel = metal.kernel("basic", ["a"], ["out"], f"{PLACE} out[elem] = a[elem];")
    for stream in (mx.gpu, mx.cpu, mx.Device(mx.gpu), mx.new_stream(mx.cpu), None):
        (out,) = kernel(inputs=[a], output_dtypes=[mx.float32], stream=stream, **FOUR)
        assert mx.array_equal(out, a)
    with pytest.raises(ValueError, match="a call is 1 arrays and inputs="):
        kernel(a, inputs=[a])


ARGUMENTS = """
    uint elem = thread_position_in_grid.x;
    T first = a[0];
    more[elem] = flag ? a[1] + b[2] + c[3] + d + count : float(first);
    whole[elem] = a[1] + b[2] + c[1] - d;
"""


def test_numbers_arrays_and_templates_stand_beside_each_other() -> None:
    a, b = mx.random.normal((3, 6)), mx.array([3, 4, 5])
    c = mx.random.normal((2, 2)).astype(mx.bfloat16)
    kernel = metal.kernel("many", ["a", "b", "c", "d"], ["more", "whole"], ARGUMENTS)
    how: dict[str, Any] = {
        "grid": (6, 1, 1), "threadgroup": (2, 1, 1), "output_shapes": [(3, 2), (3, 2)],
        "output_dtypes": [mx.float32, mx.int32],
    }  # fmt: skip
    template = [("flag", True), ("count", 3), ("T", mx.float16)]
    numbers = (7.3, mx.array(7.3), np.float32(7.3), np.array(7.3, np.float32))
    for d in numbers:
        more, whole = kernel(inputs=[a, b, c, d], template=template, **how)
        flat = [np.array(v.astype(mx.float32)).ravel() for v in (a, b, c)]
        wanted = flat[0][1] + flat[1][2] + flat[2][3] + 7.3 + 3
        np.testing.assert_allclose(np.array(more), np.full((3, 2), wanted), 1e-5)
        rest = int(flat[0][1] + flat[1][2] + flat[2][1] - np.float32(7.3))
        assert whole.tolist() == [[rest] * 2] * 3


@pytest.mark.parametrize(
    ("number", "kind"),
    [(True, mx.bool_), (7, mx.int32), (-2.5, mx.float32), (np.int8(3), mx.int8)],
)
def test_a_number_has_the_type_that_mlx_gives_it(number: Any, kind: mx.Dtype) -> None:
    text = f"{PLACE} out[elem] = s; size[elem] = sizeof(s);"
    kernel = metal.kernel(f"number_{type(number).__name__}", ["s"], ["out", "size"], text)
    out, size = kernel(
        number, grid=(2, 1, 1), threadgroup=(2, 1, 1), output_shapes=[(2,), (2,)],
        output_dtypes=[kind, mx.int32],
    )  # fmt: skip
    assert out.tolist() == [number] * 2 and size.tolist() == [kind.size] * 2


REFERENCE = "float twice(const constant float& v) { return 2 * v; }\n"


def test_an_array_of_rank_0_is_a_reference_unless_it_is_indexed() -> None:
    x = mx.arange(4, dtype=mx.float32)
    for text, header, wanted in (
        ("x[elem] * s", "", 3),
        ("x[elem] * s[0]", "", 3),
        ("x[elem] * twice(s)", REFERENCE, 6),
        ("x[elem] * *(&s)", "", 3),
    ):
        source = f"{PLACE} out[elem] = {text}; // not s[0]"
        kernel = metal.kernel("scaled", ["x", "s"], ["out"], source, header)
        (out,) = kernel(x, mx.array(3.0))
        assert out.tolist() == [0, wanted, 2 * wanted, 3 * wanted]
    (out,) = metal.kernel("scaled", ["x", "s"], ["out"], f"{PLACE} out[elem] = x[elem] * s[0];")(
        x, mx.array([3.0])
    )
    assert out.tolist() == [0, 3, 6, 9]


def test_references_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = MetalKernelSpec("k", ("x", "s"), ("out",), "out[0] = x[0] * s;", references=(1,))
    text = cuda_text(spec)
    assert text.input_names[:2] == ("x", "zm_at_s")
    assert "const auto& s = zm_at_s[0];\n" in text.source
    given: list[Any] = []
    kernel = metal.kernel("k", ["x", "s"], ["out"], "out[0] = x[0] * s;")
    mac = MetalDevice()
    monkeypatch.setattr(mac, "unavailable", lambda: None)
    monkeypatch.setattr(
        mac, "written", lambda spec, name: lambda **how: given.append((spec, how)) or [mx.zeros(1)]
    )
    monkeypatch.setattr(metal.kernels, "device_for_current_stream", lambda: mac)
    kernel(mx.ones(1), mx.array(2.0))
    ((launched, how),) = given
    assert [a.ndim for a in how["inputs"]] == [1, 0]  # of which MLX makes a reference itself
    assert launched.references == (1,) and launched.unique_name != kernel.spec.unique_name


def test_one_name_with_two_texts_in_one_evaluation() -> None:
    a = mx.arange(32, dtype=mx.float32)
    outs = [
        metal.kernel("same_name", ["inp"], ["out"], f"{PLACE} out[elem] = {text};")(
            inputs=[a], grid=(32, 1, 1), threadgroup=(32, 1, 1), output_shapes=[a.shape],
            output_dtypes=[a.dtype],
        )[0]
        for text in ("inp[elem] * 2.0f", "inp[elem] + 100.0f")
    ]  # fmt: skip
    mx.eval(outs)
    assert mx.array_equal(outs[0], a * 2) and mx.array_equal(outs[1], a + 100)


def test_one_kernel_with_two_types_in_one_graph() -> None:
    kernel = metal.kernel("mixed", ["inp"], ["out"], f"{PLACE} out[elem] = inp[elem] + inp[elem];")
    halves, floats = mx.full((32,), 1.5, dtype=mx.float16), mx.full((32,), 2.5)
    out = kernel(halves)[0].astype(mx.float32) + kernel(floats)[0]
    assert mx.array_equal(out, mx.full((32,), 8.0))


def test_a_helper_in_the_header_and_an_attribute() -> None:
    a = mx.random.normal((2, 2))
    header = "template <typename T> T do_exp(T x) { return metal::precise::exp(x); }"
    kernel = metal.kernel("helper", ["a"], ["out"], f"{PLACE} out[elem] = do_exp(a[elem]);", header)
    (out,) = kernel(inputs=[a], output_dtypes=[mx.float32], **FOUR)
    np.testing.assert_allclose(np.array(out), np.exp(np.array(a)), 1e-6)
    kernel = metal.kernel("group", ["a"], ["out"], "out[0] = threads_per_threadgroup.x;")
    (out,) = kernel(
        inputs=[a], grid=(2, 1, 1), threadgroup=(2, 1, 1), output_shapes=[(1, 1)],
        output_dtypes=[mx.uint32],
    )  # fmt: skip
    assert out.item() == 2


MODE = f"""{PLACE}
#if defined(__FAST_MATH__) && __FAST_MATH__
    out[elem] = 1.0f;
#else
    out[elem] = 0.0f;
#endif
"""


def test_the_math_mode_is_checked_and_told_to_the_text() -> None:
    for options in ({"math_mode": "precise"}, {"unknown": "value"}, "fast"):
        with pytest.raises(ValueError, match="(math_mode|compile_options) is"):
            metal.kernel("k", ["inp"], ["out"], "out[0] = inp[0];", compile_options=options)
    found = {}
    for mode in ("safe", "relaxed", "fast"):
        kernel = metal.kernel("mode", ["x"], ["out"], MODE, compile_options={"math_mode": mode})
        found[mode] = kernel(mx.zeros(4))[0].tolist()
    assert found == {"safe": [0] * 4, "relaxed": [0] * 4, "fast": [1] * 4}


def test_a_header_of_none_and_numbers_of_numpy() -> None:
    text = f"{PLACE} if (on) out[elem] = x[elem] + n;"
    kernel = metal.kernel("numpy", ["x"], ["out"], text, None)
    assert kernel.spec.header == ""
    template = [("n", np.int64(2)), ("on", np.bool_(True))]
    shape = tuple(np.array([4]))
    (out,) = kernel(
        mx.ones(4), template=template, grid=np.array([4, 1, 1]), output_shapes=[shape],
        threadgroup=tuple(np.array([2, 1, 1])),
    )  # fmt: skip
    assert out.tolist() == [3] * 4


def test_a_printed_launch_may_be_traced(capsys: pytest.CaptureFixture[str]) -> None:
    kernel = metal.kernel("told", ["x"], ["out"], f"{PLACE} out[elem] = x[elem] + 1;")
    compiled = mx.compile(lambda x: kernel(x, verbose=True)[0])
    assert compiled(mx.ones(3)).tolist() == [2] * 3
    assert "is traced" in capsys.readouterr().out


# What would leave outputs unwritten is no launch to guess.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uint2 p = thread_position_in_grid.xy; out[p.x + 4 * p.y] = x[0];", "more than"),
        ("uint3 p = thread_position_in_grid; out[p.y] = x[0];", "more than"),
        ("uint i = thread_position_in_grid.y; out[i] = x[0];", "more than"),
        ("uint i = threadgroup_position_in_grid.x; out[i] = x[i];", "threadgroup_position_in_grid"),
        ("out[0] = x[0];", "never asks for thread_position_in_grid"),
    ],
)
def test_a_grid_that_the_text_does_not_tell_must_be_given(text: str, words: str) -> None:
    kernel = metal.kernel("guessed", ["x"], ["out"], text)
    with pytest.raises(ValueError, match=f"grid is left out, but .*{words}.*; give the grid"):
        kernel(mx.ones(8))
    kernel(mx.ones(8), grid=(8, 1, 1), threadgroup=(8, 1, 1))
    kernel(mx.ones(8), init_value=0, threadgroup=(8, 1, 1))  # all of it is written


def test_a_grid_that_covers_the_first_output_only_must_be_given() -> None:
    kernel = metal.kernel("two", ["x"], ["a", "b"], f"{PLACE} b[elem] = x[elem]; a[0] = 1;")
    shapes = {"output_shapes": [(1,), (8,)], "output_dtypes": [mx.float32] * 2}
    with pytest.raises(ValueError, match="output 'b' has more elements than 'a'"):
        kernel(mx.ones(8), **shapes)
    assert kernel(mx.ones(8), grid=(8, 1, 1), **shapes)[1].tolist() == [1] * 8


def test_a_threadgroup_that_the_text_counts_on_must_be_given() -> None:
    text = "out[threadgroup_position_in_grid.x * 4 + thread_position_in_threadgroup.x] = x[0];"
    kernel = metal.kernel("grouped", ["x"], ["out"], text)
    with pytest.raises(ValueError, match="threadgroup is left out.*never for threads_per_thread"):
        kernel(mx.ones(8), grid=(8, 1, 1))
    reads = text.replace("* 4", "* threads_per_threadgroup.x")
    kernel = metal.kernel("grouped", ["x"], ["out"], reads)
    assert kernel(mx.ones(8), grid=(8, 1, 1))[0].tolist() == [1] * 8


# Transformations.


def test_transformations_name_the_way_out() -> None:
    kernel = metal.kernel("plain", ["x"], ["out"], f"{PLACE} out[elem] = 2 * x[elem];")
    x = mx.ones((2, 4))
    way = r"\[zmlx.metal\] kernel 'plain' has no {}.*zmlx.autograd.nary_from_expr"
    with pytest.raises(DeriveError, match=way.format("gradient")):
        mx.grad(lambda x: kernel(x)[0].sum())(x)
    with pytest.raises(DeriveError, match=way.format("jvp")):
        mx.jvp(lambda x: kernel(x)[0], [x], [x])
    with pytest.raises(DeriveError, match=way.format("vmap")):
        mx.vmap(lambda x: kernel(x)[0])(x)
    ruled = mx.custom_function(lambda x: kernel(x)[0])
    ruled.vjp(lambda x, cotangent, output: 2 * cotangent)
    assert mx.grad(lambda x: ruled(x).sum())(x).tolist() == [[2] * 4] * 2


TOTAL = """
    float total = 0;
    for (int i = thread_position_in_grid.x; i < x_shape[0]; i += threads_per_grid.x)
        total += x[i];
    total = simd_sum(total);
    if (thread_index_in_simdgroup == 0) out[0] = total;
"""


def test_a_launch_without_sizes_holds_under_a_shapeless_compile() -> None:
    kernel = metal.kernel("total", ["x"], ["out"], TOTAL)
    how: dict[str, Any] = {"grid": (32, 1, 1), "threadgroup": (32, 1, 1), "output_shapes": [(1,)]}
    compiled = mx.compile(lambda x: 2 * kernel(mx.exp(x), **how)[0], shapeless=True)
    for size in (100, 7, 3000):
        assert compiled(mx.zeros(size)).item() == 2 * size


@pytest.mark.parametrize(
    "how",
    [
        lambda x: {},
        lambda x: {"grid": (x.size, 1, 1), "output_shapes": [(3,)]},
        lambda x: {"grid": (-(-x.size // 4), 1, 1), "output_shapes": [(3,)]},
        lambda x: {"grid": (x.shape[0] * 32, 1, 1), "output_shapes": [(1,)]},
        lambda x: {"grid": (32, x.shape[1], 1), "output_shapes": [(1,)]},
        lambda x: {"grid": (7, 1, 1), "output_shapes": [x.shape[1:]]},
    ],
)
def test_a_launch_that_follows_sizes_says_so_there(
    how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # which wants all written
    text = f"{PLACE} if (elem == 0) out[elem] = x[elem];"
    kernel = metal.kernel("follows", ["x"], ["out"], text)
    compiled = mx.compile(
        lambda x: kernel(x, **{"threadgroup": (32, 1, 1)} | how(x))[0], shapeless=True
    )
    x = mx.random.normal((20, 50))
    assert mx.flatten(compiled(x))[0].item() == x[0, 0].item()
    words = r"kernel 'follows' was traced by mx.compile\(shapeless=True\) for x of shape \(20, 50\)"
    with pytest.raises(DeviceError, match=words):
        mx.eval(compiled(mx.random.normal((40, 30))))
