"""A device that compiles nothing and computes nothing: it keeps the kernels that it is handed.

Comes in: kernels, built and launched by ZMLX as on any device. Goes out: a Record: the texts of
each kernel on every device, under the name of the case that was running. Results are zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from tests.kernels.comparing import Record, Texts
from zmlx import dtypes
from zmlx.device import base
from zmlx.device.base import NEVER_ALONE, DeviceReport, GridLauncher, Launcher
from zmlx.device.operands import output_shape
from zmlx.device.texts import texts, written_texts
from zmlx.errors import DeviceError
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.trace.operands import name_of


class RecordingDevice:
    """Stands in for a GPU, or for the CPU, where the threads of a group take turns."""

    def __init__(self, record: Record, host: bool) -> None:
        self.record, self.case = record, ""
        self.name = "host" if host else "metal"
        self.takes_turns, self.worth_alone = host, 10 if host else NEVER_ALONE
        self.rows_alone = False
        self.products = ("float32",) if host else ()
        self._seen: dict[Any, Texts] = {}

    @property
    def cache(self) -> Any:
        raise DeviceError("[tests.kernels] nothing is kept")  # of tuned settings, none is found

    def unavailable(self) -> None:
        return None

    def native_or_none(self) -> None:
        return None

    def report(self) -> DeviceReport:
        return DeviceReport(self.name, mx.__version__)

    def build(self, kernels: Sequence[KernelSource]) -> list[Launcher]:
        return [self._launcher(kernel) for kernel in kernels]

    def keep(self, kernel: KernelSource) -> None:
        """A kernel of the generator. Names carry digests, which would hide what differs."""
        if kernel.digest not in self._seen:
            plain = {e: t.replace(kernel.name, kernel.stem) for e, t in texts(kernel).items()}
            self._seen[kernel.digest] = plain
        self.record.add(self.case, self._seen[kernel.digest])

    def _launcher(self, kernel: KernelSource) -> Launcher:
        self.keep(kernel)
        kinds = [dtypes.attribute(a.dtype) for a in kernel.outputs]

        def launch(arrays: Sequence[mx.array]) -> list[mx.array]:
            shape = output_shape(kernel, arrays)
            return [mx.zeros(shape, getattr(mx, kind)) for kind in kinds]

        return launch

    def grid_launcher(self, spec: MetalKernelSpec) -> GridLauncher:
        def run(arrays: Sequence[mx.array], launch: Launch) -> list[mx.array]:
            kinds = tuple(name_of(a.dtype) for a in arrays)
            key = (spec.digest, kinds, launch)
            if key not in self._seen:
                found = written_texts(spec, kinds, launch)
                plain = {e: t.replace(spec.unique_name, spec.name) for e, t in found.items()}
                how = f"// inputs {', '.join(kinds)}; {launch}\n"
                self._seen[key] = {**plain, "metal": how + plain["metal"]}
            self.record.add(self.case, self._seen[key])
            pairs = zip(launch.output_shapes, launch.output_dtypes, strict=True)
            return [mx.zeros(s, getattr(mx, dtypes.attribute(kind))) for s, kind in pairs]

        return run


@contextmanager
def recording(host: bool) -> Iterator[RecordingDevice]:
    """Within the block every kernel of ZMLX goes to the device; one block in a process."""
    mx.set_default_device(mx.cpu)
    device: Any = RecordingDevice(Record(), host)
    before = dict(base._devices)
    base._devices["host"] = device
    try:
        yield device
    finally:
        base._devices.clear()
        base._devices.update(before)
