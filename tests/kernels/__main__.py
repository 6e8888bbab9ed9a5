"""`python -m tests.kernels --against main`: every kernel that differs from another revision's.

Records what a fixed corpus makes here, without compiling or running it, and in a temporary work
tree of the other revision, by its own recorder; prints what was added, is gone and changed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kernels.comparing import Record, differences, report

ROOT = Path(__file__).parents[2]
SIDES = ("host", "gpu")  # each in a process of its own


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("--against", metavar="REV", help="the revision to compare with")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where the record is kept, as JSON"
    )
    parser.add_argument(
        "--only", default="", metavar="AREA", help='cases whose name begins so: "users"'
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        return record_side(asked.side, asked.only, asked.out)
    if not (asked.against or asked.out):
        parser.error("give --against REV, --out FILE, or both")
    return listed(asked.against, asked.out, asked.only)


def listed(against: str | None, out: Path | None, only: str) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        here = recorded(ROOT, Path(scratch) / "here.json", only)
        if out is not None:
            here.write(out)
        there = Record()
        if against is not None:
            with work_tree(against, Path(scratch) / "tree") as tree:
                there = recorded(tree, Path(scratch) / "there.json", only)
            print(report(differences(there, here), there, here))
    if against is None:
        print(f"{len(here.kernels)} kernels of {len(here.cases)} cases, {len(here.failed)} failed")
    return 1 if here.failed else 0


def recorded(root: Path, path: Path, only: str) -> Record:
    """What the code under `root` makes, by its own recorder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ZMLX_")}
    environment = {**kept, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tests.kernels", "--only", only]
    parts = {side: path.with_name(f"{side}-{path.name}") for side in SIDES}
    running = [
        subprocess.Popen([*command, "--side", s, "--out", str(p)], cwd=root, env=environment)
        for s, p in parts.items()
    ]
    if any([process.wait() for process in running]):
        sys.exit(f"[tests.kernels] {root} cannot be recorded; it may be older than tests/kernels.")
    whole = Record()
    for side, part in parts.items():
        found = Record.read(part)
        whole.cases |= {f"{case} ({side})": made for case, made in found.cases.items()}
        whole.failed |= {f"{case} ({side})": why for case, why in found.failed.items()}
        whole.kernels |= found.kernels
    return whole


def record_side(side: str, only: str, out: Path) -> int:
    from tests.kernels.corpus import cases
    from tests.kernels.recording import recording

    with recording(host=side == "host") as device:
        for name, call in cases(device):
            if name.startswith(only):
                device.case = name
                try:
                    call()
                except Exception as error:
                    device.record.failed[name] = f"{type(error).__name__}: {error}"
        device.record.write(out)
    return 0


@contextmanager
def work_tree(revision: str, folder: Path) -> Iterator[Path]:
    """A checkout of `revision` in `folder`, which goes again."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run(
        [*git, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
        capture_output=True, text=True,
    )  # fmt: skip
    if found.returncode:
        sys.exit(f"[tests.kernels] {revision!r} is no revision. Give a branch or a commit.")
    add = [*git, "worktree", "add", "--quiet", "--detach", str(folder), found.stdout.strip()]
    subprocess.run(add, check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(folder)], check=True)


if __name__ == "__main__":
    sys.exit(main())
