"""Rows of the table: activations, functions of two arrays, gated units, optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from zmlx.catalog.rows import formulas as f
from zmlx.catalog.rows.row import Row, arrays

_ACTIVATIONS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "exp": ("e^x", lambda xp, x: xp.exp(x)),
    "tanh": ("tanh x", lambda xp, x: xp.tanh(x)),
    "sigmoid": ("1 / (1 + e^-x)", f.sigmoid),
    "relu": ("max(x, 0)", f.relu),
    "silu": ("x / (1 + e^-x)", f.silu),
    "gelu_tanh": ("x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))", f.gelu),
    "softplus": ("ln(1 + e^x)", f.softplus),
    "mish": ("x tanh(ln(1 + e^x))", lambda xp, x: x * xp.tanh(f.softplus(xp, x))),
}
_ALPHA = 1.5


def _twins(name: str, formula: str, exact: Callable[[Any, Any], Any], **more: Any) -> list[Row]:
    made = {"arrays": arrays("x: b d"), "exact": exact, "factory": {}, **more}
    return [
        Row(f"activations.{name}", formula=formula, **made),
        Row(f"activations.{name}_grad", formula=f"{formula}, the same callable", **made),
    ]


_ONE = [row for name, (text, exact) in _ACTIVATIONS.items() for row in _twins(name, text, exact)]
_ONE += _twins(
    "log", "ln x", lambda xp, x: xp.log(x), arrays=arrays("x: b d positive"),
)  # fmt: skip
_ONE += _twins(
    "elu", "x if x > 0, else alpha (e^x - 1)", lambda xp, x: f.elu(xp, x, _ALPHA),
    factory={"alpha": _ALPHA}, source="arXiv:1511.07289",
)  # fmt: skip
_ONE += [
    Row("activations.relu_squared", arrays("x: b d"), "max(x, 0)^2",
        lambda xp, x: f.relu(xp, x) ** 2, factory={}, source="arXiv:2109.08668"),
]  # fmt: skip

_BIASED: dict[str, Any] = {
    "factory": {"c": 36, "compute_dtype": mx.float32},
    "odd": ({"b": 7, "d": 36},),
    "large": lambda n: {"b": max(1, n // 36), "d": 36},
}
_TWO = [
    Row("fused.add", arrays("a: b d, b: b d"), "a + b", lambda xp, a, b: a + b, factory={}),
    Row("fused.mul", arrays("a: b d, b: b d"), "a b", lambda xp, a, b: a * b, factory={}),
    Row("fused.silu_mul_grad", arrays("a: b d, b: b d"), "silu(a) b",
        lambda xp, a, b: f.silu(xp, a) * b, factory={}),
    Row("fused.add_bias", arrays("x: b d, bias: d"), "x + bias",
        lambda xp, x, b: x + b, **_BIASED),
    Row("fused.bias_gelu_tanh", arrays("x: b d, bias: d"), "gelu(x + bias)",
        lambda xp, x, b: f.gelu(xp, x + b), **_BIASED),
    Row("fused.bias_silu", arrays("x: b d, bias: d"), "silu(x + bias)",
        lambda xp, x, b: f.silu(xp, x + b), **_BIASED),
    Row("transformer.swiglu", arrays("x: b 2*d"), "silu(a) b, of the halves of a row",
        lambda xp, x: f.halves(xp, f.silu, x), source="arXiv:2002.05202"),
    Row("transformer.geglu", arrays("x: b 2*d"), "gelu(a) b, of the halves of a row",
        lambda xp, x: f.halves(xp, f.gelu, x), source="arXiv:2002.05202"),
    Row("transformer.swiglu2", arrays("a: b d, b: b d"), "silu(a) b",
        lambda xp, a, b: f.silu(xp, a) * b, source="arXiv:2002.05202", bars=(4200, 4100)),
    Row("transformer.geglu2", arrays("a: b d, b: b d"), "gelu(a) b",
        lambda xp, a, b: f.gelu(xp, a) * b, source="arXiv:2002.05202"),
    Row("transformer.bias_swiglu", arrays("x: b 2*d, bias: 2*d"), "swiglu(x + bias)",
        lambda xp, x, b: f.halves(xp, f.silu, x, b), source="arXiv:2002.05202"),
    Row("transformer.bias_geglu", arrays("x: b 2*d, bias: 2*d"), "geglu(x + bias)",
        lambda xp, x, b: f.halves(xp, f.gelu, x, b), source="arXiv:2002.05202"),
    Row("vlsp.depth_gate_sigmoid", arrays("x: b d"), "k_max sigmoid(x)",
        lambda xp, x: 5 * f.sigmoid(xp, x), options={"k_max": 5}),
    Row("vlsp.silu_mul_residual", arrays("gate: b d, up: b d, residual: b d"),
        "silu(gate) up + residual", lambda xp, g, u, r: f.silu(xp, g) * u + r),
]  # fmt: skip

_LR, _STEP = 0.05, 3
_STEPS = [
    Row("optimizers.adamw_step", arrays("p: b d, g: b d, m: b d, v: b d positive"),
        "m' = b1 m + (1-b1) g, v' = b2 v + (1-b2) g^2, "
        "p' = p - lr (m'/(1-b1^t) / (sqrt(v'/(1-b2^t)) + eps) + wd p)",
        lambda xp, p, g, m, v: f.adamw(xp, p, g, m, v, _LR, _STEP),
        options={"lr": _LR, "step": _STEP},
        source="arXiv:1711.05101"),
    Row("optimizers.lion_step", arrays("p: b d, g: b d, m: b d"),
        "p' = p - lr (sign(b1 m + (1-b1) g) + wd p), m' = b2 m + (1-b2) g",
        lambda xp, p, g, m: f.lion(xp, p, g, m, _LR),
        options={"lr": _LR}, source="arXiv:2302.06675"),
]  # fmt: skip
ROWS = [*_ONE, *_TWO, *_STEPS]
