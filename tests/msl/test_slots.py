"""buffer_slots against the emitted text, against what MLX declares, and Metal's limit."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from derive_cases import record
from hypothesis import given
from hypothesis import strategies as st
from msl_cases import signature, slots_of, traced

from zmlx.errors import EmitError
from zmlx.msl.emit import MAX_BUFFERS, buffer_slots, emit
from zmlx.trace.graph import Graph

FULL = (2, 3, 4, 5)


def summed(shapes: list[tuple[int, ...]], unused: int = 0, scalars: int = 0) -> Graph:
    """The sum of all inputs but the last `unused` ones, times all scalars."""
    used = len(shapes) - unused

    def function(F, *values):
        total = values[0]
        for value in [*values[1:used], *values[len(shapes) :]]:
            total = F.add(total, value)
        return total

    inputs = [(s, "float32") for s in shapes] + [((), "float32", "scalar")] * scalars
    return record(function, *inputs)


@st.composite
def shapes(draw) -> list[tuple[int, ...]]:
    """Shapes that broadcast together: dimensions made one, leading ones left out."""
    made = []
    for _ in range(draw(st.integers(1, 9))):
        sizes = tuple(n if draw(st.booleans()) else 1 for n in FULL)
        made.append(sizes[draw(st.integers(0, len(FULL))) :])
    return made


def space(some: list[tuple[int, ...]]) -> tuple[int, ...]:
    return np.broadcast_shapes(*some)


@given(shapes(), st.integers(0, 2), st.integers(0, 3))
def test_slots_equal_the_text_and_mlx(some, unused, scalars) -> None:
    unused = min(unused, len(some) - 1)
    graph = summed(some, unused, scalars)
    if graph[graph.outputs[0]]["shape"] != space(some):
        with pytest.raises(EmitError, match="broadcast to"):
            emit(graph)
        return
    source = emit(graph)
    assert buffer_slots(graph) == slots_of(source)
    arrays = [mx.ones(s) for s in some] + [mx.ones(1)] * scalars
    declared = [line for line in signature(traced(source, *arrays)) if "[[buffer(" in line]
    assert len(declared) == buffer_slots(graph)
    assert [line for line in declared if "_ndim" in line] == []


def test_sizes_come_from_as_few_inputs_as_possible() -> None:
    full, row, column = (3, 4), (4,), (3, 1)
    assert buffer_slots(summed([row, column, full])) == 3 + 3 + 1 + 1  # strides, shape, output
    assert buffer_slots(summed([row, column])) == 2 + 2 + 2 + 1
    # Two of the three cover all dimensions; the first alone covers most.
    three = [(2, 3, 1, 1), (2, 1, 4, 1), (1, 3, 1, 5), (1, 1, 4, 5)]
    source = emit(summed([*three]))
    assert [f"in{i}_shape" in source.body for i in range(4)] == [True, False, False, True]
    assert buffer_slots(summed([()])) == 2  # no size, no strides
    assert buffer_slots(summed([(1, 1)])) == 2


def test_more_than_metal_has_is_refused() -> None:
    most = (MAX_BUFFERS - 2) // 2
    graph = summed([(4,)] * most)
    assert buffer_slots(graph) <= MAX_BUFFERS and slots_of(emit(graph)) == buffer_slots(graph)
    with pytest.raises(EmitError, match=f"takes 32 buffers.*Metal has {MAX_BUFFERS}"):
        emit(summed([(4,)] * (most + 1)))


def test_slots_are_cheap() -> None:
    """A look at inputs, outputs and shapes only: the size of the region does not matter."""
    small, large = (
        record(lambda F, x, n=n: [x := F.add(x, 1.0) for _ in range(n)][-1], ((4,), "float32"))
        for n in (1, 400)
    )
    for node in range(2, len(large)):  # whatever it is, nobody looks at it
        if node not in large.outputs:
            large[node].clear()
    assert buffer_slots(small) == buffer_slots(large) == 4
