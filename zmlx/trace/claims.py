"""Claims: what one thread has for itself for a while, where others must wait.

A trace puts its proxies into the modules and containers that it reads: another trace of the same
ones waits until they are out again. And one trace of a kind is enough: a second thread that wants
it waits for the first. No thread waits for ever, since the one it waits for may wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from types import TracebackType

_CHANGED = threading.Condition()
_owners: dict[Hashable, tuple[int, int]] = {}  # (thread, how many times it claims it)
_ended = 0  # how many claims have ended


class Claim:
    """`with Claim(keys, seconds) as mine`: False where another thread kept one of them longer.

    A thread may claim again what it has already. All keys are taken at once or none.
    """

    def __init__(self, keys: Sequence[Hashable], seconds: float) -> None:
        self._keys, self._seconds = tuple(keys), seconds
        self._mine = False

    def __enter__(self) -> bool:
        me = threading.get_ident()
        with _CHANGED:
            self._mine = _CHANGED.wait_for(lambda: _free(self._keys, me), self._seconds)
            if self._mine:
                for key in self._keys:
                    _owners[key] = (me, _owners.get(key, (me, 0))[1] + 1)
        return self._mine

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        global _ended
        if not self._mine:
            return
        with _CHANGED:
            _ended += 1
            for key in self._keys:
                me, count = _owners.pop(key)
                if count > 1:
                    _owners[key] = (me, count - 1)
            _CHANGED.notify_all()


def ended() -> int:
    """How many claims have ended so far: where that stays, nothing claimed was let go."""
    return _ended


def quiet(before: int) -> bool:
    """Whether no thread has claimed anything since ended() was `before`."""
    return not _owners and _ended == before


def free(keys: Sequence[Hashable]) -> bool:
    """Whether no other thread has one of `keys`."""
    me = threading.get_ident()
    with _CHANGED:
        return _free(keys, me)


def wait_for(keys: Sequence[Hashable], seconds: float) -> bool:
    """Wait until no other thread has one of `keys`; False after that many seconds."""
    me = threading.get_ident()
    with _CHANGED:
        return _CHANGED.wait_for(lambda: _free(keys, me), seconds)


def _free(keys: Sequence[Hashable], me: int) -> bool:
    return all(key not in _owners or _owners[key][0] == me for key in keys)
