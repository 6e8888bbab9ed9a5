"""Without NVRTC nothing here can run: CI on Linux fails, other machines say what is missing."""

from __future__ import annotations

import platform
import sys

import pytest
from on_cuda import nvrtc

from tests.conftest import in_ci

HERE = sys.platform == "linux" and platform.machine() == "x86_64"  # what the dev extra installs for
NEEDED = 'pip install "nvidia-cuda-nvrtc>=13,<14" "nvidia-cuda-runtime>=13,<14"'


@pytest.fixture(autouse=True, scope="session")
def _nvrtc() -> None:
    if nvrtc() is None and in_ci() and HERE:
        pytest.fail(f"CUDA's compiler is required here and is not installed: {NEEDED}")
    if nvrtc() is None:
        pytest.skip(f"CUDA's compiler is not installed: {NEEDED}")
