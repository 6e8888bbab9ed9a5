"""Specs: everything that was asked of one elementwise op, checked.

Comes in: the arguments of zmlx.elementwise and zmlx.autograd. Goes out: an OpSpec, a dictionary
key; or an error that names the op, the argument, what came and what was wanted.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.grid_text import ATTRIBUTES
from zmlx.expr import Names, Source
from zmlx.expr.functions import CONSTANTS, FUNCTIONS
from zmlx.expr.header import HeaderFunction, header_functions, uncommented
from zmlx.helpers.complaint import counted
from zmlx.msl import DEFAULT_HEADER
from zmlx.msl.words import KEYWORDS

RESERVED = ("out", "elem", "T", "O")
_SEMICOLONS = re.compile(r"\s*(?:;\s*)+\Z")
_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"


@dataclass(frozen=True)
class OpSpec:
    """One elementwise op: `expr` over `names`, and the gradients that were given for it.

    `buffers` is what the arrays are called in the kernel, one for each of `names`. `pulls` has one
    expression for each input (its gradient, None: to be derived), or is empty where none was given;
    they see `g`, and `y` (the result) where `sees_output`.
    """

    name: str
    names: tuple[str, ...]
    buffers: tuple[str, ...]
    expr: str
    compute: str
    contiguous: bool = True
    header: str = ""
    aliases: tuple[tuple[str, str], ...] = ()
    pulls: tuple[str | None, ...] = ()
    pull_names: tuple[str, ...] = ()  # how messages call them: vjp_expr, vjp_lhs_expr, ...
    prelude: str = ""
    prelude_forward: bool = False  # whether it stands before `expr` too
    expr_name: str = "expr"
    sees_output: bool = False
    suffix: str = ""  # of the forward kernel's name
    hidden: tuple[str, ...] = ()  # of `names`: which the gradients do not see

    @cached_property
    def given(self) -> dict[int, Source]:
        """The gradients that were given, by the input's place."""
        pairs = enumerate(zip(self.pulls, self.pull_names, strict=True))
        return {i: self.source(text, what) for i, (text, what) in pairs if text is not None}

    @property
    def forward_name(self) -> str:
        """What the op's kernel is called."""
        return f"{self.name}{self.suffix}"

    @property
    def pull_inputs(self) -> tuple[str, ...]:
        """`names` as the gradients know them."""
        return tuple([f"zmlx_hidden_{n}" if n in self.hidden else n for n in self.names])

    def source(self, text: str, argument: str) -> Source:
        """`text` as messages call it."""
        return Source(text, f"{argument} of {self.name!r}")

    def scope(self, output: str, exact: bool = False) -> Names:
        """What the expressions may name, for an output of that type; `exact` computes in it."""
        compute = output if exact else self.compute
        return Names(
            compute, output, self._raw, defined_by(self.header), self.aliases,
            readable_functions(self.header),
        )  # fmt: skip

    @property
    def full_header(self) -> str:
        """The text before the kernel: the default header too, unless the op's own replaces it."""
        return full_header(self.header)

    @cached_property
    def _raw(self) -> frozenset[str]:
        """Names of the kernel around the expression, which stand for no value of their own."""
        buffers = (*self.buffers, "out", "cotan", "inp", "lhs", "rhs")
        described = (f"{b}_{what}" for b in buffers for what in ("shape", "strides", "ndim"))
        return frozenset((*buffers, *described, "elem", *ATTRIBUTES))


def full_header(header: str) -> str:
    """The text before a kernel, in which the compiler counts the lines of `header` as its own."""
    if not header or header == DEFAULT_HEADER:
        return DEFAULT_HEADER
    before, default, after = header.partition(DEFAULT_HEADER)
    if not default:  # the default one stands before it, without functions that it defines itself
        before, default, after = "", _default_without(frozenset(_definitions(header))), header
    parts = [counted(text, "header") if text.strip() else "" for text in (before, after)]
    return parts[0] + default + parts[1]


def _default_without(names: frozenset[str]) -> str:
    """The default header, in which functions of these names are called otherwise."""
    own = sorted(names & _definitions(DEFAULT_HEADER))
    away = "".join(f"#define {name} zmlx_{name}\n" for name in own)
    return away + DEFAULT_HEADER + "".join(f"#undef {name}\n" for name in own)


@lru_cache(maxsize=256)
def defined_by(header: str) -> frozenset[str]:
    """Names in a header that it defines, or that mean nothing without it."""
    own = uncommented(header.replace(DEFAULT_HEADER, ""))
    return frozenset(re.findall(_IDENTIFIER, own)) - (set(FUNCTIONS) - _definitions(own))


def readable_functions(header: str) -> dict[str, HeaderFunction]:
    """Functions of a user's header that an expression may call and that can be read."""
    return header_functions(header.replace(DEFAULT_HEADER, ""))


def _definitions(text: str) -> set[str]:
    """Macros and functions that C text defines."""
    text = uncommented(text)
    functions = re.findall(r"\b([A-Za-z_]\w*)\s*\([^;{}]*\)\s*\{", text)
    return {*functions, *re.findall(r"#\s*define\s+(\w+)", text)}


def checked_name(name: Any, where: str) -> str:
    """An op's name: an identifier, since kernels are called after it."""
    if not isinstance(name, str) or not re.fullmatch(_IDENTIFIER, name):
        raise ValueError(f"[zmlx.{where}] name is {name!r}; wanted an identifier.")
    return name


def checked_text(value: Any, argument: str, name: str, where: str, empty: bool = False) -> str:
    """A text argument that says something."""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f"[zmlx.{where}] {name!r}: {argument} is a {kind}; wanted a str.")
    if not empty and not value.strip():
        raise ValueError(f"[zmlx.{where}] {name!r}: {argument} is empty; give an expression.")
    return value


def checked_expression(value: Any, argument: str, name: str, where: str) -> str:
    """An expression; semicolons at its end are left out."""
    return checked_text(unended(value), argument, name, where)


def unended(text: Any) -> Any:
    """An expression without the semicolons at its end; what is no text as it is."""
    return _SEMICOLONS.sub("", text) if isinstance(text, str) else text


def whole(number: Any) -> Any:
    """A whole number, NumPy's too, as Python's; what is none as it is."""
    try:
        return number if isinstance(number, bool) else operator.index(number)
    except TypeError:
        return number


def checked_header(value: Any, name: str, where: str) -> str:
    """A header; None is none."""
    return checked_text("" if value is None else value, "header", name, where, empty=True)


def checked_compute(dtype: Any, name: str, where: str) -> str:
    """The type T by its name; None means float32."""
    if dtype is None:
        return "float32"
    kind = str(dtype).removeprefix("mlx.core.").rstrip("_")
    if not isinstance(dtype, mx.Dtype) or not dtypes.has_msl(kind):
        raise ValueError(
            f"[zmlx.{where}] {name!r}: compute_dtype is {dtype!r}; wanted a type that kernels "
            "have, such as mx.float32, mx.float16 or mx.bfloat16."
        )
    return kind


def checked_names(names: Any, argument: str, name: str, where: str) -> tuple[str, ...]:
    """Names of inputs or outputs: identifiers, different, none that the kernel uses itself."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ValueError(
            f"[zmlx.{where}] {name!r}: {argument} is {names!r}; wanted a list of one name or more."
        )
    for item in names:
        if not isinstance(item, str) or not re.fullmatch(_IDENTIFIER, item):
            raise ValueError(
                f"[zmlx.{where}] {name!r}: {argument} has {item!r}, which is no identifier."
            )
    if len(set(names)) < len(names):
        raise ValueError(f"[zmlx.{where}] {name!r}: a name occurs twice in {argument} {names!r}.")
    return tuple(names)


def refuse_reserved(names: Sequence[str], argument: str, name: str, where: str) -> None:
    """Raise for a name that C++ or Metal keeps, or that the text around an expression needs."""
    for item in names:
        if item in RESERVED or item.startswith("zmlx_") or item in ATTRIBUTES:
            why = f"which the kernel uses itself ({', '.join(RESERVED)}, zmlx_*, thread positions)"
        elif item in KEYWORDS:
            why = "which is a word of Metal's own"
        elif item in CONSTANTS:
            why = "which is a constant of Metal"
        else:
            continue
        raise ValueError(f"[zmlx.{where}] {name!r}: {argument} has {item!r}, {why}; take another.")


def check_arrays(
    arrays: Sequence[Any], names: Sequence[str], name: str, where: str, same_dtype: bool = False
) -> None:
    """The arguments of a call: their count, kind and types."""
    if len(arrays) != len(names):
        given, wanted = _arrays(len(arrays)), f"{len(names)} ({', '.join(names)})"
        raise ValueError(f"[zmlx.{where}] {name!r} was called with {given}; wanted {wanted}.")
    for label, array in zip(names, arrays, strict=True):
        if not isinstance(array, mx.array):
            kind = type(array).__name__
            raise TypeError(f"[zmlx.{where}] {name!r}: {label} is a {kind}; wanted an mx.array.")
        if array.dtype in (mx.float64, mx.complex64):
            raise ValueError(
                f"[zmlx.{where}] {name!r}: {label} is of {array.dtype}, which kernels do not have; "
                "convert it, for instance to mx.float32."
            )
    if same_dtype and any(a.dtype != arrays[0].dtype for a in arrays):
        kinds = ", ".join(f"{n}: {a.dtype}" for n, a in zip(names, arrays, strict=True))
        raise ValueError(f"[zmlx.{where}] {name!r}: types differ ({kinds}); convert one.")


def common_shape(
    arrays: Sequence[mx.array], names: Sequence[str], name: str, where: str
) -> tuple[int, ...]:
    """The shape that all arguments broadcast to; ValueError where there is none."""
    try:
        return tuple(mx.broadcast_shapes(*[a.shape for a in arrays]))
    except ValueError:
        shapes = ", ".join(f"{n}: {tuple(a.shape)}" for n, a in zip(names, arrays, strict=True))
        raise ValueError(
            f"[zmlx.{where}] {name!r}: shapes do not broadcast ({shapes}); make them equal, or 1 "
            "where they differ."
        ) from None


def _arrays(count: int) -> str:
    return "1 array" if count == 1 else f"{count} arrays"
