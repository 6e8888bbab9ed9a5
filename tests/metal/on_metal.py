"""A Mac's device without a Mac: what runs on it is launched, never computed, and its texts kept.

The device is the real one: the launchers, rules and transformations are those of a Mac. Only MLX's
callables at its end are replaced; they are asked for the texts that Apple's compiler would get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.core as mx
import pytest

from zmlx import registry
from zmlx.device import base
from zmlx.device.base import Launcher
from zmlx.device.host_grid import HostGridLauncher
from zmlx.device.metal import MetalDevice
from zmlx.metal_check.source import launched_texts
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.trace.operands import name_of

Shaped = tuple[tuple[int, ...], mx.Dtype]


class Mac(MetalDevice):
    """Metal as the current device; `texts` are those of the kernels launched so far."""

    def __init__(self) -> None:
        super().__init__()
        self._launched: dict[Any, Callable[[], list[str]]] = {}

    def unavailable(self) -> None:
        return None

    def made(self, kernel: KernelSource) -> Any:
        return self._kept(kernel.name, super().made(kernel))

    def written(self, spec: MetalKernelSpec, name: str) -> Any:
        return self._kept(name, super().written(spec, name))

    def _launcher(self, kernel: KernelSource) -> Launcher:
        made: Any = super()._launcher(kernel)
        made.repeat = None  # which would launch past us
        return made

    def _kept(self, name: str, launch: Any) -> Any:
        def keep(*, inputs: Sequence[mx.array], **how: Any) -> Any:
            shaped = tuple((tuple(x.shape), x.dtype) for x in inputs)
            key = (name, shaped, str(how))
            self._launched.setdefault(key, lambda: texts_of(launch, shaped, how))
            return blank()(
                list(inputs), (1, 1, 1), (1, 1, 1), how["output_shapes"],
                [name_of(kind) for kind in how["output_dtypes"]], None,
            )  # fmt: skip

        return keep

    def texts(self) -> list[str]:
        """The different texts of all launches."""
        return list(dict.fromkeys(t for found in self._launched.values() for t in found()))


@cache
def blank() -> Any:
    """What stands in for every launch: lazy arrays of any shapes that depend on the inputs.

    MLX refuses to launch on a GPU that is not there; transformations never ask for values.
    """
    host: Any = base.device_named("host")
    launcher = HostGridLauncher(host, MetalKernelSpec("blank", (), ("out",), "out[0] = 0;"))
    launcher([], Launch((1, 1, 1), (1, 1, 1), ((1,),), ("float32",)))
    return next(iter(launcher._loaded.values()))


def texts_of(launch: Any, shaped: Sequence[Shaped], how: dict[str, Any]) -> list[str]:
    """The text of one launch, and that for inputs of one element each, which lie in `constant`.

    Transformations are over by now, so other arrays of the same shapes stand in.
    """
    found = []
    for tiny in (False, True):
        arrays = [mx.zeros((1,) * len(s) if tiny else s, kind) for s, kind in shaped]
        found += launched_texts(lambda xs: launch(inputs=list(xs), **how), arrays)
    return found


@contextmanager
def mac() -> Iterator[Mac]:
    """Metal as the device of the current stream, and no op that was made for another."""
    device = Mac()
    registry.clear_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "current_name", lambda: device.name)
        patch.setitem(base._devices, device.name, device)
        yield device
    registry.clear_cache()
