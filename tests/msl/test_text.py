"""The text itself: golden files, literals, names, determinism, refusals.

`UPDATE_GOLDEN=1 python -m pytest tests/msl` rewrites tests/msl/golden; read the difference before
it is committed.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from derive_cases import Recorder, mx_dtype, record
from hypothesis import given
from hypothesis import strategies as st
from msl_cases import GOLDEN, as_it_was, run, same_bits

from zmlx.device.base import Device
from zmlx.dtypes import rounded
from zmlx.errors import EmitError
from zmlx.msl.emit import emit
from zmlx.msl.kernel import KernelSource
from zmlx.msl.literal import literal
from zmlx.ops.infer import infer
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph

F32, F16, BF16 = "float32", "float16", "bfloat16"


def gelu_tanh(F, x):
    inner = F.multiply(F.add(x, F.multiply(F.power(x, 3), 0.044715)), 0.797885)
    return F.multiply(F.multiply(x, 0.5), F.add(F.tanh(inner), 1.0))


def copied() -> Graph:
    recorder = Recorder()
    recorder.graph.outputs = [recorder.input((4,), "bool").node]
    return recorder.graph


GRAPHS = {
    "copy": copied,
    "silu_gate": lambda: record(
        lambda F, a, b: F.multiply(F.multiply(a, F.sigmoid(a)), b), ((4, 5), BF16), ((4, 5), BF16)
    ),
    "gelu_tanh": lambda: record(gelu_tanh, ((4,), F32)),
    "gelu_tanh_exact": lambda: record(gelu_tanh, ((4,), F16)),
    "rank_0": lambda: record(lambda F, x, y: F.maximum(x, y), ((), F32), ((), F32)),
    "row_and_column": lambda: record(
        lambda F, x, row, column: F.add(F.multiply(x, row), column),
        ((3, 4), F32), ((4,), F16), ((3, 1), F32),
    ),
    "outer_sizes": lambda: record(lambda F, x, y: F.add(x, y), ((2, 1, 4), F32), ((3, 1), F32)),
    "scalars": lambda: record(
        lambda F, x, s, n: F.where(F.less(x, s), F.astype(x, "int32"), n),
        ((4,), F32), ((), F32, "scalar"), ((), "int32", "scalar"),
    ),
    "scalar_exact": lambda: record(
        lambda F, x, s: F.multiply(F.add(x, 0.1), s), ((4,), BF16), ((), BF16, "scalar")
    ),
    "casts": lambda: record(
        lambda F, x: tuple(F.astype(x, d) for d in ("bool", "uint8", F16, F32)), ((4,), BF16)
    ),
    "integers": lambda: record(
        lambda F, x, y: F.bitwise_xor(F.floor_divide(x, y), F.left_shift(x, 3)),
        ((4,), "int16"), ((4,), "int16"),
    ),
    "several_outputs": lambda: record(
        lambda F, x, y: (F.less(x, y), e := F.exp(x), F.add(e, y)), ((2, 6), F32), ((6,), F16)
    ),
    "mixed_types": lambda: record(
        lambda F, x, n, c: F.where(c, F.multiply(x, n), n),
        ((4,), F16), ((4,), "int8"), ((4,), F32),
    ),
}  # fmt: skip


def source(name: str) -> KernelSource:
    return emit(GRAPHS[name](), exact=name.endswith("_exact"))


@pytest.mark.smoke
@pytest.mark.parametrize("name", GRAPHS)
def test_text_is_as_it_was(name: str) -> None:
    kernel = source(name)
    text = f"// {kernel.name}\n{kernel.header}// body\n{kernel.body}"
    as_it_was(f"{name}.metal", text)


def test_no_golden_file_is_left_over() -> None:
    assert {p.stem for p in GOLDEN.glob("*.metal")} == set(GRAPHS)


def test_same_graph_same_text_other_graph_other_name() -> None:
    first = {name: source(name) for name in GRAPHS}
    again = {name: source(name) for name in GRAPHS}
    for name, kernel in first.items():
        other = again[name]
        assert (kernel.name, kernel.header, kernel.body) == (other.name, other.header, other.body)
    assert len({kernel.name for kernel in first.values()}) == len(GRAPHS)
    shifted = emit(record(lambda F, x: F.add(x, 0.1000001), ((4,), F32)))
    assert shifted.name != emit(record(lambda F, x: F.add(x, 0.1), ((4,), F32))).name


def test_sizes_and_source_lines_do_not_reach_the_text() -> None:
    one = record(lambda F, x, y: F.add(x, y), ((3, 4), F32), ((4,), F32))
    two = record(lambda F, x, y: F.add(x, y), ((30, 0), F32), ((0,), F32))
    for node in two:
        two[node]["loc"] = "elsewhere.py:7"
    assert emit(one) == emit(two)


def test_exact_and_plain_kernels_never_share_a_name() -> None:
    graph = record(lambda F, x: F.negative(x), ((4,), F32))
    assert emit(graph).name != emit(graph, exact=True).name


@pytest.mark.parametrize("name", GRAPHS)
def test_names_are_numbered_in_order(name: str) -> None:
    kernel = source(name)
    defined = re.findall(r"const \w+ t(\d+) =", kernel.header)
    assert defined == [str(i) for i in range(len(defined))]
    assert [a.name for a in kernel.outputs] == [f"out{i}" for i in range(len(kernel.outputs))]
    for space in ("device", "constant", "threadgroup"):
        assert not re.search(rf"\b{space}\b", kernel.header + kernel.body)


@pytest.mark.parametrize("name", GRAPHS)
def test_helpers_are_those_that_are_called(name: str) -> None:
    header = source(name).header
    given = set(re.findall(r"inline \w+ (zmlx_\w+)\(", header)) - {"zmlx_region"}
    for helper in given:
        assert len(re.findall(rf"\b{helper}\b", header)) >= 2, helper


@pytest.mark.parametrize(
    ("work", "beside"),
    [
        (lambda F, t: F.add(1, t), True),
        (lambda F, t: F.subtract(1, F.multiply(t, t)), True),
        (lambda F, t: F.multiply(F.subtract(1, F.square(t)), F.subtract(t, 1)), True),
        (lambda F, t: t, False),
        (lambda F, t: (F.add(1, t), t), False),
        (lambda F, t: (F.subtract(1, F.square(t)), F.square(t)), False),
        (lambda F, t: F.multiply(F.add(1, t), t), False),
        (lambda F, t: F.add(t, 0.25), False),
        (lambda F, t: F.multiply(t, 2), False),
    ],
)
def test_tanh_may_be_less_exact_only_beside_one(work: Any, beside: bool) -> None:
    graph = record(lambda F, x: work(F, F.tanh(x)), ((9,), "float16"))
    assert ("= zmlx_tanh_beside_one(" in emit(graph).header) == beside
    assert "zmlx_tanh_beside_one" not in emit(graph, exact=True).header


@pytest.mark.parametrize("exact", [False, True])
def test_a_converted_operand_is_converted_once(exact: bool) -> None:
    """Holes are filled with names, however often the row's text uses an operand."""
    seen = 0
    for spec in OPS.values():
        types = ["int8", *[F32] * (spec.arity - 1)]
        if spec.name in ("astype", "where") or infer_or_none(spec.name, types) != F32:
            continue
        graph = record(lambda F, *xs, n=spec.name: getattr(F, n)(*xs), *[((4,), d) for d in types])
        text = emit(graph, exact).header
        function = text[text.index("inline void zmlx_region") :]
        assert function.count("const float t0 = float(x0);") == function.count("float(x0)") == 1
        seen += 1
    assert seen > 30


def infer_or_none(op: str, types: list[str]) -> str | None:
    try:
        return infer(op, types)[0]
    except ValueError:
        return None


CONSTANTS = {
    "float32": [0.0, -0.0, 1.0, 0.1, -1 / 3, 1e-45, -1.4e-44, 1.1754942e-38, 3.4028234663852886e38],
    "float16": [0.1, 65504.0, 65520.0, 6e-8, -2.9e-8, 1e30, 0.0999755859375],
    "bfloat16": [0.1, 1e38, 3.3961775e38, 1e-40, 1.00390625, 1.01171875],
    "int8": [-128, 127], "uint8": [255], "int16": [-(2**15)], "uint16": [2**16 - 1],
    "int32": [-(2**31), 2**31 - 1, -1], "uint32": [2**31, 2**32 - 1],
    "int64": [-(2**63), 2**63 - 1, 2**53 + 1], "uint64": [2**63 + 1, 2**64 - 1, 0],
    "bool": [True, False],
}  # fmt: skip
INFINITIES = [np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", CONSTANTS)
def test_constants_arrive_exactly(host_device: Device, dtype: str, exact: bool) -> None:
    """All constants of a type as outputs of one kernel, against arrays that MLX makes."""
    numbers = CONSTANTS[dtype] + (INFINITIES if "float" in dtype else [])
    graph = Graph()
    graph.add("input", shape=(3,), dtype="float32")
    graph.outputs = [graph.add("const", shape=(3,), dtype=dtype, value=n) for n in numbers]
    for got, number in zip(run(graph, mx.zeros(3), exact=exact), numbers, strict=True):
        want = mx.array(np.full(3, number, None if "float" in dtype else dtype)).astype(got.dtype)
        assert same_bits(got, want).all(), (number, got)


@given(st.floats(allow_nan=False, width=32))
def test_float_literals_read_back(value: float) -> None:
    text = literal(value, "float32").strip("()")
    read = {"INFINITY": np.inf, "-INFINITY": -np.inf}.get(text)
    read = float(text.removesuffix("f")) if read is None else read
    assert struct.pack("f", read) == struct.pack("f", value)


@given(st.floats(width=64))
def test_rounding_of_constants_is_mlx_s(value: float) -> None:
    for dtype in (F32, F16, BF16):
        want = mx.array(value, dtype=mx_dtype(dtype)).astype(mx.float32).item()
        np.testing.assert_array_equal(np.float32(rounded(value, dtype)), np.float32(want))


# -- refusals -------------------------------------------------------------------------------------
def refused(graph: Graph, words: str) -> None:
    with pytest.raises(EmitError, match=rf"^\[zmlx.emit\] .*{words}.*\. \w.*\.$"):
        emit(graph)


def test_refusals_say_what_to_do() -> None:
    refused(record(lambda F, s: F.exp(s), ((), F32, "scalar")), "without array inputs")
    refused(record(lambda F, x: F.exp(x), ((4,), "float64")), "MSL has no float64")
    graph = record(lambda F, x, y: F.add(F.exp(x), F.exp(y)), ((3, 4), F32), ((4,), F32))
    graph.outputs = [3]
    refused(graph, r"output node 3 has shape \(4,\), the inputs broadcast to \(3, 4\)")
    graph.outputs = []
    refused(graph, "without outputs")
    opaque = Graph()
    opaque.outputs = [opaque.add("opaque", (opaque.add("input", shape=(4,)),), shape=(4,))]
    refused(opaque, "node 1 is opaque")
    apart = record(lambda F, x: F.exp(x), ((4,), F32))
    apart.add("input", shape=(5,))
    refused(apart, "do not broadcast")
    bits = record(lambda F, x: F.bitwise_invert(x), ((4,), "int8"))
    bits[bits.outputs[0]]["at"] = F32
    refused(bits, "bitwise_invert has no MSL form for float32")


@pytest.mark.parametrize(
    ("shapes", "flat"),
    [
        ([(4, 3), (4, 3)], True),
        ([(4, 3), (3,)], False),
        ([(4, 3), (4, 1)], False),
        ([(4, 3), (1,)], True),
        ([(12,), (12,)], False),  # one dimension: there is nothing to divide
    ],
)
def test_a_kernel_says_whether_it_may_be_flat(shapes: list[tuple[int, ...]], flat: bool) -> None:
    kernel = emit(record(lambda F, *xs: F.add(*xs), *[(s, F32) for s in shapes]))
    assert kernel.flat is flat and ("const bool flat = " in kernel.body) is flat
