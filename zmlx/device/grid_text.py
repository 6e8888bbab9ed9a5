"""The C++ around a hand-written kernel: what the host device hands to the compiler.

Comes in: a MetalKernelSpec, the types of its arrays, a template. Goes out: one translation unit
with the entry `zm_entry`, which runs whole groups in a loop, or one thread where threads must wait
for one another. The structs are those of headers/msl_written.h.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zmlx.device.address_spaces import without_address_spaces
from zmlx.device.conditionals import told
from zmlx.device.host_text import UNBRANCHED
from zmlx.device.metal_words import parts, swizzles
from zmlx.device.overloads import once
from zmlx.dtypes import msl_type
from zmlx.msl.spec import MetalKernelSpec

Template = Sequence[tuple[str, int | bool | str]]

_TOGETHER = re.compile(
    r"\b(?:threadgroup_barrier|simdgroup_barrier|simd_\w+|quad_\w+|threadgroup"
    r"|simdgroup_\w+8x8|simdgroup_matrix|simdgroup_load|simdgroup_store|simdgroup_multiply\w*)\b"
)
_POSITION = (
    "{0}(p.group[0] * g->group[0] + p.at[0], p.group[1] * g->group[1] + p.at[1], "
    "p.group[2] * g->group[2] + p.at[2])"
)
_EXTENT = "zm_extent(g, p, {0})"
_THREADS = "(zm_extent(g, p, 0) * zm_extent(g, p, 1) * zm_extent(g, p, 2))"
_INDEX = (
    "(p.at[0] + zm_extent(g, p, 0) * (p.at[1] + zm_extent(g, p, 1) * p.at[2]))"
)  # fmt: skip
# Metal's names of a thread's place, with their types and what they are here.
ATTRIBUTES = {
    "thread_position_in_grid": ("uint3", _POSITION.format("uint3")),
    "thread_position_in_threadgroup": ("uint3", "uint3(p.at[0], p.at[1], p.at[2])"),
    "threadgroup_position_in_grid": ("uint3", "uint3(p.group[0], p.group[1], p.group[2])"),
    "threads_per_grid": ("uint3", "uint3(g->grid[0], g->grid[1], g->grid[2])"),
    "grid_size": ("uint3", "uint3(g->grid[0], g->grid[1], g->grid[2])"),
    "grid_origin": ("uint3", "uint3(0, 0, 0)"),
    "threadgroups_per_grid": ("uint3", "uint3(zm_count(g, 0), zm_count(g, 1), zm_count(g, 2))"),
    "threads_per_threadgroup": (
        "uint3", "uint3(zm_extent(g, p, 0), zm_extent(g, p, 1), zm_extent(g, p, 2))",
    ),
    "dispatch_threads_per_threadgroup": (
        "uint3", "uint3(g->group[0], g->group[1], g->group[2])",
    ),
    "thread_index_in_threadgroup": ("uint", _INDEX),
    "thread_index_in_simdgroup": ("uint", f"({_INDEX} % 32)"),
    "simdgroup_index_in_threadgroup": ("uint", f"({_INDEX} / 32)"),
    "thread_index_in_quadgroup": ("uint", f"({_INDEX} % 4)"),
    "quadgroup_index_in_threadgroup": ("uint", f"({_INDEX} / 4)"),
    "threads_per_simdgroup": ("uint", "32"),
    "thread_execution_width": ("uint", "32"),
    "simdgroups_per_threadgroup": ("uint", f"(({_THREADS} + 31) / 32)"),
    "quadgroups_per_threadgroup": ("uint", f"(({_THREADS} + 3) / 4)"),
    "dispatch_simdgroups_per_threadgroup": (
        "uint", "((g->group[0] * g->group[1] * g->group[2] + 31) / 32)",
    ),
}  # fmt: skip

_PLACES = """\
static inline uint zm_extent(const zm_grid* g, const zm_place& p, int d) {
  const uint left = g->grid[d] - p.group[d] * g->group[d];
  return left < g->group[d] ? left : g->group[d];
}
static inline uint zm_count(const zm_grid* g, int d) {
  return (g->grid[d] + g->group[d] - 1) / g->group[d];
}
"""
_ONE_THREAD = """\
ZM_ENTRY void zm_entry(const zm_grid* g, const zm_place* place) {{
  const zm_place& p = *place;
  zm_body({values});
}}
"""
_WHOLE_GROUPS = """\
ZM_ENTRY void zm_entry(const zm_grid* g, long first, long last) {{
  for (long n = first; n < last; ++n) {{
    const long x = zm_count(g, 0), y = zm_count(g, 1);
    zm_place p = {{{{uint(n % x), uint(n / x % y), uint(n / x / y)}}, {{0, 0, 0}}}};
    for (p.at[2] = 0; p.at[2] < zm_extent(g, p, 2); ++p.at[2])
      for (p.at[1] = 0; p.at[1] < zm_extent(g, p, 1); ++p.at[1])
        for (uint t = 0, end = zm_extent(g, p, 0); t < end; ++t) {{
          p.at[0] = t;
          zm_body({values});
        }}
  }}
}}
"""
# GCC announces the accesses of an assignment, not those of a call that takes or returns a struct
# (half, float4): a watched kernel is compiled without calls. So is one whose threads meet:
# msl_group.h tells the ways to a call apart by the inlined copies of the helpers on it.
_INLINED = "#define noinline unused\n"
_METAL = re.compile(r"\bnamespace\s+metal\s*\{")
# What Metal's compiler defines in that mode. Functions stay as exact as they are.
FAST_MATH = "#undef __FAST_MATH__\n#define __FAST_MATH__ 1\n"


def needs_fibers(spec: MetalKernelSpec) -> bool:
    """Whether threads of the kernel wait for one another or share memory."""
    return _TOGETHER.search(spec.source + "\n" + spec.header) is not None


def translation_unit(
    spec: MetalKernelSpec,
    inputs: Sequence[str],
    outputs: Sequence[str],
    template: Template,
    sanitize: bool = False,
    exact: bool = False,
) -> str:
    """C++ text for the kernel with arrays of these dtypes.

    `sanitize` has its accesses observed, `exact` gives it MLX's own functions.
    """
    header, source = told(spec.header), told(spec.source)
    pairs = _parameters(spec, inputs, outputs)
    parameters, values = ", ".join(p for p, _ in pairs), ", ".join(v for _, v in pairs)
    alone = sanitize or needs_fibers(spec)
    entry = _ONE_THREAD if alone else _WHOLE_GROUPS
    kind = "__noinline__, flatten" if alone else "always_inline"
    unseen = ', no_sanitize("thread")' if sanitize else ""
    # What a text puts into metal is metal's; else nothing is seen from outside.
    opens, closes = ("", "") if _METAL.search(header) else ("namespace {", "}")
    return (
        ("#define ZM_SANITIZE 1\n" if sanitize else "")
        + ("#define ZM_EXACT 1\n" if exact else "")
        + ("" if sanitize else UNBRANCHED)
        + _names(f"{header}\n{source}")
        + f'#define ZM_ENTRY extern "C" __attribute__((visibility("default"){unseen}))\n'
        "ZM_ENTRY void zm_attach(const zm_runtime* r) { zm_now = r; }\n"
        + (_PLACES.replace("static inline", "ZM_INLINE") if not sanitize else _unseen(_PLACES))
        + f"{opens}\nusing namespace metal;\n"
        f"{_INLINED if alone else ''}"
        f"{FAST_MATH if spec.math == 'fast' else ''}"
        f'#line 1 "{spec.name}.header"\n{once(without_address_spaces(header))}\n'
        f"__attribute__(({kind})) inline void zm_body({parameters}) {{\n"
        f"{_template(template)}"
        f'#line 1 "{spec.name}.body"\n{without_address_spaces(source)}\n}}\n{closes}\n'
        f'#line 1 "{spec.name}.entry"\n{entry.format(values=values)}'
    )


def _names(text: str) -> str:
    """Metal's names, as far as the kernel needs them."""
    needed = "".join(f'#include "parts/{path.name}"\n' for path in parts(text))
    return f'{swizzles(text)}#include "msl_written.h"\n{needed}'


def _unseen(text: str) -> str:
    return text.replace("static inline", '__attribute__((no_sanitize("thread"))) static')


def _template(template: Template) -> str:
    lines = []
    for name, value in template:
        if isinstance(value, bool):
            lines.append(f"constexpr bool {name} = {'true' if value else 'false'};\n")
        elif isinstance(value, int):
            lines.append(f"constexpr int {name} = {value};\n")
        else:
            lines.append(f"typedef {msl_type(value)} {name};\n")
    return "".join(lines)


def _parameters(
    spec: MetalKernelSpec, inputs: Sequence[str], outputs: Sequence[str]
) -> list[tuple[str, str]]:
    """Parameters of the body, each with the argument of its call."""
    pairs = []
    for i, (name, dtype) in enumerate(zip(spec.input_names, inputs, strict=True)):
        kind = f"const {msl_type(dtype)}*"
        if i in spec.references:
            pairs.append((f"const {msl_type(dtype)}& {name}", f"*({kind})g->data[{i}]"))
            continue
        pairs.append((f"{kind} {name}", f"({kind})g->data[{i}]"))
        pairs.append((f"const int* {name}_shape", f"g->shapes[{i}]"))
        pairs.append((f"const long* {name}_strides", f"g->strides[{i}]"))
        pairs.append((f"const int {name}_ndim", f"g->ranks[{i}]"))
    for i, (name, dtype) in enumerate(zip(spec.output_names, outputs, strict=True)):
        plain = msl_type(dtype)
        kind = f"atomic<{plain}>*" if spec.atomic_outputs else f"{plain}*"
        full = kind.replace("atomic", "metal::atomic")
        pairs.append((f"{kind} {name}", f"({full})g->data[{len(inputs) + i}]"))
    words = set(re.findall(r"\w+", spec.source))
    for name, (kind, value) in ATTRIBUTES.items():
        if name in words:
            pairs.append((f"const {kind} {name}", value))
    return pairs
