"""The MSL of every row, compiled once as C++ behind a minimal set of Metal's names.

Independent of the emitter and of the devices: it tests the table's and the helpers' text alone.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from zmlx import dtypes
from zmlx.msl.helpers import helper_text
from zmlx.ops.spec import OPERANDS, OpSpec
from zmlx.ops.table import OPS

HEADER = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#define thread
#define constant const
#define ZMLX_OFF_METAL 1
typedef uint8_t uchar; typedef uint16_t ushort; typedef uint32_t uint; typedef uint64_t ulong;
typedef _Float16 half;
template <typename To, typename From> inline To as_type(From v) {
  static_assert(sizeof(To) == sizeof(From), ""); To r; std::memcpy(&r, &v, sizeof(r)); return r;
}
struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  bfloat16_t(float f) {
    const uint u = as_type<uint>(f);
    bits = (f != f) ? 0x7fc0 : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  operator float() const { return as_type<float>(uint(bits) << 16); }
};
// MLX's host exponential (mlx/backend/cpu/simd/math.h, after Cephes).
inline float mlx_exp(float v) {
  float x = v * 1.442695f;
  const float i = std::floor(x + 0.5f), f = x - i;
  x = 1.535336188319500e-4f;
  x = std::fma(x, f, 1.339887440266574e-3f); x = std::fma(x, f, 9.618437357674640e-3f);
  x = std::fma(x, f, 5.550332471162809e-2f); x = std::fma(x, f, 2.402264791363012e-1f);
  x = std::fma(x, f, 6.931472028550421e-1f); x = std::fma(x, f, 1.000000000000000f);
  if (v != v) return v;
  if (v > 88.0f) return INFINITY;
  if (v < -88.0f) return 0.0f;
  return as_type<float>((int(i) + 127) << 23) * x;
}
namespace metal {
using std::abs; using std::ceil; using std::copysign; using std::floor; using std::fma;
using std::fmod; using std::ldexp; using std::rint;
namespace precise {
using std::acos; using std::acosh; using std::asin; using std::asinh; using std::atan;
using std::atan2; using std::atanh; using std::cos; using std::cosh; using std::log;
using std::log10; using std::log2;
using std::pow; using std::sin; using std::sinh; using std::sqrt; using std::tan; using std::tanh;
#ifdef EXACT
inline float exp(float x) { return mlx_exp(x); }
#else
inline float exp(float x) { return float(std::exp(double(x))); }
#endif
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
}
}
#ifdef EXACT
#define ZMLX_NATIVE_LOG1P
inline float zmlx_log1p(float x) { return std::log1p(x); }
#endif
"""
FLAGS = ["-std=c++14", "-O2", "-ffp-contract=off", "-fwrapv", "-w", "-shared", "-fPIC"]
TYPES = ("float32", *dtypes.INTEGERS, "bool")


def expression(spec: OpSpec, at: str) -> str | None:
    """The row's text for operands of type `at`, by the rules in zmlx.ops.spec."""
    if dtypes.is_float(at):
        return spec.msl
    integer = spec.msl if spec.msl_int == "" else spec.msl_int
    if at != "bool":
        return integer
    return integer if spec.msl_bool == "" else spec.msl_bool


def supported(spec: OpSpec, at: str) -> bool:
    return expression(spec, at) is not None and at not in spec.refuses and spec.name != "astype"


def result_type(spec: OpSpec, at: str) -> str:
    return "bool" if spec.result == "bool" else at


def function_text(name: str, spec: OpSpec, at: str, text: str) -> str:
    value, memory = dtypes.value_type(at), dtypes.msl_type(at)
    result = dtypes.msl_type(result_type(spec, at))
    body = text.format(x="vx", y="vy", z="vz", T=value, M=memory, R=result)
    held = dtypes.value_type(result_type(spec, at))
    kinds = [
        ("bool", "bool") if spec.name == "where" and o == "x" else (memory, value) for o in OPERANDS
    ]
    parameters = ", ".join(f"const {m}* {o}" for o, (m, _) in zip(OPERANDS, kinds, strict=True))
    loads = " ".join(f"const {v} v{o} = {o}[i];" for o, (_, v) in zip(OPERANDS, kinds, strict=True))
    return (
        f'extern "C" void {name}({parameters}, {result}* out, long n) {{\n'
        f"  for (long i = 0; i < n; ++i) {{\n    {loads}\n    const {held} r = {body};\n"
        f"    out[i] = {result}(r);\n  }}\n}}\n"
    )


def build(directory: Path, exact: bool) -> ctypes.CDLL:
    """All rows as functions row_<op>_<type>; with exact, the msl_exact forms for float types."""
    functions, helpers = [], []
    for spec in OPS.values():
        if exact and spec.msl_exact:
            helpers += spec.exact_helpers
            for at in ("float16", "bfloat16", "float32"):
                functions.append(function_text(f"row_{spec.name}_{at}", spec, at, spec.msl_exact))
        elif not exact:
            helpers += spec.helpers
            for at in TYPES:
                if supported(spec, at):
                    functions.append(
                        function_text(f"row_{spec.name}_{at}", spec, at, expression(spec, at))
                    )
            for number, (_, text) in enumerate(spec.msl_const):
                functions.append(
                    function_text(f"row_{spec.name}_const{number}", spec, "float32", text)
                )
    source, library = directory / f"rows{int(exact)}.cpp", directory / f"rows{int(exact)}.so"
    source.write_text(
        "#define EXACT\n" * exact + HEADER + helper_text(helpers) + "\n".join(functions)
    )
    subprocess.run(["g++", *FLAGS, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def call(
    library: ctypes.CDLL, name: str, operands: list[np.ndarray], result: np.dtype
) -> np.ndarray:
    """Run one function on contiguous arrays of equal length; missing operands repeat the first."""
    arrays = [np.ascontiguousarray(a) for a in operands]
    arrays += [arrays[-1]] * (3 - len(arrays))
    out = np.empty(len(arrays[0]), result)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (*arrays, out)]
    getattr(library, name)(*pointers, ctypes.c_long(len(out)))
    return out
