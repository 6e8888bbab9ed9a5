"""Rules of Metal that clang's C++ does not have.

Comes in: a text, or clang's tree of it. Goes out: diagnostics. Literals, the number of buffers,
threadgroup memory, pointers without an address space, function pointers, recursion, bfloat that
becomes half unasked, `long long`; storage.py has those on variables and arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from zmlx.metal_check import storage
from zmlx.metal_check.front_end import NAME, Diagnostic
from zmlx.msl.space import MAX_BUFFERS

MAX_SHARED = 32 * 1024  # bytes of threadgroup memory, on every GPU that MLX runs on
_SKIPPED = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.])(?:0[xX][\da-fA-F.]+[pP][-+]?\d+|\d+[eE][-+]?\d+|"
    r"(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?)(\w*)"
)
_DECLARATIONS = {"PARM_DECL", "VAR_DECL", "FIELD_DECL", "TYPEDEF_DECL", "TYPE_ALIAS_DECL"}
_LEAVES = {"TYPE_REF", "INTEGER_LITERAL", "FLOATING_LITERAL", "TEMPLATE_REF"}
_CASTS = {"CXX_FUNCTIONAL_CAST_EXPR", "CXX_STATIC_CAST_EXPR", "CSTYLE_CAST_EXPR"}
_NO_SUFFIX = "literal {0} has no suffix: a float in Metal, a double elsewhere; write {0}f"
_SPACES = re.compile(r"\b(thread|device|constant|threadgroup|auto)\b")


def written_rules(text: str) -> list[Diagnostic]:
    """Float literals without a suffix, buffers beyond Metal's last one."""
    code = without_comments(text)
    found = [
        replace(_at(text, m.start(), _NO_SUFFIX.format(m[0])), severity="warning")
        for m in _NUMBER.finditer(code)
        if m[1].lower() not in ("f", "h", "bf")
    ]
    for match in re.finditer(r"\blong\s+long\b", code):
        found.append(_at(text, match.start(), "Metal has no 'long long'; long has 64 bits"))
    for match in re.finditer(r"\[\[buffer\((\d+)\)\]\]", code):
        if int(match[1]) >= MAX_BUFFERS:
            message = f"buffer {match[1]}: Metal has {MAX_BUFFERS}, numbered from 0"
            found.append(_at(text, match.start(), message))
    return found


def without_comments(text: str) -> str:
    """Blanks in place of comments and strings."""
    return _SKIPPED.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def tree_rules(unit: Any, text: str) -> list[Diagnostic]:
    """What the tree of the text alone shows."""
    data = text.encode()
    code = without_comments(text).encode()
    entries = storage.kernels(code.decode())
    functions: dict[str, Any] = {}
    calls: dict[str, list[Any]] = {}
    found: list[Diagnostic] = []
    for top in _written(unit):
        if top.kind.name in ("FUNCTION_DECL", "FUNCTION_TEMPLATE"):
            functions[top.get_usr()] = top
            found += _told(storage.of_function(top), text)
            inside = calls.setdefault(top.get_usr(), [])
        else:
            inside = []
        shared: list[Any] = []
        asked: set[int] = set()  # conversions inside a cast that is written
        for cursor in _below(top):
            kind = cursor.kind.name
            if kind in ("CALL_EXPR", "OVERLOADED_DECL_REF"):
                inside.append(cursor)
                found += _told(storage.of_call(cursor), text)
            elif kind in _DECLARATIONS:
                found += _pointer(cursor, text, data)
                found += _told(storage.of_declaration(cursor), text)
                if kind == "VAR_DECL":
                    found += _told(storage.of_variable(cursor, top, code, entries), text)
                    shared.append(cursor)
            elif kind in storage.WRITES:
                found += _told(storage.of_operator(cursor, code), text)
            elif kind == "CONDITIONAL_OPERATOR":
                found += _told(storage.of_condition(cursor), text)
            elif kind in _CASTS:
                asked |= {child.hash for child in cursor.get_children()}
            elif kind == "UNEXPOSED_EXPR" and cursor.hash not in asked:
                found += _halved(cursor, text)
        found += _shared_memory(shared, text)
    return [*found, *_recursive(functions, calls, text)]


def _written(unit: Any) -> list[Any]:
    """The text's declarations; a template that is instantiated by name only as its instance."""
    tops = [
        (top, top.location.offset)
        for top in unit.cursor.get_children()
        if top.location.file is not None and top.location.file.name == NAME
    ]
    made = {offset for top, offset in tops if top.kind.name == "FUNCTION_DECL"}
    return [t for t, offset in tops if t.kind.name != "FUNCTION_TEMPLATE" or offset not in made]


def _below(top: Any) -> Iterator[Any]:
    """`top` and all below it; the bindings are slow, so nobody asks names for their children."""
    stack = [top]
    while stack:
        cursor = stack.pop()
        yield cursor
        kind = cursor.kind.name
        if kind not in _LEAVES and not (kind == "DECL_REF_EXPR" and cursor.spelling):
            stack += reversed(list(cursor.get_children()))


def _pointer(cursor: Any, text: str, data: bytes) -> Iterator[Diagnostic]:
    alias = cursor.kind.name in ("TYPEDEF_DECL", "TYPE_ALIAS_DECL")
    declared = cursor.underlying_typedef_type if alias else cursor.type
    kind = declared.spelling.removesuffix("const").rstrip()
    if re.search(r"\([*&][^)]*\)\s*\(", kind):
        yield _on(cursor, text, f"'{cursor.spelling}': Metal has no function pointers")
    elif kind.endswith(("*", "&")):
        extent = cursor.extent  # which leaves out an expanded `thread` in front
        ends = rb"[(,;{}]" if cursor.kind.name == "PARM_DECL" else rb"[(;{}]"
        before = re.split(ends, data[: extent.start.offset])[-1]
        written = (before + data[extent.start.offset : extent.end.offset]).decode()
        # A type without a star is a template's, or an alias: its space was named elsewhere.
        starred = re.search(r"[*&]", _type_part(written))
        if starred and not _SPACES.search(written):
            message = f"'{cursor.spelling}': a pointer or reference needs an address space"
            yield _on(cursor, text, message)


def _type_part(written: str) -> str:
    """A declaration without its initial value; what `using name = type` stands for."""
    before, _, after = written.partition("=")
    return after if re.search(r"\busing\b", before) else before


def _shared_memory(variables: list[Any], text: str) -> Iterator[Diagnostic]:
    """Threadgroup arrays of one kernel that together are too large; of unknown size: none."""
    total = 0
    for cursor in variables:
        kind = cursor.type.spelling
        if re.search(r"\bthreadgroup\b|address_space\(3\)", kind) and not kind.endswith(("*", "&")):
            total += max(0, cursor.type.get_size())
            if total > MAX_SHARED:
                message = f"{total} bytes of threadgroup memory; Metal has {MAX_SHARED}"
                yield _on(cursor, text, message)
                return


def _halved(cursor: Any, text: str) -> Iterator[Diagnostic]:
    """An implicit conversion: a node that is not written, of another type than its child."""
    if cursor.type.get_canonical().spelling.removeprefix("const ") == "_Float16":
        for child in cursor.get_children():
            if child.type.get_canonical().spelling.endswith("bfloat"):
                yield _on(cursor, text, "implicit conversion from 'bfloat' to 'half'")


def _recursive(
    functions: dict[str, Any], calls: dict[str, list[Any]], text: str
) -> Iterator[Diagnostic]:
    named: dict[str, list[str]] = {}
    for usr, function in functions.items():
        named.setdefault(function.spelling, []).append(usr)
    graph = {u: {v for c in calls[u] for v in _callee(c, functions, named)} for u in functions}
    for usr, function in functions.items():
        reached, frontier = set(graph[usr]), list(graph[usr])
        while frontier:
            new = graph[frontier.pop()] - reached
            reached |= new
            frontier += new
        if usr in reached:
            yield _on(function, text, f"'{function.spelling}' calls itself: Metal has no recursion")


def _callee(call: Any, functions: dict[str, Any], named: dict[str, list[str]]) -> list[str]:
    from clang import cindex

    target = call.referenced
    if call.kind.name == "OVERLOADED_DECL_REF":  # depends on a template's parameters
        alike = named.get(call.spelling, [])
        return alike if len(alike) == 1 else []
    if target is None:
        return []
    template = cindex.conf.lib.clang_getSpecializedCursorTemplate(target)
    usr = (template or target).get_usr()
    return [usr] if usr in functions else []


def _told(found: Iterator[storage.Found], text: str) -> list[Diagnostic]:
    return [_on(cursor, text, message) for cursor, message in found]


def _on(cursor: Any, text: str, message: str) -> Diagnostic:
    where = cursor.location
    source = text.splitlines()[where.line - 1].strip()
    return Diagnostic("error", where.line, where.column, message, source)


def _at(text: str, offset: int, message: str) -> Diagnostic:
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    return Diagnostic("error", line, column, message, text.splitlines()[line - 1].strip())
