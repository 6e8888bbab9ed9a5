"""Hand-written Metal kernels as CUDA C++: the text behind Metal's names.

Comes in: a MetalKernelSpec. Goes out: what mx.fast.cuda_kernel takes. CUDA launches whole groups
only and does not tell a kernel its grid in threads, so the grid comes as one more input and the
threads beyond it return at once; but where the spec says that there are none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from zmlx.device.address_spaces import without_address_spaces
from zmlx.device.conditionals import told
from zmlx.device.grid_text import FAST_MATH
from zmlx.device.metal_words import parts, swizzles
from zmlx.device.overloads import once
from zmlx.msl.spec import MetalKernelSpec

HEADERS = Path(__file__).parent / "headers"
NAMES = (HEADERS / "msl_on_cuda.h", HEADERS / "msl_wide_cuda.h")  # of Metal, for every kernel
GRID = "zm_grid"
HALVES = "#define ZM_HALVES\n"  # quick functions, exact enough for results of 16 bits
_BEYOND = """\
if (blockIdx.x * blockDim.x + threadIdx.x >= zm_grid[0] ||
    blockIdx.y * blockDim.y + threadIdx.y >= zm_grid[1] ||
    blockIdx.z * blockDim.z + threadIdx.z >= zm_grid[2]) return;
"""
# Calls that CUDA's own functions of that name would make ambiguous.
_CALL = re.compile(
    r"(?P<before>(?:\b\w+|::|\.|->)\s*)?\b(?P<name>exp2?|exp10|log2?|log10|a?sinh?|a?cosh?|a?tanh?|atan2|r?sqrt"
    r"|floor|ceil|trunc|rint|round|f?abs|f?max|f?min|fmod|pow|fma|fdim|ldexp|nextafter"
    r"|copysign|isnan|isinf|isfinite|isnormal|signbit|sinpi|cospi|tanpi|modf|frexp|ilogb|sincos)(?=\s*\()"
)
# Headers inside of msl_group_cuda.h.
_SHARED = {
    "ZMLX_INCLUDE_COMMON": ("msl_half_bits.h", "msl_constants.h", "msl_common_cuda.h"),
    "ZMLX_INCLUDE_ATOMICS": ("msl_atomics_cuda.h",),
    "ZMLX_INCLUDE_SHARED": (
        "msl_kinds.h", "msl_half_operators_cuda.h", "msl_vectors.h", "msl_vector_operators.h",
        "msl_together.h",
    ),
}  # fmt: skip
_NO_TYPE = ("return", "else", "case", "do")
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<metal\w*>", re.MULTILINE)


@dataclass(frozen=True)
class CudaText:
    """The arguments of mx.fast.cuda_kernel that depend on the text."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    source: str
    header: str
    busy: int = 0  # threads that a multiprocessor is to hold, whatever registers each wants


def cuda_text(spec: MetalKernelSpec) -> CudaText:
    """The kernel `spec` for CUDA."""
    outputs, atomics = spec.output_names, ""
    inputs, referred = list(spec.input_names), ""
    for i in spec.references:
        inputs[i] = f"zm_at_{spec.input_names[i]}"
        referred += f"const auto& {spec.input_names[i]} = {inputs[i]}[0];\n"
    if spec.atomic_outputs:
        outputs = tuple(f"zm_raw_{name}" for name in outputs)
        pairs = zip(spec.output_names, outputs, strict=True)
        atomics = "".join(f"auto* {name} = metal::zm_atomics({raw});\n" for name, raw in pairs)
    facts = HALVES if spec.halves else ""
    if spec.widest:
        facts += f"#define ZM_WIDEST {spec.widest}\n"
    if spec.math == "fast":
        facts += FAST_MATH
    grid, beyond = ((), "") if spec.whole else ((GRID,), _BEYOND)
    return CudaText(
        (*inputs, *grid),
        outputs,
        f'{beyond}{referred}{atomics}#line 1 "{spec.name}.body"\n' + _plain(spec.source),
        f'{facts}{_names(spec)}#line 1 "{spec.name}.header"\n'
        + once(_plain(_INCLUDE.sub("", spec.header))),
        busy=spec.busy,
    )


def _names(spec: MetalKernelSpec) -> str:
    """Metal's names, as far as the kernel needs them."""
    text = told(f"{spec.header}\n{spec.source}")
    needed = "".join(_header(f"parts/{path.name}") for path in parts(text))
    return f"{swizzles(text)}{names()}{needed}"


def _plain(text: str) -> str:
    return _CALL.sub(_qualified, without_address_spaces(told(text)))


def _qualified(call: re.Match[str]) -> str:
    """`exp(` as `metal::exp(`, but for a name that is qualified, a member or being declared."""
    before = call["before"] or ""
    if before.rstrip().endswith(("::", ".", "->")) or (before and before.strip() not in _NO_TYPE):
        return call.group()
    return f"{before}metal::{call['name']}"


@lru_cache(maxsize=1)
def names() -> str:
    """Metal's names for a kernel written by hand: the headers in front of its text."""
    groups = (HEADERS / "msl_group_cuda.h").read_text("utf-8")
    for place, files in _SHARED.items():
        groups = groups.replace(f"\n{place}\n", "\n" + "".join(map(_header, files)))
    return names_of_metal() + groups


def _header(name: str) -> str:
    return (HEADERS / name).read_text("utf-8").replace("#pragma once", "")


@lru_cache(maxsize=1)
def names_of_metal() -> str:
    """The headers that stand in front of every kernel."""
    return "".join(path.read_text("utf-8") for path in NAMES)
