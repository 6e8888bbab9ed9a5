"""Functions and constants: which C names stand for which rows and composites of the op table.

Comes in: a name and values. Goes out: a value. Formulas stay in the table; what is written here is
only where C's meaning differs from MLX's (the maximum drops a NaN, integers divide towards zero).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zmlx import dtypes
from zmlx.expr.build import Rows, Value, cast, common, floating, promoted
from zmlx.msl.default_header import DEFAULT_HEADER
from zmlx.ops.composite import COMPOSITES
from zmlx.ops.table import OPS

Meaning = Callable[..., Value]


@dataclass(frozen=True)
class Function:
    """A C function: how many arguments, how they are converted, what it is made of.

    `converts`: "float" (integers become float), "common" (C's usual conversions), "own" (as given).
    """

    arity: int
    meaning: Meaning
    converts: str = "float"

    def __call__(self, F: Rows, arguments: list[Value]) -> Value:
        given = arguments
        if self.converts == "float":
            given = [floating(F, a) for a in given]
        if self.converts != "own":
            kind = promoted(given[0].kind)
            for value in given[1:]:
                kind = common(kind, value.kind)
            given = [cast(F, a, kind) for a in given]
        return self.meaning(F, *given)


# -- where C differs from MLX ---------------------------------------------------------------------
def _larger(F: Rows, a: Value, b: Value) -> Value:
    """fmax: of a number and a NaN the number; at a tie the second, as the row `maximum`."""
    if not dtypes.is_float(a.kind):
        return F.maximum(a, b)
    return F.where(F.logical_or(F.greater(a, b), F.not_equal(b, b)), a, b)


def _smaller(F: Rows, a: Value, b: Value) -> Value:
    if not dtypes.is_float(a.kind):
        return F.minimum(a, b)
    return F.where(F.logical_or(F.less(a, b), F.not_equal(b, b)), a, b)


def _clamp(F: Rows, x: Value, low: Value, high: Value) -> Value:
    return _smaller(F, _larger(F, x, low), high)


def _round(F: Rows, x: Value) -> Value:
    """Halves go away from zero, where the row takes them to the even neighbour."""
    whole = COMPOSITES["mlx.core.trunc"](F, x)
    half = F.greater_equal(F.abs(F.subtract(x, whole)), 0.5)
    return F.where(half, F.add(whole, F.sign(x)), whole)


def _fmod(F: Rows, x: Value, y: Value) -> Value:
    """The sign is the dividend's, where the row's is the divisor's."""
    rest = F.remainder(F.abs(x), F.abs(y))
    return F.where(F.less(x, 0.0), F.negative(rest), rest)


def quotient(F: Rows, a: Value, b: Value) -> Value:
    """C's `/`: of integers it cuts off, where the row rounds down."""
    if dtypes.is_float(a.kind):
        return F.divide(a, b)
    down = F.floor_divide(a, b)
    if a.kind in dtypes.UNSIGNED:
        return down
    mixed = F.not_equal(F.less(a, 0), F.less(b, 0))
    inexact = F.not_equal(F.remainder(a, b), 0)
    return F.where(F.logical_and(mixed, inexact), F.add(down, 1), down)


def rest(F: Rows, a: Value, b: Value) -> Value:
    """C's `%` of integers."""
    if a.kind in dtypes.UNSIGNED:
        return F.remainder(a, b)
    return F.subtract(a, F.multiply(quotient(F, a, b), b))


def _mix(F: Rows, x: Value, y: Value, a: Value) -> Value:
    return F.add(x, F.multiply(F.subtract(y, x), a))


def _step(F: Rows, edge: Value, x: Value) -> Value:
    return F.where(F.less(x, edge), 0.0, F.ones_like(x))


def _smoothstep(F: Rows, low: Value, high: Value, x: Value) -> Value:
    share = F.divide(F.subtract(x, low), F.subtract(high, low))
    t = _clamp(F, share, F.const(0.0, x.kind), F.const(1.0, x.kind))
    return F.multiply(F.square(t), F.subtract(3.0, F.multiply(2.0, t)))


def _saturate(F: Rows, x: Value) -> Value:
    return _clamp(F, x, F.const(0.0, x.kind), F.const(1.0, x.kind))


def _signbit(F: Rows, x: Value) -> Value:
    """Of -0 too, whose reciprocal is below 0; a NaN counts as positive."""
    return F.logical_or(F.less(x, 0.0), F.less(F.divide(1.0, x), 0.0))


def _copysign(F: Rows, x: Value, y: Value) -> Value:
    size = F.abs(x)
    return F.where(_signbit(F, y), F.negative(size), size)


def _ldexp(F: Rows, x: Value, exponent: Value) -> Value:
    """Times a power of two; one that is written out, in steps that float32 holds exactly."""
    x, whole = floating(F, x), cast(F, exponent, "int32")
    left = F.number(whole)
    if left is None or not -300 <= left <= 300:
        near = F.maximum(F.minimum(F.stop_gradient(whole), 300), -300)  # beyond: 0 or infinite
        wide = "float64" if x.kind == "float64" else "float32"  # half types lack some of these
        count = F.astype(near, wide)
        return F.astype(F.ldexp(F.astype(x, wide), count), x.kind)
    while left:
        step = max(-126, min(126, left))
        x, left = F.multiply(x, 2.0**step), left - step
    return x


def _fdim(F: Rows, x: Value, y: Value) -> Value:
    return F.where(F.less_equal(x, y), 0.0, F.subtract(x, y))


def _three(join: Meaning) -> Meaning:
    return lambda F, x, y, z: join(F, join(F, x, y), z)


def _unordered(F: Rows, x: Value, y: Value) -> Value:
    return F.logical_or(F.not_equal(x, x), F.not_equal(y, y))


def _select(F: Rows, a: Value, b: Value, c: Value) -> Value:
    kind = common(a.kind, b.kind)
    return F.where(cast(F, c, "bool"), cast(F, b, kind), cast(F, a, kind))


# -- the table ------------------------------------------------------------------------------------
def _row(name: str) -> Function:
    return Function(OPS[name].arity, lambda F, *operands: F.row(name, operands))


def _composite(name: str, arity: int = 1) -> Function:
    return Function(arity, COMPOSITES[name])


def _of(arity: int, meaning: Meaning, converts: str = "float") -> Function:
    return Function(arity, meaning, converts)


_SAME = (
    *("exp", "log", "log2", "log10", "sin", "cos", "tan", "sinh", "cosh", "tanh", "sqrt", "rsqrt"),
    *("sign", "floor", "ceil", "expm1", "log1p", "erf", "erfinv"),
)  # rows that C calls as MLX does; Metal lacks the last four
_RENAMED = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "atan2": "arctan2", "pow": "power", "powr": "power", "rint": "round",
    "fabs": "abs", "kk_sigmoid": "sigmoid", "kk_expm1": "expm1", "kk_log1p": "log1p",
}  # fmt: skip

FUNCTIONS: dict[str, Function] = {
    **{name: _row(name) for name in _SAME},
    **{name: _row(row) for name, row in _RENAMED.items()},
    "kk_silu": _composite("mlx.nn.silu"),
    "kk_gelu_tanh": _composite("mlx.nn.gelu_approx"),
    "kk_softplus": _composite("mlx.nn.softplus"),
    "kk_mish": _composite("mlx.nn.mish"),
    "isnan": _composite("mlx.core.isnan"),
    "isinf": _composite("mlx.core.isinf"),
    "isfinite": _composite("mlx.core.isfinite"),
    "trunc": _composite("mlx.core.trunc"),
    "exp2": _of(1, lambda F, x: F.power(2.0, x)),
    "exp10": _of(1, lambda F, x: F.power(10.0, x)),
    "round": _of(1, _round),
    "fract": _of(1, lambda F, x: F.subtract(x, F.floor(x))),
    "fmod": _of(2, _fmod),
    "fmax": _of(2, _larger),
    "fmin": _of(2, _smaller),
    "fma": _row("fma"),
    "mix": _of(3, _mix),
    "step": _of(2, _step),
    "smoothstep": _of(3, _smoothstep),
    "saturate": _of(1, _saturate),
    "copysign": _of(2, _copysign),
    "signbit": _of(1, _signbit),
    "ldexp": _of(2, _ldexp, "own"),
    "divide": _of(2, lambda F, x, y: F.divide(x, y)),
    "fdim": _of(2, _fdim),
    "fmax3": _of(3, _three(_larger)),
    "fmin3": _of(3, _three(_smaller)),
    "max3": _of(3, _three(_larger), "common"),
    "min3": _of(3, _three(_smaller), "common"),
    "isunordered": _of(2, _unordered),
    "isordered": _of(2, lambda F, x, y: F.logical_not(_unordered(F, x, y))),
    "abs": _of(1, lambda F, x: F.abs(x), "common"),
    "max": _of(2, _larger, "common"),
    "min": _of(2, _smaller, "common"),
    "clamp": _of(3, _clamp, "common"),
    "select": _of(3, _select, "own"),
}

# Metal and the default header have these too; they have no rows, so an expression with one runs as
# it is written.
METAL_ONLY = frozenset(re.findall(r"\bkk_\w+", DEFAULT_HEADER)) - set(FUNCTIONS) | frozenset(
    (
        "absdiff", "acospi", "addsat", "all", "any", "asinpi", "atan2pi", "atanpi", "as_type",
        "clz", "cospi", "cross", "ctz", "distance", "distance_squared", "dot", "extract_bits",
        "faceforward", "fmedian3", "frexp", "hadd", "ilogb", "insert_bits", "isnormal", "length",
        "length_squared", "logb", "mad24", "madhi", "madsat", "median3", "modf", "mul24", "mulhi",
        "nextafter", "normalize", "popcount", "reflect", "refract", "reverse_bits", "rhadd",
        "rotate", "sincos", "sinpi", "subsat", "tanpi", "threadgroup_barrier",
        "simdgroup_barrier",
    )
)  # fmt: skip
_VECTOR = r"(?:packed_)?(?:bool|u?char|u?short|u?int|u?long|half|bfloat|float)[234](?:x[234])?"
# What threads of a group do together: the first part of the name, then one of these.
_TOGETHER = (
    r"(?:simd|quad)_(?:sum|product|max|min|and|or|xor|all|any|ballot|is_first|broadcast\w*"
    r"|shuffle\w*|prefix_\w+|is_helper_thread|active_threads_mask)|atomic_\w+"
)


def in_metal(name: str) -> bool:
    """Whether Metal has a function of that name, or a vector type, that has no form here."""
    return name in METAL_ONLY or re.fullmatch(f"{_VECTOR}|{_TOGETHER}", name) is not None


_PI = math.pi
CONSTANTS: dict[str, Any] = {
    "true": True, "false": False, "INFINITY": math.inf, "HUGE_VALF": math.inf, "NAN": math.nan,
    "MAXFLOAT": (2 - 2**-23) * 2.0**127, "FLT_MAX": (2 - 2**-23) * 2.0**127,
    "FLT_MIN": 2.0**-126, "FLT_EPSILON": 2.0**-23, "INT_MAX": 2**31 - 1, "INT_MIN": -(2**31),
    "M_E_F": math.e, "M_LOG2E_F": math.log2(math.e), "M_LOG10E_F": math.log10(math.e),
    "M_LN2_F": math.log(2), "M_LN10_F": math.log(10), "M_PI_F": _PI, "M_PI_2_F": _PI / 2,
    "M_PI_4_F": _PI / 4, "M_1_PI_F": 1 / _PI, "M_2_PI_F": 2 / _PI,
    "M_2_SQRTPI_F": 2 / math.sqrt(_PI), "M_SQRT2_F": math.sqrt(2), "M_SQRT1_2_F": math.sqrt(0.5),
}  # fmt: skip

# How Python spells what C calls otherwise, for hints.
SPELLED = {
    **{row: name for name, row in _RENAMED.items() if not name.startswith("kk_")},
    "power": "pow", "round": "rint", "sigmoid": "kk_sigmoid", "silu": "kk_silu", "ln": "log",
    "mish": "kk_mish", "softplus": "kk_softplus", "gelu": "kk_gelu_tanh", "maximum": "max",
    "minimum": "min", "clip": "clamp", "where": "select", "absolute": "abs", "remainder": "fmod",
    "inf": "INFINITY", "nan": "NAN", "pi": "M_PI_F", "PI": "M_PI_F", "e": "M_E_F", "True": "true",
    "False": "false",
}  # fmt: skip
