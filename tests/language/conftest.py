"""Without NVRTC the language cannot be compared: CI on Linux fails, others say what is missing."""

from __future__ import annotations

import platform
import sys

import pytest

from tests.conftest import in_ci
from zmlx.device.nvrtc import installed

HERE = sys.platform == "linux" and platform.machine() == "x86_64"  # what the dev extra installs for


@pytest.fixture(scope="session")
def nvrtc() -> None:
    if installed() is None and in_ci() and HERE:
        pytest.fail("CUDA's compiler is required here and is not installed")
    if installed() is None:
        pytest.skip("CUDA's compiler is not installed: pip install nvidia-cuda-nvrtc")
