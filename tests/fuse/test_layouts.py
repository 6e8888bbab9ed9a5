"""How regions that fold are laid out as outer dimensions, rows and columns, and launched."""

from __future__ import annotations

from math import prod

import pytest

from zmlx.fuse.rows import Layout, layout
from zmlx.msl import geometry
from zmlx.msl.schedule import schedule
from zmlx.trace.graph import Graph, broadcast, folded_shape

FLOAT = {"dtype": "float32", "at": "float32", "loc": ""}


def added(shapes: list[tuple[int, ...]], sums: list[tuple[int, ...]]) -> Layout | None:
    """The layout of the product of arrays of `shapes`, summed over these axes."""
    graph = Graph()
    ones = [graph.add("input", shape=shape, dtype="float32") for shape in shapes]
    (value, *rest) = ones
    for other in rest:
        shape = broadcast([graph[value]["shape"], graph[other]["shape"]])
        value = graph.add("op", (value, other), op="multiply", shape=shape, **FLOAT)
    shape = graph[value]["shape"]
    graph.outputs = [
        graph.add(
            "reduce", (value,), op="sum", axes=axes, dtype="float32",
            shape=folded_shape(shape, axes),
        )
        for axes in sums
    ]  # fmt: skip
    return layout(graph, shapes)


def test_no_layout_where_folds_disagree() -> None:
    assert added([(2, 3, 4, 5), (1, 3, 1, 5)], [(0, 2), (1, 3)]) is not None
    assert added([(4, 5, 6)], [(0,), (2,)]) is None


@pytest.mark.parametrize(
    ("shapes", "sums", "sizes"),
    [
        ([(6, 80), (80,)], [(0,)], (1, 6, 80)),
        ([(6, 80), (6, 1)], [(1,)], (6, 1, 80)),
        ([(6, 80), (80,), (6, 1)], [(0,), (1,)], (1, 6, 80)),
        ([(6, 80), (80,), ()], [(0,), (0, 1)], (1, 6, 80)),
        ([(2, 6, 80), (80,), (2, 1, 80)], [(0, 1), (1,)], (2, 6, 80)),
        ([(2, 6, 80), (2, 1, 1)], [(1, 2)], (1, 2, 480)),
        ([(3, 5, 70), (70,), (3, 1, 1)], [(0, 1), (1, 2)], (3, 5, 70)),
        ([(7, 300, 3)], [(0, 1, 2)], (1, 7, 900)),
    ],
)
def test_layouts_of_sums(shapes: list, sums: list, sizes: tuple) -> None:
    found = added(shapes, sums)
    assert found is not None and prod(found.sizes) == prod(sizes)
    assert found.sizes[2] == sizes[2] and found.sizes[0] in (1, sizes[0])


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 2), (1, 10_000, 3), (7, 1, 4096), (70_000, 2, 33)])
@pytest.mark.parametrize("axes", [(1,), (1, 2), (2,)])
def test_the_grid_covers_all_elements_within_the_limits(
    sizes: tuple, alone: bool, axes: tuple
) -> None:
    found = added([sizes], [axes])
    if found is None:  # nothing is folded
        return
    plan = schedule(found.region, outer=found.outer)
    made = (geometry.alone if alone else geometry.on_gpu)(plan, found.sizes)
    assert made.cuts * (made.cut or found.sizes[2]) >= found.sizes[2]
    assert made.threads * made.lines <= 1024 and max(made.groups, made.layers) <= 65535
    assert not made.cut or alone or made.cut % (made.threads * made.lanes) == 0


