"""zmlx._compat: what it says of a machine."""

from __future__ import annotations

import platform
import sys

import mlx.core as mx
import pytest

from zmlx import _compat


@pytest.mark.parametrize(
    ("system", "machine", "answers"),
    [
        ("darwin", "arm64", (True, True, True)),
        ("darwin", "x86_64", (True, False, False)),
        ("linux", "aarch64", (False, True, False)),
        ("linux", "x86_64", (False, False, False)),
    ],
)
def test_machines(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, answers: tuple[bool, bool, bool]
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    found = (_compat.is_macos(), _compat.is_arm64(), _compat.is_supported_host())
    assert found == answers


def test_import_mx_gives_mlx() -> None:
    assert _compat.import_mx() is mx
