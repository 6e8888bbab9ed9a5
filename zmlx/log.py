"""Logging: the logger "zmlx" and its children; silent unless ZMLX_LOG or the user's logging asks.

Called once, when zmlx is imported.
"""

from __future__ import annotations

import logging

from zmlx import config
from zmlx.errors import ZmlxError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


def configure() -> None:
    """Give the logger a handler on stderr where ZMLX_LOG names a level, else none that prints."""
    logger = logging.getLogger("zmlx")
    asked = config.LOG.text().strip().lower()
    if not asked:
        logger.addHandler(logging.NullHandler())
        return
    if asked not in LEVELS:
        raise ZmlxError(f"[zmlx.log] ZMLX_LOG is {asked!r}; give one of {', '.join(LEVELS)}.")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(LEVELS[asked])
