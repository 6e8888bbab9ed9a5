"""A CUDA device without a GPU: what runs on it is compiled and built, never computed.

The device is the real one, and so is the way of a text through zmlx.device.cuda_kernel, up to the
machine code. Only the native module's launch is replaced, and the disk is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from tests.stand_in import blank, current
from zmlx import dtypes
from zmlx.device import cuda_kernel
from zmlx.device.base import Launcher
from zmlx.device.cuda import CudaDevice
from zmlx.device.cuda_kernel import CudaCompiler
from zmlx.device.gpu import GpuLauncher
from zmlx.device.nvrtc import Nvrtc, installed
from zmlx.msl.kernel import KernelSource

HOPPER, AMPERE = (9, 0), (8, 0)
_codes: dict[tuple[str, str], bytes] = {}  # by architecture and text: tests share kernels


@cache
def nvrtc() -> Nvrtc | None:
    return installed()


class Remembering(CudaCompiler):
    """Keeps in memory what it compiles; `texts` are those that it was asked for."""

    def __init__(self, capability: tuple[int, int], machine: bool) -> None:
        found = nvrtc()
        assert found is not None  # see conftest.py
        super().__init__(found, capability)
        if not machine:
            self.architecture = self.architecture.replace("sm_", "compute_")
        self.texts: list[str] = []

    def machine_code(self, name: str, text: str) -> bytes:
        key = self.architecture, text
        if key not in _codes:
            _codes[key] = self.compiled(name, text)
        if text not in self.texts:
            self.texts.append(text)
        return _codes[key]


class Never:
    """In place of a Repeater, which would launch past us."""

    def __call__(self, arrays: Sequence[mx.array], rules: Any) -> None:
        return None

    def learn(self, arrays: Sequence[mx.array], outputs: Sequence[mx.array]) -> None:
        pass


class Gpu(CudaDevice):
    """CUDA as the current device; `compiler.texts` are those of the kernels launched so far."""

    def __init__(self, capability: tuple[int, int], machine: bool) -> None:
        super().__init__()
        self.compiler = Remembering(capability, machine)
        self.launches: list[dict[str, Any]] = []

    def unavailable(self) -> None:
        return None

    def _launcher(self, kernel: KernelSource) -> Launcher:
        made: Any = super()._launcher(kernel)
        made.repeat = Never()
        return made

    def compiled_cuda(
        self, name: str, code: bytes, inputs: Sequence[mx.array], reads: Sequence[Any],
        grid: Any, threadgroup: Any, shapes: Any, kinds: Any, init: float | None, dense: bool,
    ) -> list[mx.array]:  # fmt: skip
        """The native module's function of this name."""
        assert name.encode() in code and len(reads) == len(inputs)
        self.launches.append({"name": name, "inputs": inputs, "reads": reads, "init": init})
        return blank(inputs, shapes, kinds)

    @property
    def count(self) -> int:
        """How many kernels were compiled."""
        return len(self.compiler.texts)

    def compile(self, kernel: KernelSource, *, across: bool = False) -> None:
        """The generator's `kernel` as launched; if asked, also as for transposed inputs."""
        (launch,) = self.build([kernel])
        assert isinstance(launch, GpuLauncher)
        arrays = [mx.zeros((9,) * a.rank, _dtype(a.dtype)) for a in kernel.inputs]
        launch(arrays)
        if across and self.across(kernel) != (self.elements(kernel), self.group(kernel)):
            launch.with_setting(*self.across(kernel))(arrays)


def _dtype(name: str) -> mx.Dtype:
    return getattr(mx, dtypes.attribute(name))


@contextmanager
def gpu(capability: tuple[int, int] = HOPPER, *, machine: bool = True) -> Iterator[Gpu]:
    """CUDA as the device of the current stream, and no op that was made for another.

    Without `machine` kernels get as far as PTX: everything is read, in half the time.
    """
    device = Gpu(capability, machine)
    native = SimpleNamespace(compiled_cuda=device.compiled_cuda)
    with pytest.MonkeyPatch.context() as patch, current(device):
        patch.setattr(cuda_kernel, "compiler", lambda: device.compiler)
        patch.setattr(cuda_kernel, "native_or_none", lambda: native)
        yield device
