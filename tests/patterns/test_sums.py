"""Sums said as products of matrices become sums: experts combined, cumulative sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.patterns.proof import alike, fired, near, normal, proved

Y, W = normal(6, 4, 16), normal(6, 4, seed=1)
EINSUM, PRODUCT = (f"outputs of experts, combined by {n}" for n in ("einsum", "a product"))


def by_einsum(y: Any, w: Any) -> Any:
    return mx.einsum("tkd,tk->td", y, w)


def by_product(y: Any, w: Any) -> Any:
    return (mx.expand_dims(w, -2) @ y).squeeze(-2)


def by_index(y: Any, w: Any) -> Any:
    return (w[:, None] @ y)[:, 0]


@pytest.mark.parametrize(
    ("fn", "name"), [(by_einsum, EINSUM), (by_product, PRODUCT), (by_index, PRODUCT)]
)
def test_outputs_of_experts(fn: Callable[..., Any], name: str) -> None:
    proved(fn, name, Y, W, wanted=(0, 1))
    fused = zmlx.fuse(fn)
    for tokens, experts, width in ((1, 2, 8), (6, 4, 16), (5, 3, 7)):
        alike(fused, fn, normal(tokens, experts, width), normal(tokens, experts, seed=1))


def other_sum(y: Any, w: Any) -> Any:
    return mx.einsum("tkd,tk->tk", y, w)


def other_factor(y: Any, w: Any) -> Any:
    return mx.einsum("tkd,td->tk", y, w @ normal(4, 16))


def read_elsewhere(y: Any, w: Any) -> Any:
    product = w[:, None] @ y
    return product[:, 0], product * 2.0


@pytest.mark.parametrize("fn", [other_sum, other_factor, read_elsewhere])
def test_other_sums_stay(fn: Callable[..., Any]) -> None:
    assert near(fn, Y, W)
    alike(zmlx.fuse(fn), fn, Y, W)


X = normal(5, 12)


def up_to_columns(x: Any) -> Any:
    return x @ mx.triu(mx.ones((x.shape[-1], x.shape[-1]), x.dtype))


def up_to_rows(x: Any) -> Any:
    return mx.matmul(mx.tril(mx.ones((5, 5))), x)


def from_columns(x: Any) -> Any:
    return x @ mx.tril(mx.ones([x.shape[1]] * 2))


def from_rows(x: Any) -> Any:
    return mx.triu(mx.ones((x.shape[0], x.shape[0]))) @ x


SUMS = {
    up_to_columns: "sums up to each column", up_to_rows: "sums up to each row",
    from_columns: "sums from each column on", from_rows: "sums from each row on",
}  # fmt: skip


@pytest.mark.parametrize("fn", SUMS, ids=lambda f: f.__name__)
def test_cumulative_sums(fn: Callable[..., Any]) -> None:
    proved(fn, SUMS[fn], X)


HALF = normal(2, 700).astype(mx.bfloat16)


@pytest.mark.usefixtures("host_device")
@pytest.mark.parametrize("how", [{}, {"reverse": True}, {"inclusive": False}], ids=str)
def test_cumsum_of_halves_is_in_float32(how: dict[str, bool]) -> None:
    name = "cumulative sums of halves" + ", from the end" * ("reverse" in how)
    name += ", exclusive" * ("inclusive" in how)
    for x in (HALF, normal(3, 2, 400).astype(mx.float16), mx.full((2, 300), mx.inf, mx.bfloat16)):
        fn = lambda x: mx.cumsum(x, x.ndim - 1, **how)  # noqa: E731
        assert fired(fn, x) == [name]
        if mx.isfinite(x).all():
            proved(fn, name, x)
        else:
            assert mx.array_equal(zmlx.fuse(fn)(x), fn(x), equal_nan=True)
    fused = zmlx.fuse(fn)
    for shape in ((2, 700), (1, 1), (0, 700), (3, 0), (4, 16)):
        alike(fused, fn, normal(*shape).astype(mx.bfloat16))


OTHER_SUMS = {
    "another axis": (lambda x: mx.cumsum(x, 0), HALF),
    "of all": (lambda x: mx.cumsum(x), HALF),
    "another op": (lambda x: mx.cumprod(x, -1), HALF),
    "another type": (lambda x: mx.cumsum(x, -1), HALF.astype(mx.float32)),
    "whole numbers": (lambda x: mx.cumsum(x, -1), mx.arange(1024).reshape(2, 512)),
    "few": (lambda x: mx.cumsum(x, -1), HALF[:, :100]),
    "wide before": (lambda x: mx.cumsum(x.astype(mx.float32), -1).astype(x.dtype), HALF),
}


@pytest.mark.usefixtures("host_device")
@pytest.mark.parametrize(("fn", "x"), OTHER_SUMS.values(), ids=OTHER_SUMS)
def test_other_cumulative_sums_stay(fn: Callable[..., Any], x: mx.array) -> None:
    assert not fired(fn, x)
    alike(zmlx.fuse(fn), fn, x)


def test_cumulative_sums_of_halves_are_no_worse_than_products() -> None:
    x = normal(2, 700).astype(mx.bfloat16)
    alike(zmlx.fuse(up_to_columns), up_to_columns, x)


def test_a_fixed_triangle_is_one_for_its_size_only() -> None:
    fused = zmlx.fuse(lambda x, y: up_to_rows(x[: y.shape[0]]))
    alike(fused, lambda x, y: up_to_rows(x[: y.shape[0]]), X, normal(5))
    assert fired(up_to_rows, X) == ["sums up to each row"]
    with pytest.raises(ValueError, match="matmul"):
        zmlx.fuse(up_to_rows)(normal(6, 12))


def test_a_triangle_without_its_diagonal_stays() -> None:
    def strictly(x: Any) -> Any:
        return x @ mx.triu(mx.ones((x.shape[-1], x.shape[-1])), 1)

    assert "k" in near(strictly, X)["sums up to each column"]
    alike(zmlx.fuse(strictly), strictly, X)
