"""Hand-written kernels on this CPU: compiled as C++ for each combination of types and template.

Comes in: a MetalKernelSpec. Goes out: a GridLauncher whose calls build lazy MLX primitives; the
native module runs them group by group (native/crew.h). HostDevice.grid_launcher makes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx import switches
from zmlx.device import sanitize, stock, toolchain
from zmlx.device.base import Launcher
from zmlx.device.cache import Build
from zmlx.device.grid_text import needs_fibers, translation_unit
from zmlx.device.operands import output_shape
from zmlx.device.progress import waiting
from zmlx.dtypes import attribute
from zmlx.errors import CompilerError, DeviceError
from zmlx.log import logger
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import Launch, MetalKernelSpec

if TYPE_CHECKING:
    from zmlx.device.host import HostDevice

_PLACE = re.compile(r"\S+:\d+:\d+: ")  # at the start of what the compiler says of a line
_log = logger("zmlx.device")
_ELEMENTS, _GROUP = 4, 64  # of a watched kernel of the generator
_INCLUDES = (f"-I{toolchain.HEADERS}", f"-I{toolchain.HEADERS / 'metal'}")
# The compiler's own checks call hooks.cpp; `object-size` knows where a variable ends.
_CHECKS = "-fsanitize=thread,bounds,object-size,alignment,integer-divide-by-zero"
_WATCHED = ("-c", "-O1", "-g1", _CHECKS)
# Division by zero gives some value, and is no reason to leave out what depends on it.
_GOES_ON = ("-fno-delete-null-pointer-checks", "-fno-isolate-erroneous-paths-dereference")
_MOST_STACK = 240 << 10  # bytes that a thread's variables may take; native/crew.h has 256 KiB
_HOOKS = toolchain.NATIVE / "hooks.cpp"


class HostGridLauncher:
    """One hand-written kernel; holds what has been loaded for each combination of types.

    With `sanitize` (or ZMLX_SANITIZE=1 at the call) every access is watched, on one CPU thread, and
    evaluating a result raises SanitizeError where the kernel breaks a rule.
    """

    def __init__(
        self,
        device: HostDevice,
        spec: MetalKernelSpec,
        sanitize: bool = False,
    ) -> None:
        self._device, self._spec, self._sanitize = device, spec, sanitize
        self._lock = threading.Lock()
        self._loaded: dict[Any, Any] = {}

    def __call__(self, arrays: Sequence[mx.array], launch: Launch) -> list[mx.array]:
        types = tuple([a.dtype for a in arrays])
        key = (types, launch.output_dtypes, launch.typed, launch.references, switches.host())
        run = self._loaded.get(key)
        if run is None:
            kinds = tuple(str(kind).removeprefix("mlx.core.") for kind in types)
            with self._lock:
                watched = self._sanitize or switches.SANITIZE.on()
                run = self._loaded.get(key) or self._named(kinds, launch, watched)
                self._loaded[key] = run
        made: list[mx.array] = run(
            list(arrays), launch.grid, launch.threadgroup, launch.output_shapes,
            launch.output_dtypes, launch.init_value,
        )  # fmt: skip
        return made

    def _named(self, kinds: tuple[str, ...], launch: Launch, watched: bool) -> Any:
        """What `_load` gives; an error says for which kernel the compiler is needed."""
        try:
            return self._load(kinds, launch, watched)
        except CompilerError as error:
            what = f"kernel {self._spec.name!r} cannot be compiled here: "
            raise CompilerError(error.problem, what) from None

    def _load(self, kinds: tuple[str, ...], launch: Launch, watched: bool) -> Any:
        native, threads = self._device.native, thread_count()
        spec = self._spec.launched(launch)
        text = translation_unit(
            spec, kinds, launch.output_dtypes, launch.template, watched, spec.exact
        )
        key = _key(text)
        names = (spec.input_names, spec.output_names) if watched else (None, None)
        build = partial(_compile_watched if watched else _compile, spec, text)
        for last in (False, True):
            library = self._library(key, stock.content(text, _headers_digest()), build)
            try:
                fibers = needs_fibers(spec)
                sanitize.keep_text(str(library), spec.header, spec.source)
                return native.load_written(
                    str(library), spec.name, fibers, threads, spec.ensure_row_contiguous, *names
                )
            except RuntimeError as error:
                self._device.cache.drop(library)
                stock.withdraw(library)
                if last:
                    toolchain.give_up(f"makes libraries that do not load: {error}")

    def _library(self, key: str, content: str, build: Build) -> Path:
        library = stock.found(self._device.cache, key, content)
        if library is None:
            started = time.perf_counter()
            with waiting(f"compiling a kernel ({self._spec.name}), kept for later"):
                library = self._device.cache.make([key], build)
            stock.note(content, library)
            _log.info("compiled %s in %.2f s", self._spec.name, time.perf_counter() - started)
        return library


def thread_count() -> int:
    """ZMLX_THREADS, or the cores that this process may use."""
    text = switches.THREADS.text()
    if not text:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if not text.isdigit() or int(text) < 1:
        raise DeviceError(f"[zmlx.device] ZMLX_THREADS is {text!r}; give a number from 1 on.")
    return int(text)


def watched_launcher(device: HostDevice, kernel: KernelSource) -> Launcher:
    """A kernel of the generator under the sanitizer, few elements a thread so that many run."""
    spec = MetalKernelSpec(
        kernel.name, tuple(a.name for a in kernel.inputs), tuple(a.name for a in kernel.outputs),
        kernel.body, kernel.header, ensure_row_contiguous=False, exact=kernel.exact,
    )  # fmt: skip
    run = HostGridLauncher(device, spec, sanitize=True)
    kinds = tuple(a.dtype for a in kernel.outputs)

    def launch(arrays: Sequence[mx.array]) -> list[mx.array]:
        shape = output_shape(kernel, arrays)
        if prod(shape) == 0:
            return [mx.zeros(shape, getattr(mx, attribute(kind))) for kind in kinds]
        threads = -(-prod(shape) // _ELEMENTS)
        return run(
            arrays,
            Launch(
                (threads, 1, 1),
                (_GROUP, 1, 1),
                (shape,) * len(kinds),
                kinds,
                (("ELEMS", _ELEMENTS), ("INDEX", "int64")),
            ),  # fmt: skip
        )

    return launch


@lru_cache(maxsize=1)
def _headers_digest() -> str:
    texts = [path.read_bytes() for path in sorted(toolchain.HEADERS.glob("*.h"))]
    texts += [_HOOKS.read_bytes(), " ".join((*_WATCHED, *_alone())).encode()]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def _key(text: str) -> str:
    compiler = toolchain.find_compiler()
    parts = [
        text, compiler.identity if compiler else "", " ".join(toolchain.kernel_flags()),
        " ".join(toolchain.kernel_libraries()), _headers_digest(), toolchain.cpu_features(),
    ]  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _alone() -> tuple[str, ...]:
    """Flags that give each inlined copy of a function variables of its own, see msl_group.h."""
    if toolchain.is_clang():
        return ("-mllvm", "-no-stack-coloring")
    return ("-fstack-reuse=none",)


def _compile(spec: MetalKernelSpec, text: str, folder: Path) -> Path:
    source, output = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(text, "utf-8")
    flags = [*toolchain.kernel_flags(), *_INCLUDES, *_GOES_ON]
    if needs_fibers(spec):
        flags += _alone()
    _run(spec, [source], output, [*flags, "-fstack-usage"])
    _require_stack(spec, folder)
    return output


def _compile_watched(spec: MetalKernelSpec, text: str, folder: Path) -> Path:
    """Accesses call hooks.cpp: only the kernel is compiled as for the thread sanitizer."""
    source, halfway, output = (folder / n for n in ("kernel.cpp", "kernel.o", "kernel.so"))
    source.write_text(text, "utf-8")
    flags = [flag for flag in toolchain.kernel_flags() if flag not in ("-O3", "-shared")]
    flags += [*_INCLUDES, *_WATCHED, *_GOES_ON, *_alone(), "-fstack-usage"]
    _run(spec, [source], halfway, flags)
    _require_stack(spec, folder)
    _run(spec, [halfway, _HOOKS], output, ["-O1", "-fPIC", "-shared", "-w"])
    return output


def _require_stack(spec: MetalKernelSpec, folder: Path) -> None:
    """DeviceError where a thread's variables, as the compiler counted them, do not fit."""
    lines = [line for file in folder.glob("*.su") for line in file.read_text("utf-8").splitlines()]
    most = max((int(line.split("\t")[1]) for line in lines), default=0)
    if most > _MOST_STACK:
        raise DeviceError(
            f"[zmlx.device] kernel {spec.name!r} does not compile: a thread's variables take "
            f"{most} bytes, more than the {_MOST_STACK} of its stack. Use smaller arrays in it."
        )


def _run(spec: MetalKernelSpec, sources: list[Path], output: Path, flags: list[str]) -> None:
    try:
        toolchain.compile_shared(sources, output, flags, toolchain.kernel_libraries())
    except CompilerError:
        raise
    except DeviceError as error:
        raise DeviceError(_explained(spec, str(error))) from None


def _explained(spec: MetalKernelSpec, words: str) -> str:
    """The compiler's words, and the text whose lines they number."""
    told = [line for line in words.splitlines()[1:] if ": note: " not in line]
    kept = [line for line in told if _PLACE.match(line)] or told
    parts = [f"[zmlx.device] kernel {spec.name!r} does not compile:", *kept]
    for part, text in (("header", spec.header), ("body", spec.source)):
        if text.strip():
            lines = [f"{n:4d} | {line}" for n, line in enumerate(text.splitlines(), start=1)]
            parts.append(f"{spec.name}.{part}:\n" + "\n".join(lines))
    return "\n".join(parts)
