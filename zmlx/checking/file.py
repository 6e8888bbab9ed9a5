"""Kernels in files, for `python -m zmlx check`: the text, and how it is to be launched.

Comes in: the text of a file and options. Goes out: a MetalKernelSpec whose line numbers are those
of the file, and a Launch. A file holds the body that metal.kernel takes (a line `//@ body` ends the
helpers above it), or whole kernels, `[[kernel]] void name(...) { ... }`, each of which is launched.
Lines `//@ option value` at any place say what the command line may say too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from zmlx import dtypes
from zmlx.msl.spec import Extent, Launch, MetalKernelSpec

_NOTE = re.compile(r"^[ \t]*//@[ \t]*([a-z]+)[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_KERNEL = re.compile(r"(?:\[\[\s*kernel\s*\]\]|\bkernel)\s+void\s+(\w+)\s*\(")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ATTRIBUTE = re.compile(r"\[\[\s*(\w+)\s*(?:\([^)]*\))?\s*\]\]")
_LETTERS = {1: ".x", 2: ".xy", 3: ""}
_NAMED = {dtypes.msl_type(name): name for name in dtypes.ALL if dtypes.has_msl(name)}
_TYPES = {**_NAMED, "bfloat": "bfloat16", **{f"{n}_t": n for n in dtypes.INTEGERS}}
MOST = 1 << 27  # elements of an array: what is watched takes much memory for each
OPTIONS = ("input", "output", "grid", "threadgroup", "template", "init", "atomic", "body")


@dataclass(frozen=True)
class Array:
    """One array; `value` is what every element holds, None for random numbers.

    `strides` count elements; None for an array whose rows lie one behind another.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    value: int | float | None = None
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True)
class KernelFile:
    """A kernel and a launch of it; `whole` where the file has its signature too."""

    spec: MetalKernelSpec
    inputs: tuple[Array, ...]
    launch: Launch
    whole: bool = False


@dataclass
class _Options:
    inputs: list[Array] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
    grid: Extent | None = None
    threadgroup: Extent | None = None
    template: list[tuple[str, int | bool | str]] = field(default_factory=list)
    init: int | float | None = None
    atomic: bool = False
    references: tuple[int, ...] = ()


def read_kernels(name: str, text: str, options: Mapping[str, Sequence[str]]) -> list[KernelFile]:
    """The kernels of a file; ValueError names the option that is wrong or missing.

    `options` are those of the command line; they replace the file's own of the same name.
    """
    notes = [(found[1], found[2]) for found in _NOTE.finditer(text)]
    given = [pair for pair in notes if not options.get(pair[0])]
    given += [(key, value) for key, values in options.items() for value in values]
    chosen = _Options()
    for key, value in given:
        _take(chosen, key, value)
    if not chosen.outputs:
        raise ValueError("no output is named; give --output NAME:DTYPE:SHAPE")
    code = without_comments(text)
    whole = list(_KERNEL.finditer(code))
    if not whole:
        return [_kernel(name, *_parts(text), chosen)]
    made = []
    for found in whole:
        own = replace(chosen)
        header, body = _whole(text, code, found, own)
        made.append(_kernel(found[1], header, body, own))
    return [replace(kernel, whole=True) for kernel in made]


def _kernel(name: str, header: str, body: str, chosen: _Options) -> KernelFile:
    strided = any(a.strides is not None for a in chosen.inputs)
    references = tuple(i for i, a in enumerate(chosen.inputs) if not a.shape)
    spec = MetalKernelSpec(
        name, tuple(a.name for a in chosen.inputs), tuple(a.name for a in chosen.outputs),
        body, header, not strided, chosen.atomic, references=references,
    )  # fmt: skip
    return KernelFile(spec, tuple(chosen.inputs), _launch(chosen, references))


def parse_array(text: str) -> Array:
    """`name:dtype:4x100` as an array; `=number` behind it is what every element holds.

    `name:dtype` alone has rank 0; strides in elements stand behind the shape, `4x100@200x2`.
    """
    described, equals, value = text.partition("=")
    name, _, rest = described.partition(":")
    dtype, _, sizes = rest.partition(":")
    sizes, _, steps = sizes.partition("@")
    shape, strides = _sizes(sizes), _sizes(steps)
    good = re.fullmatch(r"[A-Za-z_]\w*", name) and dtypes.has_msl(dtype)
    if not good or shape is None or strides is None or (steps and len(strides) != len(shape)):
        raise ValueError(f"{text!r} is no NAME:DTYPE:SHAPE such as x:float32:4x100")
    if prod(shape) > MOST:
        raise ValueError(f"{text!r} has {prod(shape)} elements; give at most {MOST}")
    return Array(name, dtype, shape, _value(value) if equals else None, strides if steps else None)


def _sizes(text: str) -> tuple[int, ...] | None:
    pieces = text.split("x") if text and text != "scalar" else []
    good = all(piece.isascii() and piece.isdigit() for piece in pieces)
    return tuple(int(piece) for piece in pieces) if good else None


def _value(text: str) -> int | float:
    """A number; whole ones stay whole, as a float has no room for 64 bits."""
    return int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else float(text)


def _take(chosen: _Options, key: str, value: str) -> None:
    if key == "input":
        chosen.inputs.append(parse_array(value))
    elif key == "output":
        chosen.outputs.append(parse_array(value))
    elif key == "grid":
        chosen.grid = _extent(key, value)
    elif key == "threadgroup":
        chosen.threadgroup = _extent(key, value)
    elif key == "template":
        chosen.template.append(_template(value))
    elif key == "init":
        chosen.init = _value(value)
    elif key == "atomic":
        chosen.atomic = True
    elif key != "body":
        raise ValueError(f"unknown option {key!r}; known are {', '.join(OPTIONS)}")


def _extent(key: str, text: str) -> Extent:
    pieces = [piece for piece in re.split(r"[\s,x]+", text) if piece]
    if not 1 <= len(pieces) <= 3 or not all(p.isdigit() and int(p) > 0 for p in pieces):
        raise ValueError(f"{key} {text!r} is not one to three numbers from 1 on, such as 64,4,1")
    x, y, z = (*map(int, pieces), 1, 1)[:3]
    return x, y, z


def _template(text: str) -> tuple[str, int | bool | str]:
    name, _, value = text.partition("=")
    if value in ("true", "false"):
        return name, value == "true"
    if re.fullmatch(r"-?\d+", value):
        return name, int(value)
    if not dtypes.has_msl(value):
        raise ValueError(f"template {text!r} is no NAME=NUMBER, NAME=true or NAME=DTYPE")
    return name, value


def _launch(chosen: _Options, references: tuple[int, ...]) -> Launch:
    size = 1
    for n in chosen.outputs[0].shape:
        size *= n
    grid = chosen.grid or (max(1, size), 1, 1)
    group = chosen.threadgroup or (min(256, grid[0]), 1, 1)
    if group[0] * group[1] * group[2] > 1024:
        raise ValueError(f"threadgroup {group} has more than 1024 threads")
    return Launch(
        grid, group, tuple(a.shape for a in chosen.outputs),
        tuple(a.dtype for a in chosen.outputs), tuple(chosen.template), chosen.init, references,
    )  # fmt: skip


def _parts(text: str) -> tuple[str, str]:
    """Helpers and body, the body's lines where they are in the file."""
    mark = next((m for m in _NOTE.finditer(text) if m[1] == "body"), None)
    if mark is None:
        return "", text
    above = text[: mark.end()]
    return above + "\n", "\n" * above.count("\n") + text[mark.end() :]


def without_comments(text: str) -> str:
    """Blanks in place of comments, every character in its place."""
    return _COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def _whole(text: str, code: str, found: re.Match[str], chosen: _Options) -> tuple[str, str]:
    """Of a whole kernel: what stands above it, and its body behind lines that name its arguments.

    `code` is the text without comments. Arguments become arrays in the order of the text; the
    options give their sizes. Other kernels above it are left out.
    """
    end = _closing(code, found.end() - 1)
    start = code.index("{", end)
    given = {a.name: a for a in (*chosen.inputs, *chosen.outputs)}
    inputs: list[Array] = []
    outputs: list[Array] = []
    lines: list[str] = []
    for parameter in _split(code[found.end() : end - 1]):
        attribute = _ATTRIBUTE.search(parameter)
        plain = _ATTRIBUTE.sub("", parameter).strip()
        typed, name = re.match(r"(.*?)(\w+)$", plain, re.DOTALL).groups()  # type: ignore[union-attr]
        if attribute and attribute[1] not in ("buffer", "threadgroup", "texture"):
            lines.append(_place(typed.strip(), name, attribute[1]))
            continue
        kind = re.sub(r"\b(device|constant|const|restrict)\b|[*&]", "", typed).strip()
        if kind not in _TYPES or not re.search(r"\b(device|constant)\b", typed):
            raise ValueError(f"parameter {plain!r}: only device and constant arrays of numbers")
        array = given.get(name)
        if array is None:
            raise ValueError(f"no size for {name!r}; give --input or --output {name}:DTYPE:SHAPE")
        if array.dtype != _TYPES[kind]:
            raise ValueError(f"{name!r} is {kind} in the text, {array.dtype} in the option")
        if "&" in typed:
            array = replace(array, shape=(), strides=None)
        (inputs if re.search(r"\bconst(ant)?\b", typed) else outputs).append(array)
    chosen.inputs, chosen.outputs = inputs, outputs
    body = text[start + 1 : _closing(code, start) - 1]
    above = "\n" * text[: start + 1].count("\n")
    return _helpers(text, code, found), above + " ".join(lines) + " " + body


def _helpers(text: str, code: str, found: re.Match[str]) -> str:
    """What stands above a kernel, with blanks in place of other kernels."""
    above = text[: found.start()]
    for other in _KERNEL.finditer(code, 0, found.start()):
        start = code.index("{", _closing(code, other.end() - 1))
        end = _closing(code, start)
        blank = re.sub(r"[^\n]", " ", above[other.start() : end])
        above = above[: other.start()] + blank + above[end:]
    return above


def _place(kind: str, name: str, attribute: str) -> str:
    """A thread attribute under the name and the type that the kernel gives it."""
    if kind in ("uint", "ushort", "uint2", "uint3", "ushort2", "ushort3"):
        vector = attribute.endswith(("_grid", "_threadgroup")) and not re.match(
            r"(thread|simdgroup|quadgroup)_index|simdgroups|quadgroups", attribute
        )
        width = int(kind[-1]) if kind[-1].isdigit() else 1
        letters = _LETTERS[width] if vector else ""
        same = name == attribute and not letters
        return "" if same else f"const {kind} {name} = {kind}({attribute}{letters});"
    raise ValueError(f"[[{attribute}]] cannot be {kind}")


def _closing(text: str, start: int) -> int:
    """Behind the bracket that closes the one at `start`; strings do not count."""
    skip = re.compile(r'"(?:\\.|[^"\\])*"|.', re.DOTALL)
    depth = 0
    for token in skip.finditer(text, start):
        depth += (token[0] in "({[") - (token[0] in ")}]") if len(token[0]) == 1 else 0
        if depth == 0:
            return token.end()
    raise ValueError("a bracket of the kernel is never closed")


def _split(text: str) -> list[str]:
    """Parameters of a function; commas inside brackets do not part them."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([<") - (letter in ")]>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
