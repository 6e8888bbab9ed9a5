"""Writes the outputs in the pages that show some: `python docs/generate_outputs.py`.

Runs a page's Python blocks in order, in an empty folder; a block of text after a block of Python is
what that block printed. A test compares each page with `page()`, so that the two cannot part.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

NAMES = ("ARCHITECTURE.md", "norm.md", "seeing.md", "trouble.md")
PAGES = [Path(__file__).with_name(name) for name in NAMES]
_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n^```text\n(?P<shown>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


def page(path: Path) -> str:
    """The text of a page with every output as it is now."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return _page(path)
        finally:
            os.chdir(before)


def _page(path: Path) -> str:
    text, namespace, made, at = path.read_text(), {"__name__": "__docs__"}, [], 0
    for match in _BLOCK.finditer(text):
        code, line = match.group("code"), text.count("\n", 0, match.start("code"))
        printed = _run(path, code, line, namespace)
        made.append(text[at : match.end("code")] + "```\n")
        at = match.end("code") + len("```\n")
        if match.group("shown") is not None:
            made.append(f"\n```text\n{printed}```\n")
            at = match.end()
    return "".join([*made, text[at:]])


def _run(path: Path, code: str, line: int, namespace: dict[str, object]) -> str:
    """What `code` prints; blank lines in front make tracebacks and graphs show the page's lines."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * line + code, str(path), "exec"), namespace)
    text = printed.getvalue()
    return text if text.endswith("\n") or not text else text + "\n"


if __name__ == "__main__":
    for path in PAGES:
        while (made := page(path)) != path.read_text():  # longer outputs move lines below them
            path.write_text(made)
