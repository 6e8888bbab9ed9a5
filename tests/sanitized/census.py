"""A pytest plugin that counts which kernels of zmlx ran under the sanitizer; a gap fails the run.

`ZMLX_SANITIZE=1 python -m pytest -p tests.sanitized.census ...`, as .ci/run says. Looked for are:
every function of zmlx that makes a kernel, every row of the op table, every function of the headers
that hand-written kernels get, every public function of the catalog. Whether a kernel ran is what
the sanitizer's native part says. Tests about the launcher that is not watched are left out.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from zmlx import msl
from zmlx.device import host_grid, sanitize
from zmlx.device.host_grid import HostGridLauncher
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import MetalKernelSpec
from zmlx.ops.table import OPS
from zmlx.switches import SANITIZE

PACKAGE = Path(__file__).parents[2] / "zmlx"
HEADER = msl.DEFAULT_HEADER + msl.REDUCE_HEADER
_FUNCTION = re.compile(r"^inline \w+ (\w+)\(.*?^}", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass
class Found:
    """What ran watched: functions of zmlx that had a hand in it, ops, functions of the header."""

    functions: set[str] = field(default_factory=set)  # "rowwise.py:kernel"
    ops: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    launches: int = 0
    accesses: int = 0

    def add(self, other: dict[str, Any]) -> None:
        self.functions |= set(other["functions"])
        self.ops |= set(other["ops"])
        self.called |= set(other["called"])
        self.launches += other["launches"]
        self.accesses += other["accesses"]

    def plain(self) -> dict[str, Any]:
        """For another process."""
        sets = {name: sorted(getattr(self, name)) for name in ("functions", "ops", "called")}
        return {**sets, "launches": self.launches, "accesses": self.accesses}


FACTORIES = ("activations", "fused")  # what they return launches
APART = {"checking/file.py:_kernel"}  # always watched, in a process of its own
BY_MLX = {f"catalog/reductions.py:{name}_lastdim" for name in ("argmax", "max", "min", "sum")}


# -- what there is --------------------------------------------------------------------------------
@cache
def makers(package: Path = PACKAGE) -> frozenset[str]:
    """The functions of the package that make a kernel, by the calls in their text."""
    return frozenset(
        f"{path.relative_to(package).as_posix()}:{function}"
        for path in sorted(package.rglob("*.py"))
        for function in _makers_in(ast.parse(path.read_text("utf-8")), "")
    )


def _makers_in(node: ast.AST, function: str) -> Iterator[str]:
    """The innermost functions around such calls."""
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        if isinstance(child, ast.Call) and _makes_a_kernel(child.func):
            yield function
        yield from _makers_in(child, child.name if named else function)  # type: ignore[attr-defined]


def _makes_a_kernel(called: ast.expr) -> bool:
    if isinstance(called, ast.Name):
        return called.id in ("MetalKernelSpec", "KernelSource")
    return isinstance(called, ast.Attribute) and ast.unparse(called).endswith("metal.kernel")


def catalog(package: Path = PACKAGE) -> set[str]:
    """The public functions of the catalog's modules that launch kernels themselves."""
    found = set()
    for path in sorted((package / "catalog").glob("[!_]*.py")):
        module = import_module(f"zmlx.catalog.{path.stem}")
        if path.stem not in FACTORIES:
            found |= {f"catalog/{path.name}:{name}" for name in getattr(module, "__all__", ())}
    return found - BY_MLX


def header_functions(text: str) -> dict[str, set[str]]:
    """The functions that a header defines, each with the words of its text."""
    return {m[1]: set(_WORD.findall(m[0])) - {m[1]} for m in _FUNCTION.finditer(text)}


def missing(found: Found) -> list[str]:
    """What never ran under the sanitizer."""
    gaps = [f"kernels made in zmlx/{f}" for f in sorted(makers() - found.functions - APART)]
    gaps += [f"zmlx/{f}" for f in sorted(catalog() - found.functions)]
    gaps += [f"the row {name!r} of the op table" for name in sorted(set(OPS) - found.ops)]
    unused = set(header_functions(HEADER)) - found.called
    gaps += [f"{name} of the header of hand-written kernels" for name in sorted(unused)]
    return gaps if found.accesses else ["anything: the sanitizer saw no access", *gaps]


# -- what ran -------------------------------------------------------------------------------------
class Census:
    """Notes who makes and who launches kernels, from `start` on."""

    def __init__(self) -> None:
        self._by: dict[str, set[str]] = {}  # functions of zmlx, by the digest of a spec
        self._sources: dict[str, tuple[KernelSource, set[str]]] = {}  # of the generator, by name
        self._specs: dict[str, set[MetalKernelSpec]] = {}  # by the path of their library
        self._patch = pytest.MonkeyPatch()

    def start(self) -> None:
        make, load, run = (
            MetalKernelSpec.__init__,
            HostGridLauncher._load,
            HostGridLauncher.__call__,
        )
        check = KernelSource.__post_init__

        def spec_made(spec: Any, *args: Any, **more: Any) -> None:
            make(spec, *args, **more)
            with suppress(TypeError):  # of parts that are no text, and will be refused
                self._by.setdefault(spec.digest, set()).update(_frames())

        def source_made(source: KernelSource) -> None:
            check(source)
            self._sources.setdefault(source.name, (source, set()))[1].update(_frames())

        def loaded(launcher: Any, kinds: Any, launch: Any, watched: bool) -> Any:
            written = load(launcher, kinds, launch, watched)
            if watched:
                self._specs.setdefault(_library(launcher, kinds, launch), set()).add(launcher._spec)
            return written

        def launched(launcher: Any, *args: Any) -> Any:
            self._by.setdefault(launcher._spec.digest, set()).update(_frames())
            return run(launcher, *args)

        self._patch.setattr(MetalKernelSpec, "__init__", spec_made)
        self._patch.setattr(KernelSource, "__post_init__", source_made)
        self._patch.setattr(HostGridLauncher, "_load", loaded)
        self._patch.setattr(HostGridLauncher, "__call__", launched)

    def stop(self) -> None:
        self._patch.undo()

    def found(self) -> Found:
        """What has run since `start`, by the count of the sanitizer itself."""
        found = Found()
        for path, count in sanitize.watched().items():
            specs = self._specs.get(path, set())
            if specs and count.accesses:
                found.launches += count.launches
                found.accesses += count.accesses
            for spec in specs if count.accesses else ():
                found.functions |= self._by.get(spec.digest, set())
                found.called |= _called(spec)
                if spec.name in self._sources:
                    source, functions = self._sources[spec.name]
                    found.functions |= functions
                    found.ops |= set(source.ops)
        return found


def _library(launcher: Any, kinds: Any, launch: Any) -> str:
    text = host_grid.translation_unit(
        launcher._spec, kinds, launch.output_dtypes, launch.template, True, launcher._spec.exact
    )
    return str(launcher._device.cache.find(host_grid._key(text)))


def _frames() -> set[str]:
    """The functions of zmlx that are running."""
    found, frame = set(), sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents:
            found.add(f"{path.relative_to(PACKAGE).as_posix()}:{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _called(spec: MetalKernelSpec) -> set[str]:
    """The functions of the kernel's header that its body reaches."""
    functions = header_functions(spec.header)
    reached: set[str] = set()
    new = set(_WORD.findall(spec.source)) & functions.keys()
    while new:
        reached |= new
        new = {w for name in new for w in functions[name] if w in functions} - reached
    return reached


# -- the plugin -----------------------------------------------------------------------------------
# Tests that hold for the launcher that is not watched, or take minutes and have a counterpart here.
LEFT_OUT = {
    **dict.fromkeys(("tests/ops/", "tests/trace/", "tests/expr/", "tests/derive/"), "no kernels"),
    **dict.fromkeys(("tests/metal/", "tests/cuda/"), "checks texts, runs nothing"),
    "tests/language/": "what compilers know; tests/sanitized runs what kernels use",
    "tests/dropin/test_mlx_lm.py": "other people's kernels, some of which break rules",
    "tests/catalog/test_catalog_whole.py::test_a_linear_loss_never": "watching takes memory",
    "tests/catalog/test_flash.py::test_it_never": "watching takes memory",
    "tests/catalog/test_flash.py::test_masks[alone": "of launches that are not watched",
    "tests/catalog/test_recurrent.py::test_many_steps[alone": "of launches that are not watched",
    "tests/test_check_command.py": "the command watches by itself",
    "tests/fuse/test_at_once.py": "a watched kernel is a task of MLX's, whatever its size",
    "tests/msl/test_rows.py": "tests/sanitized/test_rows.py has every row in fewer kernels",
    "tests/device/test_exact.py": "rows once more",
    "tests/device/test_features.py": "kernels of the tests, for what the CPU understands of Metal",
    "tests/device/test_cache.py": "workings of the cache, counted in compilations",
    "tests/device/test_cache_trust.py": "workings of the cache, counted in compilations",
    "tests/device/test_host.py": "words and workings of the launcher that is not watched",
    "tests/device/test_choice.py::test_without_a_compiler": "counts its compilations",
    "tests/device/test_layouts.py::test_dimensions_merge": "merging is that launcher's",
    "tests/fuse/test_compose.py::test_compile_shapeless": "a watched launch keeps its shapes",
    "tests/fuse/test_lift.py::test_under_a_shapeless_compile": "a watched launch keeps its shapes",
    "tests/fuse/test_rows.py::test_shapeless_compile": "a watched launch keeps its shapes",
    "tests/fuse/test_inline.py::test_a_program_runs": "a watched launch keeps its shapes",
    "tests/catalog/test_catalog_services.py": "of what the launcher that is not watched does",
    "tests/fuse/test_again.py::test_kernels_in_a_row": "chains are of launchers that watch nothing",
    "tests/fuse/test_taped.py": "tapes are of launchers that watch nothing",
    "tests/fuse/test_gradients.py::test_only_the_gradients_asked_for": "counts its compilations",
    "tests/test_autotune.py": "time decides",
    "tests/test_autotune_threadgroups.py": "time decides",
    "tests/test_docs.py": "measures: a minute of copies",
    "tests/test_notebooks.py": "processes of their own, which are not watched",
    "tests/test_profile.py::test_the_copy_is_a_plausible_speed": "measures, launches nothing",
}
_census, _total = Census(), Found()


def pytest_configure(config: pytest.Config) -> None:
    if not SANITIZE.on():
        raise pytest.UsageError("the census counts what runs under ZMLX_SANITIZE=1; set it")
    _census.start()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left = [item for item in items if item.nodeid.startswith(tuple(LEFT_OUT))]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def pytest_sessionfinish(session: pytest.Session) -> None:
    ours = _census.found().plain()
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:  # a worker process: the first process judges
        output["census"] = ours
        return
    _total.add(ours)
    if missing(_total) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """A worker process has ended; pytest-xdist tells."""
    if census := getattr(node, "workeroutput", {}).get("census"):
        _total.add(census)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(
        f"under the sanitizer: {_total.launches} launches, {_total.accesses} accesses, "
        f"{len(_total.ops)} rows, {len(_total.functions)} functions of zmlx"
    )
    for gap in missing(_total):
        terminalreporter.write_line(f"never ran under the sanitizer: {gap}", red=True)
