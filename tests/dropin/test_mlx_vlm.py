"""Kernels of mlx-vlm run here through the drop-in, and give what its own ops give."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.dropin import turbo_cases, vlm_more_cases
from tests.dropin.libraries import as_on_a_mac, mlx_vlm
from tests.dropin.vlm_cases import CASES
from zmlx.device.base import Device

HALVES = (
    *("sparse_attention", "verification", "chosen_blocks"),
    *("quantized_verifier", "turboquant_attention", *turbo_cases.CASES),
    *(case.__name__ for case in vlm_more_cases.HALVES),
)
pytestmark = pytest.mark.exhaustive


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_gives_what_ops_give(name: str, default_device: Device) -> None:
    with as_on_a_mac("mlx_vlm"):
        found, wanted = CASES[name](mlx_vlm())
        mx.eval(found, wanted)
    close = 1e-2 if name in HALVES else 3e-5
    for mine, true in zip(found, wanted, strict=True):
        assert mine.shape == true.shape
        np.testing.assert_allclose(np.array(mine), np.array(true), close, close)
