"""Every row of the catalog's table: values, gradients, tangents, maps, errors.

In the default tier values in float32 at every size of the row, and more of kernels by hand; other
types, and what tests/fuse holds of all fused functions, in the exhaustive tier. References are the
rows' own, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.catalog.cases import KINDS, RTOL, wide
from zmlx import kernels
from zmlx.catalog.rows import ROWS, Row

pytestmark = pytest.mark.usefixtures("default_device")
DEEP = ("softmax", "norms", "transformer")  # whose functions have test files of their own
NEW = ("layernorm_grad", "group_norm", "swiglu2", "geglu2", "norm_residual_norm")
OWN = {
    name: row
    for name, row in ROWS.items()
    if row.module not in DEEP or name.partition(".")[2] in NEW
}
BY_HAND = {name: row for name, row in OWN.items() if row.by_hand}
MOVED = {name: row for name, row in OWN.items() if row.differentiable}
# Derivatives in the default tier: of kernels by hand, and of every fourth fused function.
SOME = {n: r for i, (n, r) in enumerate(MOVED.items()) if r.by_hand or not i % 4}
REST = {n: r for n, r in MOVED.items() if n not in SOME}
HALVES = {name: ("float16", "bfloat16")[i % 2] for i, name in enumerate(BY_HAND)}


def numbers(arrays: Sequence[mx.array]) -> list[np.ndarray]:
    return [np.array(a) if a.dtype not in KINDS.values() else wide(a) for a in arrays]


def close(found: mx.array, wanted: Any, kind: str, what: str, more: float = 1.0) -> None:
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape, what
    if found.dtype not in KINDS.values():
        np.testing.assert_array_equal(np.array(found), wanted, what)
        return
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    limit = 4e-6 * max(1.0, scale) * more
    np.testing.assert_allclose(wide(found), wanted, more * 4 * RTOL[kind], limit, err_msg=what)


def result_kind(row: Row, kind: str) -> str:
    return "float32" if row.wide else kind


def check_values(row: Row, kind: str, sizes: Any) -> None:
    arrays = row.drawn(KINDS[kind], sizes, seed=len(row.name))
    found, wanted = row.run(*arrays), row.wanted(numbers(arrays))
    assert len(found) == len(wanted)
    for one, right in zip(found, wanted, strict=True):
        if one.dtype in KINDS.values():
            assert one.dtype == KINDS[result_kind(row, kind)], row.name
        close(one, right, result_kind(row, kind), f"{row.name} {kind} {dict(sizes)}")


def test_every_function_has_a_row() -> None:
    named = {f"{m}.{n}" for m in kernels.__all__ for n in getattr(kernels, m).__all__}
    assert named == {*ROWS}
    assert all(row.formula for row in ROWS.values())


@pytest.mark.parametrize("row", OWN.values(), ids=OWN)
def test_values(row: Row) -> None:
    for sizes in (row.sizes, *row.odd):
        check_values(row, "float32", sizes)
    if row.by_hand:
        check_values(row, HALVES[row.name], row.sizes)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_all_types_and_layouts(row: Row, kind: str) -> None:
    for sizes in (row.sizes, *row.odd):
        check_values(row, kind, sizes)
    check_layout(row, kind)


@pytest.mark.parametrize("row", BY_HAND.values(), ids=BY_HAND)
def test_layouts_of_kernels_by_hand(row: Row) -> None:
    check_layout(row, "float32")


def check_layout(row: Row, kind: str) -> None:
    """Arrays that are transposed, or every other element of a larger one, read as their copies."""
    arrays = row.drawn(KINDS[kind])
    wanted = row.run(*arrays)
    turned = [mx.contiguous(a.T).T if a.ndim > 1 else a for a in arrays]
    spread = [mx.stack([a, mx.zeros_like(a)], -1)[..., 0] for a in arrays]
    for changed in (turned, spread):
        for one, right in zip(row.run(*changed), wanted, strict=True):
            assert one.dtype == right.dtype
            close(one, numbers([right])[0], kind, row.name)


# -- derivatives ----------------------------------------------------------------------------------
def directional(row: Row, arrays: Sequence[mx.array], g: Any, i: int, way: np.ndarray) -> float:
    """The slope of <outputs, g> along `way` of array i, by differences in float64."""
    sides, step = [], 1e-6
    for sign in (1, -1):
        moved = numbers(arrays)
        moved[i] = moved[i] + sign * step * way
        outputs = row.wanted(moved)
        sides.append(sum((o * c).sum() for o, c in zip(outputs, g, strict=True)))
    return float((sides[0] - sides[1]) / (2 * step))


def floats(outputs: Sequence[mx.array]) -> list[int]:
    return [i for i, o in enumerate(outputs) if o.dtype in KINDS.values()]


def drawn_like(arrays: Sequence[mx.array], seed: int) -> list[mx.array]:
    rng = np.random.default_rng(seed)
    return [mx.array(rng.normal(size=a.shape).astype(np.float32)).astype(a.dtype) for a in arrays]


def pulled(row: Row, arrays: Sequence[mx.array], g: Sequence[mx.array], f: Any) -> list[mx.array]:
    places = row.differentiable

    def of(*moved: mx.array) -> list[mx.array]:
        given = dict(zip(places, moved, strict=True))
        outputs = f(*[given.get(i, a) for i, a in enumerate(arrays)])
        return [outputs[i] for i in floats(outputs)]

    return mx.vjp(of, [arrays[i] for i in places], list(g))[1]


def check_gradients(row: Row, kind: str, sizes: Any) -> None:
    arrays = row.drawn(KINDS[kind], sizes, seed=3)
    outputs = row.run(*arrays)
    g = drawn_like([outputs[i] for i in floats(outputs)], 5)
    found = pulled(row, arrays, g, row.run)
    full = [np.zeros(1)] * len(outputs)
    for i, c in zip(floats(outputs), g, strict=True):
        full[i] = wide(c)
    for i, dx in zip(row.differentiable, found, strict=True):
        assert dx.shape == arrays[i].shape and dx.dtype == arrays[i].dtype
        way = np.random.default_rng(7).normal(size=dx.shape)
        slope, scale = directional(row, arrays, full, i, way), np.abs(wide(dx) * way).sum()
        given = (wide(dx) * way).sum()
        limit = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}[kind]
        np.testing.assert_allclose(given, slope, 1e-5, limit * max(scale, 0.1), err_msg=row.name)
    if kind == "float32":
        plain = pulled(row, arrays, g, row.in_ops)
        for dx, right in zip(found, plain, strict=True):
            close(dx, wide(right), kind, row.name, 8)


@pytest.mark.parametrize("row", SOME.values(), ids=SOME)
def test_gradients(row: Row) -> None:
    check_gradients(row, "float32", row.sizes)


@pytest.mark.exhaustive
@pytest.mark.parametrize("row", REST.values(), ids=REST)
def test_gradients_of_the_rest(row: Row) -> None:
    check_gradients(row, "float32", row.sizes)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", MOVED.values(), ids=MOVED)
def test_gradients_in_all_types(row: Row, kind: str) -> None:
    for sizes in (row.sizes, *row.odd):
        check_gradients(row, kind, sizes)


def check_tangent(row: Row) -> None:
    arrays, places = row.drawn(seed=3), row.differentiable
    ways = drawn_like([arrays[i] for i in places], 9)

    def of(*moved: mx.array) -> list[mx.array]:
        given = dict(zip(places, moved, strict=True))
        outputs = row.run(*[given.get(i, a) for i, a in enumerate(arrays)])
        return [outputs[i] for i in floats(outputs)]

    found = mx.jvp(of, [arrays[i] for i in places], ways)[1]
    sides = []
    for sign in (1, -1):
        moved = numbers(arrays)
        for i, way in zip(places, ways, strict=True):
            moved[i] = moved[i] + sign * 1e-6 * wide(way)
        sides.append(row.wanted(moved))
    kept = floats(row.run(*arrays))
    for tangent, i in zip(found, kept, strict=True):
        close(tangent, (sides[0][i] - sides[1][i]) / 2e-6, "float32", row.name, 8)


def check_map(row: Row) -> None:
    """Over a new axis of the first array alone, and of all of them; the last axis too."""
    arrays = row.drawn(seed=3)
    many = [mx.stack(pair) for pair in zip(arrays, row.drawn(seed=11), strict=True)]
    if row.random:
        return
    first = (0, *[None] * (len(arrays) - 1))
    for axes in {first, (0,) * len(arrays), (-1,) * len(arrays)}:
        given = [
            m if axis == 0 else (mx.moveaxis(m, 0, -1) if axis == -1 else a)
            for axis, m, a in zip(axes, many, arrays, strict=True)
        ]
        found = mx.vmap(lambda *a: row.run(*a), in_axes=axes)(*given)
        for k in range(2):
            parts = zip(axes, many, arrays, strict=True)
            one = [a if axis is None else m[k] for axis, m, a in parts]
            for output, right in zip(found, row.run(*one), strict=True):
                close(output[k], numbers([right])[0], "float32", f"{row.name} {axes}", 2)


@pytest.mark.parametrize("row", BY_HAND.values(), ids=BY_HAND)
def test_maps_and_tangents_by_hand(row: Row) -> None:
    check_map(row)
    if row.differentiable:
        check_tangent(row)


@pytest.mark.exhaustive
@pytest.mark.parametrize("row", OWN.values(), ids=OWN)
def test_all_maps_and_tangents(row: Row) -> None:
    check_map(row)
    if row.differentiable:
        check_tangent(row)


# -- errors, and nothing --------------------------------------------------------------------------
@pytest.mark.parametrize("row", OWN.values(), ids=OWN)
def test_wrong_arguments_are_named(row: Row) -> None:
    arrays: list[Any] = row.drawn()
    short = row.name.partition(".")[2].removesuffix("_grad")
    for i, array in enumerate(row.arrays):
        for wrong in (None, arrays[i].astype(mx.complex64)):
            with pytest.raises(
                (TypeError, ValueError), match=rf"\[zmlx\.{row.module}\] {short}.*{array.name} is "
            ):
                row.run(*arrays[:i], wrong, *arrays[i + 1 :])


@pytest.mark.parametrize("row", OWN.values(), ids=OWN)
def test_arrays_that_do_not_fit_are_refused(row: Row) -> None:
    arrays = row.drawn()
    for i in range(1, len(arrays)):
        if row.arrays[i].shape == "1":
            wrong = mx.zeros((2,), arrays[i].dtype)
        else:
            wrong = mx.concatenate([arrays[i]] * 3, -1)
        with pytest.raises(ValueError, match=row.module):
            row.run(*arrays[:i], wrong, *arrays[i + 1 :])


FOLDS = ("reductions", "loss", "attention", "moe", "scan")
EMPTY = {n: r for n, r in OWN.items() if "b" in r.sizes and r.module in FOLDS}


@pytest.mark.parametrize("row", EMPTY.values(), ids=EMPTY)
def test_no_rows(row: Row) -> None:
    """Empty results, and gradients of nothing: zeros."""
    arrays = row.drawn(sizes={**row.sizes, "b": 0})
    outputs = row.run(*arrays)
    for found, wanted in zip(outputs, row.run(*row.drawn()), strict=True):
        assert found.ndim == wanted.ndim and found.dtype == wanted.dtype
        mx.eval(found)
    if row.differentiable:
        g = [mx.zeros_like(outputs[i]) for i in floats(outputs)]
        for i, dx in zip(row.differentiable, pulled(row, arrays, g, row.run), strict=True):
            assert dx.shape == arrays[i].shape and not np.array(dx).any(), row.name
