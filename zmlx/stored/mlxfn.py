"""MLX's own files: a fused function written by mx.export_function, its kernels in it.

Comes in: a fused function and an example. Goes out: a `.mlxfn` file, which MLX runs from Python,
C++ or Swift, without ZMLX. Kernels of Metal and CUDA are primitives of MLX's and can be stored;
those of a CPU cannot, and zmlx.stored.write stores them in a file of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx.device.base import device_for_current_stream
from zmlx.device.rules import without_rules
from zmlx.errors import StoredError
from zmlx.fuse.api import FusedFunction
from zmlx.fuse.entry import Entry
from zmlx.fuse.program import Program

SUFFIX = ".mlxfn"
_WRITES = "writes in place, which MLX's own files do not hold. Name the file *.zmlx."


def write(fused: FusedFunction, path: Path, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Write `fused` for the very shapes of the example; a loaded one has no gradient."""
    device = device_for_current_stream()
    if device.name == "host" and device.unavailable() is None:
        raise StoredError(
            f"[zmlx.export] {path.name}: MLX's own files hold kernels of Metal and CUDA, and this "
            "is the CPU, whose kernels are no primitives of MLX's. Name the file *.zmlx; or set "
            "ZMLX_DEVICE=replay, and MLX's ops are stored in place of kernels."
        )
    given = (*args, *kwargs.values())
    if not all(isinstance(value, mx.array) for value in given):
        raise StoredError(
            f"[zmlx.export] {path.name}: MLX's own files take arrays alone. Name the file *.zmlx, "
            "or close over what is none: lambda x: f(x, 0.5)."
        )
    made = fused.entry(*args, **kwargs)
    table: Any = fused._table()
    if made.trace.plain or made.trace.writes or made.trace.updates:
        raise StoredError(f"[zmlx.export] {path.name}: {fused._name} {made.trace.plain or _WRITES}")

    simple = made.trace.simple  # patterns are replaced in it: the sizes are those of the example
    graph = made.trace.graph if simple is None else simple

    def run(*inner: Any, **named: Any) -> Any:
        owner = () if fused._bound is None else (fused._bound,)
        leaves = table.leaves((*owner, *inner), named)
        with without_rules():
            program = Program(graph, table.runtime, fused._name, is_simple=simple is not None)
            entry = Entry(made.trace, program)
            entry._run = entry.program.stepped
            return entry.call(leaves.arrays, leaves.numbers, leaves.objects)

    mx.export_function(str(path), run, *args, **kwargs)
