"""The uses of metal_language.txt, and what each compiler says of them.

Comes in: the list. Goes out: Use objects, and for the host, the Metal check and NVRTC the uses
that they refuse, each with the compiler's words. Every use is one line of one text for each
compiler, so that all of them take one compilation.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from zmlx import metal_check
from zmlx.device import grid_text, toolchain
from zmlx.device.cuda_kernel import whole_text
from zmlx.device.cuda_text import cuda_text
from zmlx.device.nvrtc import Refused, installed
from zmlx.msl.spec import MetalKernelSpec

LIST = Path(__file__).with_name("metal_language.txt")
_VECTOR = re.compile(r"(?:packed_)?(?P<element>[a-z]+?)(?P<count>[234]?)")
_UNSIGNED = {"char": "uchar", "short": "ushort", "int": "uint", "long": "ulong"}


@dataclass(frozen=True)
class Use:
    """One thing that the specification lists: what people read, and statements that use it."""

    section: str
    text: str
    statements: str


def uses() -> list[Use]:
    """All that the list says."""
    found: list[Use] = []
    section = ""
    for line in LIST.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.startswith("- "):
            found.append(Use(section, line[2:], line[2:]))
        elif line and not line.startswith("#"):
            types, *expressions = [part.strip() for part in line.split(" | ")]
            found += [_typed(section, e, t) for e in expressions for t in types.split()]
    return found


def _typed(section: str, expression: str, kind: str) -> Use:
    match = _VECTOR.fullmatch(kind)
    element, count = (match["element"], match["count"]) if match else ("float", "")
    if "x" in kind[-3:]:  # a matrix
        element, count = re.match(r"[a-z]+", kind)[0], ""  # type: ignore[index]
    names = {
        "{B}": f"bool{count}",
        "{I}": f"int{count}",
        "{U}": f"{_UNSIGNED.get(element, element)}{count}",
        "{E}": element,
    }
    expression = re.sub(r"\bT\(", f"{kind}(", expression)
    for name, value in names.items():
        expression = expression.replace(name, value)
    given = f"{kind} x, y, z;" if "matrix" in section else f"{kind} x = {kind}(1), y = x, z = x;"
    more = f" {element} s = {element}(1); uint u = 1; int{count} i = int{count}(1); "
    more = " " if kind == "bool" else more
    return Use(section, f"{expression} of {kind}", f"{given}{more}(void)({expression});")


def header(some: Sequence[Use]) -> str:
    """A text of as many functions as lines; line n is the n-th use."""
    lines = []
    for n, use in enumerate(some):
        if use.statements.startswith("#"):
            lines.append(use.statements)
        else:
            lines.append(f"inline void zz{n}() {{ {use.statements} }}")
    return "\n".join(lines) + "\n"


def _spec(some: Sequence[Use]) -> MetalKernelSpec:
    calls = "".join(f"zz{n}();" for n, u in enumerate(some) if not u.statements.startswith("#"))
    return MetalKernelSpec("uses", ("x",), ("out",), f"out[0] = x[0]; {calls}", header(some))


Refusals = dict[int, str]
_KERNEL = "[[kernel]] void uses(device float* out [[buffer(0)]]) { out[0] = 1; }\n"


def refused_by_host(
    some: Sequence[Use], folder: Path, *, sanitize: bool = False, exact: bool = False
) -> Refusals:
    """The uses that the host's compiler refuses."""
    text = grid_text.translation_unit(
        _spec(some), ["float32"], ["float32"], (), sanitize=sanitize, exact=exact
    )
    path = folder / "uses.cpp"
    path.write_text(text, "utf-8")
    compiler = toolchain.find_compiler()
    assert compiler is not None
    headers = [f"-I{toolchain.HEADERS}", f"-I{toolchain.HEADERS / 'metal'}"]
    flags = [f for f in toolchain.kernel_flags() if f != "-shared"]
    done = subprocess.run(
        [*compiler.command, *flags, *headers, "-O0", "-fsyntax-only", "-fmax-errors=0",
         "-fno-diagnostics-show-caret", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return _by_line(done.stderr, r"uses\.header:(\d+):\d+: error: (.*)", r": error: (.*)")


def refused_by_cuda(some: Sequence[Use]) -> Refusals:
    """The uses that NVRTC refuses."""
    text = cuda_text(_spec(some))
    _, whole = whole_text("uses", text, [mx.float32, mx.uint32], [mx.float32], ())
    nvrtc = installed()
    assert nvrtc is not None
    try:
        nvrtc.compile(whole, "uses.cu", nvrtc.architecture((9, 0)).replace("sm_", "compute_"))
    except Refused as refused:
        return _by_line(str(refused), r"uses\.header\((\d+)\): error: (.*)", r": error: (.*)")
    return {}


def refused_by_metal_check(some: Sequence[Use]) -> Refusals:
    """The uses that the Metal check calls errors; clang stops after 50, so again without those."""
    found: Refusals = {}
    while True:
        kept = [Use("", "", "") if n in found else use for n, use in enumerate(some)]
        text = (
            header(kept) + "[[kernel]] void uses(device float* out [[buffer(0)]]) { out[0] = 1; }\n"
        )
        wrong = [d for d in metal_check.check_text(text) if d.severity in ("error", "fatal")]
        new = {d.line - 1: d.message for d in reversed(wrong) if d.line - 1 not in found}
        found.update({n: m for n, m in new.items() if n >= 0})
        if not set(new) - {-1}:
            return found


def _by_line(words: str, ours: str, other: str) -> Refusals:
    """What is said, by the use it is said of: of errors inside a header, the use that asks."""
    found: Refusals = {}
    lines = words.splitlines()
    for n, line in enumerate(lines):
        if match := re.search(ours, line):
            found.setdefault(int(match[1]) - 1, match[2])
        elif re.search(other, line):
            near = [
                re.search(r"uses\.header[:(](\d+)", around) for around in lines[n - 12 : n + 12]
            ]
            places = [int(m[1]) - 1 for m in near if m]
            found.setdefault(places[0] if places else -1 - n, line)
    return found
