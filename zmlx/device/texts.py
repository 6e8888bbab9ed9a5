"""Texts: a kernel as each device's compiler gets it, for people to read.

Comes in: a KernelSource, or a MetalKernelSpec with the types and the template of a launch. Goes
out: texts by the ending of a file: Metal, CUDA, C++ of the CPU. The headers of Metal's names, the
same for all, are named and not copied. Reports, ZMLX_DUMP and `python -m tests.kernels` show them.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.device import grid_text, host_text
from zmlx.device.cuda_text import NAMES, cuda_text, names
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import Launch, MetalKernelSpec

_NAMED = "".join(f'#include "{path.name}"\n' for path in NAMES)


def texts(kernel: KernelSource) -> dict[str, str]:
    """A kernel of the generator."""
    from zmlx.device import cuda

    made = cuda.text_of(kernel)
    for path in NAMES:
        made = made.replace(path.as_posix(), path.name)
    return {"metal": metal(kernel), "cu": made, "cpp": host_text.translation_unit([kernel])}


def written_texts(spec: MetalKernelSpec, kinds: Sequence[str], launch: Launch) -> dict[str, str]:
    """A kernel with a launch of its own, for inputs of these types."""
    template = "".join(f"// {name} = {value}\n" for name, value in launch.template)
    return {
        "metal": template + metal_written(spec),
        "cu": template + cuda_written(spec),
        "cpp": grid_text.translation_unit(spec, kinds, launch.output_dtypes, launch.template),
    }


def cuda_written(spec: MetalKernelSpec) -> str:
    """The CUDA text of a kernel with a launch of its own."""
    made = cuda_text(spec)
    return f"{made.header.replace(names(), _NAMED)}// body\n{made.source}"


def metal(kernel: KernelSource) -> str:
    """The Metal text of a kernel of the generator."""
    arguments = ", ".join(arg.name for arg in (*kernel.inputs, *kernel.outputs))
    line = f"// Body of kernel {kernel.name}({arguments}); its signature is added on launch.\n"
    return f"{kernel.header}{line}{kernel.body}"


def metal_written(spec: MetalKernelSpec) -> str:
    """The Metal text of a kernel with a launch of its own."""
    arguments = ", ".join((*spec.input_names, *spec.output_names))
    line = f"// Body of kernel {spec.unique_name}({arguments}); its signature is added on launch.\n"
    return f"{spec.header}{line}{spec.source}"
