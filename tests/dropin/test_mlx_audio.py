"""Kernels of mlx-audio run here through the drop-in, and give what its own ops give."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.dropin.audio_cases import CASES
from tests.dropin.libraries import as_on_a_mac, mlx_audio
from zmlx.device.base import Device
from zmlx.errors import SanitizeError

pytestmark = pytest.mark.exhaustive


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_gives_what_ops_give(name: str, default_device: Device) -> None:
    with as_on_a_mac("mlx_audio"):
        found, wanted = CASES[name](mlx_audio())
        mx.eval(found, wanted)
    for mine, true in zip(found, wanted, strict=True):
        assert mine.shape == true.shape and mine.dtype == true.dtype
        close = 3e-3 if mine.dtype == mx.float16 else 1e-5
        np.testing.assert_allclose(np.array(mine), np.array(true), close, close)


def test_the_sanitizer_names_what_a_second_sequence_reads_outside(
    monkeypatch: pytest.MonkeyPatch, host_device: Device
) -> None:
    """EnCodec's kernel counts four times too far in `cell` from the second sequence on."""
    monkeypatch.setenv("ZMLX_SANITIZE", "1")
    with as_on_a_mac("mlx_audio"):
        module = mlx_audio()("mlx_audio.codec.models.encodec.encodec")
        hidden, _ = module.lstm_custom(mx.ones((2, 3, 160)), mx.ones((2, 160)), mx.ones((2, 40)), 0)
        with pytest.raises(SanitizeError, match="lstm") as caught:
            mx.eval(hidden)
    assert "cell" in str(caught.value)
