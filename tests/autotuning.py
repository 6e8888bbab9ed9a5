"""What tests of autotuning share: the module, which a function of its name hides, and its store."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from zmlx.device import tuning

autotune: Any = importlib.import_module("zmlx.autotune")


@pytest.fixture(autouse=True)
def private_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuning.TuningStore:
    """No test sees what another one kept."""
    store = tuning.TuningStore(lambda: tmp_path)
    monkeypatch.setattr(tuning, "STORE", store)
    autotune.GLOBAL_AUTOTUNE_CACHE.clear()
    return store
