"""Random regions: reverse and forward mode against MLX, float64 differences, second order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from derive_cases import F, arrays, check_vjp, close, record, run_float64, run_mlx

from zmlx.derive.accumulate import derive_jvp, derive_vjp
from zmlx.ops.composite import COMPOSITES

# Each is smooth or has kinks that random values miss; domains are enforced inside.
SMOOTH: dict[str, Callable[..., Any]] = {
    **{op: (lambda F, x, op=op: getattr(F, op)(x)) for op in (
        "sin", "cos", "tanh", "sigmoid", "square", "negative", "abs", "erf", "arctan", "arcsinh",
        "floor", "stop_gradient", "sign")},
    "exp": lambda F, x: F.exp(F.multiply(F.tanh(x), 2.0)),
    "log": lambda F, x: F.log(F.add(F.abs(x), 0.5)),
    "log1p": lambda F, x: F.log1p(F.square(x)),
    "sqrt": lambda F, x: F.sqrt(F.add(F.square(x), 0.25)),
    "rsqrt": lambda F, x: F.rsqrt(F.add(F.abs(x), 1)),
    "reciprocal": lambda F, x: F.reciprocal(F.add(F.square(x), 1)),
    "cube": lambda F, x: F.power(F.tanh(x), 3),
    "expm1": lambda F, x: F.expm1(F.sin(x)),
    "half": lambda F, x: F.where(F.less(x, 0), F.multiply(x, 0.1), x),
}  # fmt: skip
BINARY = ["add", "subtract", "multiply", "maximum", "minimum", "logaddexp", "arctan2"]
SHAPES = [((4, 6), "float32"), ((6,), "float32"), ((4, 1), "float32")]


def random_function(seed: int) -> Callable[..., Any]:
    """A function of three float32 inputs (two of them broadcast), 3 to 12 steps, two results."""
    rng = np.random.default_rng(seed)
    plan = []
    for step in range(int(rng.integers(2, 12))):
        kind = str(rng.choice(["unary", "binary", "scalar", "where"], p=[0.4, 0.4, 0.1, 0.1]))
        name = str(
            rng.choice(list(SMOOTH) if kind == "unary" else BINARY[: 5 if kind == "scalar" else 7])
        )
        plan.append((kind, name, rng.integers(0, 3 + step, 3).tolist(), float(rng.normal())))

    def function(F: Any, *inputs: Any) -> Any:
        values = list(inputs)
        for kind, name, picks, number in plan:
            a, b, c = (values[p] for p in picks)
            if kind == "unary":
                values.append(SMOOTH[name](F, a))
            elif kind == "where":
                values.append(F.where(F.greater(a, b), c, F.sin(a)))
            else:
                values.append(getattr(F, name)(a, b if kind == "binary" else number))
        return F.tanh(values[-1]), F.add(values[len(values) // 2], values[-1])

    return function


def check_against_mlx(seed: int) -> None:
    function = random_function(seed)
    check_vjp(function, SHAPES, arrays(SHAPES, seed=seed), rtol=5e-4, atol=2e-4)
    values, tangents = arrays(SHAPES, seed=seed), arrays(SHAPES, seed=seed + 1)
    forward = derive_jvp(record(function, *SHAPES))
    want = mx.jvp(lambda *a: list(function(F, *a)), values, tangents)[1]
    got = run_mlx(forward.graph, [*values, *[tangents[t] for t in forward.targets]])
    for tangent, output in zip(got, forward.outputs, strict=True):
        close(tangent, want[output], 5e-4, 2e-4)


@pytest.mark.parametrize("seed", range(80))
def test_reverse_and_forward_mode_equal_mlx(seed):
    check_against_mlx(seed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(20))
def test_many_random_regions(block):
    for seed in range(10_000 + 200 * block, 10_200 + 200 * block):
        check_against_mlx(seed)


def slope_along(graph: Any, values: list, direction: list, weights: list) -> float:
    """The derivative of sum(weights * outputs) along `direction`, by central differences."""
    h = 1e-6
    up, down = ([v + s * h * d for v, d in zip(values, direction, strict=True)] for s in (1, -1))
    ends = zip(run_float64(graph, up), run_float64(graph, down), weights, strict=True)
    return float(sum(((a - b) / (2 * h) * w).sum() for a, b, w in ends))


@pytest.mark.parametrize("seed", range(30))
def test_first_and_second_order_in_float64(seed):
    """Three inputs of one shape, so that the first derivative is a region again."""
    function, rng = random_function(seed + 1000), np.random.default_rng(seed)
    graph = record(function, *[((4, 6), "float32")] * 3)
    values = [rng.normal(0, 1.5, (4, 6)) for _ in range(3)]
    for _ in range(2):
        derivative = derive_vjp(graph)
        direction = [rng.normal(0, 1, v.shape) for v in values]
        weights = [rng.normal(0, 1, o.shape) for o in run_float64(graph, values)]
        gradients = run_float64(derivative.graph, [*values, *weights])
        pairs = zip(gradients, derivative.targets, strict=True)
        total = sum((g * direction[t]).sum() for g, t in pairs)
        np.testing.assert_allclose(
            total, slope_along(graph, values, direction, weights), rtol=2e-5, atol=2e-4
        )
        graph, values = derivative.graph, [*values, *weights]


def test_third_order():
    composite = COMPOSITES["mlx.nn.silu"]
    x = mx.array(np.linspace(-4, 4, 31).astype(np.float32))
    graph, values = record(composite, ((31,), "float32")), [x]
    function = lambda a: composite(F, a)  # noqa: E731
    for _ in range(3):
        graph = derive_vjp(graph).graph
        graph.outputs = graph.outputs[:1]
        values.append(mx.ones((31,)))
        previous = function
        function = lambda a, f=previous: mx.grad(lambda b: f(b).sum())(a)  # noqa: E731
        close(run_mlx(graph, values)[0], function(x), 1e-4, 1e-5)
