"""The loop's text: ranks, sizes, broadcasts and layouts, each kernel against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from derive_cases import Recorder, mx_dtype, record
from layouts import expected, random_view, values
from msl_cases import build, run, scalar

from zmlx.msl.emit import emit
from zmlx.trace.graph import Graph

pytestmark = pytest.mark.usefixtures("host_device")


def weighted(*arrays: mx.array) -> Graph:
    """x0 + 3*x1 + 9*x2 …: small whole numbers, so that the sum is exact."""

    def function(F, *xs):
        total = xs[0]
        for i, x in enumerate(xs[1:], start=1):
            total = F.add(total, F.multiply(x, float(3**i)))
        return total

    return record(function, *[(a.shape, "float32") for a in arrays])


CASES: dict[str, Callable[[], tuple[mx.array, ...]]] = {
    **{f"rank {r}": lambda r=r: (values(*[2] * r), values(*[2] * r)) for r in range(9)},
    "rank 8, mixed": lambda: (values(2, 1, 3, 1, 2, 2, 1, 3), values(3, 1, 2, 1, 2, 1)),
    "long": lambda: (values(300_001), values(300_001)),
    "one": lambda: (values(1), values(1)),
    "ones": lambda: (values(1, 1, 1), values(1)),
    "empty": lambda: (values(3, 0, 5), values(3, 1, 5)),
    "empty by broadcast": lambda: (values(3, 1), values(1, 0)),
    "row": lambda: (values(33, 65), values(65)),
    "column": lambda: (values(33, 65), values(33, 1)),
    "trailing one": lambda: (values(40_000, 1), values(40_000, 1), values(1, 1)),
    "both grow": lambda: (values(33, 1), values(65)),
    "three grow": lambda: (values(7, 1, 1), values(9, 1), values(11)),
    "middle": lambda: (values(4, 1, 5), values(3, 1), values(4, 3, 5)),
    "many narrow rows": lambda: (values(20_000, 3), values(3), values(20_000, 1)),
    "rank 0 beside": lambda: (values(6, 7), values(1)[0], values(7)),
    "transposed": lambda: (values(257, 399).T, values(399, 257), values(257)),
    "both transposed": lambda: (values(41, 37).T, values(41, 37).T),
    "permuted": lambda: (values(4, 5, 6, 7).transpose(2, 0, 3, 1), values(6, 4, 7, 5)),
    "sliced": lambda: (values(40, 64)[3:33:2, 5:60:3], values(15, 19)),
    "reversed": lambda: (values(400, 64)[::-1, ::-2], values(400, 32)),
    "stride zero": lambda: (mx.broadcast_to(values(5, 1), (5, 9)), values(5, 9)),
    "all stride zero": lambda: tuple(mx.broadcast_to(values(n), (5, 9)) for n in (1, 9)),
    "same twice": lambda: (a := values(300, 40), a, a.reshape(300, 40)),
}  # fmt: skip


def test_every_layout() -> None:
    cases = {name: make() for name, make in CASES.items()}
    launchers = build([weighted(*arrays) for arrays in cases.values()])
    for (name, arrays), launcher in zip(cases.items(), launchers, strict=True):
        want, got = expected(*arrays), launcher(arrays)[0]
        assert got.shape == want.shape, name
        np.testing.assert_array_equal(np.array(got), want, err_msg=name)


@pytest.mark.smoke
def test_one_kernel_serves_all_sizes() -> None:
    launcher = build([weighted(values(4, 5), values(5))])[0]
    for rows, columns in [(2, 3), (0, 5), (300, 700), (5, 0), (70_000, 2)]:
        arrays = values(rows, columns), values(columns)
        np.testing.assert_array_equal(np.array(launcher(arrays)[0]), expected(*arrays))


def test_random_views() -> None:
    """Random permutations, steps, broadcasts of up to four dimensions; all kernels in one build."""
    generator = np.random.default_rng(3)
    pairs = []
    for _ in range(60):
        shape = generator.integers(1, 7, generator.integers(1, 5)).tolist()
        pair = random_view(generator, shape), random_view(generator, shape)
        pairs.append(pair)
    for pair, launcher in zip(pairs, build([weighted(*p) for p in pairs]), strict=True):
        np.testing.assert_array_equal(np.array(launcher(pair)[0]), expected(*pair))


def test_outputs_of_several_kinds() -> None:
    """Different types; an inner value; an input and the same one again; a constant; both twice."""
    recorder = Recorder()
    x, y = recorder.input((2, 6), "float32"), recorder.input((6,), "float16")
    small = recorder.less(x, y)
    root = recorder.sqrt(recorder.abs(x))
    total = recorder.add(root, y)
    graph = recorder.graph
    constant = graph.add("const", shape=(2, 6), dtype="int8", value=-7)
    nodes = [small.node, root.node, total.node, x.node, constant, root.node]
    graph.outputs = nodes
    a = mx.array(np.linspace(-4, 4, 12).astype(np.float32)).reshape(2, 6)
    b = mx.array([0.5, -1.0, 2.0, np.inf, np.nan, 0.0]).astype(mx.float16)
    inner = mx.sqrt(mx.abs(a))
    wants = [a < b, inner, inner + b, a, mx.full((2, 6), -7, mx.int8), inner]
    for got, want in zip(run(graph, a, b), wants, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(np.array(got), np.array(want), rtol=1e-6)


def test_copies() -> None:
    """A region without ops: every type and a transposed input."""
    for dtype in ("bool", "uint8", "int64", "float16", "bfloat16", "float32"):
        recorder = Recorder()
        x = recorder.input((3, 4), dtype)
        recorder.graph.outputs = [x.node]
        array = mx.array(np.arange(12) % 5).reshape(4, 3).T.astype(mx_dtype(dtype))
        (got,) = run(recorder.graph, array)
        assert got.dtype == array.dtype and mx.array_equal(got, array).item()


def test_unused_inputs_still_shape_the_output() -> None:
    recorder = Recorder()
    recorder.input((3, 4), "float32")
    x = recorder.input((4,), "float32")
    recorder.input((), "float32", "scalar")
    recorder.graph.outputs = [recorder.ones_like(recorder.input((3, 1), "int32")).node]
    with_value = recorder.multiply(x, 2.0)
    full = recorder.graph.add("op", (with_value.node, recorder.graph.outputs[0]), shape=(3, 4),
                              dtype="float32", op="add", at="float32")  # fmt: skip
    recorder.graph.outputs = [full]
    source = emit(recorder.graph)
    assert "in0_strides" not in source.body and "in0[" not in source.body
    arrays = [mx.zeros((3, 4)), mx.arange(4).astype(mx.float32), mx.zeros((3, 1), mx.int32)]
    (got,) = run(recorder.graph, *arrays, scalar(3.0))
    np.testing.assert_array_equal(np.array(got), np.tile(np.arange(4) * 2.0 + 1, (3, 1)))


@pytest.mark.smoke
def test_deep_chain_is_one_kernel() -> None:
    """400 ops; rounded once, so that a float16 chain keeps float32's digits inside."""

    def chain(F, x, y):
        for i in range(200):
            x = F.add(F.multiply(x, 0.75 if i % 2 else -0.5), y)
        return x

    x, y = np.linspace(-3, 3, 1001, dtype=np.float16), np.linspace(1, 2, 1001, dtype=np.float16)
    graph = record(chain, ((4,), "float16"), ((4,), "float16"))
    assert len(emit(graph).ops) == 400
    (got,) = run(graph, mx.array(x), mx.array(y))
    want = x.astype(np.float64)
    for i in range(200):
        want = want * (0.75 if i % 2 else -0.5) + y.astype(np.float64)
    np.testing.assert_allclose(np.array(got), want, rtol=2.0**-11 * 1.01)


def test_index_arithmetic_is_wide() -> None:
    """Element numbers are INDEX, offsets long: nothing in the text has the width of an int."""
    body = emit(weighted(values(4, 5, 6), values(6))).body
    declared = {line.split("=")[0] for line in body.splitlines() if "=" in line}
    kinds = {w for text in declared for w in text.replace("const", "").split()[:1]}
    assert "int" not in kinds and {"INDEX", "long"} <= kinds
    assert "long(c0) * in0_step0" in body and "INDEX(thread_position_in_grid.x)" in body


@pytest.mark.exhaustive
def test_more_than_two_to_the_31_elements() -> None:
    """Stride-0 inputs, so that the output alone needs memory: 2 GiB and some."""
    rows, columns = 2**16, 2**15 + 1
    pattern = mx.arange(columns).astype(mx.int8)
    graph = record(lambda F, x, y: F.add(x, y), ((4, 5), "int8"), ((4, 1), "int8"))
    wide = mx.broadcast_to(pattern, (rows, columns))
    column = (mx.arange(rows) // 1000).astype(mx.int8).reshape(rows, 1)
    (result,) = run(graph, wide, column)
    assert result.size > 2**31
    for row in (0, 1, rows // 2, rows - 1):
        want = np.array(pattern) + np.array(column)[row]
        np.testing.assert_array_equal(np.array(result[row]), want)
