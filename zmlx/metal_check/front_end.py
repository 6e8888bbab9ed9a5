"""The front end: clang, told what Metal has, reads one text behind MLX's headers.

Comes in: a Metal text. Goes out: its diagnostics, with lines of that text. In front stand

- headers/metal_types.h and metal_functions.h of this package for Apple's <metal_stdlib>: types,
  address spaces, functions with their overloads, as the specification lists them;
- utils.h, bf16.h, bf16_math.h, defines.h and logging.h of the installed MLX, the files that MLX
  itself puts there (in MLX's build they are expanded beforehand; the text is the same);
- for MLX's complex.h a short stand-in: address spaces on member functions are Apple's own syntax.

Rewritten before clang reads them are array parameters with an address space (in utils.h), which
become pointers, attributes on an explicit instantiation, which become blanks, threadgroup arrays
inside a kernel, which become `extern`, and the constructors of vectors (vectors.py). The language
is C++14; what Metal leaves out is poisoned.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx.errors import DeviceError
from zmlx.metal_check import vectors

HEADERS = Path(__file__).parent / "headers"
MLX_INCLUDE = Path(mx.__file__).parent / "include"
UTILS = MLX_INCLUDE / "mlx/backend/metal/kernels/utils.h"
NAME = "kernel.metal"
ARGUMENTS = (
    *("-std=c++14", "-target", "arm64-apple-macos", "-fno-exceptions", "-fno-rtti"),
    *("-ffreestanding", "-nostdinc", "-nostdinc++", "-pedantic-errors", "-ferror-limit=50"),
    *("-Xclang", "-cl-single-precision-constant"),  # 1.0 is a float, see rules.py
    *("-Wno-user-defined-literals", "-Wno-unknown-attributes"),  # [[kernel]], [[buffer(0)]], 1.0h
    "-Wno-tautological-compare",  # x == x: users may write it, and Metal takes it
    *("-Wuninitialized", "-Wsometimes-uninitialized", "-Wconditional-uninitialized"),
    *("-isystem", str(HEADERS), "-isystem", str(MLX_INCLUDE)),
)
# Metal takes integers for bfloats (MLX's softmax does), which the stand-in for bfloat cannot.
_INTEGER_TO_BFLOAT = re.compile(
    r"(?:assigning to|cannot initialize [\w ]+ of type) '[^']*bfloat.*"
    r" type '[^']*\b(?:bool|char|short|int|long|u\w+|u?int\d+_t)\b[^']*'"
)
# Of a later C++, and taken by Metal all the same.
_TAKEN = re.compile(
    r"constexpr if is a C\+\+17 extension|hexadecimal floating literals are a C\+\+17 feature"
    # Threadgroup variables are declared `extern`, see prelude.h.
    r"|redeclaration of '\w+' with a different type: '__attribute__\(\(address_space\(3\)\)\)"
    r"|variable '\w+' is used but not defined in this translation unit"
)
_SHARED = re.compile(  # the declaration of a threadgroup variable
    r"(^[ \t]*|[;{}]\s*)((?:volatile\s+)?)threadgroup(\s+[\w:<>, ]+?\s+\w+\s*[\[;,={])",
    re.MULTILINE,
)
# A method that names the space of its object: Apple's own syntax, blanked out for clang.
_METHOD = re.compile(
    r"(?<=\))(\s*(?:const\s+)?)\b(device|constant|threadgroup|thread)\b(?=\s*(?:const\s*)?\{)"
)
_OF_METHODS = re.compile(r"class member cannot be redeclared|cannot initialize object parameter")
# C++'s own copies of a struct know no address spaces, Metal's do.
_COPIES = re.compile(r".*the implicit (?:copy|move) .*not viable: .*address space '(\d)'")
# `(float4)h` converts in Metal, and reads the bits anew in clang.
_CAST = re.compile(
    r"\(\s*((?:bool|half|float|u?char|u?short|u?int|u?long)[234])\s*\)(?=\s*[\w(])(?!\s*\()"
    r"|\(\s*((?:bool|half|float|u?char|u?short|u?int|u?long)[234])\s*\)(?=\s*\()"
)
_ATOMIC = re.compile(r"no matching function for call to 'atomic_\w+_explicit'")
_ORDER = re.compile(r"\bmemory_order_(?:acquire|release|acq_rel|seq_cst|consume)\b")
SEVERITIES = ("ignored", "note", "warning", "error", "fatal")


@dataclass(frozen=True)
class Diagnostic:
    """One finding; lines and columns count from one in the text that MLX makes."""

    severity: str  # "warning", "error" or "fatal"
    line: int
    column: int
    message: str
    source: str  # the line it is about

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.severity}: {self.message}\n    {self.source}"


class FrontEnd:
    """clang with the headers already read; one text at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def parse(
        self, text: str, rules: Callable[[Any, str], list[Diagnostic]]
    ) -> tuple[list[Diagnostic], list[Diagnostic]]:
        """What `rules` find in the syntax tree of `text`, and what clang finds."""
        problem = unavailable()
        if problem is not None:
            raise DeviceError(f"[zmlx.metal_check] {problem}")
        written = _for_clang(text)
        with self._lock:
            unit = self._index.parse(
                NAME,
                args=["-x", "c++", *ARGUMENTS, "-include-pch", self._prelude],
                unsaved_files=[(NAME, written)],
            )
            lines = text.splitlines()
            heard = [d for d in unit.diagnostics if d.severity >= 2]
            spaced = _METHOD.search(text) is not None
            found = [_diagnostic(d, lines) for d in heard if not _taken(d, spaced, written)]
            seen = [replace(d, source=lines[d.line - 1].strip()) for d in rules(unit, written)]
            return seen, found

    def close(self) -> None:
        """Give back what was read; the bindings' own clean-up fails when the interpreter ends."""
        self.__dict__.pop("_index", None)
        if self.__dict__.pop("_prelude", None):
            self._folder.cleanup()

    @cached_property
    def _index(self) -> Any:
        import atexit

        from clang import cindex

        atexit.register(self.close)
        return cindex.Index.create(excludeDecls=True)  # the tree of the text, without its headers

    @cached_property
    def _prelude(self) -> str:
        """The headers, read once per process, as clang's precompiled header."""
        import tempfile

        self._folder = tempfile.TemporaryDirectory(prefix="zmlx-metal-")
        unit = self._index.parse(
            str(HEADERS / "prelude.h"),
            args=["-x", "c++-header", *ARGUMENTS],
            unsaved_files=[(str(UTILS), _parameters_as_pointers(UTILS.read_text("utf-8")))],
            options=2,  # incomplete: a header, no program
        )
        wrong = [d.format() for d in unit.diagnostics if d.severity >= 3]
        if wrong:
            raise DeviceError(
                f"[zmlx.metal_check] the headers of MLX {mx.__version__} are not understood: "
                f"{wrong[0]}. Extend zmlx/metal_check/headers."
            )
        path = str(Path(self._folder.name) / "prelude.pch")
        unit.save(path)
        return path


FRONT_END = FrontEnd()


def unavailable() -> str | None:
    """Why nothing can be checked here; None where it can."""
    try:
        from clang import cindex
    except ImportError:
        return "needs the Python bindings of clang: pip install libclang"
    try:
        cindex.conf.get_cindex_library()
    except cindex.LibclangError as error:
        return f"needs libclang ({error}): pip install libclang"
    return None if UTILS.exists() else f"this MLX brings no Metal headers ({UTILS})"


def _parameters_as_pointers(text: str) -> str:
    return re.sub(r"(constant const \w+) (\w+)\[\d+\]", r"\1* \2", text)


def _for_clang(text: str) -> str:
    """`text` in upstream clang's syntax, every character in its place (but for bfloat literals)."""
    text = re.sub(
        r"(?<=template )\[\[host_name\([^)]*\)\]\]\s*\[\[kernel\]\]",
        lambda m: re.sub(r"\S", " ", m[0]),
        text,
    )
    text = re.sub(r"\b(\d+\.\d*(?:[eE][-+]?\d+)?)(?:bf|BF)\b", r"bfloat(\1f)", text)
    text = re.sub(r"\bkernel(?=\s+void\b)", "      ", text)
    text = re.sub(r"\[\[\s*threadgroup\(\d+\)\s*\]\]", lambda m: " " * len(m[0]), text)
    text = _METHOD.sub(lambda m: m[1] + " " * len(m[2]), text)
    text = vectors.written(text)
    text = _CAST.sub(lambda m: f"zmlx_to<{m[1] or m[2]}>() ->* ", text)
    return _SHARED.sub(r"\1\2threadshare\3", text)


def _taken(found: Any, spaced: bool, text: str) -> bool:
    """Whether Metal takes what clang complains of; `spaced`: methods of the text name spaces."""
    if _TAKEN.match(found.spelling):
        return True
    where = found.location
    if where.file is not None and where.file.name == NAME:
        line = text.splitlines()[where.line - 1]
        notes = [note.spelling for note in found.children]
        if vectors.taken(found.spelling, notes, line, where.column, text):
            return True
    if spaced and _OF_METHODS.match(found.spelling):
        return True
    notes = [_COPIES.match(note.spelling) for note in found.children]
    spaces = {note[1] for note in notes if note}
    return bool(spaces) and ("constructor" in found.spelling or "2" not in spaces)


def _diagnostic(found: Any, lines: list[str]) -> Diagnostic:
    where = found.location
    inside = where.file is not None and where.file.name == NAME and where.line <= len(lines)
    source = lines[where.line - 1] if inside else ""
    message = found.spelling if inside else found.format()
    if "poisoned identifier" in message:
        word = re.match(r"\w*", source[where.column - 1 :])
        message = f"'{word[0] if word else ''}' does not exist in Metal"
    if "block scope identifier with linkage" in message:  # the `extern` of prelude.h
        message = "a threadgroup variable takes no initial value"
    ordered = _ORDER.search(source) if _ATOMIC.match(message) else None
    if ordered:
        message += f": atomics take memory_order_relaxed, not {ordered[0]}"
    severity = 2 if _INTEGER_TO_BFLOAT.match(message) else found.severity
    severity = 3 if "is uninitialized when used" in message else severity
    return Diagnostic(SEVERITIES[severity], where.line, where.column, message, source.strip())
