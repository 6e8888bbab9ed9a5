"""The notebooks of the docs run, show what is kept in them, and style nothing but themselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import mlx.core as mx
import pytest

import zmlx
from zmlx.device.base import Device
from zmlx.tuning.report import TunedKernel, TuneReport

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
_MEASURED, _MARKS = re.compile(r"\d+\.\d+|\d+ %|–"), re.compile(r"[\[\](){}\"',]+")


def shown(path: Path) -> list[list[str]]:
    """The words of each cell's outputs, without what a clock has measured, and the order of rows by
    it, which moves the marks around their words."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    texts = [json.dumps(cell.get("outputs", []), ensure_ascii=False) for cell in cells]
    return [sorted(_MARKS.sub(" ", _MEASURED.sub("0", text)).split()) for text in texts]


def test_they_run_and_show_what_they_show(
    tmp_path: Path, host_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # watched kernels are other ones
    script = ROOT / "docs" / "generate_notebooks.py"
    found = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    kept = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert len(kept) == len(list(tmp_path.iterdir())) >= 2
    for path in kept:
        assert shown(tmp_path / path.name) == shown(path), (
            f"{path.name} is out of date: python docs/generate_notebooks.py"
        )


class Tags(HTMLParser):
    """The tags that stand open and those that were seen; every end must have its beginning."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.usefixtures("host_device")
def test_a_profile_shows_itself_as_a_table_without_a_style_sheet() -> None:
    f = zmlx.fuse(lambda x: mx.exp(x) * 2)
    with zmlx.profile(show=False) as p:
        mx.eval(f(mx.ones((8,))))
    page = p._repr_html_()
    assert not {"style", "script", "link"} & set(Tags(page).seen)
    assert "exp, multiply" in page and "compile ms" in page
    assert "color" not in page.replace("background", "")  # the page's own, dark or light
    assert repr(p) == "<zmlx.profile: 1 kernels>"


def test_what_tuning_found_shows_itself() -> None:
    tuned = TunedKernel("<k>", 8, (1, 64), (2, 128), {(1, 64): 2.0, (2, 128): 1.0}, {})
    page = TuneReport("metal", [tuned])._repr_html_()
    assert "&lt;k&gt;, 8 elements: elements 2, threadgroup 128" in page
    assert Tags(page).seen.count("tr") == 2
    note = TuneReport("host", note="nothing to tune")
    assert repr(note) == "zmlx.autotune on host: nothing to tune"
    assert "nothing to tune" in note._repr_html_()


def test_a_text_is_a_text_in_a_notebook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich shows what it prints where it meets a notebook, and leaves a text empty."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    report = zmlx.explain(lambda x: mx.exp(x) * 2, mx.ones((8,)))
    assert "2 ops: exp multiply" in str(report)
    with zmlx.profile(show=False) as p:
        pass
    assert "of a copy" in str(p)
