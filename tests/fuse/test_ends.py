"""Reductions that a region's kernel folds at its end: a user's losses, column sums, extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import array, close, kernels, numpy, program_of

import zmlx
from zmlx.catalog.norms import layernorm
from zmlx.fuse import walked
from zmlx.ops.reductions import REDUCTIONS

pytestmark = pytest.mark.usefixtures("default_device")

VALUES = ("sum", "prod", "max", "min")
FLOATS = {mx.float32: 2.0**-22, mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}
INTS = (mx.int8, mx.int16, mx.int32, mx.uint8, mx.uint16, mx.uint32)
AXES = (None, 0, 1, 2, (0, 1), (1, 2), (0, 2))


def several(axis: Any, keepdims: bool = False) -> Callable[..., list[Any]]:
    """All reductions of values that a kernel computes, over one choice of axes."""

    def folds(x: Any, y: Any) -> list[Any]:
        z = x * y + x
        found = [z.sum(axis, keepdims), mx.max(z, axis, keepdims), mx.min(z - y, axis, keepdims)]
        found.append((1 + z / 64).prod(axis, keepdims))
        return [*found, (x > 2).any(axis, keepdims), (x < 2).all(axis, keepdims)]

    return folds


def wide(a: Any) -> np.ndarray:
    if isinstance(a, mx.array):
        a = a.astype(mx.float32) if a.dtype in FLOATS else a
    return np.array(a).astype(np.float64)


def reference(folds: Callable, arrays: list[mx.array], axis: Any) -> list[np.ndarray]:
    x, y = map(wide, arrays)
    z = x * y + x
    found = [z.sum(axis), z.max(axis), (z - y).min(axis), (1 + z / 64).prod(axis)]
    return [*found, (x > 2).any(axis), (x < 2).all(axis)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", AXES, ids=str)
def test_floats_over_all_axes(axis: Any, dtype: mx.Dtype) -> None:
    folds, arrays = several(axis), [array(i, 5, 9, 33, dtype=dtype, scale=0.7) for i in (1, 2)]
    got = zmlx.fuse(folds)(*arrays)
    assert len(kernels(*got)) == 1
    size = max(np.abs(w).max() for w in reference(folds, arrays, axis)[:3])
    for mine, plain, want in zip(got, folds(*arrays), reference(folds, arrays, axis), strict=True):
        assert mine.dtype == plain.dtype and mine.shape == plain.shape
        unit = FLOATS[dtype] * 8
        np.testing.assert_allclose(wide(mine), want, rtol=unit, atol=unit * max(size, 1.0))


LENGTHS = (1, 2, 16, 33, 128, 4096, 2**18 + 5)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_lengths(rows: int, length: int) -> None:
    if rows * length > 2**20:
        rows = 2
    x, y = array(1, rows, length), array(2, rows, length)

    def folds(x: Any, y: Any) -> list[Any]:
        d = (x - y) ** 2
        return [d.sum(), d.sum(0), d.sum(1), mx.max(x * y, 1), mx.min(x + y, 0)]

    a, b = wide(x), wide(y)
    d = (a - b) ** 2
    want = [d.sum(), d.sum(0), d.sum(1), (a * b).max(1), (a + b).min(0)]
    for mine, right in zip(FUSED.setdefault("lengths", zmlx.fuse(folds))(x, y), want, strict=True):
        np.testing.assert_allclose(wide(mine), right, rtol=2e-6, atol=1e-6)


FUSED: dict[str, Any] = {}  # one trace for all lengths


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (4, 0, 3)], ids=str)
def test_no_elements(shape: tuple[int, ...]) -> None:
    """NumPy says what they are: plain MLX may never end."""
    x, own = mx.zeros(shape), np.zeros(shape, np.float32)
    for fold in (lambda x: (x * x).sum(), lambda x: (x + 1).prod(-1), lambda x: (x > 1).all(0)):
        got, want = numpy(zmlx.fuse(fold)(x)), fold(own)
        assert got.shape == want.shape and got.dtype == want.dtype
        assert (got == want).all()
    with pytest.raises(ValueError):
        zmlx.fuse(lambda x: mx.max(x * 2))(x)


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integers_are_exact(dtype: mx.Dtype) -> None:
    x, y = ((array(i, 7, 300, scale=40) + 50).astype(dtype) for i in (1, 2))

    def folds(x: Any, y: Any) -> list[Any]:
        z = x * y
        found = [getattr(mx, op)(z, axis) for op in VALUES for axis in (None, 0, 1)]
        return [*found, (z > x).any(0), (z == z).all()]

    for mine, want in zip(zmlx.fuse(folds)(x, y), folds(x, y), strict=True):
        assert mine.dtype == want.dtype and mx.array_equal(mine, want)


def test_truth_of_what_is_no_bool() -> None:
    x = mx.array([[0.0, 0.25, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.25]])
    fold = lambda x: [(x * 0.5).any(1), (x * 0.5).all(1), (x * 0.5).any(), (x * 2).all(0)]  # noqa: E731
    for mine, want in zip(zmlx.fuse(fold)(x), fold(x), strict=True):
        assert mx.array_equal(mine, want)


def test_nan_and_infinity() -> None:
    x = array(1, 40, 70)
    x[3, 5], x[4, 6], x[5, 7] = mx.nan, mx.inf, -mx.inf
    for axis in (None, 0, 1):
        folds = lambda x, axis=axis: [  # noqa: E731
            (x * 2).sum(axis), mx.max(x * 2, axis), mx.min(x * 2, axis), (x + 1).prod(axis)
        ]  # fmt: skip
        for mine, want in zip(zmlx.fuse(folds)(x), folds(x), strict=True):
            close(mine, want, rtol=1e-4)


LAYOUTS: dict[str, Callable[[mx.array], mx.array]] = {
    "transposed": lambda x: mx.contiguous(x.T).T,
    "a slice": lambda x: mx.pad(x, ((1, 2), (3, 1)))[1:-2, 3:-1],
    "backwards": lambda x: x[::-1, ::-1],
    "one row for all": lambda x: mx.broadcast_to(x[:1], x.shape),
    "one column for all": lambda x: mx.broadcast_to(x[:, :1], x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    x, y = LAYOUTS[layout](array(1, 38, 150)), array(2, 38, 150)

    def folds(x: Any, y: Any) -> list[Any]:
        z = mx.sin(x) * y
        return [z, z.sum(), z.sum(0), mx.max(z, 1)]

    fused = FUSED.setdefault("layouts", zmlx.fuse(folds))
    for mine, want in zip(fused(x, y), folds(x, y), strict=True):
        close(mine, want, rtol=1e-5, atol=1e-5)


def test_runs_give_the_same_bits() -> None:
    x = array(1, 1000, 700, dtype=mx.bfloat16)
    fused = zmlx.fuse(lambda x: [(x * x).sum(), mx.exp(x).sum(0), (x + 1).sum(1)])
    first = [numpy(r) for r in fused(x)]
    for _ in range(5):
        assert all((numpy(a) == b).all() for a, b in zip(fused(x), first, strict=True))


def test_long_sums_are_closer_than_mlx() -> None:
    """float32 parts, joined in the end: for half types as well."""
    x = mx.abs(array(1, 2**20, dtype=mx.bfloat16)) + 1
    got = zmlx.fuse(lambda x: (x * 1.5).astype(mx.float32).sum())(x)
    want = (wide(x) * 1.5).sum()
    assert abs(got.item() - want) / want < 1e-6
    halves = zmlx.fuse(lambda x: (x * 1.5).sum())(x)
    assert abs(halves.item() - want) / want < 2**-8


def test_long_sums_keep_their_digits() -> None:
    ones = mx.ones((100_000, 9), mx.bfloat16)
    fused = zmlx.fuse(lambda x, r, s: x * r * s)
    got = mx.grad(lambda r, s: fused(ones, r, s).sum().astype(mx.float32), argnums=(0, 1))(
        mx.ones((9,), mx.bfloat16), mx.ones((), mx.bfloat16)
    )
    np.testing.assert_allclose(numpy(got[0]), 100_000, rtol=4e-3)
    np.testing.assert_allclose(numpy(got[1]), 900_000, rtol=4e-3)


# -- transformations ------------------------------------------------------------------------------
LOSSES: dict[str, Callable[..., Any]] = {
    "squares": lambda x, y: ((x - y) ** 2).sum() / 7,
    "columns": lambda x, y: (mx.tanh(x * y).sum(0) ** 2).sum(),
    "rows": lambda x, y: (mx.tanh(x * y).sum(1) ** 2).sum(),
    "extremes": lambda x, y: mx.max(x * y, 0).sum() + mx.min(x + y, 1).sum() + mx.max(x - y),
    "ties": lambda x, y: mx.max(mx.maximum(x, 0) * 0 + y[:, :1], 1).sum() + mx.max(x * 0),
    "product": lambda x, y: (1 + x * y / 64).prod(1).sum(),
    "values as well": lambda x, y: (lambda z: (z * z.sum(0)).sum())(mx.sin(x) * y),
}


@pytest.mark.parametrize("name", LOSSES)
def test_transformations(name: str) -> None:
    loss, arrays = LOSSES[name], [array(1, 6, 40), array(2, 6, 40)]
    fused = zmlx.fuse(loss)
    close(mx.grad(fused, (0, 1))(*arrays), mx.grad(loss, (0, 1))(*arrays), 1e-4, 1e-5)
    ways = [array(3, 6, 40), array(4, 6, 40)]
    close(mx.jvp(fused, arrays, ways), mx.jvp(loss, arrays, ways), 1e-4, 1e-4)
    many = [mx.stack([a, a * 0.5, -a]) for a in arrays]
    close(mx.vmap(fused)(*many), mx.vmap(loss)(*many), 1e-4, 1e-4)
    both = [mx.vmap(mx.grad(f)) for f in (fused, loss)]
    close(both[0](*many), both[1](*many), 1e-4, 1e-5)
    if name not in ("product", "extremes", "ties"):
        second = [
            mx.grad(lambda x, f=f: (mx.grad(f)(x, arrays[1]) ** 2).sum()) for f in (fused, loss)
        ]
        close(second[0](arrays[0]), second[1](arrays[0]), 1e-3, 1e-4)
    compiled = mx.compile(mx.grad(fused))
    for rows in (6, 2, 6):
        some = [a[:rows] for a in arrays]
        close(compiled(*some), mx.grad(loss)(*some), 1e-4, 1e-5)


def test_slices_of_one_array() -> None:
    loss = lambda x: ((x[:, 1:] - x[:, :-1]) ** 2).sum() + (x[:-1] * x[1:]).sum(0).sum()  # noqa: E731
    x = array(1, 300, 400)
    fused = zmlx.fuse(loss)
    close(fused(x), loss(x), 1e-4)
    close(mx.grad(fused)(x), mx.grad(loss)(x), 1e-5, 1e-5)
    close(mx.jvp(fused, [x], [x])[1], mx.jvp(loss, [x], [x])[1], 1e-4)


@pytest.mark.usefixtures("on_cpu")
def test_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_CHECK", "1")
    x, y = array(1, 30, 50), array(2, 30, 50)
    for loss in LOSSES.values():
        close(zmlx.fuse(loss)(x, y), loss(x, y), 1e-4, 1e-4)
    real = walked.Made.finished
    monkeypatch.setattr(
        walked.Made, "finished", lambda self, raw: [a * 1.01 for a in real(self, raw)]
    )
    with pytest.raises(zmlx.errors.CheckError, match="part"):
        mx.eval(zmlx.fuse(LOSSES["squares"])(x, y))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("alone", [False, True])
def test_the_sanitizer_finds_nothing(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU runs it, and as a CPU does."""
    monkeypatch.setenv("ZMLX_SANITIZE", "1")
    monkeypatch.setattr(walked, "alone", lambda: alone)
    for axis, shape in (
        (None, (3, 500)),
        (0, (50, 20)),
        (1, (9, 66)),
        (0, (50, 3)),
        (1, (2, 5000)),
    ):
        folds, arrays = several(axis), [array(i, *shape, scale=0.1) for i in (1, 2)]
        got, want = zmlx.fuse(folds)(*arrays), reference(folds, arrays, axis)
        for mine, right in zip(got, want, strict=True):
            np.testing.assert_allclose(wide(mine), right, rtol=1e-4, atol=1e-4)


# -- plans ----------------------------------------------------------------------------------------
def test_one_kernel_reads_once() -> None:
    def fold(x: Any, y: Any) -> Any:
        z = mx.sin(x) * y
        return z, z.sum(), z.sum(0), mx.max(z, 1)

    program = program_of(fold, array(1, 40, 50), array(2, 40, 50))
    assert len(program.plan.regions) == 1 and not program.plan.natives


def test_what_only_reads_an_input_stays_with_mlx() -> None:
    program = program_of(lambda x: x.sum(), array(1, 40, 50))
    assert not program.plan.regions


def test_sums_that_are_only_cast_part_no_gradient() -> None:
    """A weight's gradient in a half type is a sum and a cast: the norm's one kernel keeps it."""
    arrays = [mx.ones(shape, mx.bfloat16) for shape in ((6, 64), (64,), (64,))]
    with zmlx.profile(show=False) as profile:
        mx.vjp(lambda *given: layernorm(*given), arrays, [arrays[0]])
    assert len(profile.kernels) == 2


def test_numerics_mlx_leaves_them_to_mlx() -> None:
    x = array(1, 40, 50)
    loss = lambda x: (mx.sin(x) * x).sum(0)  # noqa: E731
    assert (numpy(zmlx.fuse(loss, numerics="mlx")(x)) == numpy(loss(x))).all()


def test_every_reduction_is_tested_here() -> None:
    values = {name for name, row in REDUCTIONS.items() if not row.index}
    assert values == {*VALUES, "any", "all"}


@pytest.mark.usefixtures("on_cpu")
def test_shapeless_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # a watched launch keeps its shapes
    for loss in (LOSSES["squares"], LOSSES["columns"]):
        compiled = mx.compile(zmlx.fuse(loss), shapeless=True)
        for rows in (4, 9):
            x, y = array(1, rows, 50), array(2, rows, 50)
            close(compiled(x, y), loss(x, y), rtol=1e-5)
