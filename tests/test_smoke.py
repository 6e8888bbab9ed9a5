"""The smoke tier has some tests of every area, and only tests that the default tier has as well."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("test_*.py"))
LEAST, MOST = 1, 80  # tests of an area, and of all of them: the tier ends within a minute


def area(path: Path) -> str:
    """The folder; "" for what lies in tests itself: the public modules, the docs, the rules."""
    return path.relative_to(TESTS).parent.as_posix().strip(".")


def marks(function: ast.FunctionDef) -> set[str]:
    """Of pytest, on a test: "smoke" of @pytest.mark.smoke."""
    names = [d.func if isinstance(d, ast.Call) else d for d in function.decorator_list]
    return {name.attr for name in names if isinstance(name, ast.Attribute)}


def found_in(path: Path) -> list[tuple[str, set[str]]]:
    tree = ast.parse(path.read_text("utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [(f.name, marks(f)) for f in found if f.name.startswith("test_")]


SMOKE = [(path, name, m) for path in FILES for name, m in found_in(path) if "smoke" in m]


@pytest.mark.smoke
def test_every_area_has_some() -> None:
    count = Counter(area(path) for path, _, _ in SMOKE)
    missing = {area(path) for path in FILES if count[area(path)] < LEAST}
    assert not missing, f"mark a quick test of {sorted(missing)} with @pytest.mark.smoke"
    assert sum(count.values()) <= MOST


def test_none_is_of_another_tier() -> None:
    assert not [(path.name, name) for path, name, m in SMOKE if "exhaustive" in m]
