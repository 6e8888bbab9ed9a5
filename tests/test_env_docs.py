"""docs/env.md says what zmlx/switches.py says, and nobody reads the environment elsewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from zmlx import switches

ROOT = Path(__file__).parents[1]


@pytest.mark.smoke
def test_the_page_is_generated() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_env.py"))
    assert (ROOT / "docs" / "env.md").read_text() == generator["page"]()


def test_every_variable_named_in_the_package_is_a_switch() -> None:
    known = {switch.name for switch in switches.SWITCHES}
    for path in (ROOT / "zmlx").rglob("*.py"):
        code = re.sub(r"#.*", "", path.read_text())
        read = set(re.findall(r"""(?:environ(?:\.get)?|getenv)[(\[]\s*["'](ZMLX_\w+)""", code))
        assert read <= known, f"{path.name} reads {read - known}"


@pytest.mark.parametrize(
    ("text", "on"), [("1", True), ("yes", True), ("0", False), ("", False), ("No ", False)]
)
def test_a_switch_reads_the_environment_when_asked(
    text: str, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMLX_CHECK", text)
    assert switches.CHECK.on() is on
    monkeypatch.delenv("ZMLX_CHECK")
    assert switches.CHECK.on() is False
    assert switches.FUSE.on() is True
