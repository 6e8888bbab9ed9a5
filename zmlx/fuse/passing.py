"""Passing: a kernel hands on what it reads to those that read it later, where MLX differentiates.

Comes in: a plan's steps. Goes out: for a region, which of its inputs it passes on, and a function
that does: what later readers send back then comes to the kernel of the region's gradient, which
adds it up (a residual beside a norm), and is not added by MLX. zmlx.fuse.program calls it.

Only readers that wait for the region anyway get an input from it, so nothing is computed that
would not be, or earlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.rules import any_traced, native_or_none, traces_shapeless
from zmlx.fuse.extract import Region
from zmlx.fuse.function_rules import FunctionRules
from zmlx.fuse.joins import Joined
from zmlx.fuse.plan import Plan, nodes_of
from zmlx.fuse.region import RegionFunction, RegionRules
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.slicing import smallest
from zmlx.trace.graph import Graph

Arrays = Sequence[mx.array]


def passes(plan: Plan) -> dict[Region, tuple[int, ...]]:
    """For regions the inputs, by position, that all their later readers may take from them."""
    at = {n: k for k, step in enumerate(plan.steps) for n in nodes_of(step)}
    found: dict[Region, tuple[int, ...]] = {}
    for step in plan.regions:
        later = set() if any(step.squeezes) else _read_later(plan, step, at)
        if later:
            found[step] = tuple([i for i, n in enumerate(step.ends.inputs) if n in later])
    return found


def _read_later(plan: Plan, region: Region, at: Mapping[int, int]) -> set[int]:
    """The large inputs of `region` that others read later, all of which wait for it."""
    graph, mine = plan.graph, at[region.nodes[0]]
    inputs = [n for n in region.ends.inputs if _is_large(graph, region, n)]
    pairs = [(n, [u for u in graph.users(n) if at.get(u, mine) > mine]) for n in inputs]
    readers = {n: users for n, users in pairs if users}
    after = _after(plan, mine) if readers else set()
    return {n for n, users in readers.items() if after.issuperset(users)}


def _after(plan: Plan, mine: int) -> set[int]:
    """The nodes of the steps that wait for the step at `mine`."""
    found = set(nodes_of(plan.steps[mine]))
    for step in plan.steps[mine + 1 :]:
        nodes = nodes_of(step)
        if any(o in found for n in nodes for o in plan.graph.operands(n)):
            found.update(nodes)
    return found


def _is_large(graph: Graph, region: Region, node: int) -> bool:
    """Whether adding up what `node` receives costs as much as an operand of the region does."""
    data = graph[node]
    if not dtypes.is_float(data["dtype"]) or node in graph.outputs or data["kind"] == "array":
        return False
    return prod(data["shape"]) >= max(prod(graph[n]["shape"]) for n in region.ends.outputs)


def passing(
    step: Region | Joined, found: Mapping[Region, tuple[int, ...]], function: Any, runtime: Runtime
) -> tuple[tuple[int, ...], Run]:
    """What running the step gives, with the inputs `found` that it passes on, and how it runs."""
    if not isinstance(step, Region) or step not in found:
        return step.results, function
    places = found[step]
    run = Passing(step.graph, function, places, runtime, function.name)
    return (*step.results, *[step.ends.inputs[i] for i in places]), run


class Passing:
    """A region as a function that gives, after its results, inputs: those `given`, by position."""

    def __init__(
        self, region: Graph, run: Run, given: Sequence[int], runtime: Runtime, name: str
    ) -> None:
        self.run, self.passes = run, tuple(given)
        whole = Graph()
        whole.nx, whole.inputs = region.nx, region.inputs
        whole.outputs = [*region.outputs, *[region.inputs[i] for i in given]]
        self._whole = RegionFunction(whole, runtime, name)
        self._rules: dict[bytes, _Rules] = {}

    def __call__(self, arrays: Arrays) -> list[mx.array]:
        results = self.run(arrays)
        kept = [arrays[i] for i in self.passes]
        if not any_traced(arrays) or traces_shapeless():
            return [*results, *kept]
        if max([a.size for a in kept]) < smallest():
            return [*results, *kept]
        key = self._whole.runtime.signature(arrays)
        if key not in self._rules:
            special = self._whole.specialized([a.shape for a in arrays])
            self._rules[key] = _Rules(self, RegionRules(self._whole, special), len(arrays))
        made: list[mx.array] = native_or_none().passing(
            results, arrays, self.passes, self._rules[key]
        )
        return made

    def plain(self, arrays: Arrays) -> list[mx.array]:
        """The same, passed on without rules of its own."""
        return [*self.run(arrays), *[arrays[i] for i in self.passes]]


class _Rules(FunctionRules):
    """The transformations of a Passing; MLX sees its results behind what it reads."""

    summands = RegionRules.summands

    def __init__(self, owner: Passing, rules: RegionRules, count: int) -> None:
        super().__init__(owner.plain)
        self._region, self._count = rules, count

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | list[mx.array] | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        wanted = [i for i in argnums if i < self._count]
        given = self._region.vjp(primals[: self._count], cotangents, wanted, outputs)
        found = dict(zip(wanted, given, strict=True))
        return [found[i] if i in found else mx.zeros_like(primals[i]) for i in argnums]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        pairs = [(i, t) for i, t in zip(argnums, tangents, strict=True) if i < self._count]
        return super().jvp(primals[: self._count], [t for _, t in pairs], [i for i, _ in pairs])

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return super().vmap(inputs[: self._count], axes[: self._count])
