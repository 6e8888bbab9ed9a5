"""Rows of the op table: transcendental functions. Collected by zmlx.ops.table.

MSL forms are the precise ones that MLX's own Metal kernels use; what Metal lacks comes from
zmlx.msl.helpers.
"""

from __future__ import annotations

from zmlx.ops import plain
from zmlx.ops.spec import OpSpec

# logaddexp's derivative at ties: of infinite values, whose difference is NaN, half to each.
_TIE = "Eq(x, y): Piecewise((1/2, Eq(out, x)), (sigmoid(%s), True))"


def _unary(
    name: str, sym: str, ref: str, domain: tuple[float, float], *,
    metal: str = "", helper: str = "", mx: tuple[str, ...] = (), method: bool = False,
    real: bool = False, cost: int = 15, exact: str | None = None, exact_helper: str = "",
    tol: float = 1.0, source: str = "", partial: str = "",
) -> OpSpec:  # fmt: skip
    """A float function of one operand: `metal::precise::<metal>` or the helper `zmlx_<helper>`."""
    return OpSpec(
        name, 1, (name, *mx), "float",
        msl=f"zmlx_{helper}({{x}})" if helper else f"metal::precise::{metal or name}({{x}})",
        msl_exact=exact, exact_helpers=(exact_helper,) if exact_helper else (),
        helpers=(helper,) if helper else (), refuses=("complex64",) if real else (),
        sym=sym, methods=(name,) if method else (), ref=ref, domain=(domain,), cost=cost,
        tol=tol, source=source, at={"x": f"True: {partial}"} if partial else {},
    )  # fmt: skip


ROWS = (
    _unary("exp", "exp(x)", "np.exp(x)", (-20.0, 20.0), method=True, cost=10),
    _unary("expm1", "exp(x) - 1", "np.expm1(x)", (-10.0, 20.0), helper="expm1", real=True),
    _unary("log", "log(x)", "np.log(x)", (0.05, 50.0), method=True, cost=10),
    _unary("log2", "log(x)/log(2)", "np.log2(x)", (0.05, 50.0), method=True, cost=10),
    _unary("log10", "log(x)/log(10)", "np.log10(x)", (0.05, 50.0), method=True, cost=10),
    _unary("log1p", "log(1 + x)", "np.log1p(x)", (-0.9, 50.0), helper="log1p", method=True,
        tol=1.2, source="log(u) of the rounded u = 1 + x, plus what the rounding lost"),
    _unary("sin", "sin(x)", "np.sin(x)", (-6.0, 6.0), method=True),
    _unary("cos", "cos(x)", "np.cos(x)", (-6.0, 6.0), method=True),
    _unary("tan", "tan(x)", "np.tan(x)", (-1.4, 1.4)),
    _unary("sinh", "sinh(x)", "np.sinh(x)", (-8.0, 8.0)),
    _unary("cosh", "cosh(x)", "np.cosh(x)", (-8.0, 8.0)),
    _unary("tanh", "tanh(x)", "np.tanh(x)", (-4.0, 4.0), partial="sech2(x)"),
    OpSpec(
        "sech2", 1, (), "float", msl="zmlx_sech2({x})", helpers=("sech2",), refuses=("complex64",),
        sym="1/cosh(x)**2", at={"x": "True: -2*out*tanh(x)"}, plain=plain.sech2, cost=12,
        ref="1 / np.cosh(x) ** 2", domain=((-4.0, 4.0),), tol=2.4,
        source="the derivative of tanh, as 1 - tanh**2 loses all digits beyond 9; four roundings",
    ),
    _unary("arcsin", "asin(x)", "np.arcsin(x)", (-0.95, 0.95), metal="asin", mx=("asin",)),
    _unary("arccos", "acos(x)", "np.arccos(x)", (-0.95, 0.95), metal="acos", mx=("acos",)),
    _unary("arctan", "atan(x)", "np.arctan(x)", (-10.0, 10.0), metal="atan", mx=("atan",)),
    _unary("arcsinh", "asinh(x)", "np.arcsinh(x)", (-20.0, 20.0), metal="asinh", mx=("asinh",)),
    _unary("arccosh", "acosh(x)", "np.arccosh(x)", (1.1, 20.0), metal="acosh", mx=("acosh",),
        partial="1/(sqrt(Abs(x) - 1)*sqrt(Abs(x) + 1))"),
    _unary("arctanh", "atanh(x)", "np.arctanh(x)", (-0.95, 0.95), metal="atanh", mx=("atanh",)),
    _unary(
        "sqrt", "sqrt(x)", "np.sqrt(x)", (0.05, 50.0), method=True, cost=4,
    ),
    _unary(
        "rsqrt", "1/sqrt(x)", "1 / np.sqrt(x)", (0.05, 50.0), method=True, cost=6,
        exact="zmlx_exact_rsqrt<{M}>({x})", exact_helper="exact_rsqrt",
        source="exact: MLX's host kernels round the square root before they divide",
    ),
    _unary(
        "erf", "erf(x)", "special.erf(x)", (-3.0, 3.0), helper="erf", real=True,
        source="sqrt(pi)/2 of the Gaussian integral; polynomials by N. Juffa",
    ),
    _unary(
        "erfinv", "erfinv(x)", "special.erfinv(x)", (-0.95, 0.95), helper="erfinv", real=True,
        tol=2.0, source="polynomials by M. Giles and N. Juffa: up to 2.4 units in the last place",
    ),
    _unary(
        "sigmoid", "1/(1 + exp(-x))", "special.expit(x)", (-15.0, 15.0), helper="sigmoid",
        real=True, exact="zmlx_exact_sigmoid<{M}>({x})", exact_helper="exact_sigmoid", tol=1.4,
        source="three roundings, up to 2 units in the last place on both sides; exact: MLX's form "
        "1 - 1/(1 + exp|x|), with the exponential rounded to the type",
    ),
    OpSpec(
        "arctan2", 2, ("arctan2", "atan2"), "float", msl="metal::precise::atan2({x}, {y})",
        refuses=("complex64",), sym="atan2(x, y)", ref="np.arctan2(x, y)",
        domain=((-5.0, 5.0), (0.2, 5.0)), cost=20,
    ),
    OpSpec(
        "logaddexp", 2, ("logaddexp",), "float", msl="zmlx_logaddexp({x}, {y})",
        msl_exact="zmlx_exact_logaddexp<{M}>({x}, {y})", exact_helpers=("exact_logaddexp",),
        helpers=("logaddexp",), sym="log(exp(x) + exp(y))",
        at={"x": _TIE % "x - y", "y": _TIE % "y - x"}, ref="np.logaddexp(x, y)",
        domain=((-20.0, 20.0), (-20.0, 20.0)), cost=25,
        source="ties at +-inf share the gradient by halves (MLX gives NaN there)",
    ),
)  # fmt: skip
