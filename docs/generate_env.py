"""Writes docs/env.md from zmlx.switches.SWITCHES: `python docs/generate_env.py`.

A test compares the page with `page()`, so that the two cannot part.
"""

from __future__ import annotations

from pathlib import Path

from zmlx.switches import SWITCHES

PAGE = Path(__file__).with_name("env.md")
INTRODUCTION = """\
# Environment variables

Generated from `zmlx/switches.py` by `python docs/generate_env.py`. They are read when they are
needed, not when `zmlx` is imported; `ZMLX_LOG` alone is read then. For those that are on or off,
the empty text, `0`, `false`, `off` and `no` mean off.

`with zmlx.config(check=True, threads=1):` sets them in a scope, by the names in the last column.
Scopes nest, the inner one wins, and what none of them sets the environment does. A scope holds for
the thread or the asyncio task that entered it; a new thread starts from the environment. What was
made under one setting is not used under another: a function called under both is traced for each.

| name | default | meaning | `zmlx.config` |
|---|---|---|---|"""


def page() -> str:
    """The text of docs/env.md."""
    rows = [
        f"| `{s.name}` | {f'`{s.default}`' if s.default else 'unset'} | {s.meaning} "
        f"| `{s.keyword}`: {s.takes} |"
        for s in SWITCHES
    ]
    return "\n".join([INTRODUCTION, *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(page())
