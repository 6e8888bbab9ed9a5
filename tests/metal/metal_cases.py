"""Kernels written by hand for the Metal check, and what they share."""

from __future__ import annotations

import mlx.core as mx

from zmlx.metal_check import Diagnostic, check
from zmlx.msl.kernel import Arg, KernelSource

MANY = 16  # elements: `device`


def kernel(
    body: str, header: str = "", inputs: tuple[str, ...] = ("float32",), output: str = "float32"
) -> KernelSource:
    """A kernel over vectors in0, in1, … of the given types, with one output."""
    return KernelSource(
        "handwritten",
        tuple(Arg(f"in{i}", dtype, 1) for i, dtype in enumerate(inputs)),
        (Arg("out0", output, 1),),
        body,
        header,
        rank=1,
    )


def findings(
    body: str, header: str = "", inputs: tuple[str, ...] = ("float32",), output: str = "float32",
    size: int = MANY,
) -> list[Diagnostic]:  # fmt: skip
    return check(kernel(body, header, inputs, output), *[(size,)] * len(inputs))


def raw_kernel(source: str, header: str = ""):
    """source as mx.fast.metal_kernel takes it, without ZMLX: input `x`, output `y` like it."""
    made = mx.fast.metal_kernel(
        name="raw", input_names=["x"], output_names=["y"], source=source, header=header
    )

    def launch(arrays):
        (x,) = arrays
        return made(
            inputs=[x], grid=(1, 1, 1), threadgroup=(1, 1, 1), output_shapes=[(4,)],
            output_dtypes=[x.dtype],
        )  # fmt: skip

    return launch
