"""Rows of the op table: arithmetic, rounding, selection, casts. Collected by zmlx.ops.table."""

from __future__ import annotations

from zmlx.ops import plain
from zmlx.ops.spec import OpSpec

_WIDE = (-30.0, 30.0)
_TIES = (
    "NaN wins from either side; as in MLX the gradient goes to y at a tie, and to neither at NaN"
)
_MLX_INT = "MLX's host kernels: integer division by zero gives 0, remainder by zero the dividend"

ROWS = (
    OpSpec(
        "add", 2, ("add",), "promote", msl="{x} + {y}", msl_int="", msl_bool="",
        sym="x + y", dunder="add", ref="x + y", domain=(_WIDE, _WIDE),
    ),
    OpSpec(
        "subtract", 2, ("subtract",), "promote", msl="{x} - {y}", msl_int="", msl_bool="",
        sym="x - y", dunder="sub", ref="x - y", domain=(_WIDE, _WIDE),
    ),
    OpSpec(
        "multiply", 2, ("multiply",), "promote", msl="{x} * {y}", msl_int="", msl_bool="",
        msl_exact="zmlx_exact_multiply({x}, {y})", exact_helpers=("exact_multiply",),
        sym="x*y", dunder="mul", ref="x * y", domain=(_WIDE, _WIDE),
    ),
    OpSpec(
        "fma", 3, (), "float", msl="metal::fma({x}, {y}, {z})", sym="x*y + z", ref="x * y + z",
        domain=((0.1, 30.0),) * 3, refuses=("complex64",),
        plain=plain.fma,
        source="C's fma, rounded once; where no kernel can run, its last bit may be off",
    ),
    OpSpec(
        "ldexp", 2, (), "float", msl="metal::ldexp({x}, int(metal::floor({y})))",
        refuses=("complex64",), sym="x*2**floor(y)", ref="x * 2.0**np.floor(y)",
        domain=(_WIDE, (-9.0, 9.0)), cost=4,
        plain=plain.ldexp,
        source="C's ldexp, rounded once; y holds a whole number within 300 and has no gradient",
    ),
    OpSpec(
        "divide", 2, ("divide",), "float", msl="{x} / {y}",
        sym="x/y", dunder="truediv", ref="x / y", domain=(_WIDE, (0.1, 30.0)), cost=4,
    ),
    OpSpec(
        "remainder", 2, ("remainder",), "promote", msl="zmlx_remainder({x}, {y})",
        msl_int="zmlx_int_remainder<{T}>({x}, {y})", msl_bool="{x} && !{y}",
        helpers=("remainder", "int_remainder"), refuses=("complex64",),
        sym="x - y*floor(x/y)", dunder="mod", ref="np.mod(x, y)", domain=(_WIDE, (0.5, 7.0)),
        cost=20, source=f"sign of the divisor, as Python; {_MLX_INT}",
    ),
    OpSpec(
        "floor_divide", 2, ("floor_divide",), "promote", msl="metal::floor({x} / {y})",
        msl_int="zmlx_int_floor_divide<{T}>({x}, {y})", msl_bool="{x} && {y}",
        msl_exact="zmlx_exact_floor_divide<{M}>({x}, {y})", exact_helpers=("exact_floor_divide",),
        helpers=("int_floor_divide",),
        grad="zero", dunder="floordiv", ref="np.floor(x / y)", domain=(_WIDE, (0.5, 7.0)),
        cost=5, source=_MLX_INT,
    ),
    OpSpec(
        "power", 2, ("power", "pow"), "promote", msl="metal::precise::pow({x}, {y})",
        msl_int="zmlx_int_power<{T}>({x}, {y})", msl_bool="{x} || !{y}",
        msl_const=(
            (0.0, "1.0f"), (1.0, "{x}"), (2.0, "{x} * {x}"), (3.0, "{x} * {x} * {x}"),
            (4.0, "({x} * {x}) * ({x} * {x})"), (-1.0, "1.0f / {x}"),
        ),
        helpers=("int_power",), sym="x**y", at={"y": "Eq(out, 0): 0"}, dunder="pow",
        ref="np.power(x, y)", domain=((0.1, 8.0), (-3.0, 3.0)), cost=25,
        source="MLX: integers to negative powers give 0; d/dy is 0 where the result is 0",
    ),
    OpSpec(
        "negative", 1, ("negative",), "own", msl="-{x}", msl_int="", refuses=("bool",),
        sym="-x", dunder="neg", ref="-x", domain=(_WIDE,),
    ),
    OpSpec(
        "abs", 1, ("abs",), "own", msl="metal::abs({x})",
        msl_int="({x} < {T}(0)) ? {T}(-{x}) : {x}", msl_bool="{x}", sym="Abs(x)",
        dunder="abs", methods=("abs",), ref="np.abs(x)", domain=(_WIDE,), kinks=(0.0,),
    ),
    OpSpec(
        "sign", 1, ("sign",), "own",
        msl="({x} < 0.0f) ? -1.0f : (({x} > 0.0f) ? 1.0f : 0.0f)",
        msl_int="({x} > {T}(0)) - ({x} < {T}(0))", msl_bool="{x}", sym="sign(x)", grad="zero",
        ref="np.where(np.isnan(x), 0.0, np.sign(x))", domain=(_WIDE,), kinks=(0.0,), cost=2,
        source="MLX: the sign of NaN is 0",
    ),
    OpSpec(
        "square", 1, ("square",), "own", msl="{x} * {x}", msl_int="", msl_bool="",
        msl_exact="zmlx_exact_multiply({x}, {x})", exact_helpers=("exact_multiply",),
        sym="x**2", methods=("square",), ref="np.square(x)", domain=(_WIDE,),
    ),
    OpSpec(
        "reciprocal", 1, ("reciprocal",), "float", msl="1.0f / {x}", sym="1/x",
        methods=("reciprocal",), ref="1 / x", domain=((0.1, 30.0),), cost=4,
    ),
    OpSpec(
        "maximum", 2, ("maximum",), "promote", msl="({x} > {y} || {x} != {x}) ? {x} : {y}",
        msl_int="({x} > {y}) ? {x} : {y}", msl_bool="{x} || {y}",
        sym="Piecewise((x, x > y), (y, True))",
        at={"y": "x <= y: 1; True: 0"}, ref="np.maximum(x, y)", domain=(_WIDE, _WIDE),
        cost=2, source=_TIES,
    ),
    OpSpec(
        "minimum", 2, ("minimum",), "promote", msl="({x} < {y} || {x} != {x}) ? {x} : {y}",
        msl_int="({x} < {y}) ? {x} : {y}", msl_bool="{x} && {y}",
        sym="Piecewise((x, x < y), (y, True))",
        at={"y": "x >= y: 1; True: 0"}, ref="np.minimum(x, y)", domain=(_WIDE, _WIDE),
        cost=2, source=_TIES,
    ),
    OpSpec(
        "floor", 1, ("floor",), "own", msl="metal::floor({x})", msl_int="{x}", msl_bool="",
        refuses=("complex64",), sym="floor(x)", grad="zero", ref="np.floor(x)", domain=(_WIDE,),
    ),
    OpSpec(
        "ceil", 1, ("ceil",), "own", msl="metal::ceil({x})", msl_int="{x}", msl_bool="",
        refuses=("complex64",), sym="ceiling(x)", grad="zero", ref="np.ceil(x)", domain=(_WIDE,),
    ),
    OpSpec(
        "round", 1, ("round",), "own", msl="metal::rint({x})", msl_int="{x}", msl_bool="",
        grad="zero", ref="np.rint(x)", domain=(_WIDE,),
        source="halves go to the even neighbour; mx.round with decimals is a composite",
    ),
    OpSpec(
        "where", 3, ("where",), "select", msl="{x} ? {y} : {z}", msl_int="",
        msl_bool="({x} & {y}) | (!{x} & {z})",
        sym="Piecewise((y, Ne(x, 0)), (z, True))", ref="np.where(x, y, z)",
        domain=((-1.0, 1.0), _WIDE, _WIDE), kinks=(0.0,),
    ),
    OpSpec(
        "astype", 1, ("astype",), "own", "param", msl="{R}({x})", msl_int="", msl_bool="",
        sym="x", methods=("astype",), ref="x", domain=(_WIDE,),
        source="to bool: x != 0; MLX passes the gradient through every cast, integers included",
    ),
    OpSpec(
        "stop_gradient", 1, ("stop_gradient",), "own", msl="{x}", msl_int="", msl_bool="",
        grad="zero", ref="x", domain=(_WIDE,), cost=0,
    ),
    OpSpec(
        "zeros_like", 1, ("zeros_like",), "own", msl="0.0f", msl_int="0", msl_bool="false",
        grad="zero", ref="np.zeros_like(x)", domain=(_WIDE,), cost=0,
    ),
    OpSpec(
        "ones_like", 1, ("ones_like",), "own", msl="1.0f", msl_int="1", msl_bool="true",
        grad="zero", ref="np.ones_like(x)", domain=(_WIDE,), cost=0,
    ),
)  # fmt: skip
