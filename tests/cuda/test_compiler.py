"""The compiler itself: NVRTC as ZMLX calls it, its cache, its words, and what runs without it."""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from on_cuda import HOPPER, gpu, nvrtc

from zmlx import autograd, elementwise, metal
from zmlx.device import cuda_kernel
from zmlx.device import nvrtc as binding
from zmlx.device.cuda_kernel import CudaCompiler, CudaKernel, compiler, whole_text
from zmlx.device.cuda_text import CudaText
from zmlx.device.nvrtc import Nvrtc, Refused, installed, loaded
from zmlx.errors import DeviceError

pytestmark = pytest.mark.usefixtures("host_device")  # whose cache is that of the compiler

COPY = CudaText(("x",), ("y",), "y[0] = T(N) == T(0) ? x[0] : x[1];", "")
ONE = {"grid": (4, 1, 1), "threadgroup": (4, 1, 1)}


def library() -> Nvrtc:
    found = nvrtc()
    assert found is not None  # see conftest.py
    return found


def text_of(body: str = "") -> str:
    """A kernel `k` that no other test compiles."""
    return f'// {uuid.uuid4()}\nextern "C" __global__ void k(float* y) {{\n{body}\n}}\n'


class Counting(Nvrtc):
    """How often it compiled."""

    count = 0

    def compile(self, text: str, name: str, architecture: str) -> bytes:
        Counting.count += 1
        return super().compile(text, name, architecture)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr(Counting, "count", 0)
    return Counting(library().library, library().headers)


# -- what the doctor tells -----------------------------------------------------------------------
def test_the_report_of_a_gpu_is_that_of_what_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu() as device:
        report = device.report()
        assert report.device == "cuda" and report.missing == () and report.slower == ()
        assert report.kernel_compiler.startswith("NVRTC 1") and "sm_90" in report.kernel_compiler
        assert report.compiler and report.cache_directory
        monkeypatch.setattr(cuda_kernel, "compiler", lambda: None)
        (slower,) = device.report().slower
        assert "pip install nvidia-cuda-nvrtc" in slower


# -- the binding ----------------------------------------------------------------------------------
def test_machine_code_or_ptx() -> None:
    code = library().compile(text_of("y[0] = 1;"), "k.cu", "sm_90")
    assert code.startswith(b"\x7fELF")
    ptx = library().compile(text_of("y[0] = 1;"), "k.cu", "compute_90").decode()
    assert ".target sm_90" in ptx and ".entry k(" in ptx


@pytest.mark.parametrize(
    ("capability", "wanted"),
    [((8, 0), "sm_80"), ((9, 0), "sm_90"), ((12, 0), "sm_120"), ((99, 0), "compute_{newest}")],
)
def test_architectures_that_the_compiler_knows_and_newer_ones(
    capability: tuple[int, int], wanted: str
) -> None:
    count = ctypes.c_int()
    assert library().library.nvrtcGetNumSupportedArchs(ctypes.byref(count)) == 0
    known = (ctypes.c_int * count.value)()
    assert library().library.nvrtcGetSupportedArchs(known) == 0
    found = library().architecture(capability)
    assert found == wanted.format(newest=max(known))
    assert library().compile(text_of(), "k.cu", found)


def test_an_older_gpu_than_the_compiler_knows_is_refused() -> None:
    with pytest.raises(Refused, match="nvrtc: error: invalid value|INVALID_OPTION"):
        library().compile(text_of(), "k.cu", library().architecture((3, 0)))


def test_the_version_is_that_of_the_package() -> None:
    assert library().version >= (13, 0) and library().version < (14, 0)


def test_threads_may_compile_at_once() -> None:
    def one(i: int) -> str:
        with pytest.raises(Refused) as caught:
            library().compile(text_of(f"y[0] = missing{i};"), f"k{i}.cu", "compute_90")
        return str(caught.value)

    with ThreadPoolExecutor(4) as pool:
        for i, words in enumerate(pool.map(one, range(8))):
            assert f'k{i}.cu(3): error: identifier "missing{i}" is undefined' in words


# -- where it lies --------------------------------------------------------------------------------
def test_what_is_loaded_is_found_again() -> None:
    library()
    again = loaded()
    assert again is not None and again.version == library().version
    assert (again.headers / "cuda_bf16.h").is_file()


def test_nothing_without_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library()
    monkeypatch.setattr(binding, "_folders", lambda major: iter([tmp_path]))
    assert loaded() is None
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_bf16.h").touch()
    found = loaded()
    assert found is not None and found.headers == tmp_path / "include"


def test_nothing_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binding, "MAJORS", (1,))
    assert loaded() is None and installed() is None
    monkeypatch.undo()
    monkeypatch.setattr(binding, "_packages", lambda: tmp_path)
    assert installed() is None
    (tmp_path / "cu13" / "include").mkdir(parents=True)
    (tmp_path / "cu13" / "include" / "cuda_bf16.h").touch()
    assert installed() is None


def test_headers_lie_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library()
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_bf16.h").touch()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    found = loaded()
    assert found is not None and found.headers == tmp_path / "include"


# -- the cache ------------------------------------------------------------------------------------
def test_machine_code_comes_from_the_disk_the_second_time(counting: Counting) -> None:
    text = text_of("y[0] = 2;")
    first = CudaCompiler(counting, HOPPER).machine_code("k", text)
    assert Counting.count == 1
    assert CudaCompiler(counting, HOPPER).machine_code("k", text) == first
    assert Counting.count == 1
    assert CudaCompiler(counting, (8, 0)).machine_code("k", text) != first
    assert Counting.count == 2
    CudaCompiler(counting, HOPPER).machine_code("k", text_of("y[0] = 2;"))
    assert Counting.count == 3


def test_other_headers_make_another_key(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of("y[0] = 3;")
    CudaCompiler(counting, HOPPER).machine_code("k", text)
    monkeypatch.setattr(cuda_kernel, "_headers_digest", lambda: "others")
    CudaCompiler(counting, HOPPER).machine_code("k", text)
    assert Counting.count == 2


def test_a_wrong_text_is_refused_each_time(counting: Counting) -> None:
    text = text_of("y[0] = nothing;")
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"^\[zmlx.device\] kernel 'k' does not compile:\n"):
            CudaCompiler(counting, HOPPER).machine_code("k", text)
    assert Counting.count == 2


# -- the callable ---------------------------------------------------------------------------------
@pytest.mark.smoke
def test_the_whole_text() -> None:
    text = CudaText(("a", "b"), ("y",), "y[0] = a[0] + b[b_strides[0]] + b_ndim;", "// before\n")
    template = [("T", mx.bfloat16), ("N", 4), ("YES", True)]
    name, whole = whole_text("k", text, [mx.float16, mx.uint8], [mx.bool_], template)
    assert name.startswith("k_") and whole.count(name) == 1
    assert "// before\n" in whole
    function = whole.partition(name)[2]
    assert function == (
        "(const __half* a, const uint8_t* b, const __grid_constant__ zm_sizes<long> b_strides, "
        "const __grid_constant__ int b_ndim, bool* y) {\n"
        "using T = __nv_bfloat16;\nconstexpr int N = 4;\nconstexpr bool YES = true;\n"
        f"{text.source}\n}}\n"
    )


def names_of(*changes: dict[str, Any]) -> list[str]:
    made = []
    for change in changes:
        text = CudaText(("x",), ("y",), "y[0] = x[0];", change.pop("header", ""))
        given = {"inputs": [mx.float32], "outputs": [mx.float32], "template": [], **change}
        made.append(whole_text("k", text, **given)[0])
    return made


def test_whatever_is_compiled_stands_in_the_name() -> None:
    changes = (
        {}, {"header": "int f();"}, {"inputs": [mx.float16]}, {"outputs": [mx.float16]},
        {"template": [("N", 1)]}, {"template": [("N", True)]},
    )  # fmt: skip
    names = names_of(*map(dict, changes))
    assert len(set(names)) == len(changes) and names == names_of(*map(dict, changes))


def called(kernel: CudaKernel, x: mx.array, template: Sequence[tuple[str, Any]]) -> list[mx.array]:
    return kernel(
        inputs=[x], template=template, output_shapes=[x.shape], output_dtypes=[x.dtype], **ONE
    )


def test_one_compilation_for_each_combination_of_types_and_template() -> None:
    with gpu(machine=False) as device:
        kernel = CudaKernel("copy", COPY, ensure_row_contiguous=True)
        template = [("T", mx.float32), ("N", 1)]
        for x in (mx.zeros(4), mx.zeros((2, 2)), mx.zeros(4)):
            (y,) = called(kernel, x, template)
            assert y.shape == x.shape and y.dtype == x.dtype
        assert device.count == 1
        called(kernel, mx.zeros(4, mx.float16), template)
        called(kernel, mx.zeros(4), [("T", mx.float32), ("N", True)])
        called(kernel, mx.zeros(4), [("T", mx.int32), ("N", 1)])
        assert device.count == 4


def test_threads_compile_a_kernel_once(counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu() as device:
        made = CudaCompiler(counting, HOPPER)
        monkeypatch.setattr(cuda_kernel, "compiler", lambda: made)
        text = CudaText(("x",), ("y",), f"y[0] = x[0]; // {uuid.uuid4()}", "")
        kernel = CudaKernel("copy", text, ensure_row_contiguous=True)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: called(kernel, mx.zeros(4), []), range(8)))
        assert Counting.count == 1 and len(device.launches) == 8


def test_sizes_strides_and_ranks_are_handed_over_where_they_are_read() -> None:
    body = "out[0] = a[a_strides[0]] + b[b_shape[0] - 1] + c[0] + b_ndim;"
    kernel = metal.kernel(
        name="reads", input_names=["a", "b", "c"], output_names=["out"], source=body,
        ensure_row_contiguous=False,
    )  # fmt: skip
    with gpu() as device:
        kernel(mx.zeros(4), mx.zeros(4), mx.zeros(4), init_value=2.0, **ONE)
        (launch,) = device.launches
    nothing = (False, False, False)
    assert launch["reads"] == [(False, True, False), (True, False, True), nothing, nothing]
    assert launch["init"] == 2.0 and len(launch["inputs"]) == 4  # and the grid


# -- what is used without it ----------------------------------------------------------------------
@pytest.fixture
def anew() -> Iterator[None]:
    compiler.cache_clear()
    yield
    compiler.cache_clear()


def test_the_compiler_of_the_default_gpu(anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_kernel, "loaded", library)
    parts = {"compute_capability_major": 8, "compute_capability_minor": 0}
    monkeypatch.setattr(mx, "device_info", lambda device: parts)
    found = compiler()
    assert found is not None and found.architecture == "sm_80" and found.nvrtc is library()


@pytest.mark.parametrize("lacking", ["library", "capability", "headers"])
def test_no_compiler(
    anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacking: str
) -> None:
    broken = Nvrtc(library().library, tmp_path)  # where no headers lie
    found = {"library": None, "headers": broken}.get(lacking, library())
    monkeypatch.setattr(cuda_kernel, "loaded", lambda: found)
    capability = None if lacking == "capability" else HOPPER
    monkeypatch.setattr(cuda_kernel, "_capability", lambda: capability)
    assert compiler() is None


@pytest.mark.parametrize("lacking", ["compiler", "native_or_none"])
def test_mlx_compiles_where_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    monkeypatch.setattr(mx.fast, "cuda_kernel", lambda **made: made)
    with gpu():
        assert isinstance(cuda_kernel.cuda_kernel("k", COPY, True), CudaKernel)
        monkeypatch.setattr(cuda_kernel, lacking, lambda: None)
        assert cuda_kernel.cuda_kernel("k", COPY, True) == {
            "name": "k", "input_names": ["x"], "output_names": ["y"], "source": COPY.source,
            "header": "", "ensure_row_contiguous": True,
        }  # fmt: skip


# -- what it says of the user's text --------------------------------------------------------------
@pytest.mark.smoke
def test_an_error_names_the_line_of_the_user() -> None:
    kernel = metal.kernel(
        name="mine", input_names=["x"], output_names=["out"],
        header="inline float f(float v) {\n  return w;\n}\n", source="\nout[0] = x[0] + nothing;",
    )  # fmt: skip
    with gpu(machine=False), pytest.raises(DeviceError) as caught:
        kernel(mx.zeros(4), **ONE)
    assert 'mine.header(2): error: identifier "w" is undefined\n' in str(caught.value)
    assert 'mine.body(2): error: identifier "nothing" is undefined\n' in str(caught.value)


OPEN = "Is a bracket, a brace or a comment left open in "


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"expr": "x +\n  missing<float>(x)"},
         'expr(2): error: identifier "missing" is undefined\n    missing<float>(x)\n'),
        ({"expr": "&x"}, "  The value of expr is none that the output can hold."),
        ({"expr": "f(x)", "header": "float f(float v) {\n for (;;) return w;\n}"},
         'header(2): error: identifier "w" is undefined\n   for (;;) return w;'),
        ({"expr": "f(x)", "header": "float f(float v) {\n for (;;) return v;\n"}, OPEN + "header?"),
        ({"expr": "f(x) + exp(y, x)", "header": "float f(float v) { for (;;) return v; }"},
         "matches the argument list argument types are: (<error-type>, const T)\n"
         "  f(x) + exp(y, x)"),
    ],
)  # fmt: skip
def test_a_helper_shows_the_line_of_the_user(arguments: dict[str, str], words: str) -> None:
    """As on the host: tests/test_helpers_refuse.py."""
    with gpu(machine=False):
        op = elementwise.unary(**{"name": "op", **arguments})
        with pytest.raises(DeviceError) as caught:
            op(mx.zeros(4))
    head, *lines = str(caught.value).splitlines()
    assert head.endswith(" does not compile:") and words in "\n".join(lines)
    assert not any("^" in line or ".cu" in line or not line for line in lines)


def test_a_gradient_shows_the_line_of_the_user() -> None:
    with gpu(machine=False):
        op = autograd.unary_from_expr(
            name="op", fwd_expr="x * 2", vjp_expr="g * f(x)",
            vjp_prelude="T a = 2;\nT b = h<float>(a);",
            header="inline float f(float v) { for (;;) return v; }",
        )  # fmt: skip
        with pytest.raises(DeviceError) as caught:
            mx.vjp(op, [mx.zeros(4)], [mx.ones(4)])
    assert 'vjp_prelude(2): error: identifier "h" is undefined\n  T b = h<float>(a);' in str(
        caught.value
    )
