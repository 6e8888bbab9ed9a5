"""Rules where a kernel's inputs are not quite the op's: a grid more, (1,) in place of ()."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.metal import on_metal
from zmlx import rowwise
from zmlx.device.base import Launcher
from zmlx.device.metal import MetalDevice
from zmlx.kernels import norms, transformer
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import MetalKernelSpec


class LikeCuda(on_metal.Mac):
    """Hand-written kernels get the grid as one more input, and launches are remembered."""

    def _launcher(self, kernel: KernelSource) -> Launcher:
        return MetalDevice._launcher(self, kernel)

    def written(self, spec: MetalKernelSpec, name: str) -> Any:
        kept = super().written(spec, name)

        def keep(*, inputs: Sequence[mx.array], **how: Any) -> Any:
            return kept(inputs=[*inputs, mx.zeros(3, mx.uint32)], **how)

        return keep


@pytest.fixture
def like_cuda(host_device: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(on_metal, "Mac", LikeCuda)
    with on_metal.mac():
        yield


def shapes_of_all(f: Any, arrays: list[mx.array], mapped: int) -> list[tuple[int, ...]]:
    """Shapes of the gradients, of a tangent and of second derivatives, and of a mapped call."""
    count = tuple(range(len(arrays)))
    slopes = mx.grad(lambda *a: f(*a).sum(), count)(*arrays)
    found = [slopes] if len(arrays) == 1 else list(slopes)
    found.append(mx.jvp(f, arrays, arrays)[1][0])
    first = mx.grad(lambda x: f(x, *arrays[1:]).sum())
    found.append(mx.grad(lambda x: first(x).sum())(arrays[0]))
    axes = (mapped, *[None] * (len(arrays) - 1))
    wide = mx.broadcast_to(mx.expand_dims(arrays[0], mapped), [*_with(arrays[0].shape, mapped, 4)])
    found.append(mx.vmap(f, in_axes=axes)(wide, *arrays[1:]))
    return [x.shape for x in found]


def _with(shape: tuple[int, ...], axis: int, size: int) -> list[int]:
    return [*shape[:axis], size, *shape[axis:]]


@pytest.mark.usefixtures("like_cuda")
def test_hand_written_kernels() -> None:
    x, w = mx.ones((3, 8)), mx.ones((8,))
    got = shapes_of_all(norms.rmsnorm, [x, w], 1)
    assert got == [(3, 8), (8,), (3, 8), (3, 8), (4, 3, 8)]
    got = shapes_of_all(transformer.bias_swiglu, [x, w], 0)
    assert got == [(3, 8), (8,), (3, 4), (3, 8), (4, 3, 4)]
    got = shapes_of_all(lambda v: transformer.dropout(v, 0.5, 3), [x], 2)
    assert got == [(3, 8), (3, 8), (3, 8), (4, 3, 8)]
    halves = rowwise.map_reduce(
        name="halves", d=8, pass1_init="0.0f", pass1_update="acc1 + x * w",
        pass1_reduce_op="a + b", pass2_init="0.0f", pass2_update="acc2", pass2_reduce_op="a + b",
        write_expr="x / s1", input_names=("x", "w"),
    )  # fmt: skip
    got = shapes_of_all(lambda *a: halves(*a)[0], [x, w], 0)
    assert got == [(3, 8), (8,), (3, 8), (3, 8), (4, 3, 8)]


@pytest.mark.usefixtures("like_cuda")
@pytest.mark.parametrize("turn", ["described", "repeated"])
def test_numbers(turn: str) -> None:
    f = zmlx.fuse(lambda x, y: x * mx.sigmoid(x) + y)
    one, row = mx.array(1.5), mx.ones((5,))
    if turn == "repeated":
        for pair in ([one, one], [one, row]):
            f(*pair)
    assert shapes_of_all(f, [one, one], 0) == [(), (), (), (), (4,)]
    assert shapes_of_all(f, [one, row], 0) == [(), (5,), (5,), (), (4, 5)]
