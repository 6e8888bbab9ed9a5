"""CUDA kernels that ZMLX compiles itself, called like those of mx.fast.cuda_kernel.

Comes in: what mx.fast.cuda_kernel takes. Goes out: its callable. MLX compiles a kernel behind
headers of its own, which takes a second for an empty one, when it first evaluates a call. Here the
text is compiled when the call is built, in a tenth of that, kept on disk, and what is wrong with it
is said there. MLX launches the machine code by the very primitive that mx.fast.cuda_kernel makes.
Where the compiler or the native module is missing, mx.fast.cuda_kernel itself is used.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx.device.base import device_named
from zmlx.device.cuda_text import HEADERS, CudaText
from zmlx.device.nvrtc import Nvrtc, Refused, loaded
from zmlx.device.progress import waiting
from zmlx.device.rules import native_or_none
from zmlx.errors import DeviceError
from zmlx.log import logger

TYPES = {
    "bool": "bool", "float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
# What MLX hands over beside an input's pointer, where a kernel's body names it.
_PARTS = {"shape": "zm_sizes<int>", "strides": "zm_sizes<long>", "ndim": "int"}
_TYPES = f'#include "{(HEADERS / "cuda_types.h").as_posix()}"\n'
_FREE = 256  # threads that find registers whatever a kernel takes: 65536 for 255 each
_log = logger("zmlx.device")


def cuda_kernel(name: str, text: CudaText, ensure_row_contiguous: bool) -> Any:
    """A callable as mx.fast.cuda_kernel returns it; calls raise DeviceError for a wrong text."""
    if compiler() is None or native_or_none() is None:
        return mx.fast.cuda_kernel(
            name=name,
            input_names=list(text.input_names),
            output_names=list(text.output_names),
            source=text.source,
            header=text.header,
            ensure_row_contiguous=ensure_row_contiguous,
        )
    return CudaKernel(name, text, ensure_row_contiguous)


def whole_text(
    name: str,
    text: CudaText,
    inputs: Sequence[mx.Dtype],
    outputs: Sequence[mx.Dtype],
    template: Sequence[tuple[str, Any]],
    threads: int = 0,
) -> tuple[str, str]:
    """A unique name, and all that is to be compiled, for arrays of these types.

    `threads`: of the largest group that will be launched, which limits a thread's registers.
    """
    parameters = []
    for argument, kind, reads in zip(text.input_names, inputs, _reads(text), strict=True):
        parameters.append(f"const {_type(kind)}* {argument}")
        for (part, declared), read in zip(_PARTS.items(), reads, strict=True):
            if read:
                parameters.append(f"const __grid_constant__ {declared} {argument}_{part}")
    pairs = zip(text.output_names, outputs, strict=True)
    parameters += [f"{_type(kind)}* {argument}" for argument, kind in pairs]
    constants = "".join(f"{_constant(*pair)}\n" for pair in template)
    function = f"({', '.join(parameters)}) {{\n{constants}{text.source}\n}}\n"
    parts = (text.header, function, str(threads))
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    unique = f"{name}_{digest[:16]}"
    bounds = f"__launch_bounds__({threads}) " if threads else ""
    return unique, f'{_TYPES}{text.header}\nextern "C" __global__ void {bounds}{unique}{function}'


class CudaKernel:
    """A kernel; holds its machine code for each combination of types and template."""

    def __init__(self, name: str, text: CudaText, ensure_row_contiguous: bool) -> None:
        self._name, self._text, self._contiguous = name, text, ensure_row_contiguous
        self._reads = _reads(text)
        self._lock = threading.Lock()
        self._built: dict[Any, tuple[str, bytes]] = {}

    def __call__(
        self,
        *,
        inputs: Sequence[mx.array],
        template: Sequence[tuple[str, Any]],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        output_shapes: Sequence[tuple[int, ...]],
        output_dtypes: Sequence[mx.Dtype],
        init_value: float | None = None,
    ) -> list[mx.array]:
        """The outputs, not evaluated."""
        kinds = tuple([a.dtype for a in inputs])
        bound = _bound(threadgroup, self._text.busy)
        key = (kinds, tuple(output_dtypes), tuple([(n, type(v), v) for n, v in template]), bound)
        built = self._built.get(key)
        if built is None:
            with self._lock:
                built = self._built.get(key) or self._build(kinds, output_dtypes, template, bound)
                self._built[key] = built
        made: list[mx.array] = native_or_none().compiled_cuda(
            *built, inputs, self._reads, grid, threadgroup, output_shapes, output_dtypes,
            init_value, self._contiguous,
        )  # fmt: skip
        return made

    def _build(
        self,
        inputs: Sequence[mx.Dtype],
        outputs: Sequence[mx.Dtype],
        template: Sequence[tuple[str, Any]],
        bound: int,
    ) -> tuple[str, bytes]:
        name, text = whole_text(self._name, self._text, inputs, outputs, template, bound)
        found = compiler()
        assert found is not None  # cuda_kernel asked
        return name, found.machine_code(name, text)


class CudaCompiler:
    """NVRTC for one GPU; what it makes is kept on disk."""

    def __init__(self, nvrtc: Nvrtc, capability: tuple[int, int]) -> None:
        self.nvrtc, self.architecture = nvrtc, nvrtc.architecture(capability)

    def machine_code(self, name: str, text: str) -> bytes:
        """Of the kernel `name` in `text`; DeviceError carries the compiler's words."""
        host: Any = device_named("host")
        key = self._key(text)
        path = host.cache.find(key)
        if path is None:
            with waiting(f"compiling a kernel ({name}), kept for later"):
                path = host.cache.make([key], lambda folder: self._build(folder, name, text))
        code: bytes = path.read_bytes()
        return code

    def compiled(self, name: str, text: str) -> bytes:
        """The same, past the disk."""
        started = time.perf_counter()
        try:
            code = self.nvrtc.compile(text, f"{name}.cu", self.architecture)
        except Refused as refused:
            raise DeviceError(
                f"[zmlx.device] kernel {name!r} does not compile:\n{refused}"
            ) from None
        _log.info("compiled %s in %.2f s", name, time.perf_counter() - started)
        return code

    def _build(self, folder: Path, name: str, text: str) -> Path:
        output = folder / "kernel.cubin"
        output.write_bytes(self.compiled(name, text))
        return output

    def _key(self, text: str) -> str:
        parts = [text, _headers_digest(), repr(self.nvrtc.version), self.architecture]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@lru_cache(maxsize=1)
def compiler() -> CudaCompiler | None:
    """The compiler for the default GPU, as MLX has loaded it; None where there is none."""
    nvrtc, capability = loaded(), _capability()
    if nvrtc is None or capability is None:
        return None
    try:
        made = CudaCompiler(nvrtc, capability)
        nvrtc.compile(_TYPES, "probe.cu", made.architecture)
    except Refused as refused:
        _log.info("kernels are compiled by MLX, as NVRTC refuses: %s", refused)
        return None
    return made


def described() -> tuple[str, str]:
    """What compiles kernels here, and what keeps that from being fast, with the command, or ""."""
    found = compiler()
    if found is None:
        return "MLX (mx.fast.cuda_kernel)", (
            "MLX compiles each kernel, in about a second, and keeps none on disk, as NVRTC and "
            "CUDA's headers are not found together; pip install nvidia-cuda-nvrtc "
            "nvidia-cuda-runtime, or set CUDA_HOME to a CUDA toolkit"
        )
    version = ".".join(map(str, found.nvrtc.version))
    return f"NVRTC {version}, for {found.architecture}", ""


def _capability() -> tuple[int, int] | None:
    """Of the default GPU, such as (9, 0)."""
    information = mx.device_info(mx.Device(mx.gpu, 0))
    major, minor = (information.get(f"compute_capability_{part}") for part in ("major", "minor"))
    return None if major is None or minor is None else (int(major), int(minor))


@lru_cache(maxsize=1)
def _headers_digest() -> str:
    texts = [path.read_bytes() for path in sorted(HEADERS.glob("*.h"))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def _reads(text: CudaText) -> list[tuple[bool, ...]]:
    """Of each input, which of _PARTS the kernel takes."""
    return [tuple(f"{name}_{part}" in text.source for part in _PARTS) for name in text.input_names]


def _bound(threadgroup: tuple[int, int, int], busy: int) -> int:
    """Threads for which a thread's registers must be few; 0 where the compiler may take its own."""
    threads = max(busy, threadgroup[0] * threadgroup[1] * threadgroup[2])
    if threads <= _FREE:
        return 0
    return 512 if threads <= 512 else 1024


def _type(dtype: mx.Dtype) -> str:
    return TYPES[str(dtype).removeprefix("mlx.core.")]


def _constant(name: str, value: Any) -> str:
    if isinstance(value, mx.Dtype):
        return f"using {name} = {_type(value)};"
    if isinstance(value, bool):
        return f"constexpr bool {name} = {str(value).lower()};"
    return f"constexpr int {name} = {value};"
