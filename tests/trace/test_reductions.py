"""Reductions as a trace records them: all forms of the calls, against MLX's own results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tracing import call_of, kinds, recorded, replayed, run, same, traced

import zmlx
from zmlx import dtypes
from zmlx.ops.reductions import REDUCTIONS

X = mx.array(np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32))
FORMS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "all": ((), {}),
    "None": ((None,), {}),
    "one": ((1,), {}),
    "the last": ((-1,), {"keepdims": True}),
    "by name": ((), {"axis": 0, "keepdims": False}),
    "all, kept": ((), {"keepdims": True}),
    "by place": ((0, True), {}),
    "with no stream": ((2,), {"stream": None}),
}
SEVERAL: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "a tuple": (((0, 2),), {}),
    "a list, not in order": (([-1, 0],), {}),
    "every one": (((0, 1, 2),), {"keepdims": True}),
    "a list by name": ((), {"axis": [1]}),
}
WHOLE: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "no axis": (((),), {}),
    "a stream": ((1,), {"stream": mx.cpu}),
}


def forms(name: str) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    return FORMS if REDUCTIONS[name].index else {**FORMS, **SEVERAL}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_every_form_of_a_call(name: str) -> None:
    for form, (args, kwargs) in forms(name).items():
        for fn in (
            lambda x, a=args, k=kwargs: getattr(mx, name)(x, *a, **k),
            lambda x, a=args, k=kwargs: getattr(x, name)(*a, **k),
        ):
            found = traced(fn, X)
            assert kinds(found.graph)[0] == f"[{name}]" and found.graph.kind(1) == "reduce", form
            same(run(fn, X), fn(X))


@pytest.mark.parametrize("dtype", dtypes.ALL)
def test_types(dtype: str) -> None:
    kind = getattr(mx, dtypes.attribute(dtype))
    with mx.stream(mx.cpu):
        x = (X * 3).astype(kind)
        for name in REDUCTIONS:
            fn = lambda x, n=name: getattr(mx, n)(x, axis=1)  # noqa: E731
            same(run(fn, x), fn(x))


def test_what_is_no_fold_stays_a_call() -> None:
    for args, kwargs in WHOLE.values():
        fn = lambda x, a=args, k=kwargs: mx.sum(x, *a, **k) + 1  # noqa: E731
        assert "reduce" not in {traced(fn, X).graph.kind(n) for n in traced(fn, X).graph}
        same(run(fn, X), fn(X))
    same(run(lambda x: mx.sum(x) + x.max(), mx.array(2.5)), mx.array(5.0))

    def elsewhere(x: mx.array) -> mx.array:
        with mx.stream(mx.new_stream(mx.cpu)):
            return mx.sum(x, 1)

    assert "[sum]" in kinds(traced(elsewhere, X).graph)
    same(run(elsewhere, X), X.sum(1))


WRONG: dict[str, Callable[[mx.array], Any]] = {
    "an axis too large": lambda x: mx.sum(x, axis=3),
    "too small": lambda x: x.max(axis=-4),
    "twice the same": lambda x: mx.all(x, axis=(0, 0)),
    "the same by another number": lambda x: mx.prod(x, axis=(0, -3)),
    "several for an index": lambda x: mx.argmax(x, axis=(0, 1)),
    "an axis of none": lambda x: mx.min(x[:0], axis=0),
    "a text": lambda x: mx.any(x, axis="rows"),
    "a name that is none": lambda x: mx.sum(x, axes=0),
    "too much": lambda x: mx.sum(x, 0, True, 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_mlx_s(name: str) -> None:
    with pytest.raises((ValueError, TypeError, IndexError)) as wanted:
        mx.eval(WRONG[name](X))
    with pytest.raises(wanted.type) as found:
        zmlx.fuse(WRONG[name])(X)
    assert str(found.value).splitlines()[0] == str(wanted.value).splitlines()[0]


def test_no_element_at_a_later_call() -> None:
    fused = zmlx.fuse(lambda x: (x * 2).max(axis=0))
    same(fused(X), (X * 2).max(axis=0))
    with pytest.raises(ValueError, match="Cannot max reduce over axis 0 with size 0"):
        mx.eval(fused(X[:0]))


def test_one_trace_holds_for_every_length() -> None:
    def fn(x: mx.array) -> Any:
        rows = x.sum(axis=-1)
        return rows / x.shape[-1], x - x.max(1, keepdims=True), mx.zeros(rows.shape), rows.size

    found = traced(fn, X)
    assert not found.decisions
    for shape in ((3, 4, 5), (2, 7, 3), (9, 2, 11)):
        x = mx.random.normal(shape)
        same(replayed(found, [x]), fn(x))


def test_sizes_of_a_fold_are_those_of_what_it_folds() -> None:
    """Known before the call: nothing is computed to read them."""
    found = traced(lambda x: mx.ones((mx.sum(x, 1).shape[1], x.max((0, 1)).shape[0])), X)
    assert {found.graph.kind(n) for n in found.graph} <= {"input", "scalar", "opaque", "reduce"}


VIEWS: dict[str, Callable[[mx.array], mx.array]] = {
    "None": lambda x: x - mx.sum(x, 1)[:, None],
    "the last": lambda x: x - mx.sum(x, -1)[..., None],
    "expand_dims": lambda x: x - mx.expand_dims(x.max(1), 1),
    "several": lambda x: x - mx.expand_dims(x.max((0, 2)), (0, -1)),
    "the first": lambda x: x - x.max(0)[None],
    "all": lambda x: x - x.sum()[None, None, None],
}


@pytest.mark.parametrize("name", VIEWS)
def test_axes_that_are_added_again_were_never_taken(name: str) -> None:
    fused = zmlx.fuse(VIEWS[name])
    assert mx.allclose(fused(X), VIEWS[name](X), rtol=1e-6, atol=1e-6).item()  # in another order
    plan = fused.entry(X).program.plan
    assert not [n for n in plan.graph if plan.graph.kind(n) == "opaque"], plan.graph


def test_an_axis_added_elsewhere_is_another_one() -> None:
    for fn in (lambda x: x + x[0].sum(1)[None], lambda x: x.sum(1)[None] + x.sum(0)[:, None]):
        same(zmlx.fuse(fn)(X[:, :3, :3]), fn(X[:, :3, :3]))


@pytest.mark.parametrize("numerics", ["mlx", "fp32"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_bits_are_mlx_s(numerics: str, dtype: str) -> None:
    """What is folded has MLX's bits where it was computed in them: all of it, or an input."""
    x = (X * 10).astype(getattr(mx, dtype))

    def fn(x: mx.array) -> Any:
        inner = x * x if numerics == "mlx" else x
        return inner.sum(1), mx.max(inner, axis=(0, 2)), mx.prod(inner, keepdims=True), x.argmin()

    same(zmlx.fuse(fn, numerics=numerics)(x), fn(x))


def test_a_fold_and_its_squeeze_are_one_call_of_mlx() -> None:
    fused = zmlx.fuse(lambda x: x.sum(0) * 3 + 1)  # of an input: no kernel has it
    same(fused(X), X.sum(0) * 3 + 1)
    assert [step.squeeze is not None for step in fused.entry(X).program.plan.natives] == [True]


def test_gradients_and_batches_go_through() -> None:
    def fn(x: mx.array) -> mx.array:
        e = mx.exp(x - x.max(-1, keepdims=True))
        return (e / e.sum(-1)[..., None]).square().sum(axis=0)

    fused = zmlx.fuse(fn)
    for way in (
        lambda f: mx.grad(lambda x: f(x).sum()),
        lambda f: mx.vmap(f),
        lambda f: mx.grad(lambda y: mx.grad(lambda x: f(x).sum())(y).square().sum()),
        lambda f: lambda x: mx.jvp(f, [x], [x + 1])[1][0],
        lambda f: mx.compile(f, shapeless=True),
    ):
        got, want = way(fused)(X), way(fn)(X)
        assert mx.allclose(got, want, rtol=1e-4, atol=1e-5).item()


def test_equal_folds_are_computed_once() -> None:
    fused = zmlx.fuse(lambda x: x.sum(1) * mx.sum(x, axis=-2) + mx.sum(x, 1, keepdims=True)[:, 0])
    plan = fused.entry(X).program.plan
    assert [plan.graph.kind(n) for n in plan.graph].count("reduce") == 1


def test_constants_are_folded_as_such() -> None:
    call = call_of((X,), {})
    found = recorded(lambda x: x * mx.sum(mx.ones((4,)) * 2).item(), call)
    same(replayed(found, [X]), X * 8)
