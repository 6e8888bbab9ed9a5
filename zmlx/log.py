"""Logging: the logger "zmlx" and its children; silent unless ZMLX_LOG or the user's logging asks.

Whoever logs gets its logger here. `configure` is called once, when zmlx is imported.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from zmlx.errors import ZmlxError
from zmlx.switches import LOG

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
_SILENT = logging.CRITICAL + 1


class _Scoped(logging.Logger):
    """A logger that `zmlx.config(log=...)` sets the level of, for the thread or task around."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        asked = LOG.scoped()
        return super().isEnabledFor(level) if asked is None else level >= _level(asked)


class _Handler(logging.Handler):
    """Prints on stderr, as it stands at the time, what ZMLX_LOG or a scope asks for."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def filter(self, record: logging.LogRecord) -> Any:
        asked = LOG.scoped()
        return record.levelno >= (self._level if asked is None else _level(asked))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def logger(name: str) -> logging.Logger:
    """The logger of that name, which heeds the scopes of `zmlx.config`."""
    found = logging.getLogger(name)
    if not isinstance(found, _Scoped):
        kind = type(found)
        found.__class__ = type(kind.__name__, (_Scoped, kind), {})
    return found


def configure() -> None:
    """Give the logger its handler on stderr, and the level that ZMLX_LOG names, if any."""
    root = logging.getLogger("zmlx")
    asked = LOG.text().strip().lower()
    if asked and asked not in LEVELS:
        raise ZmlxError(f"[zmlx.log] ZMLX_LOG is {asked!r}; give one of {', '.join(LEVELS)}.")
    root.addHandler(_Handler(_level(asked)))
    if asked:
        root.setLevel(LEVELS[asked])


def _level(text: str) -> int:
    return LEVELS.get(text, _SILENT)
