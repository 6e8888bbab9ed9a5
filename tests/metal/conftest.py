"""Without libclang nothing here can run: CI fails, other machines say what is missing."""

from __future__ import annotations

import os

import pytest

from zmlx.metal_check import unavailable


@pytest.fixture(autouse=True, scope="session")
def _clang() -> None:
    problem = unavailable()
    if problem is not None and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"the Metal check is required here and cannot run: it {problem}")
    if problem is not None:
        pytest.skip(f"the Metal check {problem}")
