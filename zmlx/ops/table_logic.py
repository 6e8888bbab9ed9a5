"""Rows of the op table: comparisons, logic, bits. Collected by zmlx.ops.table."""

from __future__ import annotations

from zmlx.ops.spec import OpSpec

_FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64")
_WIDE = (-30.0, 30.0)


def _compare(name: str, sign: str, dunder: str) -> OpSpec:
    return OpSpec(
        name, 2, (name,), "promote", "bool", msl=f"{{x}} {sign} {{y}}", msl_int="", msl_bool="",
        grad="zero", dunder=dunder, ref=f"x {sign} y", domain=(_WIDE, _WIDE),
    )  # fmt: skip


def _logical(name: str, msl: str, ref: str, arity: int) -> OpSpec:
    return OpSpec(
        name, arity, (name,), "bool", msl_bool=msl, grad="zero", ref=ref, domain=(_WIDE,) * arity
    )


def _bitwise(name: str, sign: str, dunder: str) -> OpSpec:
    return OpSpec(
        name, 2, (name,), "promote", msl_int=f"{{x}} {sign} {{y}}", msl_bool="", refuses=_FLOATS,
        grad="zero", dunder=dunder, ref=f"x {sign} y",
    )  # fmt: skip


def _shift(name: str, sign: str, dunder: str) -> OpSpec:
    return OpSpec(
        name, 2, (name, f"bitwise_{name}"), "shift", msl_int=f"zmlx_{name}<{{T}}>({{x}}, {{y}})",
        helpers=(name,), refuses=_FLOATS, grad="zero", dunder=dunder, ref=f"x {sign} y",
        source="counts outside 0..width-1 wrap around the word that computes; MLX leaves them open",
    )  # fmt: skip


ROWS = (
    _compare("equal", "==", "eq"),
    _compare("not_equal", "!=", "ne"),
    _compare("less", "<", "lt"),
    _compare("less_equal", "<=", "le"),
    _compare("greater", ">", "gt"),
    _compare("greater_equal", ">=", "ge"),
    _logical("logical_and", "{x} && {y}", "np.logical_and(x, y)", 2),
    _logical("logical_or", "{x} || {y}", "np.logical_or(x, y)", 2),
    _logical("logical_not", "!{x}", "np.logical_not(x)", 1),
    _bitwise("bitwise_and", "&", "and"),
    _bitwise("bitwise_or", "|", "or"),
    _bitwise("bitwise_xor", "^", "xor"),
    OpSpec(
        "bitwise_invert", 1, ("bitwise_invert",), "own", msl_int="~{x}", msl_bool="!{x}",
        refuses=_FLOATS, grad="zero", dunder="invert", ref="~x",
    ),
    _shift("left_shift", "<<", "lshift"),
    _shift("right_shift", ">>", "rshift"),
)  # fmt: skip
