"""Runtime: how the parts of one fused function run, fixed for one setting of the switches.

Made by zmlx.fuse.api for each mode, passed down to programs and regions. `program` is the way back
up: a derivative's graph is planned and run like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from zmlx import dump
from zmlx.switches import config, held
from zmlx.trace.graph import Graph

Run = Callable[[Sequence[mx.array]], list[mx.array]]


class NoElements(Exception):
    """Arrays without elements came where calls of MLX are written out: MLX raises for some of them,
    and has a value for others."""


@dataclass(frozen=True)
class Runtime:
    """Numerics, checking, and the functions that know how to key arrays and run graphs."""

    exact: bool  # numerics="mlx"
    check: bool  # ZMLX_CHECK
    signature: Callable[[Sequence[Any]], Any]
    make_program: Callable[[Graph, Runtime, str], Run]
    watched: bool = False  # launches are told to zmlx.device.watch
    switches: config = field(default_factory=held)  # under which its parts are made, whenever
    folder: dump.Folder | None = None  # into which ZMLX_DUMP has them written
    folds: bool = True  # kernels fold rows and read what they folded
    ends: bool = True  # kernels fold what they compute last; else MLX does
    written: bool = False  # calls of MLX stand in the graph as ops and reductions
    apart: bool = False  # sizes are examples (mx.compile, shapeless=True): MLX computes every node
    group: int = 0  # threads of a group at most, where a kernel folds rows; 0: by sizes

    @property
    def folding(self) -> dict[str, bool]:
        """What zmlx.fuse.plan.plan may have kernels fold: with numerics="mlx", nothing."""
        return {"folds": self.folds and not self.exact, "ends": self.ends and not self.exact}

    def program(self, graph: Graph, name: str) -> Run:
        """`graph` as a function from its inputs' arrays (scalars included) to its outputs'."""
        with self.making():
            return self.make_program(graph, self, name)

    @contextmanager
    def making(self) -> Iterator[None]:
        """Within the block parts of the function are made: under its switches, into its folder."""
        with self.switches, dump.into(self.folder):
            yield
