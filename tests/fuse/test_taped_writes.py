"""Writes, parts of complex numbers and transposes on tapes: the bits of plain MLX, and no steps."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from zmlx import switches
from zmlx.fuse.program import Program

pytestmark = pytest.mark.usefixtures("host_device")
CALLS = 4  # a tape is made by the second call of a shape


def assigned(x: mx.array, v: mx.array) -> mx.array:
    y = mx.tanh(x @ x.mT) * 2
    y[1] = v
    y[2:, 1:3] = y[:-2, 3:5] + 1
    return mx.exp(-y) + 1


def added(x: mx.array, v: mx.array) -> mx.array:
    y = mx.sin(x @ x.T) + 1
    y[0] += v
    return (y.at[mx.array([1, 1, 3])].add(v) * 0.5).at[2:4, ::2].multiply(3.0) + 1


def made_inside(x: mx.array, v: mx.array) -> mx.array:
    y = mx.zeros((x.shape[0], x.shape[0]))
    y[:, 1] = (x @ v[: x.shape[1]]) * 2
    y[0, :] = v
    return mx.cos(y) @ y.mT


def parts(x: mx.array, v: mx.array) -> mx.array:
    spectrum = mx.fft.rfft(x * 2 + v[:5])
    return spectrum.real * spectrum.real + mx.abs(spectrum.imag)


FUNCTIONS: list[Callable[[mx.array, mx.array], mx.array]] = [assigned, added, made_inside, parts]


def given(n: int, seed: int) -> tuple[mx.array, mx.array]:
    rng = np.random.default_rng(seed)
    return (
        mx.array(rng.normal(size=(n, 5)).astype(np.float32)),
        mx.array(rng.normal(size=n).astype(np.float32)),
    )


def close(found: mx.array, wanted: mx.array) -> None:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_values_and_gradients_of_repeated_calls(
    function: Callable[..., mx.array], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    stepped = Program._results

    def counted(self: Program, inputs: list[mx.array]) -> list[mx.array]:
        ran.append(1)
        return stepped(self, inputs)

    monkeypatch.setattr(Program, "_results", counted)
    fused = zmlx.fuse(function)
    for seed in range(CALLS):
        close(fused(*given(6, seed)), function(*given(6, seed)))
    if not switches.SANITIZE.on():  # watched launches are on no tape
        assert len(ran) <= 2  # the first call, and the one that made the tape
    pulled, plain = (
        mx.grad(lambda x, v, f=f: (f(x, v) ** 2).sum(), argnums=(0, 1)) for f in (fused, function)
    )
    for seed in range(CALLS):
        for a, b in zip(pulled(*given(6, seed)), plain(*given(6, seed)), strict=True):
            close(a, b)
    for n in (7, 8, 7, 8):
        close(fused(*given(n, n)), function(*given(n, n)))


@pytest.mark.parametrize("n", [8191, 8192, 8193, 16384, 16385, 100_003])
def test_sizes_at_which_launches_are_shared_or_run_at_once(n: int) -> None:
    """Cheap and dear elements: how many threads a launch has is nothing that results show."""
    x = mx.array(np.random.default_rng(n).normal(size=n).astype(np.float32))
    for function in (
        lambda x: x * 2 + 1,
        lambda x: mx.exp(mx.sin(x) * mx.log(mx.abs(x) + 1)) / (1 + x * x),
        lambda x: mx.where(x > 0, x, -1.0) < 0.5,
    ):
        fused, (first, last) = zmlx.fuse(function), (x[: n // 2 + 1], x[n // 2 + 1 :])
        whole = np.array(fused(x))
        pieces = np.concatenate([np.array(fused(first)), np.array(fused(last))])
        np.testing.assert_array_equal(whole, pieces)
        np.testing.assert_allclose(whole, np.array(function(x)), rtol=2e-6, atol=2e-6)
