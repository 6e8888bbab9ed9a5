"""What one row of the op table says, and the checks it must pass when it is registered.

A row holds everything ZMLX knows about one elementwise op. The tracer, the emitter, the
derivatives, the tests and the docs read it; nobody else states a formula. Formulas are plain
strings, so that neither sympy nor NumPy loads before a derivative or a test wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OPERANDS = ("x", "y", "z")

# How operands are converted before the op computes (see zmlx.ops.infer):
#   promote  all operands to their common type (MLX promotion)
#   float    as promote; integer and bool types then become float32
#   own      a unary op that keeps its operand's type
#   bool     every operand becomes bool
#   select   x becomes bool; y and z their common type
#   shift    as promote, but bool becomes uint8
OPERAND_RULES = ("promote", "float", "own", "bool", "select", "shift")

# What the op returns: the type it computed in, bool, or a type the call names (astype).
RESULT_RULES = ("operand", "bool", "param")


@dataclass(frozen=True)
class OpSpec:
    """One elementwise op.

    An op that only C expressions call has no name in `mx`; `plain` then says it in rows that have
    one: see zmlx.ops.plain.

    `at` maps an operand to "condition: partial; ..." where MLX fixes what mathematics leaves open,
    and to "True: partial" where the textbook's derivative loses digits that another form keeps.
    `msl_exact` replaces `msl` under numerics="mlx" where MLX rounds half types inside the op;
    `msl_const` has forms for a constant last operand under numerics="fp32".

    Expressions are in the operands ``x``, ``y``, ``z``. In ``msl*`` they stand as ``{x}`` holes
    that the emitter fills with names of values (never with expressions). Three more holes name MSL
    types: ``{T}`` the operands' type as values hold it (float for half types), ``{M}`` their type
    in memory (half, bfloat16_t, ...), ``{R}`` the result's type in memory.
    """

    name: str  # snake_case, MLX's spelling where MLX has one
    arity: int  # 1 to 3
    mx: tuple[str, ...]  # names on mlx.core that mean exactly this op, or none
    operands: str  # one of OPERAND_RULES
    result: str = "operand"  # one of RESULT_RULES
    msl: str | None = None  # float32 expression; None where the op has no float form
    msl_int: str | None = None  # integer expression; "" means: as msl
    msl_bool: str | None = None  # bool expression; "" means: as msl_int
    msl_exact: str | None = None
    msl_const: tuple[tuple[float, str], ...] = ()  # (constant, expression)
    helpers: tuple[str, ...] = ()  # names in zmlx.msl.helpers that the expressions call
    exact_helpers: tuple[str, ...] = ()  # likewise for msl_exact
    refuses: tuple[str, ...] = ()  # types of `at` for which MLX raises
    sym: str | None = None  # sympy text, textbook form; None where there is no derivative to take
    grad: str = "auto"  # "auto": differentiate sym; "zero": locally constant; "none": refuse
    at: dict[str, str] = field(default_factory=dict)  # operand -> "condition: partial; ..."
    dunder: str | None = None  # Python operator, e.g. "add" for __add__ / __radd__ / __iadd__
    methods: tuple[str, ...] = ()  # methods of mx.array that mean exactly this op
    ref: str = ""  # NumPy expression in np, special (scipy), x, y, z; evaluated in float64
    domain: tuple[tuple[float, float], ...] = ()  # sampling interval per operand for tests
    kinks: tuple[float, ...] = ()  # operand values that finite differences avoid
    cost: int = 1  # rough price against an add, 1 (add) to 20 (a transcendental)
    tol: float = 1.0  # factor on the default tolerance, with its reason in `source`
    source: str = ""  # where formula and conventions come from
    plain: Callable[..., Any] | None = None  # the op in rows that MLX names; only without a name

    def __post_init__(self) -> None:
        if not 1 <= self.arity <= 3:
            raise ValueError(f"op {self.name}: arity {self.arity} is not 1, 2 or 3")
        if self.operands not in OPERAND_RULES or self.result not in RESULT_RULES:
            raise ValueError(f"op {self.name}: unknown rule {self.operands!r} or {self.result!r}")
        if self.grad not in ("auto", "zero", "none"):
            raise ValueError(f"op {self.name}: grad is {self.grad!r}")
        if self.grad == "auto" and self.sym is None:
            raise ValueError(f"op {self.name}: grad is auto but sym is missing")
        if self.msl is None and self.msl_int is None and self.msl_bool is None:
            raise ValueError(f"op {self.name}: no MSL expression at all")
        if bool(self.mx) == (self.plain is not None):
            raise ValueError(f"op {self.name}: give names on mlx.core or a plain form, one of them")
