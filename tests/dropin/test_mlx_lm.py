"""Every kernel of mlx-lm runs here through the drop-in, and gives what mlx-lm's own ops give."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.dropin.libraries import as_on_a_mac
from tests.dropin.lm_cases import CASES, losses
from zmlx.device.base import Device
from zmlx.errors import SanitizeError


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_gives_what_ops_give(name: str, default_device: Device) -> None:
    with as_on_a_mac("mlx_lm") as load:
        found, wanted = CASES[name](load)
        mx.eval(found, wanted)
    for mine, true in zip(found, wanted, strict=True):
        assert mine.shape == true.shape
        np.testing.assert_allclose(np.array(mine), np.array(true), 1e-5, 1e-5)


@pytest.mark.exhaustive
def test_the_sanitizer_names_a_race_that_is_there(
    monkeypatch: pytest.MonkeyPatch, host_device: Device
) -> None:
    """In mlx-lm's loss, whose maxima are read while other simdgroups write sums over them."""
    monkeypatch.setenv("ZMLX_SANITIZE", "1")
    with as_on_a_mac("mlx_lm") as load:
        found, _ = losses(load, mend=False)
        with pytest.raises(SanitizeError, match="kl_forward") as caught:
            mx.eval(found[0])
    assert "shared" in str(caught.value) and "race" in str(caught.value)
