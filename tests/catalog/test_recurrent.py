"""Recurrent states over sequences longer than a span of kept states: groups and single threads."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.catalog.cases import KINDS, drawn, wide
from zmlx.catalog.rows import formulas as textbook
from zmlx.device.base import Device
from zmlx.kernels import scan

pytestmark = pytest.mark.usefixtures("default_device")


@pytest.fixture(params=["groups", "alone"])
def way(request: Any, default_device: Device, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CPU leaves a row to one thread; with groups it plays a GPU."""
    if request.param == "groups":
        monkeypatch.setattr(type(default_device), "takes_turns", False)
    return str(request.param)


def delta_arrays(b: int, t: int, v: int, k: int) -> list[mx.array]:
    """Keys of about length 1 and numbers from 0 to 1, as models have them."""
    q, key = drawn((b, t, k), seed=1), drawn((b, t, k), seed=2) / k**0.5
    rates = [mx.sigmoid(drawn((b, t), seed=i) + 1.0) for i in (4, 5)]
    return [drawn((b, v, k)), q, key, drawn((b, t, v), seed=3), *rates]


def ssm_arrays(b: int, t: int, v: int, k: int) -> list[mx.array]:
    dt, a = mx.sigmoid(drawn((b, t, v), seed=2)), -mx.exp(drawn((v, k), seed=3))
    return [drawn((b, v, k)), drawn((b, t, v), seed=1), dt, a, drawn((b, t, k), seed=4),
            drawn((b, t, k), seed=5), drawn((v,), seed=6)]  # fmt: skip


def step_by_step(step: Any, moves: tuple[int, ...]) -> Any:
    return lambda s, *more: textbook.walked(mx, step, s, more, moves)


FORMS = {
    "delta": (scan.gated_delta_scan, step_by_step(textbook.delta, (1,) * 5), delta_arrays),
    "ssm": (scan.ssm_scan, step_by_step(textbook.ssm, (1, 1, 0, 1, 1, 0)), ssm_arrays),
}


def pulled(f: Any, arrays: list[mx.array]) -> list[mx.array]:
    out, last = f(*arrays)
    g = [drawn(out.shape, out.dtype, 7), drawn(last.shape, last.dtype, 8)]
    return [*(found := mx.vjp(f, arrays, g))[0], *found[1]]


def check(name: str, sizes: tuple[int, int, int, int], kind: str = "float32") -> None:
    ours, theirs, made = FORMS[name]
    arrays = [a.astype(KINDS[kind]) for a in made(*sizes)]
    right = pulled(theirs, [a.astype(mx.float32) for a in arrays])
    limit = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 2e-2}[kind]
    for found, wanted in zip(pulled(ours, arrays), right, strict=True):
        assert found.dtype == KINDS[kind] and found.shape == wanted.shape
        most = np.abs(wide(wanted)).max()
        np.testing.assert_allclose(wide(found), wide(wanted), 0, limit * most, err_msg=name)


@pytest.mark.parametrize("name", FORMS)
def test_many_steps(way: str, name: str, quick_compiler: None) -> None:
    """More than two spans, whose last is no whole one; more rows than a group has simdgroups."""
    check(name, (2, 70, 11, 40))
    check(name, (1, 32, 3, 8))


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMS)
def test_all_kinds(way: str, name: str, kind: str) -> None:
    for sizes in ((1, 1, 1, 1), (2, 33, 17, 33), (1, 65, 9, 100), (1, 40, 4, 256)):
        check(name, sizes, kind)


@pytest.mark.parametrize("name", FORMS)
def test_parts_of_a_sequence_go_on(name: str) -> None:
    """The last state of one part begins the next one; the same call gives the same bits."""
    ours, _, made = FORMS[name]
    state, *rest = made(2, 40, 3, 8)
    moves = [a.shape[:2] == (2, 40) for a in rest]
    out, last = ours(state, *rest)
    first, between = ours(state, *[a[:, :13] if m else a for a, m in zip(rest, moves, strict=True)])
    second, end = ours(between, *[a[:, 13:] if m else a for a, m in zip(rest, moves, strict=True)])
    assert mx.array_equal(mx.concatenate([first, second], 1), out).item()
    assert mx.array_equal(end, last).item()
    runs = [pulled(ours, [state, *rest]) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert mx.array_equal(one, other).item()


def test_second_derivatives_and_examples() -> None:
    for name, (ours, theirs, made) in FORMS.items():
        arrays = made(1, 3, 2, 4)

        def slopes(f: Any, n: int = len(arrays)) -> Any:
            return mx.grad(lambda *a: sum(o.square().sum() for o in f(*a)), tuple(range(n)))

        def twice(f: Any, n: int = len(arrays), of: Any = slopes) -> Any:
            total = lambda *a: sum(d.square().sum() for d in of(f)(*a))  # noqa: E731
            return mx.grad(total, tuple(range(n)))

        for found, wanted in zip(twice(ours)(*arrays), twice(theirs)(*arrays), strict=True):
            most = np.abs(wide(wanted)).max()
            np.testing.assert_allclose(wide(found), wide(wanted), 1e-4, 1e-5 * most, err_msg=name)
    state, *rest = delta_arrays(2, 5, 2, 4)
    alone = scan.gated_delta_scan(state[0], *[a[0] for a in rest])
    assert mx.array_equal(alone[0], scan.gated_delta_scan(state, *rest)[0][0]).item()


def test_what_does_not_fit_is_refused() -> None:
    state, q, k, v, decay, beta = delta_arrays(2, 5, 2, 4)
    for match, call in (
        ("q is of shape .*T >= 1", lambda: scan.gated_delta_scan(state, q[:, :0], k, v, decay,
                                                                 beta)),
        ("256 columns at most", lambda: scan.gated_delta_scan(mx.zeros((1, 2, 300)), q, k, v,
                                                              decay, beta)),
        ("beta is of shape", lambda: scan.gated_delta_scan(state, q, k, v, decay, beta[:, :3])),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"gated_delta_scan: .*{match}"):
            call()
