"""docs/models.md says what its generator finds."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from architectures import NAMES
from comparing import SMALL

pytestmark = pytest.mark.usefixtures("host_device")
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "models.md").read_text("utf-8")
OUTDATED = "docs/models.md is out of date: python docs/generate_models.py"


@pytest.mark.smoke
def test_every_architecture_has_its_line() -> None:
    lines = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    assert lines[1:] == sorted(NAMES)


@pytest.mark.parametrize("name", SMALL)
def test_lines_of_the_page(name: str) -> None:
    assert runpy.run_path(str(DOCS / "generate_models.py"))["row"](name) in PAGE, OUTDATED


@pytest.mark.exhaustive
def test_the_whole_page() -> None:
    assert runpy.run_path(str(DOCS / "generate_models.py"))["page"]() == PAGE, OUTDATED
