"""Libraries that carry kernels for a Mac, loaded as on one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from zmlx import metal
from zmlx.msl.spec import MetalKernelSpec

WHEELS = ("mlx-vlm==0.7.10", "mlx-audio==0.6.2")
Load = Callable[[str], ModuleType]


def mlx_vlm() -> Bare:
    return _unpacked(WHEELS[0])


def mlx_audio() -> Bare:
    return _unpacked(WHEELS[1])


@cache
def _unpacked(wheel: str) -> Bare:
    """A package, installed or taken from PyPI without what it depends on."""
    package = wheel.partition("==")[0].replace("-", "_")
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is not None:
        return Bare(Path(found.origin).parents[1])
    folder = Path(os.environ["ZMLX_CACHE_DIR"]) / package
    if not (folder / package).exists():
        asked = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", wheel, "-d", folder]
        done = subprocess.run([str(part) for part in asked], capture_output=True, text=True)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or not wheels:
            pytest.skip(f"pip install --no-deps {wheel}\n{done.stderr}")
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(folder)
    return Bare(folder)


class Bare:
    """Imports modules of a package in `folder` whose own __init__ files would bring too much."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str) -> ModuleType:
        for package in (*parents(name), *self._others(name.partition(".")[0])):
            if package not in sys.modules and (package.count(".") < 2 or "models" in package):
                module = sys.modules[package] = ModuleType(package)
                module.__path__ = [str(self._folder.joinpath(*package.split(".")))]
        return import_module(name)

    def _others(self, top: str) -> list[str]:
        """Packages that modules take from each other."""
        root = self._folder / top
        found = [root / n / "__init__.py" for n in ("generate", "speculative")]
        found += root.glob("models/*/__init__.py")
        names = (path.parent.relative_to(self._folder) for path in found)
        return [".".join(name.parts) for name in names]


def parents(name: str) -> list[str]:
    """The packages around a module, the outermost first."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


@contextmanager
def as_on_a_mac(*packages: str) -> Iterator[Load]:
    """Modules of `packages` anew, with kernels; those that were there before come back after."""

    def own() -> list[str]:
        return [m for m in sys.modules if m.partition(".")[0] in packages]

    before = {name: sys.modules.pop(name) for name in own()}
    try:
        with metal.install(as_metal=True):
            yield import_module
    finally:
        for name in own():
            del sys.modules[name]
        sys.modules.update(before)


def mended(module: ModuleType, name: str, *changes: tuple[str, str]) -> None:
    """The kernel `name` of a module with another text in its place."""
    spec: MetalKernelSpec = getattr(module, name).spec
    source = spec.source
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    kernel: Any = metal.kernel(spec.name, spec.input_names, spec.output_names, source, spec.header)
    setattr(module, name, kernel)
