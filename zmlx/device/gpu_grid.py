"""Hand-written kernels on a GPU: mx.fast.metal_kernel or mx.fast.cuda_kernel, launched as asked.

Comes in: a MetalKernelSpec, and how a maker of GPUs wants its text. Goes out: a GridLauncher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.msl.spec import Launch, MetalKernelSpec

Make = Callable[[MetalKernelSpec, str], Any]  # from a kernel and its name to MLX's callable


class GpuGridLauncher:
    """One hand-written kernel; holds MLX's callable for each combination of input types.

    Older MLX keeps libraries by name alone, so the types of the inputs stand in the name.
    """

    def __init__(self, spec: MetalKernelSpec, make: Make) -> None:
        self._spec, self._make = spec, make
        self._made: dict[tuple[tuple[mx.Dtype, ...], tuple[int, ...]], Any] = {}

    def __call__(self, arrays: Sequence[mx.array], launch: Launch) -> list[mx.array]:
        kinds = tuple(a.dtype for a in arrays)
        key = kinds, launch.references
        made = self._made.get(key)
        if made is None:
            spec = self._spec.launched(launch)
            words = [str(kind).removeprefix("mlx.core.") for kind in kinds]
            made = self._made[key] = self._make(spec, "_".join([spec.unique_name, *words]))
        extra = {} if launch.init_value is None else {"init_value": launch.init_value}
        return list(
            made(
                inputs=list(arrays),
                template=[(name, _value(value)) for name, value in launch.template],
                grid=launch.grid,
                threadgroup=launch.threadgroup,
                output_shapes=list(launch.output_shapes),
                output_dtypes=[_dtype(name) for name in launch.output_dtypes],
                **extra,
            )
        )


def _value(value: int | bool | str) -> Any:
    return _dtype(value) if isinstance(value, str) else value


def _dtype(name: str) -> mx.Dtype:
    return getattr(mx, dtypes.attribute(name))
