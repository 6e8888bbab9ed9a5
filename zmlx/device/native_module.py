"""The native module: built once against the installed MLX, loaded from the cache, checked.

Comes in: native/primitive.cpp, the headers in the mlx wheel and nanobind's sources. Goes out: the
Python module `zmlx_native`, whose kernels are lazy MLX primitives. Only the host device calls this.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from functools import lru_cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx.device import stock, toolchain
from zmlx.device.cache import KernelCache
from zmlx.device.progress import waiting
from zmlx.errors import CompilerError, DeviceError

MODULE = "zmlx_native"
_ABI = re.compile(rb"nanobind_[0-9A-Za-z_]*_v[0-9]+[0-9A-Za-z_]*")
_ABI_VERSION = re.compile(r"_v([0-9]+)")
_SOURCES = (
    *("primitive.cpp", "launch.h", "library.h", "repeater.h", "ruled.h", "tiles.h", "pool.h"),
    *("grid.h", "crew.h", "fill.h", "guarded.h", "sanitizer.h", "sanitized.h", "compiled.h"),
    *("runtime.h", "findings.h", "races.h", "regions.h", "signals.h", "guards.h", "checks.h"),
    *("tapes.h", "tracing.h", "settle.h", "pulls.h", "known.h", "hosted.h", "owned.h"),
    *("between.h", "tape.h", "score.h", "whole.h", "handed.h", "ready.h", "arithmetic.h"),
    *("plain.h", "products.h", "strided.h", "memory.h"),
)
_NEEDED = 'pip install "nanobind>=3"'
_loaded: dict[str, Any] = {}  # by key; nanobind registers its types once in a process
_lock = threading.Lock()


def load(cache: KernelCache) -> Any:
    """The module, built first if this machine has not; DeviceError says why it cannot be."""
    key = _key()
    with _lock:
        if key not in _loaded:
            _loaded[key] = _kept(cache, key) or _brought() or _made(cache, key)
        return _loaded[key]


def _kept(cache: KernelCache, key: str) -> Any:
    """The module from the cache; None where it is not there, or does not load."""
    path = cache.find(key)
    if path is None:
        return None
    try:
        return _import(path)
    except ImportError:
        cache.drop(path)
        return None


def _brought() -> Any:
    """The module that a stored function brought; None where there is none that loads."""
    path = stock.found_native()
    if path is None:
        return None
    try:
        return _import(path)
    except (ImportError, DeviceError):
        stock.withdraw(path)
        return None


def fits() -> dict[str, str]:
    """What a module built elsewhere must have in common with one built here."""
    return {"sources": _sources_digest(), "mlx": mx.__version__, "python": sys.version}


def _made(cache: KernelCache, key: str) -> Any:
    if problem := missing():
        raise CompilerError(problem)
    with waiting("building the native module, once for this MLX: some ten seconds"):
        path = cache.make([key], _build)
    try:
        return _import(path)
    except ImportError as error:
        cache.drop(path)
        toolchain.give_up(f"makes a native module that does not load: {error}")


def missing() -> str | None:
    """What keeps the module from being built, with the command that mends it; None when nothing."""
    if problem := toolchain.problem():
        return problem
    nanobind = _nanobind()
    if nanobind is None:
        return f"nanobind is not installed, which links kernels to mlx; {_NEEDED}"
    ours, theirs = _internals_version(nanobind), _ABI_VERSION.search(abi_of(mlx_core_path()))
    if ours and theirs and ours != theirs.group(1):
        return _differ(f"version {ours}").removeprefix("[zmlx.device] ")
    if not (_python_include() / "Python.h").is_file():
        return (
            f"Python.h is not in {_python_include()}; install Python's headers: "
            "sudo apt-get install python3-dev"
        )
    if not (_mlx_root() / "include" / "mlx" / "primitives.h").is_file():
        return f"mlx {mx.__version__} comes without its headers; pip install --force-reinstall mlx"
    return None


def abi_of(path: Path) -> str:
    """nanobind's binary interface inside the extension module at `path`, "" if there is none."""
    found = _ABI.search(path.read_bytes())
    return found.group().decode() if found else ""


def _internals_version(nanobind: Path) -> str:
    """The number of nanobind's binary interface as its sources state it, "" if they do not."""
    for name in ("nb_internals.h", "nb_abi.h"):
        file = nanobind / "src" / name
        text = file.read_text("utf-8") if file.is_file() else ""
        if found := re.search(r"define NB_INTERNALS_VERSION ([0-9]+)", text):
            return found.group(1)
    return ""


def mlx_core_path() -> Path:
    return Path(str(mx.__file__))


def built_path(cache: KernelCache) -> Path | None:
    return cache.find(_key())


def _import(path: Path) -> Any:
    """ImportError where it does not load; DeviceError where it does not fit."""
    loader = ExtensionFileLoader(MODULE, str(path))
    spec = spec_from_file_location(MODULE, path, loader=loader)
    if spec is None:
        raise DeviceError(f"[zmlx.device] {path} is no extension module.")
    module = module_from_spec(spec)
    loader.exec_module(module)
    if not module.linked():
        raise DeviceError(_differ(abi_of(path)))
    return module


def _differ(ours: str) -> str:
    return (
        f"[zmlx.device] binary interfaces differ: mlx {mx.__version__} has "
        f"{abi_of(mlx_core_path()) or 'none that is known'}, nanobind {_nanobind_version()} gives "
        f"{ours or 'none'}; {_NEEDED}"
    )


@lru_cache(maxsize=1)
def _sources_digest() -> str:
    texts = [(toolchain.NATIVE / name).read_bytes() for name in _SOURCES]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def _key() -> str:
    """Everything that decides whether a built module fits; neither compiler nor nanobind do."""
    core = mlx_core_path().stat()
    parts = [
        _sources_digest(), mx.__version__, str(core.st_size), str(core.st_mtime_ns),
        str(mlx_core_path()), sys.version,
    ]  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _nanobind() -> Path | None:
    """The folder of the installed nanobind, found without importing it."""
    spec = find_spec("nanobind")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _nanobind_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nanobind")
    except PackageNotFoundError:
        return "of an unknown version"


def _build(folder: Path) -> Path:
    nanobind, root, output = _nanobind(), _mlx_root(), folder / "native.so"
    if nanobind is None:
        raise DeviceError(f"[zmlx.device] nanobind is not installed; {_NEEDED}")
    includes = [
        toolchain.NATIVE, nanobind / "include", nanobind / "ext" / "robin_map" / "include",
        root / "include", _python_include(),
    ]  # fmt: skip
    flags = [
        "-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-strict-aliasing",
        "-ffunction-sections", "-fdata-sections", "-DNDEBUG", "-DNB_DOMAIN=mlx", "-w",
        *[f"-I{path}" for path in includes],
    ]  # fmt: skip
    libraries = [f"-L{root / 'lib'}", "-lmlx", f"-Wl,-rpath,{root / 'lib'}", "-pthread"]
    if sys.platform == "darwin":
        libraries.append("-Wl,-undefined,dynamic_lookup")
    else:
        libraries += ["-ldl", "-Wl,--gc-sections"]
    sources = [toolchain.NATIVE / "primitive.cpp", nanobind / "src" / "nb_combined.cpp"]
    toolchain.compile_shared(sources, output, flags, libraries)
    found = abi_of(output)
    if not found:
        toolchain.give_up("makes a native module that does not load: nanobind is not in it")
    if found != abi_of(mlx_core_path()):
        raise DeviceError(_differ(found))
    return output


def _mlx_root() -> Path:
    return mlx_core_path().parent


def _python_include() -> Path:
    import sysconfig

    return Path(sysconfig.get_paths()["include"])
