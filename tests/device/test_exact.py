"""numerics="mlx" on the host: every float row of the op table gives MLX's own bits."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from handwritten import kernel

from zmlx.device.base import Device, Launcher, device_named
from zmlx.dtypes import msl_type
from zmlx.msl.helpers import HELPERS, helper_text
from zmlx.msl.kernel import KernelSource
from zmlx.ops.spec import OpSpec
from zmlx.ops.table import NAMED

TYPES = ("float32", "float16", "bfloat16")
ROWS = {
    name: spec
    for name, spec in NAMED.items()
    if spec.msl is not None
    and spec.result == "operand"
    and spec.operands in ("float", "promote", "own")
}  # fmt: skip


def source(spec: OpSpec, dtype: str) -> KernelSource:
    text = (spec.msl_exact or spec.msl or "").format(
        x="x0", y="x1", z="x2", T="float", R="float", M=msl_type(dtype)
    )
    names = [h for h in HELPERS if f"zmlx_{h}(" in text or f"zmlx_{h}<" in text]
    return kernel(
        spec.name, text, [dtype] * spec.arity, [dtype], header=helper_text(names), exact=True
    )


@pytest.fixture(scope="module")
def launchers() -> dict[tuple[str, str], Launcher]:
    keys = [(name, dtype) for name in ROWS for dtype in TYPES]
    built = device_named("host").build([source(ROWS[name], dtype) for name, dtype in keys])
    return dict(zip(keys, built, strict=True))


def operands(dtype: str, arity: int) -> list[mx.array]:
    """All values of a half type, or random float32 bit patterns and values of ordinary size."""
    generator = np.random.default_rng(0)
    arrays = []
    for position in range(arity):
        if dtype == "float32":
            bits = generator.integers(0, 2**32, 1 << 16, dtype=np.uint64).astype(np.uint32)
            sizes = np.exp2(generator.uniform(-10, 6, 1 << 16))
            ordinary = (generator.normal(size=1 << 16) * sizes).astype(np.float32)
            arrays.append(mx.array(np.concatenate([bits.view(np.float32), ordinary])))
        else:
            patterns = np.tile(np.arange(65536, dtype=np.uint16), arity)
            patterns = generator.permutation(patterns) if position else patterns
            arrays.append(mx.array(patterns).view(getattr(mx, dtype)))
    return arrays


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ROWS)
def test_row_gives_the_bits_of_mlx(
    launchers: dict[tuple[str, str], Launcher], host_device: Device, name: str, dtype: str
) -> None:
    spec = ROWS[name]
    arrays = operands(dtype, spec.arity)
    expected = getattr(mx, spec.mx[0])(*arrays)
    got = launchers[name, dtype](arrays)[0]
    word = mx.uint32 if dtype == "float32" else mx.uint16
    same = (got.view(word) == expected.view(word)) | (mx.isnan(got) & mx.isnan(expected))
    wrong = np.flatnonzero(~np.array(same))
    assert wrong.size == 0, [
        (a[int(wrong[0])].item(), got[int(wrong[0])].item(), expected[int(wrong[0])].item())
        for a in arrays
    ]
