"""Writing: `zmlx.export` and `zmlx.exporter`, which put a fused function into a file.

Comes in: a function and examples of its arguments. Goes out: a file that zmlx.stored.loaded reads.
What is written is read back and run on the example, which also says which kernels it needs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import mlx.core as mx

from zmlx.device import stock, toolchain
from zmlx.device.base import device_for_current_stream
from zmlx.errors import StoredError
from zmlx.fuse import patterns
from zmlx.fuse.api import FusedFunction, fuse
from zmlx.fuse.site import pattern
from zmlx.fuse.table import _states
from zmlx.log import logger
from zmlx.stored import archive, machine, mlxfn, signatures
from zmlx.stored.graphs import Arrays, trace_written
from zmlx.stored.loaded import Loaded, Variant
from zmlx.stored.values import Unwritable, structure_written, written
from zmlx.switches import config
from zmlx.trace.calls import keeping_random_state
from zmlx.trace.paths import names
from zmlx.trace.run import Trace
from zmlx.trace.tree import Leaves, flatten_call

_log = logger("zmlx.export")


def export(f: Callable[..., Any], path: str | Path, /, *args: Any, **kwargs: Any) -> None:
    """Write a fused function to a file, for calls like the one with these arguments.

    `zmlx.load(path)` gives the function back, in any process: nothing is traced there, and where
    the machine is alike nothing compiled either. Arrays that the function captures (the weights of
    an nn.Module, state named by `inputs=`) are stored as they are now. Sizes may differ from the
    example's as they may in the fused function itself.

    Args:
        f: a function, method or nn.Module, fused or to be fused.
        path: the file to write, by convention `name.zmlx`; replaced as a whole. One that ends in
            `.mlxfn` is a file of mx.export_function's, for these very shapes and without gradients,
            which MLX runs without ZMLX; a Mac's or an NVIDIA GPU's kernels can be stored so.
        *args: an example of a call: arrays of any shape and dtype, numbers, strings and
            None, in tuples, lists and dicts.
        **kwargs: the same, by name.

    Raises:
        StoredError: the function holds something that no file can: Python that runs at each call,
            a kernel written by hand, an object as an argument or a result. It names the line.
    """
    if Path(path).suffix == mlxfn.SUFFIX:
        return mlxfn.write(_fused(f), Path(path), args, kwargs)
    with exporter(f, path) as write:
        write(*args, **kwargs)


class exporter:
    """Writes one file for several kinds of calls: `with zmlx.exporter(f, path) as write: ...`.

    Call `write` with an example for each kind, as you would call `f`.

    Args:
        f: as for `zmlx.export`.
        path: likewise.
        gradients: store the kernels of the gradient too, with respect to all floating-point
            arrays; without them a loaded function's gradient is compiled when it is first wanted.
        machine_code: store compiled kernels (of a CPU); without, each process compiles its own.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        path: str | Path,
        *,
        gradients: bool = False,
        machine_code: bool = True,
    ) -> None:
        self._fused = _fused(f)
        self._path, self._gradients, self._code = Path(path), gradients, machine_code
        self._name = self._fused._name
        self._signature = signatures.of(self._fused)
        self._arrays = Arrays()
        self._variants: list[dict[str, Any]] = []
        self._kernels: dict[str, Path] = {}

    def __enter__(self) -> exporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self._write()

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Store what a call with these arguments runs."""
        args, kwargs = signatures.bound(self._signature, args, kwargs)
        variant = self._variant(args, kwargs)
        self._variants.append(variant)
        given, _ = flatten_call(args, kwargs)
        with stock.collected() as kernels, keeping_random_state():
            self._run(variant, given)
        self._kernels |= kernels

    def _variant(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        fused, options = self._fused, self._fused._options
        with config(patterns=False):  # which would hold for the sizes and the device at hand
            entry = fused.entry(*args, **kwargs)
        if entry.trace.plain:
            why = entry.trace.plain
            raise StoredError(f"[zmlx.export] {self._name} cannot be stored: {why}")
        owner = () if fused._bound is None else (fused._bound,)
        states = _states(options)
        everything, _ = flatten_call((*owner, *args), kwargs, states)
        given, (positional, named, _) = flatten_call(args, kwargs)
        before, _ = flatten_call(owner, {})
        self._refuse_shared(everything, before, given, flatten_call((), {}, states)[0])
        try:
            structure = [
                list(map(structure_written, positional)),
                [[key, structure_written(item)] for key, item in named],
            ]
        except Unwritable as what:
            raise StoredError(
                f"[zmlx.export] {self._name} takes {what} as an argument, which a file does not "
                "hold. Pass arrays, numbers and strings, in tuples, lists and dicts; or fuse a "
                "function that has the object already, such as its method."
            ) from None
        self._tell_patterns(entry.trace, everything)
        split = len(before.arrays), len(before.arrays) + len(given.arrays)
        parts = len(before.numbers), len(before.numbers) + len(given.numbers)
        named_arrays = [*map(self._arrays.name, everything.arrays)] if owner or states else []
        called = names(fused, args, kwargs, given.arrays, given.numbers)
        return {
            "trace": trace_written(entry.trace, self._arrays, self._name),
            "structure": structure,
            "signature": signatures.portable(given.arrays).hex(),
            "arrays": [named_arrays[: split[0]], named_arrays[split[1] :]],
            "numbers": [
                list(map(written, everything.numbers[: parts[0]])),
                list(map(written, everything.numbers[parts[1] :])),
            ],
            "same": pattern(everything.arrays) if len(everything.arrays) > 1 else None,
            "static": [[i, repr(everything.numbers[i])] for i in entry.trace.static_numbers],
            "told": signatures.told(called, given),
        }

    def _refuse_shared(self, everything: Leaves, *parts: Leaves) -> None:
        if len(everything.arrays) != sum(len(part.arrays) for part in parts):
            raise StoredError(
                f"[zmlx.export] an argument of {self._name} holds what the function holds itself. "
                "Pass a copy."
            )

    def _tell_patterns(self, trace: Trace, everything: Leaves) -> None:
        """Log what a fused function has replaced and the file computes as it is written."""
        if not self._fused._options.exact and _log.isEnabledFor(logging.INFO):
            for found in patterns.there(trace.graph, everything.numbers):
                _log.info(
                    "%s: %s at %s is stored as it is written, not as %s: which of them is quicker "
                    "depends on device and sizes, and a file is for all.",
                    self._name, found.name, found.loc, found.by,
                )  # fmt: skip

    def _function(self, variants: Sequence[dict[str, Any]]) -> dict[str, Any]:
        options = self._fused._options
        return {
            "name": self._name,
            "doc": getattr(self._fused, "__doc__", None) or "",
            "signature": signatures.written(self._signature),
            "exact": options.exact,
            "group": options.group,
            "variants": list(variants),
        }

    def _run(self, variant: dict[str, Any], given: Leaves) -> None:
        """Read the variant back and run it, its gradient too if asked for."""
        text = json.loads(json.dumps(self._function([variant]), allow_nan=False))
        loaded = Loaded(text, self._arrays.named, self._path, "")
        (read,) = loaded.variants()
        arrays = [mx.array(array) for array in given.arrays]
        values = loaded.values(read, arrays, given.numbers)
        mx.eval(values)
        if self._gradients:
            self._pull(loaded, read, arrays, given.numbers)

    def _pull(
        self, loaded: Loaded, variant: Variant, arrays: Sequence[mx.array], numbers: Sequence[Any]
    ) -> None:
        moving = [i for i, array in enumerate(arrays) if _is_float(array)]

        def run(*moved: mx.array) -> list[mx.array]:
            placed = list(arrays)
            for i, array in zip(moving, moved, strict=True):
                placed[i] = array
            return [v for v in loaded.values(variant, placed, numbers) if _is_float(v)]

        primals = [arrays[i] for i in moving]
        seeds = [mx.ones_like(value) for value in run(*primals)]
        if moving and seeds:
            mx.eval(mx.vjp(run, primals, seeds)[1])

    def _write(self) -> None:
        if not self._variants:
            raise StoredError(
                f"[zmlx.export] {self._name} was given no example: call the exporter once for each "
                "kind of call."
            )
        needs, libraries = machine.packed(self._kernels) if self._code else ({}, {})
        held = archive.Archive(self._function(self._variants), self._arrays.named, needs, libraries)
        archive.write(self._path, held)
        if self._code and not libraries and device_for_current_stream().name == "host":
            why = toolchain.problem() or "no kernel of it runs on this CPU"
            _log.info("%s: no machine code is stored: %s", self._path, why)


def _fused(f: Callable[..., Any]) -> FusedFunction:
    return f if isinstance(f, FusedFunction) else fuse(f)


def _is_float(array: mx.array) -> bool:
    return bool(mx.issubdtype(array.dtype, mx.floating))
