"""Whether the sanitizer really ran: what its native part counted, not what was asked for."""

from __future__ import annotations

import pytest

from zmlx.device import sanitize
from zmlx.switches import SANITIZE

# Many kernels, for the run that .ci/run makes; tests without the mark watch in every run.
watched_run = pytest.mark.skipif(not SANITIZE.on(), reason="part of the run with ZMLX_SANITIZE=1")


class Watch:
    """Counts watched launches, from its making or its last answer on."""

    def __init__(self) -> None:
        self._before = self._total()

    def ran(self, least: int = 1) -> int:
        """How many launches ran watched since; they must have been `least`, and seen accesses."""
        total = self._total()
        launches, accesses = total[0] - self._before[0], total[1] - self._before[1]
        self._before = total
        assert launches >= least, f"{launches} launches ran under the sanitizer, not {least}"
        assert accesses > 0, "the sanitizer saw no access"
        return launches

    @staticmethod
    def _total() -> tuple[int, int]:
        counts = sanitize.watched().values()
        return sum(c.launches for c in counts), sum(c.accesses for c in counts)
