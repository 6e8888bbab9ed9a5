"""The README and the docs: their Python runs as written, their links lead somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from zmlx.device.base import Device, device_for_current_stream

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[int, str]]:
    """(line before the first line of code, code) of each Python block."""
    text = page.read_text()
    return [(text.count("\n", 0, m.start(1)), m.group(1)) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name)
def test_code_runs_as_written(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """The blocks of a page run in order, in one namespace, as a reader would type them."""
    if any("zmlx.metal_check" in code for _, code in blocks(page)):
        request.getfixturevalue("metal_check")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__docs__"}
    for line, code in blocks(page):
        # Blank lines before the code make tracebacks show the page's own line numbers.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
    if device_for_current_stream().name != "host":
        return  # the pictures show what is made on a CPU
    for picture in tmp_path.glob("*.svg"):
        kept = ROOT / "docs" / "pictures" / picture.name
        assert kept.exists() and f"pictures/{picture.name}" in page.read_text(), picture.name
        assert picture.read_text() == kept.read_text(), (
            f"{kept.name} is out of date: python docs/generate_pictures.py {name(page)}"
        )


@pytest.mark.smoke
def test_every_picture_stands_on_a_page() -> None:
    shown = "\n".join(page.read_text() for page in PAGES)
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert f"pictures/{picture.name}" in shown, picture.name


@pytest.mark.smoke
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{name(page)} links to {target}"


def test_the_readme_has_code_and_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert blocks(ROOT / "README.md")
    assert 'pip install -e ".[cpu]" && python -m zmlx demo' in readme
    assert 'pip install -e ".[cpu,dev]" && python -m pytest' in readme


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "norm.md", "seeing.md", "trouble.md"])
def test_what_a_page_shows_is_what_its_code_prints(page: str, host_device: Device) -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_outputs.py"))
    path = ROOT / "docs" / page
    assert path in generator["PAGES"]
    assert generator["page"](path) == path.read_text(), (
        f"docs/{page} is out of date: python docs/generate_outputs.py"
    )


def test_the_catalog_page_is_generated() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_kernels.py"))
    assert (ROOT / "docs" / "KERNELS.md").read_text("utf-8") == generator["page"](), (
        "docs/KERNELS.md is out of date: python docs/generate_kernels.py"
    )


def test_the_plots_show_the_tables() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_plots.py"))
    for name_, drawn in generator["plots"]().items():
        kept = (ROOT / "docs" / "pictures" / f"{name_}.svg").read_text("utf-8")
        assert kept == drawn, f"{name_}.svg is out of date: python docs/generate_plots.py"


def test_the_page_of_patterns_has_the_table() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_patterns.py"))
    shown = (ROOT / "docs" / "patterns.md").read_text("utf-8")
    assert generator["page"]() == shown, "out of date: python docs/generate_patterns.py"


@pytest.mark.usefixtures("host_device", "metal_check")
def test_the_gallery_shows_what_is_said() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_gallery.py"))
    shown = generator["PAGE"].read_text("utf-8")
    assert generator["page"]() == shown, "out of date: python docs/generate_gallery.py"
