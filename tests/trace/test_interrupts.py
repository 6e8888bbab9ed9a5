"""Ctrl-C while MLX's names are replaced or put back: the next trace is right, and nothing stays."""

from __future__ import annotations

import sys
from collections import Counter

import mlx.core as mx
import pytest
from tracing import A, kinds, same, traced

from zmlx.trace import intercept


def fn(x):
    weights = mx.array([1.0, 2.0, 3.0, 4.0])
    return mx.compile(lambda v: mx.exp(v) * weights)(x) + mx.sum(x)


class Lines:
    """A sys.settrace function: notes the lines of intercept.py; KeyboardInterrupt before one."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.seen = at, []

    def __call__(self, frame, event, argument):
        return self._step if frame.f_code.co_filename == intercept.__file__ else None

    def _step(self, frame, event, argument):
        if event == "line":
            self.seen.append((frame.f_code.co_name, frame.f_lineno))
            if len(self.seen) - 1 == self.at:
                raise KeyboardInterrupt
        return self._step


def watched(lines: Lines) -> bool:
    """Trace `fn`; whether it was interrupted."""
    sys.settrace(lines)
    try:
        traced(fn, A)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def names():
    """What stands under every name that a trace replaces."""
    owners = [*intercept.MODULES.values(), mx.array, type(mx.compile(abs)), mx.custom_function]
    return [dict(vars(owner)) for owner in owners]


def test_an_interrupt_at_any_line():
    before, want, graph = names(), fn(A), kinds(traced(fn, A).graph)
    assert not watched(lines := Lines())
    count = Counter(lines.seen)
    turns = Counter()
    for at, place in enumerate(lines.seen):
        turns[place] += 1
        if count[place] > 40 and turns[place] not in (1, 2, count[place] // 2, count[place]):
            continue  # a loop over all names
        assert watched(Lines(at)), place
        assert intercept.depth() == 0 and intercept.current() is None, place
        assert kinds(traced(fn, A).graph) == graph, place
        assert names() == before and not intercept._installed, place
        assert not intercept._LOCK._is_owned(), place
    same(fn(A), want)


@pytest.mark.parametrize("turn", range(2))
def test_an_interrupt_of_the_function_itself(turn):
    before = names()

    def stopped(x):
        y = mx.exp(x)
        raise KeyboardInterrupt(str(y.shape))

    with pytest.raises(KeyboardInterrupt):
        traced(stopped, A)
    assert names() == before and intercept.depth() == 0
