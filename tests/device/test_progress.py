"""The line that says what a user waits for: late, once, and gone when it is done."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import pytest

import zmlx
from zmlx.device import progress
from zmlx.device.progress import waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def looked_at(patience: float = 0.05) -> Iterator[Terminal]:
    """stderr as a terminal, within the test's own phase: pytest puts its own there in each."""
    made = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", made)
        patch.setenv("TERM", "xterm")
        patch.setattr(progress, "PATIENCE", patience)
        yield made
    assert progress._waiting == [] and progress._shown == []


def until(words: str, terminal: Terminal) -> None:
    for _ in range(200):
        if words in terminal.getvalue():
            return
        time.sleep(0.02)
    raise AssertionError(terminal.getvalue())


def test_what_takes_long_is_said() -> None:
    with looked_at() as terminal, waiting("compiling 3 kernels"):
        until("compiling 3 kernels", terminal)
        with waiting("building the module"):
            until("building the module", terminal)


def test_what_is_quick_is_not() -> None:
    with looked_at(patience=30.0) as terminal:
        with waiting("compiling 3 kernels"):
            pass
        assert terminal.getvalue() == ""


def test_nobody_sees_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    with waiting("compiling 3 kernels"):
        assert progress._waiting == []
        time.sleep(0.1)
    assert file.getvalue() == ""


def test_threads_share_one_line() -> None:
    end = threading.Event()

    def work(number: int) -> None:
        with waiting(f"work {number}"):
            end.wait(20)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    with looked_at() as terminal:
        for thread in threads:
            thread.start()
        until("work", terminal)
        assert len(progress._shown) == 1
        end.set()
        for thread in threads:
            thread.join()


def test_an_error_ends_the_line() -> None:
    with looked_at() as terminal, pytest.raises(ValueError, match="no"), waiting("compiling"):
        until("compiling", terminal)
        raise ValueError("no")


def test_a_fused_function_says_that_it_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # watched kernels are named otherwise
    number = float(time.time_ns() // 1000 % 1_000_000) + 0.5  # a kernel that is nowhere yet
    with looked_at(patience=0.0) as terminal, mx.stream(mx.cpu):
        zmlx.fuse(lambda x: mx.sin(x) * number + x)(mx.ones(3))
        assert "compiling a kernel (" in terminal.getvalue()
        assert "kept for later" in terminal.getvalue()
