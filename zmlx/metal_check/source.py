"""The text of a kernel as MLX makes it, with the signature that suits the arrays of a launch.

Comes in: a KernelSource and arrays or shapes. Goes out: the text that MLX compiles behind its own
headers: header, signature, body, and the explicit instantiation of the template. It comes from
MLX itself, which reports the traced primitive through mx.export_function; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.metal import MetalDevice
from zmlx.errors import DeviceError
from zmlx.msl.kernel import Arg, KernelSource


def metal_text(kernel: KernelSource, arrays: Sequence[Any]) -> str:
    """The text for a launch with `arrays`; an entry may be a shape instead."""
    if len(arrays) != len(kernel.inputs):
        raise ValueError(
            f"[zmlx.metal_check] kernel {kernel.name}: {len(kernel.inputs)} inputs, got "
            f"{len(arrays)} arrays. Give one array or shape for each input."
        )
    given = [_array(a, arg) for a, arg in zip(arrays, kernel.inputs, strict=True)]
    texts = launched_texts(MetalDevice().build([kernel])[0], given)
    if not texts:
        raise DeviceError(
            f"[zmlx.metal_check] kernel {kernel.name}: MLX launches nothing for shapes "
            f"{[a.shape for a in given]}. Give arrays with elements."
        )
    return texts[0]


def launched_texts(
    function: Callable[[Sequence[mx.array]], Any], arrays: Sequence[mx.array]
) -> list[str]:
    """The texts of all kernels made by mx.fast.metal_kernel that function(arrays) launches."""
    events: list[dict[str, Any]] = []
    mx.export_function(events.append, lambda *a: function(list(a)), *arrays)
    return [
        argument
        for event in events
        if event.get("name") == "CustomKernel"
        for argument in event["arguments"]
        if isinstance(argument, str) and "[[kernel]]" in argument
    ]


def examples(kernel: KernelSource) -> list[list[mx.array]]:
    """Inputs of one element each, and inputs of eight elements or more wherever rank allows."""
    return [[mx.zeros((n,) * arg.rank, dtype=_dtype(arg)) for arg in kernel.inputs] for n in (1, 8)]


def _array(given: Any, arg: Arg) -> mx.array:
    return given if isinstance(given, mx.array) else mx.zeros(tuple(given), dtype=_dtype(arg))


def _dtype(arg: Arg) -> Any:
    return getattr(mx, dtypes.attribute(arg.dtype))
