"""Draws the pictures of the pages: `python docs/generate_pictures.py [page.md ...]`.

A block of Python that saves `name.svg` makes the picture that its page shows as pictures/name.svg.
Every page that shows one is run, block after block, in an empty folder; a test runs the same blocks
and compares what they save with what is kept.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
PICTURES = DOCS / "pictures"
_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


def draw(page: Path) -> None:
    """Run a page's blocks, and keep the pictures that they save."""
    text, before, namespace = page.read_text("utf-8"), Path.cwd(), {"__name__": "__docs__"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for block in _BLOCK.finditer(text):
                above = "\n" * text.count("\n", 0, block.start("code"))
                exec(compile(above + block["code"], str(page), "exec"), namespace)
            for picture in Path(folder).glob("*.svg"):
                (PICTURES / picture.name).write_text(picture.read_text("utf-8"), "utf-8")
        finally:
            os.chdir(before)


if __name__ == "__main__":
    named = [Path(name).resolve() for name in sys.argv[1:]]
    for page in named or sorted(DOCS.rglob("*.md")):
        if "pictures/" in page.read_text("utf-8"):
            draw(page)
