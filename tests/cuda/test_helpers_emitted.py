"""Kernels of helpers and of fused functions as an NVIDIA GPU would get them: every transformation.

tests/cuda/test_emitted.py has the generator's kernels one by one; here whole functions run on a
CUDA device (on_cuda.py). By default each is compiled for one type; the three types take turns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_cuda import AMPERE, HOPPER, Gpu, gpu

from tests.launched import (
    launch_alike,
    launch_case,
    launch_ends,
    launch_expression,
    launch_function,
    launch_fused,
    launch_joined,
    launch_rows,
)
from tests.sanitized.catalog_cases import IN_TURN, NAMES, transformed
from tests.sanitized.expressions import texts
from tests.sanitized.helper_cases import CASES, FLOATS, NAMED, WHOLE, drawn, transforms
from zmlx import autograd, metal
from zmlx.errors import DeviceError

pytestmark = pytest.mark.usefixtures("host_device")  # whose blank kernel stands in for launches

Tally = Callable[[str, int], None]


def in_turn(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, FLOATS[i % len(FLOATS)]) for i, name in enumerate(names)]


def check_kind(device: Gpu, name: str, kinds: Sequence[str]) -> int:
    for kind in kinds:
        launch_case(CASES[name], kind)
    own = any(re.search(NAMED, text) for text in device.compiler.texts)
    assert own == bool(re.search("own kernel|kernels?$|strided|buffers|bodies", name))
    assert device.count >= len(kinds)
    return device.count


@pytest.mark.parametrize(("name", "kind"), in_turn([n for n, c in CASES.items() if c.orders]))
def test_a_kind_of_kernel(name: str, kind: str, tally: Tally) -> None:
    with gpu(machine=False) as device:
        tally("kernels of helpers as CUDA", check_kind(device, name, [kind]))


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if not c.orders])
def test_a_kind_of_kernel_without_gradient(name: str, tally: Tally) -> None:
    with gpu(machine=False) as device:
        tally("kernels of helpers as CUDA", check_kind(device, name, CASES[name].kinds))


@pytest.mark.exhaustive
@pytest.mark.parametrize("capability", [HOPPER, AMPERE])
@pytest.mark.parametrize("name", CASES)
def test_a_kind_of_kernel_in_every_type(name: str, capability: tuple[int, int]) -> None:
    with gpu(capability) as device:
        check_kind(device, name, CASES[name].kinds)


@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
@pytest.mark.parametrize("kind", FLOATS)
def test_parts_written_in_place(kind: str, numerics: str) -> None:
    with gpu(machine=False) as device:
        launch_joined(kind, numerics)
        kernels = 2 if numerics == "fp32" else 1  # gradients of exact numerics go region by region
        assert sum("_joined_" in text for text in device.compiler.texts) >= kernels


@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
@pytest.mark.parametrize("kind", FLOATS)
def test_launches_that_are_shared(kind: str, numerics: str) -> None:
    with gpu(machine=False) as device:
        launch_alike(kind, numerics)
        assert sum("zmlx_launch" in text for text in device.compiler.texts) >= 3


@pytest.mark.parametrize("kind", FLOATS)
def test_rows_that_are_folded(kind: str) -> None:
    with gpu(machine=False) as device:
        launch_rows(kind)
        assert sum("kk_near_" in text for text in device.compiler.texts) >= 8


@pytest.mark.parametrize("kind", FLOATS)
def test_reductions_at_the_end(kind: str) -> None:
    with gpu(machine=False) as device:
        launch_ends(kind)
        assert sum("kk_cuts" in text for text in device.compiler.texts) >= 4


def test_no_transformation_is_left_out() -> None:
    """Each launches kernels that the others do not."""
    case, counts = CASES["gradient given"], []
    for what in ("value", "vjp", "second", "jvp"):
        with gpu(machine=False) as device:
            transforms(case)[what](case.make(mx.float32), drawn(case, "float32"))
            counts.append(device.count)
    assert counts[0] < counts[1] < counts[2] and counts[3] > counts[0], counts


def test_a_wrong_kernel_is_found() -> None:
    """In the gradient's kernel."""
    with gpu(machine=False) as device:
        op = autograd.unary_from_expr(
            name="wrong", fwd_expr="kk_silu(x)", vjp_expr="twice(g)", compute_dtype=mx.float32,
            header="inline float twice(float v) { for (;;) return v + w; }\n",
        )  # fmt: skip
        op(mx.zeros(9))
        assert device.count == 1
        with pytest.raises(DeviceError, match='identifier "w" is undefined'):
            mx.vjp(op, [mx.zeros(9)], [mx.ones(9)])


def test_what_only_machine_code_shows() -> None:
    """More threadgroup memory than there is."""
    body = "uint i = thread_position_in_grid.x;\nthreadgroup float t[20000];\nt[i] = x[i];\n"
    body += "threadgroup_barrier(mem_flags::mem_threadgroup);\nout[i] = t[3u - i];\n"
    kernel = metal.kernel(name="large", input_names=["x"], output_names=["out"], source=body)
    launch = {"grid": (4, 1, 1), "threadgroup": (4, 1, 1)}
    with gpu(), pytest.raises(DeviceError, match="uses too much shared data"):
        kernel(mx.zeros(4), **launch)


FUNCTIONS = (
    "sincos(v, c)", "smoothstep(-1.0, 1.0, v)", "fdim(v, 0.25)", "ldexp(1.0, n)", "powr(v, 2.0f)",
    "nextafter(v, 1.0f)", "isnormal(v)", "mulhi(i, 3u)", "mulhi(n, 3)", "rotate(i, 3u)",
    "reverse_bits(i)", "popcount(n)", "popcount(ulong(i))", "clz(n)", "ctz(n)", "abs(long(n))",
    "abs(half(v))", "clamp(v, 0.0f, 1.0f)", "clamp(n, 0, 1)", "clamp(half(v), 0.0h, 1.0h)",
    "quad_sum(v)", "quad_max(n)", "quad_broadcast(v, 2)", "quad_shuffle_xor(v, 1)",
)  # fmt: skip


def test_functions_of_hand_written_kernels() -> None:
    """Those that the host's header has as well, as a user calls them."""
    lines = "".join(f"out[i * {len(FUNCTIONS)} + {k}] = {f};\n" for k, f in enumerate(FUNCTIONS))
    kernel = metal.kernel(
        name="functions", input_names=["x"], output_names=["out"],
        source=f"uint i = thread_position_in_grid.x;\nint n = int(i);\nfloat v = x[i], c;\n{lines}",
    )  # fmt: skip
    launch = {"grid": (4, 1, 1), "threadgroup": (4, 1, 1)}
    with gpu() as device:
        kernel(mx.zeros(4), output_shapes=[(4, len(FUNCTIONS))], **launch)
        assert device.count == 1
    kernel(mx.zeros(4), output_shapes=[(4, len(FUNCTIONS))], **launch)  # on the host


@pytest.mark.parametrize(("name", "kind"), IN_TURN)
def test_a_function_of_the_catalog(name: str, kind: str, tally: Tally) -> None:
    with gpu(machine=False) as device:
        launch_function(name, kind)
        assert device.count or name.endswith(("argmax_lastdim", "max_lastdim", "min_lastdim"))
    tally("kernels of the catalog as CUDA", device.count)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_a_function_of_the_catalog_in_every_type(name: str) -> None:
    with gpu() as device:
        for kind in FLOATS:
            transformed(name, kind)
        assert device.count >= len(FLOATS) or "argmax" in name


# -- what hypothesis generates --------------------------------------------------------------------
def check_expression(text: str, kind: str, own: bool) -> None:
    with gpu() as device:
        launch_expression(text, kind, own)
        assert device.count


def check_fused(seed: int, kind: str, numerics: str) -> None:
    with gpu():
        launch_fused(seed, kind, numerics)


@given(texts(), st.sampled_from(FLOATS), st.booleans())
@settings(max_examples=6)
def test_generated_expressions(text: str, kind: str, own: bool) -> None:
    check_expression(text, kind, own)


@given(st.integers(0, 2**31), st.sampled_from((*FLOATS, *WHOLE)), st.sampled_from(("fp32", "mlx")))
@settings(max_examples=4)
def test_generated_functions(seed: int, kind: str, numerics: str) -> None:
    check_fused(seed, kind, numerics)


@pytest.mark.exhaustive
@given(texts(4), st.sampled_from(FLOATS), st.booleans())
@settings(max_examples=60)
def test_many_generated_expressions(text: str, kind: str, own: bool) -> None:
    check_expression(text, kind, own)


@pytest.mark.exhaustive
@given(st.integers(0, 2**31), st.sampled_from((*FLOATS, *WHOLE)), st.sampled_from(("fp32", "mlx")))
@settings(max_examples=60)
def test_many_generated_functions(seed: int, kind: str, numerics: str) -> None:
    check_fused(seed, kind, numerics)
