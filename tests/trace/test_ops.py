"""Every row, composite, activation and operator: the trace against mx.export_function, its replay
against plain MLX, bit by bit."""

from __future__ import annotations

import itertools
import operator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from tracing import bits, exported, kinds, mx_dtype, run, same, traced

from zmlx import dtypes
from zmlx.ops.composite import COMPOSITES
from zmlx.ops.table import NAMED

ALL_TYPES = pytest.mark.usefixtures("on_cpu")  # float64 exists there only
VALUES = np.array([-3.7, -1.0, -0.5, 0.0, 0.3, 0.5, 1.0, 2.0, 3.2])
POSITIVE = np.array([0.1, 0.25, 0.5, 0.75, 0.9, 0.3, 0.6, 0.2, 0.8])

# Primitives whose names do not follow from the row's; "" where MLX records none.
PRIMITIVES = {
    "reciprocal": "divide",
    "rsqrt": "sqrt",
    "log2": "log",
    "log10": "log",
    "where": "select",
    "zeros_like": "full",
    "ones_like": "full",
    "stop_gradient": "",
    "astype": "",
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_xor"), "bitwisebinary"),
    **dict.fromkeys(("left_shift", "right_shift"), "bitwisebinary"),
}
CONVERSIONS = {"AsType", "Broadcast"}  # in the graph these are `at` and shapes


@pytest.fixture(autouse=True, scope="module")
def _op_by_op():
    """nn's activations are compiled functions; MLX's compiler would merge equal ops."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def array(dtype: str, values=VALUES) -> mx.array:
    if dtype in dtypes.UNSIGNED:
        values = np.abs(values)
    return mx.array(values.astype(np.float32)).astype(mx_dtype(dtype))


def primitives(graph) -> list[str]:
    rows = [PRIMITIVES.get(name, name.replace("_", "")) for name in kinds(graph)]
    return sorted(name for name in rows if name)


def agree(fn, *arrays: mx.array) -> None:
    """Trace and export list the same ops and results; the replay gives MLX's bits."""
    found = traced(fn, *arrays)
    names, outputs = exported(fn, *arrays)
    want = sorted(name.lower() for name in names if name not in CONVERSIONS)
    assert primitives(found.graph) == want
    nodes = [found.graph[n] for n in found.graph.outputs]
    assert [(n["shape"], mx_dtype(n["dtype"])) for n in nodes] == outputs
    same(run(fn, *arrays), fn(*arrays))


def function_of(op: str):
    """The row's function, looked up when it is called, as a user's `mx.exp` is."""
    if op == "astype":
        return lambda x: x.astype(mx.float16)
    return lambda *operands: getattr(mx, NAMED[op].mx[0])(*operands)


def refuses(fn, *arrays) -> bool:
    try:
        mx.eval(fn(*arrays))
    except (ValueError, RuntimeError):
        return True
    return False


@ALL_TYPES
@pytest.mark.parametrize("op", NAMED)
def test_rows_over_dtypes(op):
    spec, fn = NAMED[op], function_of(op)
    seen = 0
    for dtype in dtypes.ALL:
        arrays = [array(dtype), array(dtype, POSITIVE), array(dtype, VALUES[::-1])][: spec.arity]
        if refuses(fn, *arrays):
            with pytest.raises((ValueError, RuntimeError)) as mine:
                run(fn, *arrays)
            with pytest.raises(type(mine.value)):
                mx.eval(fn(*arrays))
        elif op == "bitwise_invert":  # export_function cannot write it
            same(run(fn, *arrays), fn(*arrays))
            seen += 1
        else:
            agree(fn, *arrays)
            seen += 1
    assert seen >= 8 or NAMED[op].refuses


SHAPES = {
    "0-d": [mx.array(0.5), mx.array(0.25), mx.array(2.0)],
    "empty": [mx.zeros((0, 3)), mx.zeros((0, 3)), mx.zeros((1, 3))],
    "one": [mx.array([0.5]), mx.array([0.25]), mx.array([0.75])],
    "broadcast": [mx.full((3, 1), 0.5), mx.full((1, 4), 0.25), mx.full((2, 1, 1), 0.75)],
    "lower rank": [mx.full((3, 4), 0.5), mx.full((4,), 0.25), mx.array(0.1)],
    "transposed": [mx.arange(12).reshape(3, 4).T / 12, mx.full((4, 3), 0.5), mx.array([0.1])],
    "sliced": [(mx.arange(24).reshape(4, 6) / 24)[1:3, ::2], mx.full((2, 3), 0.5), mx.array(0.1)],
}


@pytest.mark.parametrize("case", SHAPES)
def test_rows_over_shapes(case):
    for op, spec in NAMED.items():
        fn, arrays = function_of(op), SHAPES[case][: spec.arity]
        if "float32" in spec.refuses:
            arrays = [(a * 10).astype(mx.int32) for a in arrays]
        if op == "bitwise_invert":  # export_function cannot write it
            same(run(fn, *arrays), fn(*arrays))
        else:
            agree(fn, *arrays)


@ALL_TYPES
@pytest.mark.parametrize("op", [o for o in NAMED if NAMED[o].arity == 2])
def test_mixed_types_promote_as_in_mlx(op):
    fn = function_of(op)
    for a, b in itertools.product(dtypes.ALL, repeat=2):
        arrays = [array(a, POSITIVE), array(b, POSITIVE + 1)]
        if a == b or refuses(fn, *arrays):
            continue
        same(run(fn, *arrays), fn(*arrays))


ARGUMENTS = {
    "clip": [(-1, 1.5), (None, 2), (0.5, None)],
    "round": [(), (2,)],
    "nan_to_num": [(), (1, 3.0, -2)],
    "leaky_relu": [(), (0.3,)],
    "elu": [(0.7,)],
    "celu": [(0.7,)],
    "softshrink": [(0.2,)],
    "hard_shrink": [(0.2,)],
    "hard_tanh": [(-2.0, 0.5)],
    "step": [(), (0.5,)],
    "zeros_like": [(), (mx.int8,)],
    "ones_like": [(), (mx.float16,)],
}
# Written with other rows than MLX's primitives, for the same bits (as are some on ints).
OTHERWISE = ("isclose", "logical_xor")
TWO = ("isclose", "logical_xor", "prelu")


@ALL_TYPES
@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_and_activations(name):
    module, _, short = name.rpartition(".")
    owner = {"mlx.core": mx, "mlx.nn": nn}[module]
    for dtype, extra in itertools.product(dtypes.ALL, ARGUMENTS.get(short, [()])):
        arrays = [array(dtype), array(dtype, POSITIVE)][: 1 + (short in TWO)]

        def fn(*a, extra=extra):
            return getattr(owner, short)(*a, *extra)

        if refuses(fn, *arrays):
            with pytest.raises((ValueError, RuntimeError, KeyError)):
                run(fn, *arrays)
            continue
        opaque = any(k.startswith("[") for k in kinds(traced(fn, *arrays).graph))
        assert not opaque or not dtypes.has_msl(dtype), dtype
        same(run(fn, *arrays), fn(*arrays))
        if not opaque and short not in OTHERWISE and dtype in dtypes.FLOATS:
            agree(fn, *arrays)


MODULES = {
    "ReLU": nn.ReLU(), "LeakyReLU": nn.LeakyReLU(0.2), "ELU": nn.ELU(0.5), "ReLU6": nn.ReLU6(),
    "SiLU": nn.SiLU(), "GELU": nn.GELU(), "GELU tanh": nn.GELU("tanh"),
    "GELU precise": nn.GELU("precise"), "GELU fast": nn.GELU("fast"), "SELU": nn.SELU(),
    "PReLU": nn.PReLU(), "Mish": nn.Mish(), "Hardswish": nn.Hardswish(), "Tanh": nn.Tanh(),
    "Sigmoid": nn.Sigmoid(), "Softplus": nn.Softplus(), "Softsign": nn.Softsign(),
    "Softshrink": nn.Softshrink(), "CELU": nn.CELU(), "LogSigmoid": nn.LogSigmoid(),
    "Step": nn.Step(0.1), "HardTanh": nn.HardTanh(), "HardShrink": nn.HardShrink(),
    "ReLU2": nn.ReLU2(),
}  # fmt: skip
SPLIT = {"GLU": nn.GLU(), "Softmax": nn.Softmax(), "LogSoftmax": nn.LogSoftmax()}
SPLIT["Softmin"] = nn.Softmin()


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_activations(name):
    for dtype in ("float16", "bfloat16", "float32"):
        x = array(dtype)
        found = traced(MODULES[name], x)
        assert not any(k.startswith("[") for k in kinds(found.graph))
        same(run(MODULES[name], x), MODULES[name](x))


@pytest.mark.parametrize("name", SPLIT)
def test_modules_that_are_not_elementwise(name):
    x = mx.array(VALUES[:8].astype(np.float32)).reshape(2, 4)
    same(run(SPLIT[name], x), SPLIT[name](x))
    assert any(k.startswith("[") for k in kinds(traced(SPLIT[name], x).graph))


def test_every_activation_module_of_nn_is_tried():
    modules = {
        n for n, v in vars(nn.layers.activations).items()
        if isinstance(v, type) and issubclass(v, nn.Module) and v is not nn.Module
    }  # fmt: skip
    assert modules == {*(n.split()[0] for n in MODULES), *SPLIT}


BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.pow, operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
    operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift,
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow, operator.iand, operator.ior, operator.ixor, operator.ilshift,
    operator.irshift, operator.matmul, operator.imatmul,
]  # fmt: skip
OTHERS = [2, 0.5, True, 1 + 2j, 300, -1, np.float32(0.5), np.int8(2), np.float64(0.25)]


def copied(a):
    return mx.array(a) if isinstance(a, mx.array) else a


@pytest.mark.parametrize("op", BINARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float16", "float32", "complex64"])
def test_operators(op, dtype):
    """A proxy with a proxy, a captured array on either side, and numbers on either side."""
    x, w = array(dtype, POSITIVE * 3), array(dtype, POSITIVE + 1)
    pairs = [(x, w), (x, array("float32")), *((x, o) for o in OTHERS)]
    numbers = [o for o in OTHERS if not isinstance(o, np.generic)]  # NumPy computes np * mx itself
    for a, b in [*pairs, *((o, x) for o in numbers)]:
        try:
            want = op(copied(a), b)
            mx.eval(want)
        except (ValueError, TypeError, RuntimeError) as error:
            # MLX's operators and functions do not always agree on the class.
            with pytest.raises((type(error), RuntimeError)):
                run(lambda p: op(copied(a), p) if b is x else op(p, b), *[copied(x)])  # noqa: B023
            continue
        if a is x:
            same(run(lambda p: op(p, b), mx.array(x)), want)  # noqa: B023
        if isinstance(b, mx.array):
            same(run(lambda p: op(copied(a), p), b), want)  # noqa: B023
        if isinstance(a, mx.array) and isinstance(b, mx.array):
            same(run(op, mx.array(a), b), want)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint32", "float16", "float32"])
def test_numpy_operands(dtype):
    x = array(dtype, POSITIVE * 3)
    for other in (
        np.float32(1.5), np.float16(2), np.int64(300), np.uint8(3), np.bool_(True),
        np.complex64(1j), np.array(2.5), np.arange(9), np.linspace(0, 1, 9).astype(np.float32),
        np.ones((2, 1)),
    ):  # fmt: skip
        for fn in (lambda p: p * other, lambda p: mx.add(other, p), lambda p: p > other):  # noqa: B023
            same(run(fn, x), fn(x))
        same(run(lambda p: mx.where(p > 1, p, other), x), mx.where(x > 1, x, other))  # noqa: B023
    assert run(lambda p: np.ones(9, np.float32) * p, x).shape == (9,)


def test_numpy_scalars_are_numbers_in_the_graph():
    graph = traced(lambda p: p * np.float32(1.5), mx.array([1, 2], mx.int8)).graph
    assert [(graph[n]["value"], graph[n]["dtype"]) for n in graph if graph.kind(n) == "const"] == [
        (1, "int8")  # MLX casts it
    ]
    assert not any(graph.kind(n) == "array" for n in graph)


def test_zero_dimensional_arrays_are_strong():
    half, single = mx.array([1.0, 2.0], mx.float16), mx.array(0.1)
    agree(lambda a, b: a * b, half, single)
    assert run(lambda a: a * single, half).dtype == mx.float32
    assert run(lambda a: a * 0.1, half).dtype == mx.float16


def test_where_takes_numbers_by_its_branches():
    x = mx.array([1, 2], mx.int8)
    for condition in (x > 1, mx.array([0.0, 2.0]), True):
        for a, b in itertools.product((x, 1, 0.5, True, mx.array(1.5, mx.float16)), repeat=2):

            def fn(p, c=condition, a=a, b=b):
                return mx.where(c, p if a is x else a, p if b is x else b)

            same(run(fn, x), fn(x))
            if a is x or b is x:
                assert kinds(traced(fn, x).graph) == ["where"]


def test_methods_and_keywords():
    x = mx.array([0.25, 0.5])
    for fn in (
        lambda a: a.exp().log1p().sqrt(), lambda a: a.astype(mx.int32), lambda a: abs(-a),
        lambda a: a.astype(dtype=mx.float16), lambda a: a.round(1), lambda a: a.abs().square(),
        lambda a: a.reciprocal().rsqrt(), lambda a: mx.clip(a, a_min=0.3, a_max=None),
        lambda a: mx.exp(a, stream=None), lambda a: mx.stop_gradient(a) + mx.zeros_like(a),
    ):  # fmt: skip
        assert not any(k.startswith("[") for k in kinds(traced(fn, x).graph))
        same(run(fn, x), fn(x))


def test_special_values_pass_through():
    x = mx.array([np.nan, np.inf, -np.inf, 0.0, -0.0])
    for fn in (lambda a: a * -0.0, lambda a: mx.maximum(a, 0.0), lambda a: mx.nan_to_num(a) - a):
        want, got = fn(x), run(fn, x)
        same(got, want)
        assert bits(got).tobytes() == bits(want).tobytes()
