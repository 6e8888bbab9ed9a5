"""A text in the style of MLX's own headers: the host runs it, the Metal check and NVRTC take it."""

from __future__ import annotations

import mlx.core as mx
import pytest

from zmlx import metal
from zmlx.device.cuda_kernel import whole_text
from zmlx.device.cuda_text import cuda_text
from zmlx.device.nvrtc import installed
from zmlx.metal_check import check_text

HEADER = """\
#define OWN_CONST static constant constexpr const
namespace metal {
template <typename T>
struct element {};
template <typename T>
struct element<thread T*> { using type = remove_cv_t<T>; };
template <typename T>
struct element<device T*> { using type = remove_cv_t<T>; };
template <typename T>
struct element<constant T*> { using type = remove_cv_t<T>; };
template <typename T>
struct element<threadgroup T*> { using type = remove_cv_t<T>; };
}
namespace own {
namespace inner {
METAL_FUNC float last(const device float* p, uint n) { return p[n]; }
METAL_FUNC float last(const threadgroup float* p, uint n) { return p[n]; }
}
template <typename T, T v>
struct number {
  OWN_CONST T value = v;
  static constexpr constant int four = 4;
  METAL_FUNC constexpr operator T() const thread { return value; }
};
template <typename T>
METAL_FUNC constexpr auto twice(T x) {
  constexpr auto two = 2;
  using kind = metal::remove_addrspace_t<decltype(two)>;
  return x * number<kind, two>{};
}
struct lanes {
  short at;
  METAL_FUNC lanes(ushort lane [[thread_index_in_simdgroup]]) thread : at(lane) {}
};
METAL_FUNC float both(
    threadgroup float* p [[threadgroup(0)]], uint n [[threads_per_threadgroup]]) {
  return p[n];
}
}
constexpr constant float table[2] = {0.5f, 0.25f};
static constant const float more[2] = {8.0f, 16.0f};
"""
BODY = """\
using T4 = vec<half, 4>;
using kind = element<device float*>::type;
threadgroup float s[2];
s[0] = 1;
s[1] = 2;
threadgroup_barrier(mem_flags::mem_threadgroup);
T4 h = T4(float4(x[1]));
uint i = thread_position_in_grid.x;
out[i] = own::both(s, i) + own::inner::last(s, 1) + own::inner::last(x, 3) + own::twice(10.0f)
    + own::number<int, 3>::four + own::lanes(2).at + kind(h.x) + table[i] + more[i];
"""
MADE = metal.kernel("own_style", ["x"], ["out"], BODY, HEADER)


@pytest.mark.usefixtures("quick_compiler", "host_device")
@pytest.mark.parametrize("watched", [False, True])
def test_the_host_runs_it(watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_SANITIZE", str(int(watched)))
    (out,) = MADE(
        mx.arange(4, dtype=mx.float32), grid=(1, 1, 1), threadgroup=(1, 1, 1),
        output_shapes=[(1,)], output_dtypes=[mx.float32],
    )  # fmt: skip
    assert out.item() == 1 + 2 + 3 + 20 + 4 + 2 + 1 + 0.5 + 8


@pytest.mark.usefixtures("metal_check")
def test_the_metal_check_takes_it() -> None:
    text = (
        f"{HEADER}[[kernel]] void k(device float* out [[buffer(0)]], const device float* x "
        f"[[buffer(1)]], uint3 thread_position_in_grid [[thread_position_in_grid]]) {{\n{BODY}}}\n"
    )
    assert not [str(d) for d in check_text(text)]


@pytest.mark.usefixtures("nvrtc")
def test_nvrtc_takes_it() -> None:
    nvrtc = installed()
    assert nvrtc is not None
    kinds = [mx.float32, mx.uint32]
    _, whole = whole_text("style", cuda_text(MADE.spec), kinds, [mx.float32], ())
    nvrtc.compile(whole, "style.cu", nvrtc.architecture((9, 0)).replace("sm_", "compute_"))
