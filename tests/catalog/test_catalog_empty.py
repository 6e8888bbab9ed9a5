"""The catalog over nothing: no rows, no examples under mx.vmap, and the gradients of these."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest

from tests.catalog.cases import CASES, KINDS, PULLED, Case, drawn, listed
from tests.rowwise_cases import LAYERNORM, SOFTMAX, op
from zmlx.kernels import norms, transformer

pytestmark = pytest.mark.usefixtures("default_device")
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
GRADIENTS = pytest.mark.parametrize("case", PULLED.values(), ids=PULLED)
EXAMPLES = ((4, 40), (40,), (0, 40))  # shapes of one example

Axes = tuple[int | None, ...]


def number(case: Case, *arrays: mx.array) -> mx.array:
    return sum(o.square().sum() for o in case.run(*arrays))


def mapped(case: Case, shape: tuple[int, ...]) -> Iterator[tuple[Axes, list[mx.array]]]:
    """Each choice of arrays to map, with arrays of no examples."""
    given = case.arrays(shape, mx.float32)
    for chosen in itertools.product((0, None), repeat=len(given)):
        if any(axis == 0 for axis in chosen):
            pairs = zip(given, chosen, strict=True)
            yield chosen, [mx.zeros((0, *a.shape)) if axis == 0 else a for a, axis in pairs]


def check_zeros(found: list[mx.array], like: list[mx.array], what: str) -> None:
    """Gradients: of the arrays' shapes and types, and 0, since nothing depends on them."""
    for dx, x in zip(found, like, strict=True):
        assert dx.shape == x.shape and dx.dtype == x.dtype, what
        assert not np.array(dx.astype(mx.float32)).any(), what


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 40), (3, 0, 40), (0, 1)])
@EACH
def test_no_rows(case: Case, shape: tuple[int, ...], kind: str) -> None:
    arrays = case.arrays(shape, KINDS[kind])
    results = case.run(*arrays)
    assert {(o.shape, o.dtype) for o in results} == {(shape, KINDS[kind])}
    mx.eval(results)
    if case.name in PULLED:
        numbers = tuple(range(len(arrays)))
        check_zeros(
            listed(mx.grad(lambda *a: number(case, *a), numbers)(*arrays)), arrays, case.name
        )
        tangents = mx.jvp(lambda *a: case.run(*a), arrays, arrays)[1]
        assert {t.shape for t in tangents} == {shape}


@pytest.mark.parametrize("shape", EXAMPLES, ids=str)
@EACH
def test_no_examples(case: Case, shape: tuple[int, ...]) -> None:
    wanted = [(0, *o.shape) for o in case.run(*case.arrays(shape, mx.float32))]
    for axes, arrays in mapped(case, shape):
        found = listed(mx.vmap(case.call, in_axes=axes)(*arrays))
        assert [o.shape for o in found] == wanted, axes
        mx.eval(found)
    last = [mx.zeros((*a.shape, 0)) for a in case.arrays(shape, mx.float32)]
    found = listed(mx.vmap(case.call, in_axes=-1)(*last))
    assert [o.shape for o in found] == wanted


@pytest.mark.parametrize("shape", EXAMPLES, ids=str)
@GRADIENTS
def test_gradients_of_no_examples(case: Case, shape: tuple[int, ...]) -> None:
    """The gradient within a mapped function, and of one."""
    numbers = tuple(range(len(case.takes)))

    def one(*a: mx.array) -> mx.array:
        return number(case, *a)

    for axes, arrays in mapped(case, shape):
        inside = listed(mx.vmap(mx.grad(one, numbers), in_axes=axes)(*arrays))
        examples = case.arrays(shape, mx.float32)
        assert [dx.shape for dx in inside] == [(0, *a.shape) for a in examples], axes
        total = mx.grad(lambda *a, n=axes: mx.vmap(one, in_axes=n)(*a).sum(), numbers)
        check_zeros(listed(total(*arrays)), arrays, f"{axes}")


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_dropout_of_nothing(shape: tuple[int, ...]) -> None:
    """Of no columns too, which rows of a norm must have."""

    def dropped(x: mx.array) -> mx.array:
        return transformer.dropout(x, 0.5, 3)

    for count in (0, 2):
        x = mx.zeros((count, *shape))
        assert mx.vmap(dropped)(x).shape == x.shape
        assert mx.grad(lambda x: mx.vmap(dropped)(x).sum())(x).shape == x.shape
    with pytest.raises(ValueError, match="last axis of 1 element at least"):
        norms.rms_norm_no_weight(mx.zeros((3, 0)))


@pytest.mark.parametrize("what", [SOFTMAX, LAYERNORM], ids=["softmax", "layernorm"])
def test_row_wise_ops_over_nothing(what: dict) -> None:
    run = op(what, 40)
    weights = [drawn((40,)), drawn((40,), seed=1), mx.array([1e-5])] if what is LAYERNORM else []
    numbers = tuple(range(1 + len(weights)))

    def total(*a: mx.array) -> mx.array:
        return run(*a)[0].square().sum()

    for shape in ((0, 40), (2, 0, 40)):
        arrays = [mx.zeros(shape), *weights]
        assert run(*arrays)[0].shape == shape
        check_zeros(listed(mx.grad(total, numbers)(*arrays)), arrays, str(shape))
    for shape in ((40,), (4, 40)):
        arrays = [mx.zeros((0, *shape)), *weights]
        axes = (0, *[None] * len(weights))
        (found,) = mx.vmap(run, in_axes=axes)(*arrays)
        assert found.shape == (0, *shape)
        outside = mx.grad(lambda *a, n=axes: mx.vmap(total, in_axes=n)(*a).sum(), numbers)
        check_zeros(listed(outside(*arrays)), arrays, str(shape))
