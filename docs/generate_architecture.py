"""Writes the outputs in docs/ARCHITECTURE.md: `python docs/generate_architecture.py`.

Runs the page's Python blocks in order; a block of text after a block of Python is what that block
printed. A test compares the page with `page()`, so that the two cannot part.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).with_name("ARCHITECTURE.md")
_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n^```text\n(?P<shown>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


def page() -> str:
    """The text of docs/ARCHITECTURE.md with every output as it is now."""
    text, namespace, made, at = PAGE.read_text(), {"__name__": "__docs__"}, [], 0
    for match in _BLOCK.finditer(text):
        printed = _run(match.group("code"), text.count("\n", 0, match.start("code")), namespace)
        made.append(text[at : match.end("code")] + "```\n")
        at = match.end("code") + len("```\n")
        if match.group("shown") is not None:
            made.append(f"\n```text\n{printed}```\n")
            at = match.end()
    return "".join([*made, text[at:]])


def _run(code: str, line: int, namespace: dict[str, object]) -> str:
    """What `code` prints; blank lines in front make tracebacks and graphs show the page's lines."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * line + code, str(PAGE), "exec"), namespace)
    text = printed.getvalue()
    return text if text.endswith("\n") or not text else text + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
