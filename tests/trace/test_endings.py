"""A process whose threads traced ends well, though the last of them ended only just now."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENDING = """
import sys, threading
import mlx.core as mx
import zmlx

x = mx.array([1.0, 2.0])
mx.eval(x)

def trace():
    f = zmlx.fuse(lambda x: mx.sin(x) * 2)  # no kernel is compiled: nothing is evaluated
    f(x)

threads = [threading.Thread(target=trace) for _ in range(8)]
for thread in threads:
    thread.start()
if sys.argv[1] == "joined":
    for thread in threads:
        thread.join()
"""


@pytest.mark.parametrize("how", ["joined", "left"])
def test_a_process_ends_well_right_after_its_threads(how):
    ended = subprocess.run(
        [sys.executable, "-c", ENDING, how], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr


def test_a_thread_that_still_runs_is_not_waited_for():
    text = """
import threading, time
import mlx.core as mx
import zmlx

def trace():
    zmlx.fuse(lambda x: x * 2)(mx.array([1.0]))
    traced.set()
    threading.Event().wait()

traced = threading.Event()
threading.Thread(target=trace, daemon=True).start()
assert traced.wait(60)

from zmlx.trace import endings
started = time.monotonic()
endings._wait_for_endings()
assert time.monotonic() - started < 0.5
"""
    ended = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
