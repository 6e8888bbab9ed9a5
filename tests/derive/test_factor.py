"""Factoring: the same values in fewer operations, and what it must leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from derive_cases import record
from hypothesis import given

from zmlx.derive.factor import factored
from zmlx.fuse.simplify import simplify
from zmlx.trace.graph import Graph

SHAPE = ((3, 4), "float32")
NAMES = ("x", "y", "z", "g")
VALUES: dict[str, Callable[..., Any]] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "negative": np.negative,
    "square": np.square, "tanh": np.tanh, "astype": lambda x: x,
}  # fmt: skip


def computed(graph: Graph, inputs: list[Any]) -> list[Any]:
    """The graph's outputs in float64."""
    given_ = iter(inputs)
    values: dict[int, Any] = {}
    for node in graph:
        data = graph[node]
        if data["kind"] in ("input", "scalar"):
            values[node] = next(given_)
        elif data["kind"] == "const":
            values[node] = float(data["value"])
        else:
            values[node] = VALUES[data["op"]](*[values[o] for o in data["operands"]])
    return [values[n] for n in graph.outputs]


def ops(graph: Graph) -> list[str]:
    return sorted(graph[n]["op"] for n in simplify(graph) if graph.kind(n) == "op")


def shape_of(graph: Graph) -> str:
    return "\n".join(str(simplify(graph)).splitlines()[:-1])


def terms(*texts: str) -> Graph:
    """Products such as "gxx" or "-gx", added up from the left."""

    def work(F: Any, *arrays: Any) -> Any:
        by_name = dict(zip(NAMES, arrays, strict=True))
        total = None
        for text in texts:
            first, *rest = text.removeprefix("-")
            product = by_name[first]
            for name in rest:
                product = F.multiply(product, by_name[name])
            if total is None:
                total = F.negative(product) if text[0] == "-" else product
            else:
                total = (F.subtract if text[0] == "-" else F.add)(total, product)
        return total

    return record(work, *[SHAPE] * len(NAMES))


def count(graph: Graph) -> int:
    small = simplify(graph)
    return sum(small.kind(n) == "op" for n in small)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("texts", "most"),
    [
        (("gx", "gy"), 2),  # g * (x + y)
        (("gxy", "gxyz", "gxz"), 5),  # g*x * (y + y*z + z)
        (("gx", "xg", "gx"), 2),  # 3 * g*x
        (("gx", "-gy", "gz"), 3),
        (("gxy", "gyx", "z"), 4),
        (("-gx", "-gy"), 3),
        (("gxz", "xgy", "zxg", "yxg"), 5),  # g*x * (2*z + 2*y)
    ],
)
def test_sums_of_products_get_shorter(texts: tuple[str, ...], most: int) -> None:
    graph = terms(*texts)
    made = factored(graph)
    made.verify()
    assert count(made) <= most < count(graph)
    inputs = list(np.random.default_rng(3).normal(size=(4, 3, 4)))
    np.testing.assert_allclose(computed(made, inputs), computed(graph, inputs), rtol=1e-12)


@pytest.mark.parametrize(
    "texts",
    [
        ("x", "-y", "xz"),  # x - y may be exact, x*(1 + z) - y is not
        ("gx", "-gx"),  # no 0 where g*x is infinite
        ("gx", "yz"),
        ("x", "y", "z"),
        ("gxy",),
    ],
)
def test_what_is_left_alone(texts: tuple[str, ...]) -> None:
    graph = terms(*texts)
    assert factored(graph) is graph


def test_products_are_shared_however_they_are_multiplied_out() -> None:
    def work(F: Any, x: Any, y: Any, z: Any) -> Any:
        one = F.multiply(F.multiply(x, y), z)
        other = F.multiply(x, F.multiply(z, y))
        return F.tanh(one), F.tanh(F.tanh(other))

    graph = record(work, *[SHAPE] * 3)
    assert count(graph) == 7 and count(factored(graph)) == 4


def test_numbers_alone_make_no_op() -> None:
    """It would have no size, and cut the kernel in two."""

    def work(F: Any, x: Any, y: Any) -> Any:
        return F.add(F.add(F.multiply(x, 2.0), F.multiply(x, 3.0)), F.multiply(F.multiply(y, 2), x))

    made = simplify(factored(record(work, *[SHAPE] * 2)))
    for node in made:
        if made.kind(node) == "op":
            assert made[node]["shape"] == SHAPE[0]


def test_types_do_not_mix() -> None:
    def work(F: Any, x: Any, y: Any) -> Any:
        wide = F.multiply(F.astype(x, "float32"), y)
        return F.add(F.astype(F.multiply(x, x), "float32"), F.multiply(wide, wide))

    graph = record(work, ((3, 4), "float16"), SHAPE)
    made = factored(graph)
    made.verify()
    rng = np.random.default_rng(4)
    inputs = [rng.normal(size=(3, 4)), rng.normal(size=(3, 4))]
    np.testing.assert_allclose(computed(made, inputs), computed(graph, inputs), rtol=1e-12)


TEXTS = st.lists(st.text("xyzg", min_size=1, max_size=5), min_size=1, max_size=7)


@given(TEXTS, st.lists(st.booleans(), min_size=7, max_size=7), st.integers(0, 2**32 - 1))
def test_generated_sums(texts: list[str], minus: list[bool], seed: int) -> None:
    signed = [("-" if m else "") + t for t, m in zip(texts, minus, strict=False)]
    graph = terms(*signed)
    made = factored(graph)
    made.verify()
    assert count(made) <= count(graph)
    inputs = list(np.random.default_rng(seed).normal(size=(4, 3, 4)))
    (got,), (wanted,) = computed(made, inputs), computed(graph, inputs)
    size = sum(abs(computed(terms(t), inputs)[0]) for t in texts)
    assert np.all(abs(got - wanted) <= 1e-13 * size)


@given(st.text("xyzg", min_size=2, max_size=4), st.sampled_from([math.inf, math.nan]))
def test_what_is_not_finite_stays_so(text: str, value: float) -> None:
    """Where a sum of products of one sign is infinite or no number, it still is."""
    graph = terms(text, text[0] + text, text)
    inputs = [np.full((1, 1), value), *[np.full((1, 1), 2.0)] * 3]
    np.testing.assert_array_equal(computed(factored(graph), inputs)[0], computed(graph, inputs)[0])
