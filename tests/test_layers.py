"""The house rules that a parser can hold: layers, imports inside functions, sizes.

An import may only point to a lower layer. Modules of one package may import one another.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "zmlx"
LAYERS = {
    **dict.fromkeys(("ops", "dtypes", "switches", "errors", "log", "warned", "dump"), 0),
    "trace": 1,
    "msl": 2,
    "device": 3,
    **dict.fromkeys(("derive", "metal_check", "expr"), 4),
    "fuse": 5,
}
PUBLIC = 6
# Sideways or restricted arrows of the drawing in docs/ARCHITECTURE.md.
SIDEWAYS = {
    *(("ops", "dtypes"), ("ops", "switches"), ("ops", "errors"), ("dtypes", "errors")),
    *(("log", "switches"), ("log", "errors"), ("dump", "switches"), ("dump", "warned")),
}
DEVICE_SEES = {"zmlx.msl.kernel", "zmlx.msl.spec"}  # of layers 1 and 2
# Loaded when first needed, because `import zmlx` must stay cheap.
LAZY = {
    *("clang", "jinja2", "matplotlib", "nanobind", "networkx", "rich", "scipy", "sklearn", "sympy"),
    *("filelock", "platformdirs", "lark"),
    "fcntl",  # not on every system
    # Of the standard library, some ms each.
    *("atexit", "importlib", "shutil", "subprocess", "sysconfig", "tempfile"),
}
# Own modules that only some machines or some calls need.
LAZY_OWN = {
    *("zmlx.device.host", "zmlx.device.metal", "zmlx.device.cuda"),
    *("zmlx.derive.accumulate", "zmlx.fuse.backward"),  # bring sympy
    "zmlx.fuse.explain",  # brings rich
}
MAX_LINES, MAX_FUNCTION = 400, 60

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def part(module: str) -> str:
    """The first name below zmlx: the unit of the drawing; "" for zmlx itself."""
    return module.partition(".")[2].partition(".")[0]


def layer(module: str) -> int:
    return LAYERS.get(part(module), PUBLIC)


def imported(node: ast.AST) -> list[str]:
    """Modules that an import statement names; `from package import module` counts as the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import"
        full = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else str(node.module) for name in full]
    return []


def offences(module: str, tree: ast.AST) -> Iterator[str]:
    """Imports of `module` that point up, sideways where nothing is drawn, or past the device."""
    for node in ast.walk(tree):
        for target in imported(node):
            if target.partition(".")[0] != "zmlx" or part(target) == part(module):
                continue
            arrow = f"line {getattr(node, 'lineno', 0)}: {module} imports {target}"
            if layer(module) == PUBLIC or (part(module), part(target)) in SIDEWAYS:
                continue
            past_device = layer(target) in (1, 2) and target not in DEVICE_SEES
            if layer(target) >= layer(module) or (part(module) == "device" and past_device):
                yield arrow


@pytest.mark.smoke
@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    assert not list(offences(module_of(path), ast.parse(path.read_text())))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("zmlx.ops.table", "from zmlx.trace import graph"),
        ("zmlx.trace.tracer", "import zmlx.fuse.plan"),
        ("zmlx.derive.lower", "from zmlx.fuse import region"),
        ("zmlx.device.host", "from zmlx.trace.graph import Graph"),
        ("zmlx.switches", "from zmlx import errors"),
        ("zmlx.fuse.plan", "import zmlx"),
    ],
)
def test_an_arrow_that_points_up_is_seen(module: str, source: str) -> None:
    assert list(offences(module, ast.parse(source)))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_inside_functions_are_heavy_packages_only(path: Path) -> None:
    for function in functions(ast.parse(path.read_text())):
        for node in ast.walk(function):
            for target in imported(node):
                top = target.partition(".")[0]
                lazy = top in LAZY or target in LAZY_OWN
                assert lazy, f"{path.name}:{node.lineno} imports {target} in a function"


@pytest.mark.smoke
@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    for function in functions(ast.parse(text)):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= MAX_FUNCTION, f"{path.name}: {function.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{path.name} has no docstring"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_only_declared_packages_are_imported() -> None:
    declared = LAZY | {"mlx", "zmlx", "numpy", "typer"}
    found = {
        target.partition(".")[0]
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        for target in imported(node)
    }
    assert found <= declared | set(sys.stdlib_module_names)
