"""What the Metal check itself refuses, and what it says where it cannot run."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from metal_cases import findings, kernel

from zmlx.errors import DeviceError
from zmlx.metal_check import check, check_text, metal_text, unavailable

COPY = kernel("out0[0] = in0[0];\n")


def test_without_libclang_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clang", None)
    assert "pip install libclang" in (unavailable() or "")
    with pytest.raises(DeviceError, match=r"^\[zmlx.metal_check\] .*pip install libclang$"):
        check_text("int x;\n")


def test_one_array_for_each_input() -> None:
    with pytest.raises(ValueError, match="1 inputs, got 2 arrays. Give one array or shape"):
        check(COPY, (4,), (4,))


def test_without_elements_there_is_no_launch() -> None:
    with pytest.raises(DeviceError, match="launches nothing for shapes .*Give arrays with"):
        metal_text(COPY, [(0,)])


def test_threads_may_check_at_once() -> None:
    bodies = [f"out0[0] = in0[0] + missing{i};\n" for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(findings, bodies)):
            assert [d.message for d in found] == [f"use of undeclared identifier 'missing{i}'"]
