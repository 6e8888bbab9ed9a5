"""Sizes and memory layouts of inputs: views are read in place, whatever their strides."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from handwritten import kernel, run
from layouts import expected, random_view, values

from zmlx.msl.kernel import Arg, KernelSource

pytestmark = pytest.mark.usefixtures("host_device")


def added(*arrays: mx.array) -> mx.array:
    """x0 + 3*x1 + 9*x2 … by one kernel; small whole numbers, so that the sum is exact."""
    text = " + ".join(f"{3**i}.0f * x{i}" for i in range(len(arrays)))
    source = kernel(
        "weighted", text, ["float32"] * len(arrays), ["float32"], ranks=[a.ndim for a in arrays]
    )
    return run(source, *arrays)[0]


def check(*arrays: mx.array) -> None:
    want = expected(*arrays)
    got = added(*arrays)
    assert got.shape == want.shape
    np.testing.assert_array_equal(np.array(got), want)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 63, 64, 65, 1023, 32768, 32769, 65537, 300_001])
def test_sizes(size: int) -> None:
    check(values(size), values(size))


CASES = {
    "same": lambda: (values(5, 7, 9), values(5, 7, 9)),
    "row": lambda: (values(33, 65), values(65)),
    "column": lambda: (values(33, 65), values(33, 1)),
    "both grow": lambda: (values(33, 1), values(1, 65)),
    "lower rank first": lambda: (values(65), values(33, 65)),
    "one element": lambda: (values(5, 7), values(1)),
    "all ones": lambda: (values(1, 1, 1), values(1, 1)),
    "middle one": lambda: (values(4, 1, 5), values(4, 3, 5)),
    "empty": lambda: (values(3, 0, 5), values(3, 1, 5)),
    "empty by broadcast": lambda: (values(3, 1), values(3, 0)),
    "transposed": lambda: (values(37, 41).T, values(41, 37)),
    "both transposed": lambda: (values(37, 41).T, values(37, 41).T),
    "permuted": lambda: (values(4, 5, 6, 7).transpose(2, 0, 3, 1), values(6, 4, 7, 5)),
    "heads": lambda: (values(2, 33, 4, 16).transpose(0, 2, 1, 3), values(2, 4, 33, 16)),
    "sliced": lambda: (values(40, 64)[3:33:2, 5:60:3], values(15, 19)),
    "reversed": lambda: (values(40, 64)[::-1, ::-1], values(40, 64)),
    "reversed rows": lambda: (values(40, 64)[::-2], values(20, 64)[:, ::-1]),
    "stride zero": lambda: (mx.broadcast_to(values(5, 1), (5, 9)), values(5, 9)),
    "all stride zero": lambda: (
        mx.broadcast_to(values(1), (5, 9)), mx.broadcast_to(values(9), (5, 9))
    ),
    "large transposed": lambda: (values(300, 500).T, values(500, 300)),
    "large transposed odd": lambda: (values(257, 399).T, values(399, 257), values(257)),
    "large permuted": lambda: (values(9, 131, 67).transpose(2, 0, 1), values(67, 9, 131)),
    "large inner pair": lambda: (values(9, 131, 67).transpose(0, 2, 1), values(9, 67, 131)),
    "large reversed transposed": lambda: (values(300, 500).T[::-1, ::-1], values(500, 300)),
    "large column": lambda: (values(400, 300), values(400, 1), values(300)),
    "narrow rows": lambda: (values(40_000, 3), values(3)),
    "rank 7": lambda: (values(2, 3, 1, 2, 1, 3, 2), values(2, 3, 4, 2, 2, 3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_layout(name: str) -> None:
    check(*CASES[name]())


def test_random_views() -> None:
    """Random permutations, steps and broadcasts of up to four dimensions, in all combinations."""
    generator = np.random.default_rng(0)
    for _ in range(150):
        shape = generator.integers(1, 7, generator.integers(1, 5)).tolist()
        check(random_view(generator, shape), random_view(generator, shape))


def test_rank_zero_and_run_time_scalars() -> None:
    """A kernel without dimensions; its scalar still comes as an array of one element."""
    text = "if (thread_position_in_grid.x == 0) out0[0] = in0[0] * s0[0];\n"
    source = KernelSource(
        "scaled", (Arg("in0", "float32", 0), Arg("s0", "float32", 1)),
        (Arg("out0", "float32", 0),), text,
    )  # fmt: skip
    result = run(source, mx.array(3.0), mx.array([2.0]))[0]
    assert result.shape == () and result.item() == 6.0


def presented(*arrays: mx.array) -> list[list[int]]:
    """For each array, the shape and strides that reach the kernel."""
    rank = max(a.ndim for a in arrays)
    room = max(16, int(np.prod(np.broadcast_shapes(*[a.shape for a in arrays]))))
    body, at = "if (thread_position_in_grid.x == 0) {\n", 0
    for i, array in enumerate(arrays):
        for d in range(array.ndim):
            body += f"out0[{at}] = in{i}_shape[{d}]; out0[{at + 1}] = int(in{i}_strides[{d}]);\n"
            at += 2
    assert at <= room
    source = KernelSource(
        "presented",
        tuple(Arg(f"in{i}", "float32", a.ndim) for i, a in enumerate(arrays)),
        (Arg("out0", "int32", rank),),
        body + "}\n",
        rank=rank,
    )
    flat = run(source, *arrays)[0].reshape(-1).tolist()
    result = []
    for array in arrays:
        result.append(flat[: 2 * array.ndim])
        flat = flat[2 * array.ndim :]
    return result


def test_dimensions_merge_where_all_inputs_allow() -> None:
    dense = values(4, 5, 6)
    assert presented(dense, dense) == [[1, 30, 1, 6, 120, 1]] * 2
    # A row vector keeps the last dimension apart; the others merge.
    assert presented(dense, values(6)) == [[1, 30, 20, 6, 6, 1], [6, 1]]
    # A dimension of one that nothing spans takes no part, wherever it stands.
    assert presented(values(4, 1, 6)) == [[1, 6, 1, 0, 24, 1]]
    # Strides that do not fit together stay.
    assert presented(values(4, 10, 6)[:, :5]) == [[4, 60, 1, 6, 30, 1]]


@pytest.mark.exhaustive
def test_more_than_two_to_the_31_elements() -> None:
    """A stride-0 view as input, so that only the output needs the memory: 2 GiB and some."""
    rows, columns = 2**16, 2**15 + 1
    pattern = mx.arange(columns).astype(mx.uint8)
    source = kernel("next", "uchar(x0 + x1)", ["uint8", "uint8"], ["uint8"], ranks=[2, 1])
    wide = mx.broadcast_to(pattern, (rows, columns))
    result = run(source, wide, mx.array([1], mx.uint8))[0]
    assert result.size > 2**31
    last = np.array(result[rows - 1])
    np.testing.assert_array_equal(last, (np.arange(columns) + 1).astype(np.uint8))
