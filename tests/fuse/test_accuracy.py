"""What docs/accuracy.md promises: reductions are as close to float64 as plain MLX's."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("default_device")
UNITS = {"float32": 2.0**-22, "float16": 2.0**-9, "bfloat16": 2.0**-6}  # four in the last place
GENERATOR = Path(__file__).parents[2] / "docs" / "generate_accuracy.py"


def test_no_reduction_is_further_from_float64_than_plain_mlx() -> None:
    for row in runpy.run_path(str(GENERATOR))["rows"]():
        if row.name == "E[x²]−E[x]²":  # what is written cannot be told in float32
            continue
        assert row.fused <= max(2 * row.plain, UNITS[row.dtype]), row
