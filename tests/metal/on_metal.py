"""A Mac's device without a Mac: what runs on it is launched, never computed, and its texts kept.

The device is the real one: the launchers, rules and transformations are those of a Mac. Only MLX's
callables at its end are replaced; they are asked for the texts that Apple's compiler would get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from tests.stand_in import blank, current
from zmlx.device.base import Launcher
from zmlx.device.metal import MetalDevice
from zmlx.metal_check.source import launched_texts
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import MetalKernelSpec

Shaped = tuple[tuple[int, ...], mx.Dtype]


class Mac(MetalDevice):
    """Metal as the current device; `texts` are those of the kernels launched so far."""

    def __init__(self, small: bool = True) -> None:
        super().__init__()
        self._small = small
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
            self._launched.setdefault(key, lambda: texts_of(launch, shaped, how, self._small))
            return blank(inputs, how["output_shapes"], how["output_dtypes"])

        return keep

    def texts(self) -> list[str]:
        """The different texts of all launches."""
        return list(dict.fromkeys(t for found in self._launched.values() for t in found()))


def texts_of(
    launch: Any, shaped: Sequence[Shaped], how: dict[str, Any], small: bool = True
) -> list[str]:
    """The text of one launch; if `small`, also for inputs of one element, which lie in `constant`.

    Transformations are over by now, so other arrays of the same shapes stand in.
    """
    found = []
    for tiny in (False, True)[: 1 + small]:
        arrays = [mx.zeros((1,) * len(s) if tiny else s, kind) for s, kind in shaped]
        found += launched_texts(lambda xs: launch(inputs=list(xs), **how), arrays)
    return found


@contextmanager
def mac(small: bool = True) -> Iterator[Mac]:
    """Metal as the device of the current stream, and no op that was made for another."""
    device = Mac(small)
    with current(device):
        yield device
