"""Kernels as CUDA text, on a machine without CUDA: what MLX gets where ZMLX cannot compile.

tests/cuda compiles such texts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from derive_cases import record

from zmlx.device import cuda_kernel
from zmlx.device.cuda import CudaDevice
from zmlx.device.cuda_text import GRID, cuda_text
from zmlx.errors import DeviceError
from zmlx.helpers.complaint import complaining
from zmlx.msl.emit import emit
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.trace.graph import Graph


@pytest.fixture(autouse=True)
def _mlx_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_kernel, "compiler", lambda: None)


def spec(source: str, header: str = "", atomic: bool = False) -> MetalKernelSpec:
    return MetalKernelSpec("k", ("x",), ("out",), source, header, atomic_outputs=atomic)


def body(source: str) -> str:
    """What stands behind the line that begins the user's text."""
    return cuda_text(spec(source)).source.partition('"k.body"\n')[2]


@pytest.mark.parametrize(
    ("metal", "cuda"),
    [
        ("y = exp(x);", "y = metal::exp(x);"),
        ("y = a*exp (x)-max(a, b);", "y = a*metal::exp (x)-metal::max(a, b);"),
        ("return tanh(x);", "return metal::tanh(x);"),
        ("if (a>abs(b)) sqrt(c);", "if (a>metal::abs(b)) metal::sqrt(c);"),
        ("y = metal::precise::exp(x);", "y = metal::precise::exp(x);"),
        ("v.max(3); p->min(2);", "v.max(3); p->min(2);"),
        ("float exp(float q);", "float exp(float q);"),
        ("float exponent = my_exp(x);", "float exponent = my_exp(x);"),
        ("y = ldexp(fdim(x, 1.0f), 2);", "y = metal::ldexp(metal::fdim(x, 1.0f), 2);"),
    ],
)
def test_calls_that_cuda_would_find_ambiguous_are_qualified(metal: str, cuda: str) -> None:
    assert body(metal) == cuda


def test_address_spaces_go_and_threadgroup_arrays_become_a_macro() -> None:
    text = body("threadgroup float buf[32];\nconst device float4* v = (const device float4*)x;")
    assert "ZMLX_THREADGROUP(float, buf, [32]);" in text
    assert not re.search(r"\b(device|threadgroup)\b", text)
    assert (
        "#define ZMLX_THREADGROUP(T, NAME, DIMS) __shared__ T NAME DIMS"
        in cuda_text(spec("out[0] = 1;")).header
    )


def test_lines_stay_where_they_are() -> None:
    source = "int a = 1;\n/* two\nlines */\nthreadgroup float b[2];\nout[0] = exp(x[0]);"
    assert body(source).count("\n") == source.count("\n")


def test_metals_own_headers_are_left_out() -> None:
    header = "#include <metal_stdlib>\n  # include <metal_math>\nusing namespace metal;\n"
    text = cuda_text(spec("out[0] = 1;", header)).header
    assert "<metal_" not in text.partition('"k.header"\n')[2]


def test_threads_beyond_the_grid_return_first() -> None:
    text = cuda_text(spec("out[0] = 1;"))
    assert text.input_names == ("x", GRID)
    assert text.source.index("return;") < text.source.index("out[0]")


def test_atomic_outputs_get_their_type_back() -> None:
    text = cuda_text(spec("atomic_fetch_add_explicit(&out[0], 1, memory_order_relaxed);", "", True))
    assert text.output_names == ("zm_raw_out",)
    assert "auto* out = metal::zm_atomics(zm_raw_out);" in text.source


@pytest.mark.smoke
def test_a_launch_passes_the_grid_along(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def kept(**made: Any) -> Any:
        return lambda **launch: calls.append({**made, **launch}) or [mx.zeros(3)]

    monkeypatch.setattr(mx.fast, "cuda_kernel", kept)
    run = CudaDevice().grid_launcher(spec("out[thread_position_in_grid.x] = x[0];"))
    launch = Launch((3, 1, 1), (2, 1, 1), ((3,),), ("float32",), (("T", "float16"), ("N", 4)))
    run([mx.ones(3)], launch)
    (call,) = calls
    assert call["inputs"][1].tolist() == [3, 1, 1] and call["inputs"][1].dtype == mx.uint32
    assert call["grid"] == (3, 1, 1) and call["threadgroup"] == (2, 1, 1)
    assert call["template"] == [("T", mx.float16), ("N", 4)] and "init_value" not in call
    assert call["name"].endswith("_float32") and call["output_dtypes"] == [mx.float32]
    assert call["header"].startswith("// Metal Shading Language's names in CUDA C++")


# -- the generator's kernels ----------------------------------------------------------------------
def as_cuda(graph: Graph, exact: bool = False) -> dict[str, Any]:
    """What mx.fast.cuda_kernel gets for the kernel of `graph`."""
    calls: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx.fast, "cuda_kernel", lambda **made: calls.append(made))
        CudaDevice().made(emit(graph, exact))
    return calls[0]


def gelu(dtype: str) -> Graph:
    return record(lambda F, x: F.multiply(x, F.add(1, F.tanh(x))), ((64, 64), dtype))


def chain(ops: int) -> Graph:
    def work(F: Any, x: Any) -> Any:
        for _ in range(ops):
            x = F.sin(x)
        return x

    return record(work, ((64, 64), "float32"))


def test_only_the_wide_text_is_handed_over() -> None:
    """MLX hashes the source at every launch: nothing in it is for others."""
    made = as_cuda(gelu("float32"))
    source = made["header"] + made["source"]
    assert "ZMLX_WIDE" not in source and "zmlx_take<ELEMS>" in source
    assert made["source"].count("zmlx_region(") == 2  # all elements at once, and one after another
    assert not re.search(r"^(\s|//)", source, re.MULTILINE)
    assert len(source) < 4000
    names, wide = re.findall('#include "(.*)"', source)
    assert Path(names).read_text("utf-8").startswith("// Metal Shading Language's names in CUDA")
    assert "#define ZMLX_WIDE" in Path(wide).read_text("utf-8")


@pytest.mark.parametrize(
    ("graph", "exact", "macros"),
    [
        (gelu("float32"), False, "#define ZM_WIDEST 4\n"),
        (gelu("bfloat16"), False, "#define ZM_WIDEST 2\n#define ZM_HALVES\n"),
        (gelu("bfloat16"), True, "#define ZM_WIDEST 2\n"),
        (record(lambda F, x: F.astype(F.exp(x), "float32"), ((9,), "float16")), False,
         "#define ZM_WIDEST 4\n"),
        (record(lambda F, x: F.less(x, 0), ((9,), "float16")), False, "#define ZM_WIDEST 2\n"),
    ],
)  # fmt: skip
def test_quick_functions_are_for_results_of_16_bits_alone(
    graph: Graph, exact: bool, macros: str
) -> None:
    assert as_cuda(graph, exact)["header"].partition("#include")[0] == macros


def test_a_long_function_is_compiled_once() -> None:
    assert "\ninline void zmlx_region(" in as_cuda(chain(40))["header"]
    long = as_cuda(chain(41))["header"]
    assert "\nZM_CALLED void zmlx_region(" in long and "inline void zmlx_region(" not in long


def broadcast(dtype: str, shapes: Sequence[tuple[int, ...]]) -> Graph:
    def work(F: Any, *xs: Any) -> Any:
        return functools.reduce(F.add, xs)

    return record(work, *[(shape, dtype) for shape in shapes])


@pytest.mark.parametrize(
    ("graph", "elements"),
    [
        (gelu("float32"), 8),
        (gelu("bfloat16"), 16),
        (broadcast("bfloat16", [(64, 64), (64,)]), 32),
        (broadcast("bfloat16", [(64, 64), (64,), (64, 1), (64,)]), 16),  # five arrays
        (broadcast("float32", [(64, 64), (64,)]), 8),
        (broadcast("bfloat16", [(64,), (64,)]), 16),
        (broadcast("int64", [(64,), (64,)]), 4),
        (chain(32), 8),
        (chain(33), 4),
    ],
)
def test_elements_of_a_thread(graph: Graph, elements: int) -> None:
    assert CudaDevice().elements(emit(graph)) == elements


# -- what the compiler says -----------------------------------------------------------------------
WORDS = """\
[zmlx.device] kernel 'k_0123' does not compile:
header(2): error: expression must have class type but it has type "float"
  inline T twice(T v) {  T* p = &v; return v.w; }
                                           ^
          detected during instantiation of "T twice(T) [with T=float]" at line 1 of expr

expr(1): error: no instance of overloaded function "metal::exp" matches the argument list
            argument types are: (float, float)
  metal::exp(x, x)
         ^
k_0123.cu(79): note #3322-D: number of parameters of function "metal::exp(float)" does not match
  ZM_CALL(exp, expf)
  ^

after_header(2): error: linkage specification is not allowed
  extern "C" __global__ void k_0123(const float* inp) {
  ^

3 errors detected in the compilation of "k_0123.cu".
"""
TOLD = """\
[zmlx.device] kernel 'k_0123' does not compile:
header(2): error: expression must have class type but it has type "float" detected during \
instantiation of "T twice(T) [with T=float]" at line 1 of expr
  inline T twice(T v) { thread T* p = &v; return v.w; }
expr(1): error: no instance of overloaded function "metal::exp" matches the argument list \
argument types are: (float, float)
  exp(x, x)
after_header(2): error: linkage specification is not allowed
  Is a bracket, a brace or a comment left open in header?"""


def failing(words: str) -> Any:
    def run(arrays: Sequence[mx.array]) -> list[mx.array]:
        raise DeviceError(words)

    return run


def test_the_words_of_nvidias_compiler_with_the_lines_of_the_user() -> None:
    header = "template <typename T>\ninline T twice(T v) { thread T* p = &v; return v.w; }\n"
    with pytest.raises(DeviceError) as caught:
        complaining(failing(WORDS), {"expr": "exp(x, x)", "header": header})([])
    assert str(caught.value) == TOLD


def test_words_about_none_of_the_users_texts_stay_as_they_are() -> None:
    words = "[zmlx.device] kernel 'k' does not compile:\nptxas error   : too much shared data\n"
    for said in (words, WORDS):
        with pytest.raises(DeviceError) as caught:
            complaining(failing(said), {"vjp_expr": "g"})([])
        assert str(caught.value) == said
