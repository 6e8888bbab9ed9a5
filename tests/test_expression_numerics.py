"""Random C expressions: values against float64 NumPy, gradients against finite differences.

Hypothesis draws trees; each is printed as C for `elementwise.map` and evaluated by NumPy, with a
bound on how far rounding in float32 may take the result. Gradients are compared where three steps
of finite differences agree, that is off the kinks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import Phase, given, settings

from zmlx import autograd, elementwise
from zmlx.expr import Names, Source, parse_all
from zmlx.fuse.region import RegionFunction
from zmlx.helpers.op import runtime

pytestmark = [
    pytest.mark.usefixtures("default_device"),
    pytest.mark.filterwarnings("ignore:overflow"),
    pytest.mark.filterwarnings("ignore:invalid"),
    pytest.mark.filterwarnings("ignore:divide"),
    pytest.mark.filterwarnings("ignore:underflow"),
]

Tree = tuple
Values = np.ndarray
SMALLEST = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LARGEST = {"float32": 3e38, "float16": 6.5e4, "bfloat16": 3e38}
HEADER = """
inline float bump(float v) { const float w = 1 + v * v; return v / w; }
template <typename T> inline T leak(T v) { if (v > T(0)) return v; return T(0.25f) * v; }
"""


def _sigmoid(v: Values) -> Values:
    return 1 / (1 + np.exp(-v))


def _silu_grad(v: Values) -> Values:
    s = _sigmoid(v)
    return s + v * s * (1 - s)


UNARY: dict[str, Callable[..., Values]] = {
    "exp": np.exp, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "fabs": np.abs,
    "-": np.negative, "atan": np.arctan, "asinh": np.arcsinh, "kk_sigmoid": _sigmoid,
    "kk_silu": lambda v: v * _sigmoid(v), "kk_silu_grad": _silu_grad,
    "kk_softplus": lambda v: np.logaddexp(v, 0), "bump": lambda v: v / (1 + v * v),
    "leak": lambda v: np.where(v > 0, v, v / 4), "saturate": lambda v: np.clip(v, 0, 1),
}  # fmt: skip
BINARY: dict[str, Callable[..., Values]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "max": np.fmax, "fmin": np.fmin,
    "/": np.divide, "copysign": np.copysign, "fdim": lambda x, y: np.fmax(x - y, 0),
    "atan2": np.arctan2, "step": lambda edge, x: np.where(x < edge, 0.0, 1.0),
}  # fmt: skip
TERNARY: dict[str, Callable[..., Values]] = {
    "fma": lambda a, b, c: a * b + c, "mix": lambda x, y, a: x + (y - x) * a,
    "fmax3": lambda a, b, c: np.fmax(np.fmax(a, b), c),
}  # fmt: skip
TABLES = {1: UNARY, 2: BINARY, 3: TERNARY}


def trees(depth: int) -> st.SearchStrategy[Tree]:
    leaf = st.sampled_from((("x",), ("y",), ("0.5f",), ("2",), ("-1.25",)))
    if depth == 0:
        return leaf
    inner = trees(depth - 1)
    return st.one_of(
        st.tuples(st.sampled_from(sorted(UNARY)), inner),
        st.tuples(st.sampled_from(sorted(BINARY)), inner, inner),
        st.tuples(st.sampled_from(sorted(TERNARY)), inner, inner, inner),
        st.tuples(st.just("?"), inner, inner, inner),
        leaf,
    )


def printed(tree: Tree) -> str:
    """The tree as C."""
    head, *parts = tree
    texts = [printed(p) for p in parts]
    if not parts:
        return head
    if head == "?":
        return f"({texts[0]} > 0.125f ? {texts[1]} : {texts[2]})"
    if head.isidentifier():
        return f"{head}((float){', (float)'.join(texts)})"
    if head == "/":
        return f"((float){texts[0]} / {texts[1]})"
    return f"({head} {texts[0]})" if len(parts) == 1 else f"({texts[0]} {head} {texts[1]})"


def value(tree: Tree, x: Values, y: Values) -> Values:
    head, *parts = tree
    if not parts:
        leaf = {"x": x, "y": y}.get(head)
        return np.full_like(x, float(head.rstrip("f"))) if leaf is None else leaf
    values = [value(p, x, y) for p in parts]
    if head == "?":
        return np.where(values[0] > 0.125, values[1], values[2])
    return TABLES[len(parts)][head](*values)


def bounded(tree: Tree, x: Values, y: Values) -> tuple[Values, Values]:
    """(value, how far a float32 result may be off): errors spread as the function does."""
    head, *parts = tree
    if not parts:
        return value(tree, x, y), np.zeros_like(x)
    values, errors = zip(*[bounded(p, x, y) for p in parts], strict=True)
    if head == "?":
        unsure = np.where(np.abs(values[0] - 0.125) <= errors[0], np.inf, 0)
        pick = values[0] > 0.125
        return np.where(pick, *values[1:]), np.where(pick, *errors[1:]) + unsure
    function = TABLES[len(parts)][head]
    centre = function(*values)
    moved = [
        function(*[v + s * e for v, s, e in zip(values, signs, errors, strict=True)])
        for signs in itertools.product((-1, 1), repeat=len(parts))
    ]
    spread = np.max([np.abs(m - centre) for m in moved], axis=0)
    size = np.max(
        [np.abs(v) for v in (centre, *(values if head in ("fma", "mix") else ()))], axis=0
    )
    if head in ("fma", "mix"):
        size = size + np.abs(values[0] * values[1]) + np.abs(values[1] * values[2])
    if head in ("sin", "cos", "kk_silu_grad", "copysign", "/", "atan2", "step"):
        spread = np.where(_jumps(head, values, errors), np.inf, spread)
    return centre, spread * 1.01 + 2.0**-21 * size + 2.0**-126


def _jumps(head: str, values: tuple[Values, ...], errors: tuple[Values, ...]) -> Values:
    """Where corners of the error box do not bound the function between them."""
    if head in ("sin", "cos", "kk_silu_grad"):
        return errors[0] > 0.1
    if head == "step":
        return np.abs(values[0] - values[1]) <= errors[0] + errors[1]
    near = np.abs(values[1]) <= errors[1]
    return near | ((np.abs(values[0]) <= errors[0]) if head == "atan2" else False)


def slopes(tree: Tree, x: Values, y: Values) -> tuple[list[Values], Values]:
    """(central differences by x and y, where several steps agree: off the kinks)."""
    found, sure = [], np.ones_like(x, dtype=bool)
    for dx, dy in ((1, 0), (0, 1)):
        several = []
        for step in (1e-4, 3e-5, 1e-5):
            up, down = (value(tree, x + s * dx, y + s * dy) for s in (step, -step))
            one_sided = (up - value(tree, x, y)) / step
            several += [(up - down) / (2 * step), one_sided]
        spread = np.ptp(several, axis=0)
        sure &= np.isfinite(spread) & (spread <= 2e-3 * (1 + np.abs(several[-2])))
        found.append(several[-2])
    return found, sure


def points(kind: str, count: int = 97) -> list[mx.array]:
    keys = [mx.random.key(seed) for seed in (5, 6)]
    return [(2 * mx.random.normal((count,), key=k)).astype(getattr(mx, kind)) for k in keys]


def wide(array: mx.array) -> Values:
    return np.array(array.astype(mx.float32), dtype=np.float64)


def check(drawn: list[Tree], kind: str) -> None:
    """All trees as the outputs of one kernel, then the gradient of each."""
    x, y = points(kind)
    exact = wide(x), wide(y)
    op = elementwise.map(name="probe", expr="x", input_names=["x", "y"], header=HEADER)
    names = op.spec.scope(kind)
    sources = [Source(printed(tree)) for tree in drawn]
    graph = parse_all(sources, {"x": kind, "y": kind}, names, result=kind)
    run = RegionFunction(graph, runtime(), "random")
    for tree, got in zip(drawn, run([x, y]), strict=True):
        wanted, error = bounded(tree, *exact)
        error = error + SMALLEST[kind] * 1.01 * np.abs(wanted) + 2.0**-24 * (kind == "float16")
        sure = np.isfinite(error) & (np.abs(wanted) < LARGEST[kind] / 2)
        off = np.abs(wide(got) - wanted)
        assert (off[sure] <= error[sure]).all(), printed(tree)
    for i, tree in enumerate(drawn):
        seeds = [mx.zeros_like(x)] * len(drawn)
        seeds[i] = mx.ones_like(x)
        gradients = mx.vjp(lambda x, y: run([x, y]), [x, y], seeds)[1]
        numeric, sure = slopes(tree, *exact)
        _, error = bounded(tree, *exact)
        sure &= error < 1e-3  # rounding decides no branch
        for got, wanted in zip(gradients, numeric, strict=True):
            assert got.dtype == x.dtype
            limit = (4e-3 + 4 * SMALLEST[kind]) * (1 + np.abs(wanted))
            steady = sure & (np.abs(wanted) < 1e3)
            off = np.abs(wide(got) - wanted)
            assert (off[steady] <= limit[steady]).all(), printed(tree)


QUICK = {"phases": [Phase.explicit, Phase.generate], "deadline": None}
DRAWN = st.lists(trees(3), min_size=8, max_size=8), st.sampled_from(sorted(SMALLEST))


@settings(max_examples=4, **QUICK)
@given(*DRAWN)
def test_random_expressions(drawn: list[Tree], kind: str) -> None:
    check(drawn, kind)


@pytest.mark.exhaustive
@settings(max_examples=80, **QUICK)
@given(*DRAWN)
def test_many_random_expressions(drawn: list[Tree], kind: str) -> None:
    check(drawn, kind)


@settings(max_examples=4, **QUICK)
@given(trees(3))
def test_a_body_means_what_its_expression_means(tree: Tree) -> None:
    text = printed(tree)
    body = autograd.nary_from_expr(
        name="body", input_names=["a", "b"], output_names=["out"], header=HEADER,
        fwd_source="const uint elem = thread_position_in_grid.x;\n"
        f"T x = (T)a[elem], y = (T)b[elem];\nout[elem] = (O)({text});",
    )  # fmt: skip
    op = elementwise.map(name="same", expr=text, input_names=["x", "y"], header=HEADER)
    assert body.reason is None and op.reason is None
    x, y = points("float32")
    _, error = bounded(tree, wide(x), wide(y))
    got, wanted = wide(body(x, y)), wide(op(x, y))
    known = np.isfinite(error)
    assert (np.abs(got - wanted)[known] <= 2 * error[known]).all(), text

    def gradients(f) -> tuple[mx.array, mx.array]:
        return mx.grad(lambda x, y: f(x, y).sum(), (0, 1))(x, y)

    for one, other in zip(gradients(body), gradients(op), strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))


def test_the_bounds_would_notice_a_slip() -> None:
    x, y = (wide(a) for a in points("float32"))
    wrong = x * y + 2.0**-18 * np.abs(x * y)
    wanted, error = bounded(("*", ("x",), ("y",)), x, y)
    assert (np.abs(wrong - wanted) > error).all()
    numeric, sure = slopes(("max", ("x",), ("y",)), x, y)
    assert sure.mean() > 0.9 and set(np.round(numeric[0][sure])) == {0.0, 1.0}
    assert Names().held == "float32"
