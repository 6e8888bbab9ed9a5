"""What mkdocs does not do by itself: pages from outside of docs/, and notebooks.

Comes in: the site's files and each page's Markdown. Goes out: CONTRIBUTING.md, CHANGELOG.md and the
notebooks as pages too, and links that lead to where these stand on the site. mkdocs.yml names this
file.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md")
_UP = re.compile(rf"\]\(\.\./({'|'.join(map(re.escape, OUTSIDE))})")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]*pictures/[^)\s]+)\)")
_NOTEBOOK = re.compile(r"(\]\([^)\s]+)\.ipynb\)")


def on_files(files: Files, *, config: Any) -> Files:
    """The pages from outside of docs/, whose links start in the folder above; the notebooks."""
    for name in OUTSIDE:
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            page = file.src_uri.removesuffix(".ipynb") + ".md"
            files.append(File.generated(config, page, content=notebook(file.content_string)))
    return files


def notebook(text: str) -> str:
    """A notebook as Markdown: its cells, and what each shows."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += map(_output, cell.get("outputs", ()))
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    """What a cell printed, or the HTML that it shows; an empty line would end it in Markdown."""
    html = output.get("data", {}).get("text/html")
    if html is None:
        text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        html = f"<pre>{escape(text)}</pre>"
    lines = "".join(html).replace("\n\n", "\n&#8203;\n").splitlines()
    return "\n".join(['<div class="notebook-output">', *lines, "</div>"])


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Links to those pages lead to them on the site, and pictures to themselves in full size."""
    markdown = _PICTURE.sub(r"[\g<0>](\1)", markdown)
    return _NOTEBOOK.sub(r"\1.md)", _UP.sub(r"](\1", markdown))
