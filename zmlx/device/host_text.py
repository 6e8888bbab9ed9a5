"""The C++ around kernels' MSL text: what the host device hands to the compiler.

Comes in: KernelSource objects. Goes out: one translation unit in which each kernel has a namespace
of its own and an extern "C" entry that runs the threads [first, last) of its grid. The entry's
argument mirrors `Arguments` in native/launch.h.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.dtypes import msl_type
from zmlx.msl.kernel import Arg, KernelSource

# GCC vectorises no loop with branches, and makes branches of selections: it moves a call into the
# one branch that uses its result, threads one condition's outcome through the next, and sets a
# comparison aside where a branch knows it.
UNBRANCHED = """\
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-sink", "no-thread-jumps", "no-tree-pre")
#endif
"""
_PROLOGUE = """\
#include "msl_on_host.h"
struct zm_arguments {
  void* const* data;
  const int* const* shapes;
  const long* const* strides;
  const int* ranks;
  long elements;
};
#define inline static inline __attribute__((always_inline, unused))
"""


def translation_unit(kernels: Sequence[KernelSource]) -> str:
    """C++ text for `kernels`, which must all be exact or all not."""
    exact = "#define ZM_EXACT 1\n" if kernels[0].exact else ""
    return exact + UNBRANCHED + _PROLOGUE + "".join(_kernel(kernel) for kernel in kernels)


def _kernel(kernel: KernelSource) -> str:
    name = kernel.name
    parameters, values = _parameters(kernel)
    return (
        f"namespace {name}_space {{\n"
        "using namespace metal;\n"
        "typedef long INDEX;\n"
        f'#line 1 "{name}.header"\n{kernel.header}\n'
        f"static __attribute__((always_inline)) void body({parameters}) {{\n"
        f'#line 1 "{name}.body"\n{kernel.body}\n}}\n}}\n'
        f'#line 1 "{name}.entry"\n'
        f'extern "C" __attribute__((visibility("default")))\n'
        f"void {name}(const zm_arguments* a, long first, long last) {{\n"
        f"  for (long t = first; t < last; ++t) {name}_space::body({values});\n}}\n"
    )


def _parameters(kernel: KernelSource) -> tuple[str, str]:
    """The parameter list of the kernel's function, and the arguments of its call."""
    pairs = []
    for i, arg in enumerate(kernel.inputs):
        pairs.append((f"const {_memory(arg)}* {arg.name}", _data(arg, i, "const ")))
        pairs.append((f"const int* {arg.name}_shape", f"a->shapes[{i}]"))
        pairs.append((f"const long* {arg.name}_strides", f"a->strides[{i}]"))
        pairs.append((f"const int {arg.name}_ndim", f"a->ranks[{i}]"))
    for i, arg in enumerate(kernel.outputs, start=len(kernel.inputs)):
        pairs.append((f"{_memory(arg)}* {arg.name}", _data(arg, i, "")))
    pairs.append(("const long ELEMS", "a->elements"))
    pairs.append(("const uint3 thread_position_in_grid", "uint3{uint(t), 0u, 0u}"))
    return ", ".join(p for p, _ in pairs), ", ".join(v for _, v in pairs)


def _data(arg: Arg, position: int, qualifier: str) -> str:
    return f"({qualifier}{_memory(arg)}*)a->data[{position}]"


def _memory(arg: Arg) -> str:
    """The type of an element in memory."""
    return "zm_bool" if arg.dtype == "bool" else msl_type(arg.dtype)
