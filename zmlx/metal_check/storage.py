"""Rules of Metal on where variables live, and on what the types of operands allow.

Comes in: cursors of clang's tree. Goes out: messages with the cursors they are about. Variables at
program scope, static ones, threadgroup ones in helpers or with a value; writes to `constant`;
atomics of types that have none; simdgroup functions of types they are not there for; choices by
vectors. rules.py calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Found = tuple[Any, str]  # a cursor, what is wrong with it

_KERNEL = re.compile(r"(?:\[\[\s*kernel\s*\]\]|\bkernel)\s+(?:void|decltype)\b[^;{(]*?(\w+)\s*[(<]")
_SHARED = re.compile(r"\bthreadgroup\b|address_space\(3\)")
_CONSTANT = re.compile(r"\bconstant\b|address_space\(2\)")
_ATOMIC = re.compile(r"\batomic<([^<>]*)>")
_ATOMICS = {"int", "unsigned int", "bool", "float", "unsigned long"}
_FETCH = re.compile(r"atomic_(?:fetch_)?(add|sub|max|min|and|or|xor)_explicit")
_LACKS = {  # operations that an atomic of this type does not have
    "float": ("max", "min", "and", "or", "xor"),
    "bool": ("add", "sub", "max", "min"),
    "unsigned long": ("add", "sub", "and", "or", "xor"),
}
_BITS = re.compile(r"(?:simd|quad)_(?:and|or|xor)")
WRITES = {"BINARY_OPERATOR", "COMPOUND_ASSIGNMENT_OPERATOR", "UNARY_OPERATOR"}


def kernels(code: str) -> set[str]:
    """The names of the kernels in a text without comments."""
    return {found[1] for found in _KERNEL.finditer(code)}


def of_variable(cursor: Any, top: Any, code: bytes, entries: set[str]) -> Iterator[Found]:
    """What is wrong with a VAR_DECL inside `top`; `entries` are the names of the text's kernels."""
    kind = cursor.type.spelling
    pointer = re.search(r"[*&][ a-z]*$", kind) is not None
    shared = bool(_SHARED.search(kind)) and not pointer
    written = code[cursor.extent.start.offset : cursor.extent.end.offset]
    name = cursor.spelling
    if shared:
        if top.spelling not in entries:
            yield cursor, f"'{name}': only a kernel declares threadgroup variables, no helper"
        if b"=" in written or b"{" in written:
            yield cursor, f"'{name}': a threadgroup variable takes no initial value"
    elif cursor.semantic_parent.kind.name in _SCOPES:
        if not _CONSTANT.search(_outer(kind)):
            yield cursor, f"'{name}': a variable at program scope must be in constant address space"
    elif cursor.storage_class.name == "STATIC" and not _CONSTANT.search(_outer(kind)):
        yield cursor, f"'{name}': Metal has no static variables in functions"


_SCOPES = {"NAMESPACE", "TRANSLATION_UNIT", "LINKAGE_SPEC"}


def _outer(kind: str) -> str:
    """Of a pointer's type what stands behind its last star: the space of the pointer itself."""
    return kind.rpartition("*")[2]


def of_declaration(cursor: Any) -> Iterator[Found]:
    """What is wrong with the type of a declaration."""
    for plain in _ATOMIC.findall(cursor.type.get_canonical().spelling):
        if _no_atomic(plain):
            named = plain.replace("_Float16", "half")
            yield cursor, f"'{cursor.spelling}': Metal has no atomic<{named}>"


def _no_atomic(plain: str) -> bool:
    known = re.fullmatch(r"_Float16|(?:metal::)?bfloat|[a-z ]+", plain) is not None
    return known and plain not in _ATOMICS


def of_function(cursor: Any) -> Iterator[Found]:
    """What is wrong with a function's head."""
    if cursor.kind.name == "FUNCTION_DECL" and cursor.type.is_function_variadic():
        yield cursor, f"'{cursor.spelling}': Metal has no variadic functions"


def of_call(cursor: Any) -> Iterator[Found]:
    """What is wrong with a call, by the types of what is handed in."""
    name = cursor.spelling
    atomic, bits = _FETCH.fullmatch(name), _BITS.fullmatch(name)
    if not (bits or re.fullmatch(r"atomic_\w+_explicit", name)):
        return
    given = [a.type.get_canonical().spelling for a in cursor.get_arguments() if a is not None]
    if not given:
        return
    if bits and re.search(r"\b(?:float|_Float16|half|bfloat)\d?\b|ext_vector.*float", given[0]):
        named = given[0].replace("_Float16", "half")
        yield cursor, f"'{name}' is there for integers, not for {named}"
    held = _ATOMIC.search(given[0])
    if held and _no_atomic(held[1]):
        yield cursor, f"'{name}': Metal has no atomic<{held[1].replace('_Float16', 'half')}>"
    elif atomic and held and atomic[1] in _LACKS.get(held[1], ()):
        yield cursor, f"'{name}': an atomic<{held[1]}> has no {atomic[1]}"


def of_condition(cursor: Any) -> Iterator[Found]:
    """A choice by several bools at once."""
    condition = next(iter(cursor.get_children()))
    if "ext_vector_type" in condition.type.get_canonical().spelling:
        yield cursor, "a vector chooses by select(b, a, c), not by c ? a : b"


def of_operator(cursor: Any, code: bytes) -> Iterator[Found]:
    """A write to what lives in the constant address space."""
    children = list(cursor.get_children())
    if not children:
        return
    target = children[0]
    if not _CONSTANT.search(_outer(target.type.spelling)) or target.type.kind.name == "POINTER":
        return
    start, end = cursor.extent.start.offset, cursor.extent.end.offset
    if len(children) == 2:
        between = code[target.extent.end.offset : children[1].extent.start.offset].strip()
        writes = re.fullmatch(rb"[-+*/%&|^]?=|<<=|>>=", between) is not None
    else:
        written = code[start:end].strip()
        writes = written.startswith((b"++", b"--")) or written.endswith((b"++", b"--"))
    if writes:
        yield cursor, "a constant cannot be written"
