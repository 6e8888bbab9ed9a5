"""Writes the messages in the gallery of sanitizer.md: `python docs/generate_gallery.py`.

A block of text after a block of Metal is what `python -m zmlx check kernel.metal` prints for it. A
test compares the page with `page()`, so that the two cannot part.
"""

from __future__ import annotations

import contextlib
import re
from functools import partial
from pathlib import Path

from zmlx.checking.fault import as_text
from zmlx.checking.faults import faults_of
from zmlx.checking.file import read_kernels
from zmlx.checking.launched import Run, faults_here

PAGE = Path(__file__).with_name("sanitizer.md")
_BLOCK = re.compile(
    r"^```metal\n(?P<kernel>.*?)^```\n(?:\n^```text\n.*?^```\n)?", re.DOTALL | re.MULTILINE
)


def page() -> str:
    """The text of the page with every message as it is now."""
    return _BLOCK.sub(_shown, PAGE.read_text("utf-8"))


def _shown(found: re.Match[str]) -> str:
    text = found["kernel"]
    here = partial(faults_here, limited=contextlib.nullcontext)
    faults, missing = faults_of(text, read_kernels("kernel", text, {}), Run(), here)
    assert not missing, missing
    lines = "\n".join(as_text("kernel.metal", text, faults))
    return f"```metal\n{text}```\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
