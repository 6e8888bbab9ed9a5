"""Every kind of kernel that the helpers make, as ops with the same function by plain MLX.

Tests run them under the sanitizer and show them to the Metal check, in every type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from tests.rowwise_cases import FARTHEST, LAYERNORM, RMSNORM, SOFTMAX
from zmlx import autograd, codegen, elementwise, metal, msl, rowwise

Function = Callable[..., list[mx.array]]

FLOATS = ("float32", "float16", "bfloat16")
# The names of kernels that helpers launch as they are.
NAMED = r"zmlx_(one|two|three|graded|pair|both)_((fwd|bwd)_)?[0-9a-f]{16}"
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
WIDE, FEW = 36, 5  # columns: more than a simdgroup; an array of five is `constant` on Metal
# Text that no parser of expressions takes for a formula: it stays a kernel of its own.
TWICE = "template <typename T>\ninline T twice(T v) { thread T* p = &v; return T(*p + *p); }\n"
KEPT = "inline float kept(float v) { thread float* p = &v; return *p; }\n"
OWN = "kept(1.0f) * "
HEAD = """\
uint elem = thread_position_in_grid.x, size = 1;
for (int d = 0; d < a_ndim; ++d) size *= uint(a_shape[d]);
if (elem >= size) return;
"""


@dataclass(frozen=True)
class Case:
    """`make(dtype)` is the op whose values have that type; `plain` is what it computes.

    `orders` says how often mx.vjp passes; `mapped` whether mx.vmap over axis 0 of the inputs does.
    """

    make: Callable[[mx.Dtype], Function]
    plain: Function
    shapes: Sequence[tuple[int, ...]] = ((3, WIDE),)
    orders: int = 2
    forward: bool = True
    mapped: bool = True
    kinds: Sequence[str] = field(default=FLOATS)


def _one(op: Callable[..., Any]) -> Function:
    """`op` as a function that returns a list."""
    return lambda *arrays: [op(*arrays)]


def _unary(**text: Any) -> Callable[[mx.Dtype], Function]:
    return lambda kind: _one(elementwise.unary(name="one", compute_dtype=kind, **text))


def _binary(**text: Any) -> Callable[[mx.Dtype], Function]:
    return lambda kind: _one(elementwise.binary(name="two", compute_dtype=kind, **text))


def _map(**text: Any) -> Callable[[mx.Dtype], Function]:
    names = ("p", "q", "r")
    return lambda kind: _one(
        elementwise.map(name="three", compute_dtype=kind, input_names=names, **text)
    )


def _graded(**text: Any) -> Callable[[mx.Dtype], Function]:
    return lambda kind: _one(autograd.unary_from_expr(name="graded", compute_dtype=kind, **text))


def _pair(**text: Any) -> Callable[[mx.Dtype], Function]:
    return lambda kind: _one(autograd.binary_from_expr(name="pair", compute_dtype=kind, **text))


def _nary(kind: mx.Dtype) -> Function:
    return autograd.nary_from_expr(
        name="both", input_names=["a", "b"], output_names=["p", "q"], compute_dtype=kind,
        fwd_source=HEAD + "T u = a[elem], v = b[elem]; p[elem] = (O)(u * v); q[elem] = (O)(u - v);",
        bwd_source=HEAD + "T gp = cotan_p[elem], gq = cotan_q[elem];\n"
        "da[elem] = (O)(gp * (T)b[elem] + gq); db[elem] = (O)(gp * (T)a[elem] - gq);",
    )  # fmt: skip


def _rows(what: dict[str, Any], **more: Any) -> Callable[[mx.Dtype], Function]:
    return lambda kind: rowwise.map_reduce(
        **{"name": "row_op", **what, "d": WIDE, "threadgroup": 64, "compute_dtype": kind, **more}
    )


def _written(source: str, inputs: Sequence[str] = ("inp",), **launch: Any) -> Any:
    """A body of zmlx.codegen, or one that calls the header's functions, as an op."""

    def make(kind: mx.Dtype) -> Function:
        kernel = metal.kernel(
            name="written", input_names=inputs, output_names=["out"], source=source,
            header=msl.DEFAULT_HEADER + msl.REDUCE_HEADER,
        )  # fmt: skip
        return lambda *arrays: kernel(*arrays, template=[("T", kind)], **launch)

    return make


def farthest(x: mx.array, w: mx.array) -> list[mx.array]:
    """The number of largest magnitude in each row, and how many are above its share."""
    place = mx.argmax(mx.abs(x), -1, keepdims=True)
    far = mx.take_along_axis(x, place, -1).astype(mx.float32)
    over = mx.sum((x > far * w).astype(mx.float32), -1, keepdims=True)
    return [mx.broadcast_to(v, x.shape).astype(x.dtype) for v in (far, over)]


def _reduced(arrays: mx.array) -> list[mx.array]:
    x = arrays.astype(mx.float32)
    found = [x.sum(-1), x.max(-1), x.min(-1)]
    return [mx.stack(found, -1)]


REDUCE = """\
threadgroup float partials[32];
const uint lane = thread_position_in_threadgroup.x;
const uint row = threadgroup_position_in_grid.x;
const uint width = uint(inp_shape[1]);
const float x = float(inp[row * width + lane]);
const float total = kk_threadgroup_sum(x, partials, lane, width);
const float most = kk_threadgroup_max(x, partials, lane, width);
const float least = kk_threadgroup_min(x, partials, lane, width);
if (lane == 0u) {
  out[row * 3u] = T(total);
  out[row * 3u + 1u] = T(most);
  out[row * 3u + 2u] = T(least);
}
"""
TREE: dict[str, Any] = {
    "init_expr": "0.0f", "update_expr": "acc + x * x", "reduce_op": "a + b",
    "finalize_expr": "metal::sqrt(s)",
}  # fmt: skip
A_THREAD: dict[str, Any] = {
    "reduce_expr": "acc + v * v",
    "init_expr": "0.0f",
    "finalize_expr": "metal::sqrt(acc)",
}
NORM = lambda x: [mx.sqrt((x.astype(mx.float32) ** 2).sum(-1))]  # noqa: E731
GROUPS: dict[str, Any] = {"grid": (3 * 32, 1, 1), "threadgroup": (32, 1, 1)}
LERP = "p + (q - p) * r"
BROADCASTS = ((3, WIDE), (FEW, 1, WIDE), (3, 1))


def lerp(p: mx.array, q: mx.array, r: mx.array) -> list[mx.array]:
    return [p + (q - p) * r]


def silu(x: mx.array) -> list[mx.array]:
    return [nn.silu(x)]


def doubled(x: mx.array) -> list[mx.array]:
    return [x + x]


def product(a: mx.array, b: mx.array) -> list[mx.array]:
    return [a * b * 2]


def layernorm(x: mx.array, gamma: mx.array, beta: mx.array, eps: mx.array) -> list[mx.array]:
    centred = x - x.mean(-1, keepdims=True)
    deviation = mx.rsqrt((centred**2).mean(-1, keepdims=True) + eps)
    return [centred * deviation * gamma + beta]


def rmsnorm(x: mx.array, w: mx.array) -> list[mx.array]:
    return [x * mx.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w]


def row_of_two(x: mx.array, y: mx.array) -> list[mx.array]:
    return [x - x.max(-1, keepdims=True), y * WIDE]


TWO_OUTPUTS = dict(
    SOFTMAX, write_expr=("x - s1", "y * d + s2 * 0.0f"), input_names=("x", "y"),
    output_names=("shifted", "scaled"),
)  # fmt: skip
RAW = {"expr": "twice(x)", "header": TWICE}
STRIDED = {"ensure_row_contiguous": False}
GIVEN = {"fwd_expr": "kk_silu(x)"}
PRELUDE = {"fwd_expr": "a * b * t", "vjp_prelude": "T t = 2;"}
TWO_SIDED = (*FLOATS, *WHOLE)

FORWARD: dict[str, Any] = {"orders": 0, "forward": False}
ALONE: dict[str, Any] = {**FORWARD, "mapped": False}
OWN_PULL = {"vjp_expr": OWN + "g * kk_silu_grad(x)", "header": KEPT}
OWN_LERP = {"expr": OWN + f"({LERP})", "header": KEPT}
COLUMN_AND_ROW = ((3, 1), (WIDE,))

CASES: dict[str, Case] = {
    "unary": Case(_unary(expr="x * kk_sigmoid(x)"), silu),
    "unary of whole numbers": Case(_unary(expr="x + x"), doubled, **FORWARD, kinds=WHOLE),
    "unary, its own kernel": Case(_unary(**RAW), doubled, **FORWARD, kinds=TWO_SIDED),
    "unary, its own kernel, strided": Case(
        _unary(**RAW, **STRIDED), doubled, **FORWARD, kinds=TWO_SIDED
    ),
    "binary": Case(_binary(expr="a * b * 2"), product, COLUMN_AND_ROW),
    "binary, its own kernel": Case(
        _binary(expr="twice(a * b)", header=TWICE), product, COLUMN_AND_ROW, **FORWARD
    ),
    "binary, its own kernel, strided": Case(
        _binary(expr="twice(a * b)", header=TWICE, **STRIDED),
        product,
        COLUMN_AND_ROW,
        **FORWARD,
    ),
    "binary of buffers": Case(
        _binary(expr="(T)lhs[elem] * (T)rhs[elem] * 2"), product, COLUMN_AND_ROW, **FORWARD
    ),
    "map": Case(_map(expr=LERP), lerp, BROADCASTS, mapped=False),
    "map, its own kernel": Case(_map(**OWN_LERP), lerp, BROADCASTS, **ALONE),
    "map, its own kernel, strided": Case(_map(**OWN_LERP, **STRIDED), lerp, BROADCASTS, **ALONE),
    "gradient derived": Case(_graded(**GIVEN), silu),
    "gradient given": Case(
        _graded(**GIVEN, vjp_expr="g * (s + y * (1 - s))", vjp_prelude="T s = kk_sigmoid(x);"), silu
    ),
    "gradient in a kernel": Case(_graded(**GIVEN, **OWN_PULL), silu, orders=1),
    "gradient in a kernel, strided": Case(_graded(**GIVEN, **OWN_PULL, **STRIDED), silu, orders=1),
    "both in kernels": Case(_graded(fwd_expr=OWN + "kk_silu(x)", **OWN_PULL), silu, orders=1),
    "gradient of buffers": Case(
        _graded(**GIVEN, vjp_expr="(T)cotan[elem] * kk_silu_grad(x)"), silu, orders=1
    ),
    "pair derived": Case(_pair(**PRELUDE), product, COLUMN_AND_ROW),
    "pair given": Case(
        _pair(**PRELUDE, vjp_lhs_expr="g * b * t", vjp_rhs_expr="g * (a * t)"),
        product,
        COLUMN_AND_ROW,
    ),
    "pair in kernels": Case(
        _pair(
            **PRELUDE, vjp_lhs_expr=OWN + "g * b * t", vjp_rhs_expr=OWN + "g * (a * t)", header=KEPT
        ),
        product,
        COLUMN_AND_ROW,
        orders=1,
    ),
    "bodies": Case(
        _nary, lambda a, b: [a * b, a - b], ((3, FEW), (3, FEW)), orders=1, forward=False
    ),
    "softmax": Case(_rows(SOFTMAX), lambda x: [mx.softmax(x, -1)]),
    "layernorm": Case(
        _rows(LAYERNORM), layernorm, ((3, WIDE), (WIDE,), (WIDE,), (1,)), mapped=False
    ),
    "rmsnorm": Case(_rows(RMSNORM), rmsnorm, ((3, WIDE), (WIDE,)), mapped=False),
    "rows by an operator of their own": Case(
        _rows(FARTHEST), farthest, ((3, WIDE), (3, 1)), orders=0, forward=False
    ),
    "rows of two outputs": Case(_rows(TWO_OUTPUTS), row_of_two, ((3, WIDE), (3, WIDE)), orders=1),
    "unary body": Case(
        _written(codegen.elementwise_unary_source(expr="kk_silu(x)")), silu, **ALONE
    ),
    "binary body": Case(
        _written(codegen.elementwise_binary_source(expr="a * b * T(2)"), ("lhs", "rhs")),
        product,
        ((3, WIDE), (3, WIDE)),
        **ALONE,
    ),
    "a thread for a row": Case(
        _written(
            codegen.rowwise_reduction_source(d=WIDE, **A_THREAD),
            grid=(4, 1, 1),
            output_shapes=[(3,)],
        ),
        NORM,
        **ALONE,
    ),
    "a group for a row": Case(
        _written(
            codegen.rowwise_parallel_reduction_source(d=WIDE, tg=32, **TREE),
            **GROUPS,
            output_shapes=[(3,)],
        ),
        NORM,
        **ALONE,
    ),
    "a group for a row, written": Case(
        _written(codegen.rowwise_mapreduce_source(d=WIDE, tg=32, **SOFTMAX), **GROUPS),
        lambda x: [mx.softmax(x.astype(mx.float32), -1)],
        **ALONE,
    ),
    "reductions of the header": Case(
        _written(REDUCE, grid=(3 * WIDE, 1, 1), threadgroup=(WIDE, 1, 1), output_shapes=[(3, 3)]),
        _reduced,
        **ALONE,
    ),
}


def mx_dtype(name: str) -> mx.Dtype:
    kind: mx.Dtype = getattr(mx, "bool_" if name == "bool" else name)
    return kind


def drawn(case: Case, kind: str, seed: int = 0) -> list[mx.array]:
    """Inputs: small numbers of the type; an epsilon of one element is positive."""
    arrays = []
    for i, shape in enumerate(case.shapes):
        x = mx.random.normal(shape, key=mx.random.key(seed + i))
        x = mx.abs(x) + 0.1 if shape == (1,) or kind.startswith("u") else x
        arrays.append((4 * x if kind in WHOLE else x).astype(mx_dtype(kind)))
    return arrays


def transforms(case: Case) -> dict[str, Callable[[Function, Sequence[mx.array]], list[mx.array]]]:
    """What of MLX passes through the op: how to ask for it, by name."""

    def pulled(f: Function, arrays: Sequence[mx.array]) -> list[mx.array]:
        """The gradients; a cotangent differs from element to element."""
        return _vjp(lambda *a: list(f(*a)), arrays)

    def pulled_twice(f: Function, arrays: Sequence[mx.array]) -> list[mx.array]:
        return _vjp(lambda *a: pulled(f, a), arrays)

    def pushed(f: Function, arrays: Sequence[mx.array]) -> list[mx.array]:
        tangents = [mx.cos(a.astype(mx.float32)).astype(a.dtype) for a in arrays]
        return mx.jvp(lambda *a: list(f(*a)), list(arrays), tangents)[1]

    def mapped(f: Function, arrays: Sequence[mx.array]) -> list[mx.array]:
        stacked = [mx.stack([a, a + a]) for a in arrays]
        return mx.vmap(lambda *a: list(f(*a)))(*stacked)

    found = {"value": lambda f, arrays: list(f(*arrays)), "vjp": pulled, "second": pulled_twice}
    found = dict(list(found.items())[: case.orders + 1])
    return (
        found
        | ({"jvp": pushed} if case.forward else {})
        | ({"vmap": mapped} if case.mapped else {})
    )


def _vjp(f: Function, arrays: Sequence[mx.array]) -> list[mx.array]:
    shapes = [(o.shape, o.dtype) for o in f(*arrays)]
    seeds = [mx.cos(mx.arange(prod(s))).reshape(s).astype(kind) for s, kind in shapes]
    return mx.vjp(f, list(arrays), seeds)[1]
