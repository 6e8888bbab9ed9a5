"""Writes docs/env.md from zmlx.config.SWITCHES: `python docs/generate_env.py`.

A test compares the page with `page()`, so that the two cannot part.
"""

from __future__ import annotations

from pathlib import Path

from zmlx.config import SWITCHES

PAGE = Path(__file__).with_name("env.md")


def page() -> str:
    """The text of docs/env.md."""
    rows = [
        f"| `{s.name}` | {f'`{s.default}`' if s.default else 'unset'} | {s.meaning} |"
        for s in SWITCHES
    ]
    return "\n".join(
        [
            "# Environment variables",
            "",
            "Generated from `zmlx/config.py` by `python docs/generate_env.py`. They are read when",
            "they are needed, not when `zmlx` is imported. For those that are on or off, the empty",
            "text, `0`, `false`, `off` and `no` mean off.",
            "",
            "| name | default | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
