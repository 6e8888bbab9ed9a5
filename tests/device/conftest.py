"""The tests of this folder are about the host device, and about what MLX would get elsewhere."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _on_cpu(on_cpu: None) -> None:
    """Also where MLX's default device is a GPU."""
