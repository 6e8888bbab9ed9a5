"""What a GPU's device needs on a machine without that GPU: launches that are built, never computed.

tests/metal/on_metal.py and tests/cuda/on_cuda.py put the real devices behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.core as mx
import pytest

from zmlx import registry
from zmlx.device import base
from zmlx.device.gpu import GpuDevice
from zmlx.device.host_grid import HostGridLauncher
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.trace.operands import name_of


def blank(
    inputs: Sequence[mx.array], shapes: Sequence[tuple[int, ...]], kinds: Sequence[mx.Dtype]
) -> list[mx.array]:
    """What stands in for a launch: lazy arrays of these shapes and types, behind the inputs.

    MLX refuses to launch on a GPU that is not there; transformations never ask for values.
    """
    return _kernel()(
        list(inputs), (1, 1, 1), (1, 1, 1), shapes, [name_of(kind) for kind in kinds], None
    )


@cache
def _kernel() -> Any:
    host: Any = base.device_named("host")
    launcher = HostGridLauncher(host, MetalKernelSpec("blank", (), ("out",), "out[0] = 0;"))
    launcher([], Launch((1, 1, 1), (1, 1, 1), ((1,),), ("float32",)))
    return next(iter(launcher._loaded.values()))


@contextmanager
def current(device: GpuDevice) -> Iterator[None]:
    """`device` as that of the current stream, and no op that was made for another."""
    registry.clear_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "current_name", lambda: device.name)
        patch.setitem(base._devices, device.name, device)
        yield
    registry.clear_cache()
