"""Kernels of libraries for Macs, compiled for an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from on_cuda import gpu

from tests.dropin import audio_cases, lm_cases, vlm_cases
from tests.dropin.libraries import Load, as_on_a_mac, mlx_audio, mlx_vlm

pytestmark = pytest.mark.usefixtures("host_device")  # whose blank kernel stands in for launches


@pytest.mark.parametrize("name", lm_cases.CASES)
def test_a_kernel_of_mlx_lm_compiles(name: str) -> None:
    compiled("mlx_lm", lm_cases.CASES[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", vlm_cases.CASES)
def test_a_kernel_of_mlx_vlm_compiles(name: str) -> None:
    compiled("mlx_vlm", vlm_cases.CASES[name], mlx_vlm())


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", audio_cases.CASES)
def test_a_kernel_of_mlx_audio_compiles(name: str) -> None:
    compiled("mlx_audio", audio_cases.CASES[name], mlx_audio())


def compiled(package: str, case: Callable[[Load], Any], bare: Load | None = None) -> None:
    """Kernels of `case` are compiled; the modules come from `bare`, or are imported."""
    with gpu(machine=False) as device, as_on_a_mac(package) as load:
        case(bare or load)
        assert device.count > 0
