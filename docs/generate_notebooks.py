"""Runs the notebooks: `python docs/generate_notebooks.py [folder]`.

Each notebook of docs/notebooks is executed from its first cell to its last, in an empty folder, and
written with its outputs: in place, or into the folder that is named. A test does the latter and
compares.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).with_name("notebooks")


def run(path: Path, into: Path) -> None:
    """Execute one notebook; what differs from run to run (times, versions) is not kept."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=300, record_timing=False, resources={"metadata": {"path": folder}}
        ).execute()
    notebook.metadata = {"language_info": {"name": "python"}, "kernelspec": _KERNEL}
    nbformat.write(notebook, into / path.name)


_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOKS
    for found in sorted(NOTEBOOKS.glob("*.ipynb")):
        run(found, target)
