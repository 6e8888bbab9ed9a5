"""Everything in this folder runs watched, whatever the environment says; see watching.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sanitized.watching import Watch
from zmlx.device.base import Device


@pytest.fixture
def watch(host_device: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setenv("ZMLX_SANITIZE", "1")
    yield Watch()
