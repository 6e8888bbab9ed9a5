"""The generator's kernels, one by one, for what reads their texts: tests/metal and tests/cuda."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from inspect import Parameter
from itertools import product

from derive_cases import record
from msl_cases import FLOATS, TYPES, row_graph, row_types, rows
from test_random import SHAPES, random_function

from zmlx.derive.accumulate import derive_jvp, derive_vjp
from zmlx.errors import DeriveError
from zmlx.fuse.plan import plan
from zmlx.fuse.simplify import simplify
from zmlx.msl.emit import emit
from zmlx.msl.kernel import KernelSource
from zmlx.ops.composite import COMPOSITES, parameters
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph


def row_kernels(dtype: str, exact: bool) -> list[KernelSource]:
    """Every row of the table that takes `dtype`, over vectors."""
    graphs = [row_graph(spec, row_types(spec, dtype)) for spec in rows()]
    return [emit(graph, exact) for graph in graphs if graph is not None]


def cast_kernels(exact: bool) -> Iterator[KernelSource]:
    """From every type to every type; exact ones where a float takes part."""
    for have, want in product(TYPES, TYPES):
        if not exact or {have, want} & set(FLOATS):
            graph = row_graph(OPS["astype"], [have], want)
            assert graph is not None
            yield emit(graph, exact)


def constant_kernels(dtype: str) -> Iterator[KernelSource]:
    """The forms that rows have for some constants."""
    for spec in rows():
        for number, _ in spec.msl_const:
            yield emit(
                record(lambda F, x, n=spec.name, c=number: getattr(F, n)(x, c), ((4,), dtype))
            )


def composite_kernels(name: str, dtypes: Sequence[str] = FLOATS) -> Iterator[KernelSource]:
    """gelu, softplus and the like, with the default values of their parameters; and gradients."""
    arity = sum(p.default is Parameter.empty for p in parameters(name))
    for dtype in dtypes:
        graph = record(lambda F, *xs: COMPOSITES[name](F, *xs), *[((9,), dtype)] * arity)
        yield emit(graph, exact=dtype == "float16")
        yield from map(emit, derivatives(graph))


def regions_of(graph: Graph) -> list[Graph]:
    planned = plan(simplify(graph), worth_alone=1, folds=False, ends=False)
    return [region.graph for region in planned.regions]


def derivatives(region: Graph) -> list[Graph]:
    """The regions of the gradient and of the directional derivative; none for integers."""
    try:
        return [*regions_of(derive_vjp(region).graph), *regions_of(derive_jvp(region).graph)]
    except DeriveError:
        return []


def kernels_of_orders(seed: int, dtype: str) -> tuple[list[KernelSource], list[KernelSource]]:
    """First and second derivatives of a random smooth function of three inputs.

    A function may be locally constant (stop_gradient), or linear in what its gradient reads first.
    """
    graph = record(random_function(seed), *[(shape, dtype) for shape, _ in SHAPES])
    first = derivatives(graph)
    second = [region for one in first[:2] for region in derivatives(one)]
    exact = dtype == "float16"
    return [emit(region, exact) for region in first], [emit(region, exact) for region in second]


def spoilt(kernel: KernelSource, right: str, wrong: str) -> KernelSource:
    """`kernel` with `wrong` wherever its text has `right`."""
    assert right in kernel.header + kernel.body
    return replace(
        kernel, header=kernel.header.replace(right, wrong), body=kernel.body.replace(right, wrong)
    )
