"""Golden texts of the kernels that walk over rows: written out in plain ops, and the catalog's.

Each file has all kernels of a function and of its gradient, as a GPU gets them, and with `_alone`
as a core of a CPU does. See test_text.py for how they are rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from msl_cases import GOLDEN, as_it_was

import zmlx
from tests.rowwise_cases import RMSNORM, op
from tests.sanitized.catalog_cases import drawn, function
from tests.stand_in import blank
from zmlx import dtypes
from zmlx.device.base import GridLauncher
from zmlx.device.host import HostDevice
from zmlx.device.texts import metal_written
from zmlx.fuse import joined, walked
from zmlx.msl.spec import Launch, MetalKernelSpec

pytestmark = pytest.mark.usefixtures("host_device")

x, other, row = mx.ones((16, 64)), mx.zeros((16, 64)), mx.ones((64,))
labels = mx.zeros((16,), mx.int32)


def residual_norm(x: Any, update: Any, weight: Any) -> Any:
    h = x + update
    return [h, h * mx.rsqrt(mx.mean(h * h, axis=-1, keepdims=True) + 1e-5) * weight]


def softmax(x: Any, mask: Any) -> Any:
    scores = x * 0.125 + mask
    e = mx.exp(scores - mx.stop_gradient(scores.max(-1, keepdims=True)))
    return [e / e.sum(-1, keepdims=True)]


FUNCTIONS: dict[str, tuple[Callable[..., Any], Sequence[mx.array], int]] = {
    "residual_norm": (residual_norm, (x, other, row), 3),
    "softmax_masked": (softmax, (x, other), 2),
    "layer_norm_silu": (
        lambda x, w, b: [nn.silu(mx.fast.layer_norm(x, w, b, 1e-5))], (x, row, row + 1), 3,
    ),
    "cross_entropy": (lambda x: [nn.losses.cross_entropy(x, labels)], (x,), 1),
    "squared_error": (lambda x, y: [mx.mean((x - y) ** 2)], (x, other), 2),
    "column_sums": (lambda x: [mx.sum(x * mx.sigmoid(x), axis=0)], (x,), 1),
    "map_reduce": (lambda x, w: op(RMSNORM, 64)(x, w), (x, row), 2),
}  # fmt: skip
CATALOG = (
    "norms.rmsnorm", "norms.layernorm", "softmax.softmax_lastdim", "transformer.fused_add_rmsnorm",
)  # fmt: skip
ALONE = ("residual_norm", "softmax_masked", "column_sums")


def written_for(
    run: Callable[..., Any], arrays: Sequence[mx.array], moving: int, patch: pytest.MonkeyPatch
) -> str:
    """The Metal text of each kernel with a launch of its own, for values and gradients."""
    texts: dict[str, str] = {}

    def kept(_: HostDevice, spec: MetalKernelSpec) -> GridLauncher:
        texts.setdefault(spec.digest, metal_written(spec).replace(spec.unique_name, spec.name))

        def launch(given: Sequence[mx.array], how: Launch) -> list[mx.array]:
            kinds = [getattr(mx, dtypes.attribute(kind)) for kind in how.output_dtypes]
            return blank(given, how.output_shapes, kinds)

        return launch

    patch.setattr(HostDevice, "grid_launcher", kept)
    results = run(*arrays)
    moved = lambda *given: run(*given, *arrays[moving:])  # noqa: E731
    mx.vjp(moved, list(arrays[:moving]), [mx.ones(r.shape, r.dtype) for r in results])
    assert texts
    return "\n".join(texts.values())


@pytest.mark.parametrize("alone", [False, True], ids=["group", "alone"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if alone and name not in ALONE:
        assert not (GOLDEN / f"rows/{name}_alone.metal").exists()
        return
    monkeypatch.setattr(walked, "alone", lambda: alone)
    plain, arrays, moving = FUNCTIONS[name]
    text = written_for(zmlx.fuse(plain), arrays, moving, monkeypatch)
    as_it_was(f"rows/{name}{'_alone' if alone else ''}.metal", text)


@pytest.mark.parametrize("name", CATALOG)
def test_the_catalog(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walked, "alone", lambda: False)
    monkeypatch.setattr(joined, "alone", lambda: False)
    arrays = drawn(name, "bfloat16")
    from zmlx import registry

    registry.clear_cache()
    text = written_for(function(name), arrays, len(arrays), monkeypatch)
    registry.clear_cache()
    as_it_was(f"rows/{name.partition('.')[2]}_catalog.metal", text)


def test_no_golden_file_is_left_over() -> None:
    wanted = {f"{n}.metal" for n in FUNCTIONS} | {f"{n}_alone.metal" for n in ALONE}
    wanted |= {f"{n.partition('.')[2]}_catalog.metal" for n in CATALOG}
    assert {p.name for p in (GOLDEN / "rows").iterdir()} == wanted
