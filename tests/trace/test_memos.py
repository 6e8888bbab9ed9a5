"""Tables that a function makes once and keeps: lru_cache, dicts, globals, class attributes."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import zmlx
from zmlx.errors import TraceError

pytestmark = pytest.mark.filterwarnings("ignore:.*run as MLX ops")
CALLS = [mx.array([1.0, 2.0, 3.0]), mx.ones((5,)), mx.array([4.0, 5.0, 6.0]), mx.zeros((2,))]


@pytest.fixture(autouse=True)
def _without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_DEVICE", "replay")  # nothing here depends on them


def by_lru_cache() -> tuple[Callable[..., Any], Callable[[], Any]]:
    @functools.lru_cache
    def mask(length: int) -> mx.array:
        return mx.arange(length) * 2.0

    return lambda x: x * mask(x.shape[0]) + 1, lambda: [mask(n) for n in (3, 5)]


def by_unbounded_cache() -> tuple[Callable[..., Any], Callable[[], Any]]:
    @functools.cache
    def tables(length: int, base: float) -> Any:
        angles = mx.arange(length) / base
        return mx.cos(angles), {"sin": [mx.sin(angles)]}

    def rotated(x: Any) -> Any:
        cos, others = tables(x.shape[0], 10.0)
        return x * cos + others["sin"][0]

    return rotated, lambda: tables(5, 10.0)


def by_method() -> tuple[Callable[..., Any], Callable[[], Any]]:
    class Rotation:
        @functools.lru_cache(maxsize=4)  # noqa: B019
        def table(self, length: int) -> mx.array:
            return mx.arange(length) * 1.5

        def __call__(self, x: Any) -> Any:
            return x * self.table(x.shape[0])

    made = Rotation()
    return made, lambda: made.table(3)


def by_dict() -> tuple[Callable[..., Any], Callable[[], Any]]:
    kept: dict[int, Any] = {}

    def table(length: int) -> Any:
        if length not in kept:
            kept[length] = (mx.arange(length) * 2.0, {"ones": mx.ones(length)})
        return kept[length]

    def fn(x: Any) -> Any:
        scale, others = table(x.shape[0])
        return x * scale + others["ones"]

    return fn, lambda: [kept[n] for n in (2, 3, 5)]


def by_module() -> tuple[Callable[..., Any], Callable[[], Any]]:
    helpers = sys.modules["zmlx_test_helpers"] = types.ModuleType("zmlx_test_helpers")
    exec(
        "import mlx.core as mx\nkept = {}\ndef mask(n):\n"
        "    if n not in kept:\n        kept[n] = mx.arange(n) * 2.0\n    return kept[n]\n",
        vars(helpers),
    )
    names: dict[str, Any] = {"helpers": helpers}
    exec("def fn(x):\n    return x * helpers.mask(x.shape[0]) + 1\n", names)
    return names["fn"], lambda: dict(sorted(helpers.kept.items()))


def by_cell() -> tuple[Callable[..., Any], Callable[[], Any]]:
    table: Any = None

    def fn(x: Any) -> Any:
        nonlocal table
        if table is None:
            table = mx.arange(8) * 0.5
        return x * table[: x.shape[0]]

    return fn, lambda: table


def by_class() -> tuple[Callable[..., Any], Callable[[], Any]]:
    class Tables:
        ones: Any = None

    def fn(x: Any) -> Any:
        if Tables.ones is None:
            Tables.ones = mx.full((8,), 2.5)
        return x * Tables.ones[: x.shape[0]] + 1

    return fn, lambda: Tables.ones


def by_object_and_list() -> tuple[Callable[..., Any], Callable[[], Any]]:
    held, rows = types.SimpleNamespace(), list[Any]()

    def fn(x: Any) -> Any:
        if not rows:
            rows.append(mx.arange(8) * 2.0)
            held.table = rows[0] + 1
        return x * rows[0][: x.shape[0]] + held.table[: x.shape[0]]

    return fn, lambda: (rows, held.table)


def told(tree: Any) -> Any:
    if isinstance(tree, mx.array):
        assert type(tree) is mx.array
        return tree.tolist()
    if isinstance(tree, dict):
        return {key: told(value) for key, value in tree.items()}
    return [told(item) for item in tree]


@pytest.mark.parametrize(
    "made",
    [by_lru_cache, by_unbounded_cache, by_method, by_dict, by_module, by_cell, by_class,
     by_object_and_list],
)  # fmt: skip
def test_as_plain(made: Callable[[], Any]) -> None:
    (fn, kept), (plain, wanted) = made(), made()
    fused = zmlx.fuse(fn)
    for _ in range(2):
        for x in CALLS:
            assert mx.allclose(fused(x), plain(x), atol=1e-6)
    assert told(kept()) == told(wanted())
    x = CALLS[1]
    gradients = [mx.grad(lambda x, f=f: f(x).sum())(x) for f in (fused, plain)]
    assert mx.allclose(*gradients, atol=1e-6)


def test_the_memo_of_a_traced_array_is_forgotten() -> None:
    @functools.lru_cache
    def doubled(x: Any) -> Any:
        return x * 2 + 1

    fused = zmlx.fuse(lambda x: doubled(x) + doubled(x))
    for x in CALLS:
        assert mx.array_equal(fused(x), (x * 2 + 1) * 2)
    assert doubled.cache_info().currsize == 0


def _kept_argument(x: Any, kept: dict[str, Any]) -> Any:
    return kept.setdefault("k", x * 2) + x


def _written_always(x: Any, kept: dict[str, Any]) -> Any:
    kept["k"] = mx.zeros((3,))
    return x * 2


def _counted(x: Any, kept: dict[str, Any]) -> Any:
    kept["k"] = kept.get("k", mx.array(0.0)) + 1
    return x * kept["k"]


def _listed(x: Any, kept: dict[str, Any]) -> Any:
    kept.setdefault("k", []).append(mx.zeros((2,)))
    return x * 2


@pytest.mark.parametrize("fn", [_kept_argument, _written_always, _counted, _listed])
def test_what_is_no_table_is_refused_and_left_as_it_was(fn: Callable[..., Any]) -> None:
    kept: dict[str, Any] = {}
    fused = zmlx.fuse(lambda x: fn(x, kept))
    for _ in range(2):
        with pytest.raises(TraceError, match=r"test_memos.py:\d+.*is kept in a"):
            fused(CALLS[0])
        assert kept == {}


def test_a_function_that_raises_after_it_made_its_table() -> None:
    kept: dict[str, Any] = {}

    def fn(x: Any, bad: bool) -> Any:
        if "k" not in kept:
            kept["k"] = mx.arange(3) * 2.0
        if bad:
            raise KeyError("bad")
        return x * kept["k"]

    fused = zmlx.fuse(fn)
    with pytest.raises(KeyError):
        fused(CALLS[0], True)
    assert kept == {}
    assert mx.array_equal(fused(CALLS[0], False), CALLS[0] * mx.array([0.0, 2.0, 4.0]))
    assert kept["k"].tolist() == [0, 2, 4]


def test_what_says_that_a_table_is_there_goes_with_it() -> None:
    """A run that is undone is undone whole: the function runs again, and makes the table again."""

    class Rotation:
        ready, made = False, 0

        def table(self, length: Any) -> Any:
            if not self.ready:
                self.kept, self.ready, self.made = mx.arange(length) * 2.0, True, self.made + 1
            return self.kept

    rotation, log = Rotation(), list[str]()

    def fn(x: Any, bad: bool) -> Any:
        if not rotation.ready:
            log.append("made")
        y = x * rotation.table(x.shape[0])
        if bad:
            raise KeyError("bad")
        return y

    fused = zmlx.fuse(fn)
    with pytest.raises(KeyError):
        fused(CALLS[0], True)
    assert not rotation.ready and not hasattr(rotation, "kept") and log == []
    assert mx.array_equal(fused(CALLS[0], False), CALLS[0] * mx.array([0.0, 2.0, 4.0]))
    assert rotation.ready and rotation.made == 1 and log == ["made"]


def test_a_refused_step_leaves_the_optimizer_as_it_was() -> None:
    """Its state goes, and `initialized` with it: the step runs unfused, or is refused again."""
    model, adam = nn.Linear(3, 3), optim.Adam(1e-2)
    slopes = nn.value_and_grad(model, lambda x: model(x).sum())

    def step(x: Any) -> Any:
        loss, gradient = slopes(x)
        adam.update(model, gradient)
        return loss

    fused = zmlx.fuse(step)
    for _ in range(2):
        with pytest.raises(TraceError, match="inputs="):
            fused(CALLS[0])
    first = mx.array(model.weight)
    step(CALLS[0])
    assert not mx.array_equal(model.weight, first)
    assert adam.state["step"].item() == 1
