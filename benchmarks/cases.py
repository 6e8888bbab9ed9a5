"""The functions that are measured, each written once, in plain MLX, with what belongs to it.

Light on purpose: fresh processes import it while a clock runs (benchmarks.child).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

ROW = 4096  # elements in a row of the large arrays
GELU_SCALE, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715
CHAIN_OPS = 60


def silu_mul(a: mx.array, b: mx.array) -> mx.array:
    """silu(a) * b, the gate of a feed-forward block."""
    return a * mx.sigmoid(a) * b


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU in its tanh form."""
    return 0.5 * x * (1 + mx.tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x)))


def geglu(a: mx.array, b: mx.array) -> mx.array:
    """gelu_tanh(a) * b, the other gate of a feed-forward block."""
    return gelu_tanh(a) * b


def sigmoid_row_col(x: mx.array, row: mx.array, col: mx.array) -> mx.array:
    """Two broadcasts: a row added, a column multiplied."""
    return mx.sigmoid(x + row) * col


def sigmoid_transposed(x: mx.array, y: mx.array) -> mx.array:
    """A transposed input beside one that is not."""
    return mx.sigmoid(x.T) * y


def chain(x: mx.array) -> mx.array:
    """60 ops in a row: ten times sin, multiply, add, sigmoid, negative, maximum."""
    for _ in range(CHAIN_OPS // 6):
        x = mx.maximum(mx.sin(x) * 1.5 + 0.25, -mx.sigmoid(x))
    return x


def tempered(x: mx.array, temperature: float) -> mx.array:
    """A Python number that a sampler changes from call to call."""
    return mx.sigmoid(x / temperature) * x


def gradient(f: Callable[..., mx.array], arguments: int) -> Callable[..., Any]:
    """The gradients of sum(f) in all its arguments."""
    return mx.grad(lambda *xs: f(*xs).sum(), argnums=tuple(range(arguments)))


def pullback(f: Callable[..., mx.array]) -> Callable[..., Any]:
    """The gradients in all arguments but the last, which is the cotangent of the result."""
    return lambda *xs: mx.vjp(f, list(xs[:-1]), [xs[-1]])[1]


# -- cases ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """A function, the shapes of its inputs, and the bars of its forward and backward rows.

    `shapes` gives the inputs' shapes for (rows, columns). `expression` is NumExpr's text over
    `names`, `constants` its numbers in float32: with a literal it would compute in float64.
    The GB/s of `gpu`, `gpu_gradient` and `gpu_pullback` (by dtype) were set on an H200. `dtypes`
    are those of the forward rows, `gradient_dtypes` those of the gradient's.
    """

    name: str
    fn: Callable[..., mx.array]
    shapes: Callable[[int, int], list[tuple[int, ...]]]
    dtypes: tuple[str, ...]
    cpu: float | None = None  # times mx.compile
    cpu_gradient: float | None = None
    gpu: dict[str, float] = field(default_factory=dict)
    gpu_gradient: dict[str, float] = field(default_factory=dict)
    gpu_pullback: dict[str, float] = field(default_factory=dict)
    gradient_dtypes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    expression: str = ""
    constants: dict[str, float] = field(default_factory=dict)
    liger: str = ""  # the autograd function of Liger-Kernel that computes the same

    def inputs(self, elements: int, dtype: mx.Dtype) -> list[mx.array]:
        """Normal numbers, evaluated; the same ones in every run."""
        columns = min(ROW, math.isqrt(elements))
        mx.random.seed(0)
        shapes = self.shapes(elements // columns, columns)
        made = [mx.random.normal(shape).astype(dtype) for shape in shapes]
        mx.eval(made)
        return made


BY_DTYPE = ("float32", "bfloat16", "float16")
CASES = (
    Case(
        "silu(a)*b",
        silu_mul,
        lambda rows, columns: [(rows, columns)] * 2,
        BY_DTYPE,
        cpu=10,
        gpu={"float32": 4200, "bfloat16": 4100},
        gpu_gradient={"float32": 4150, "bfloat16": 4200},
        gpu_pullback={"float32": 4150, "bfloat16": 4200},
        gradient_dtypes=("float32", "bfloat16"),
        names=("a", "b"),
        expression="a / (1 + exp(-a)) * b",
        liger="LigerSiLUMulFunction",
    ),
    Case(
        "gelu_tanh",
        gelu_tanh,
        lambda rows, columns: [(rows, columns)],
        BY_DTYPE,
        cpu=10,
        cpu_gradient=10,
        gpu={"float32": 4050, "bfloat16": 3900},
        gpu_gradient={"float32": 4000, "bfloat16": 3800},
        gradient_dtypes=BY_DTYPE,
        names=("x",),
        expression="half * x * (1 + tanh(scale * (x + cube * x * x * x)))",
        constants={"half": 0.5, "scale": GELU_SCALE, "cube": GELU_CUBE},
    ),
    Case(
        "gelu_tanh(a)*b",
        geglu,
        lambda rows, columns: [(rows, columns)] * 2,
        (),
        gradient_dtypes=("float32", "bfloat16"),
        liger="LigerGELUMulFunction",
    ),
    Case(
        "sigmoid(x+row)*col",
        sigmoid_row_col,
        lambda rows, columns: [(rows, columns), (columns,), (rows, 1)],
        ("float32", "bfloat16"),
        gpu={"float32": 4000, "bfloat16": 3900},
        gradient_dtypes=("float32", "bfloat16"),
    ),
    Case(
        "sigmoid(x.T)*y",
        sigmoid_transposed,
        lambda rows, columns: [(columns, rows), (rows, columns)],
        ("float32", "bfloat16"),
        gpu={"float32": 3500, "bfloat16": 3000},
    ),
)
CHAIN = Case("chain of 60 ops", chain, lambda rows, columns: [(rows, columns)], ("float32",), cpu=5)
