"""RowOp: a row-wise op as a function of arrays, one kernel launch for each call.

Comes in: a RowSpec and the rules of its derivatives. Goes out: a callable; zmlx.rowwise.map_reduce
and the catalog make them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import metal, switches
from zmlx.device import tuning
from zmlx.device.base import Launcher, current_name, device_for_current_stream
from zmlx.fuse.function_rules import FunctionRules
from zmlx.msl.spec import MAX_THREADS
from zmlx.rows import layout
from zmlx.rows.launches import Launches, Prepared
from zmlx.rows.layout import Setting
from zmlx.rows.rules import RowRules, op_of
from zmlx.rows.spec import RowSpec
from zmlx.rows.text import BOTH, header, held_inputs, source, values
from zmlx.trace import intercept

Arrays = Sequence[mx.array]
FLOATS = (mx.float32, mx.float16, mx.bfloat16)


class RowOp:
    """A row-wise op; called with its inputs it gives a list of its outputs.

    Inputs broadcast to the first. `rules` replace the derivatives that are made from the
    expressions. Where the device has no compiler the op runs as MLX's ops, with one warning.
    """

    def __init__(
        self,
        row: RowSpec,
        threadgroup: int = 256,
        compute: mx.Dtype = mx.float32,
        rules: FunctionRules | None = None,
    ) -> None:
        self.row, self.threadgroup, self.compute = row, threadgroup, compute
        self._rules = rules or RowRules(row, lambda arrays: self(*arrays))
        self._kernels: dict[tuple[int, ...], metal.MetalKernel] = {}
        self._launches = Launches(lambda arrays: self.prepared(arrays, self.setting(arrays[0])))
        self._settings: dict[tuple[str, mx.Dtype, int, int], Setting] = {}

    def __repr__(self) -> str:
        length = self.row.d or "any length"
        return f"<row-wise op {self.row.name}{self.row.inputs} over rows of {length}>"

    @cached_property
    def _run(self) -> Launcher:
        return op_of(self._launch, self._rules)

    def __call__(self, *inputs: mx.array) -> list[mx.array]:
        tracer = intercept.current()
        if tracer is not None and tracer.sees(inputs):
            found: list[mx.array] = tracer.opaque(self.row.name, self, inputs, {})
            return found
        shape = self._checked(inputs)
        shapes = [(*shape[:-1], 1) if o.per_row else shape for o in self.row.outputs]
        if prod(shape) == 0:
            kinds = self._kinds(inputs[0])
            return [mx.zeros(s, kind) for s, kind in zip(shapes, kinds, strict=True)]
        results = self._run([layout.laid_out(value, shape) for value in inputs])
        return [r.reshape(s) for r, s in zip(results, shapes, strict=True)]

    def traced_sizes(self, _: Any, first: Any, *others: Any) -> list[tuple[Any, ...]]:
        """The sizes of the outputs (a rule of zmlx.trace.size_rules)."""
        rest, d = first.dims[:-1], first.dims[-1]
        return [(*rest, 1 if o.per_row else d) for o in self.row.outputs]

    def kernel(self, forms: tuple[int, ...]) -> metal.MetalKernel:
        """The kernel for inputs of these forms."""
        if forms not in self._kernels:
            row = self.row
            self._kernels[forms] = metal.kernel(
                name=row.name,
                input_names=[values(name) for name in row.inputs],
                output_names=[o.name for o in row.outputs],
                source=source(row, forms),
                header=header(row),
            )
        return self._kernels[forms]

    def launch(self, arrays: Arrays, how: Setting) -> list[mx.array]:
        """One launch over arrays that are laid out."""
        kernel, launch = self.prepared(arrays, how)
        return kernel.run(arrays, launch)

    def prepared(self, arrays: Arrays, how: Setting) -> Prepared:
        """The kernel for such arrays, and its launch."""
        row, (rows, d) = self.row, arrays[0].shape
        forms = (BOTH, *[layout.form(a, d) for a in arrays[1:]])
        held = len(held_inputs(row, forms))
        work = layout.work(d, arrays[0].dtype.size, how, held, how.threads == 1 and self._alone())
        kinds = self._kinds(arrays[0])
        types = [(f"{name}_type", a.dtype) for name, a in zip(row.inputs, arrays, strict=True)]
        outputs = [(f"O{i}", kind) for i, kind in enumerate(kinds)]
        grid, threadgroup = layout.grid(rows, how)
        kernel = self.kernel(forms)
        return kernel, kernel.prepared(
            arrays,
            template=[
                ("T", self.compute), ("O", kinds[0]), *types, *outputs,
                ("LANES", work.lanes), ("PACKS", work.packs),
            ],
            grid=grid,
            threadgroup=threadgroup,
            output_shapes=[(rows, 1) if o.per_row else (rows, d) for o in row.outputs],
            output_dtypes=kinds,
        )  # fmt: skip

    def setting(self, array: mx.array) -> Setting:
        """How rows of `array`, laid out, are launched now: as tuned, or by rule."""
        if self._alone():
            return Setting(1, 1)
        place = self._place(array)
        if place not in self._settings:
            device, _, d, size = place
            tuned = tuning.STORE.find(tuning.identity(device), self.tuning_key(array))
            kept = tuned.get(size, ())
            rule = layout.setting(d, array.dtype.size, self.threadgroup)
            self._settings[place] = Setting(*kept) if valid(kept) else rule
        return self._settings[place]

    def adopt(self, array: mx.array, how: Setting) -> None:
        """Launch rows of this length and type, and about as many, under `how` from now on."""
        self._settings[self._place(array)] = how
        self._launches.forget()

    def tuning_key(self, array: mx.array) -> str:
        """The name under which settings for such rows are kept."""
        text = header(self.row) + source(self.row, (BOTH,) * len(self.row.inputs))
        return tuning.kernel_key(self.row.name, text, (array.shape[-1], str(array.dtype)))

    def _place(self, array: mx.array) -> tuple[str, mx.Dtype, int, int]:
        rows, d = array.shape
        return current_name(), array.dtype, d, tuning.size_class(rows)

    def _launch(self, arrays: Arrays) -> list[mx.array]:
        for tell in _watchers:
            tell(self, arrays)
        return self._launches(arrays, switches.SANITIZE.on())

    def _alone(self) -> bool:
        return device_for_current_stream().takes_turns and not switches.SANITIZE.on()

    def _kinds(self, first: mx.array) -> list[mx.Dtype]:
        return [getattr(mx, o.dtype) if o.dtype else first.dtype for o in self.row.outputs]

    def _checked(self, inputs: Arrays) -> tuple[int, ...]:
        """The first input's shape, which the outputs get."""
        row = self.row
        if len(inputs) != len(row.inputs):
            raise row.wrong(f"{len(inputs)} arrays came for the inputs {row.inputs}")
        for name, value in zip(row.inputs, inputs, strict=True):
            if not isinstance(value, mx.array):
                raise TypeError(str(row.wrong(f"{name} is {type(value).__name__}, no mx.array")))
        first, name = inputs[0], row.inputs[0]
        if not mx.issubdtype(first.dtype, mx.floating) or first.dtype == mx.float64:
            raise row.wrong(f"{name} is {first.dtype}; give float32, float16, bfloat16")
        if first.ndim == 0 or row.d not in (None, first.shape[-1]):
            wanted = (
                "it needs one axis at least"
                if row.d is None
                else f"its last axis must be d = {row.d}"
            )
            raise row.wrong(f"{name} has shape {first.shape}; {wanted}")
        for other, value in zip(row.inputs[1:], inputs[1:], strict=True):
            if not layout.fits(value.shape, first.shape):
                what = f"{other} has shape {value.shape}, which does not broadcast to {first.shape}"
                raise row.wrong(what)
        return tuple(first.shape)


_watchers: list[Callable[[RowOp, Arrays], None]] = []


@contextmanager
def watched(tell: Callable[[RowOp, Arrays], None]) -> Iterator[None]:
    """Call `tell` with each op that is launched meanwhile, and its arrays, laid out."""
    _watchers.append(tell)
    try:
        yield
    finally:
        _watchers.remove(tell)


def check_launch(row: RowSpec, threadgroup: int, compute: mx.Dtype | None) -> None:
    """ValueError for a threadgroup or a compute type that no row-wise op takes."""
    if not isinstance(threadgroup, int) or not valid((1, threadgroup)):
        what = f"threadgroup is {threadgroup!r}; give a power of two from 1 to {MAX_THREADS}"
        raise row.wrong(what)
    if compute is not None and compute not in FLOATS:
        raise row.wrong(f"compute_dtype is {compute!r}; give float32, float16 or bfloat16")


def valid(kept: Sequence[int]) -> bool:
    """Whether a setting from disk is one that the kernel takes."""
    powers = all(n > 0 and n & (n - 1) == 0 for n in kept)
    return len(kept) == 2 and powers and prod(kept) <= MAX_THREADS
