"""`zmlx.fuse.pattern`: users' own patterns, what they may not say, and reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from tests.patterns.proof import alike, normal
from zmlx.device.base import current_name
from zmlx.errors import PlanError
from zmlx.fuse import forms, pattern, patterns, program, replaced
from zmlx.trace.run import trace


def scaled(x: Any, w: Any, eps: float) -> Any:
    return mx.logaddexp(x, w) * eps + x


@pytest.fixture
def registered() -> Iterator[Callable[..., Any]]:
    made = []

    def register(*spellings: Any, **how: Any) -> Any:
        made.append(pattern("own", *spellings, **how))
        return made[-1]

    yield register
    for one in made:
        patterns.remove(one)


ARRAYS = {"x": "*D", "w": "~*D"}
X, W = normal(3, 5), normal(5, seed=1)


@pytest.mark.parametrize("inline", [True, False])
def test_numbers_reach_the_replacement(registered: Any, inline: bool) -> None:
    registered(
        scaled, by=lambda x, w, eps: eps * mx.logaddexp(x, w) + x + 0.0 * w, inline=inline,
        arrays=ARRAYS, numbers={"eps": 0.5},
    )  # fmt: skip
    for fn, args in (
        (lambda x, w: x + mx.logaddexp(w, x) * 0.25, (X, W)),
        (lambda x, w, rate: x + rate * mx.logaddexp(x, w), (X, W, 0.3)),
        (lambda x, w: mx.logaddexp(x, w) * (1 / x.shape[-1]) + x, (X, W)),
    ):
        assert [one.name for one in zmlx.explain(fn, *args).fired] == ["own"]
        alike(zmlx.fuse(fn), fn, *args)
    fused = zmlx.fuse(lambda x, w, rate: mx.sin(x + rate * mx.logaddexp(x, w)))
    for width, rate in ((5, 0.3), (7, 0.4)):
        args = normal(3, width), normal(width), rate
        np.testing.assert_allclose(
            np.array(fused(*args)),
            np.array(mx.sin(args[0] + rate * mx.logaddexp(*args[:2]))), atol=2e-6,
        )  # fmt: skip
    assert fused.cache_info().misses == 1


def test_a_number_that_stands_twice_is_one(registered: Any) -> None:
    registered(lambda x, eps: mx.expm1(x * eps) / eps, by=lambda x, eps: x * 2 * eps,
               arrays={"x": "*D"}, numbers={"eps": 0.5}, floats=("float32",))  # fmt: skip
    assert zmlx.explain(lambda x: mx.expm1(x * 0.3) / 0.3, X).fired
    report = zmlx.explain(lambda x: mx.expm1(x * 0.3) / 0.4, X)
    assert not report.fired and "before" in report.nearly[0].why


def test_where_devices_and_removal(registered: Any) -> None:
    def wide(found: Any) -> str:
        return "" if found.shape("x")[-1] > 8 else "rows are short"

    made = registered(scaled, by=scaled, arrays=ARRAYS, numbers={"eps": 0.5}, where=wide)
    fn = lambda x, w: scaled(x, w, 0.5)  # noqa: E731
    assert zmlx.explain(fn, X, W).nearly[0].why == "rows are short"
    assert zmlx.explain(fn, normal(2, 9), normal(9)).fired
    elsewhere = "cuda" if current_name() == "metal" else "metal"
    registered(scaled, by=scaled, arrays=ARRAYS, numbers={"eps": 0.5}, devices=[elsewhere])
    assert "does not pay" in zmlx.explain(fn, X, W).nearly[0].why
    assert made not in patterns.table()


def test_reports_say_what_fired_in_text_json_and_on_the_page(registered: Any) -> None:
    registered(scaled, by=scaled, arrays=ARRAYS, numbers={"eps": 0.5}, doc="itself", inline=False)
    report = zmlx.explain(lambda x, w: mx.exp(scaled(x, w, 0.5)), X, W)
    data = json.loads(report.json())["patterns"]
    assert data["fired"][0]["name"] == "own" and data["fired"][0]["by"] == "itself"
    assert "Replaced, pattern own" in report.text() and "pattern own" in report._repr_html_()
    assert any("takes the place of the pattern own" in u.reason for u in report.unfused)
    missed = zmlx.explain(lambda x, w: scaled(x, w.astype(mx.float16), 0.5), X, W)
    assert "Nearly pattern own" in missed.text()
    assert "float16" in json.loads(missed.json())["patterns"]["nearly"][0]["why"]


def test_several_results_and_what_reads_them_early(registered: Any) -> None:
    def two(x: Any, w: Any, z: Any) -> Any:
        inner = mx.arctan2(x, w)
        return mx.tan(inner) * z, inner

    def of_three(x: Any, w: Any, z: Any) -> Any:
        inner = mx.arctan2(x, w)
        return mx.tan(inner) * z * 1.0, inner

    def by(x: Any, w: Any, z: Any) -> Any:
        inner = mx.arctan2(x, w)
        return x / w * z, inner

    registered(two, by=by, arrays={"x": "*D", "w": "*D", "z": "*D"})
    args = X, X + 3.0, X * 2.0
    assert zmlx.explain(of_three, *args).fired
    alike(zmlx.fuse(of_three), of_three, *args)

    def early(x: Any, w: Any, z: Any) -> Any:
        inner = mx.arctan2(x, w)
        return mx.tan(inner) * (z * mx.sum(inner)), inner

    report = zmlx.explain(early, *args)
    assert not report.fired and "before all that it reads" in report.nearly[0].why
    alike(zmlx.fuse(early), early, *args)


def test_what_is_wrong_is_named(registered: Any) -> None:
    with pytest.raises(ValueError, match="'other'"):
        registered(lambda other: other, by=scaled, arrays={"x": "*D"})
    with pytest.raises(ValueError, match="'npu'"):
        registered(lambda x: x, by=scaled, arrays={"x": "*D"}, devices=["npu"])
    with pytest.raises(ValueError, match="'float128'"):
        registered(lambda x: x, by=scaled, arrays={"x": "*D"}, types=[{"x": "float128"}])
    registered(scaled, by=lambda x, w, eps: x[0], arrays=ARRAYS, numbers={"eps": 0.5})
    with pytest.raises(PlanError, match="what replaces 'own' is float32"):
        zmlx.fuse(lambda x, w: scaled(x, w, 0.5))(X, W)


def test_a_replacement_that_reads_sizes_says_so(registered: Any) -> None:
    def by(x: Any, w: Any, eps: float) -> Any:
        return scaled(x, w, eps) if x.shape[-1] > 3 else x

    registered(scaled, by=by, arrays=ARRAYS, numbers={"eps": 0.5})
    with pytest.raises(PlanError, match="inline=False"):
        zmlx.fuse(lambda x, w: scaled(x, w, 0.5))(X, W)
    registered(scaled, by=by, arrays=ARRAYS, numbers={"eps": 0.5}, inline=False)
    fn = lambda x, w: scaled(x, w, 0.5)  # noqa: E731
    alike(zmlx.fuse(fn), fn, X, W)


def test_a_graph_that_was_looked_at_is_not_simplified_again(
    registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(scaled, by=scaled, arrays=ARRAYS, numbers={"eps": 0.5}, inline=False)

    def again(graph: Any) -> Any:
        raise AssertionError("simplified once more")

    monkeypatch.setattr(program, "simplify", again)
    for eps, is_one in ((0.5, True), (X, False)):  # a number, and an array
        fn = partial(scaled, eps=eps)
        assert bool(zmlx.explain(fn, X, W).fired) == is_one
        mx.eval(zmlx.fuse(fn)(X, W))


def test_places_that_are_alike_share_one_trace(
    registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(*args: Any) -> Any:
        made.append(args)
        return trace(*args)

    def fn(x: Any, w: Any) -> Any:
        for _ in range(3):
            x = mx.sin(scaled(x, w, 0.5))
        return scaled(x, w, 0.25)

    registered(scaled, by=scaled, arrays=ARRAYS, numbers={"eps": 0.5})
    monkeypatch.setattr(replaced, "trace", counted)
    alike(zmlx.fuse(fn), fn, X, W)
    assert len(made) == 2  # of two numbers


def test_every_rule_of_forms_is_that_of_a_function_of_mlx() -> None:
    """Of the names of a function the form's is one that a rule knows: cumsum, not its alias."""
    ruled = {*forms._DEFAULTS, *forms._RULES}
    for name in ruled:
        module, _, last = name.rpartition(".")
        function = vars(forms._MODULES[f"{module}." if module else ""]).get(last)
        if function is not None:
            assert forms._NAMES[id(function)] in ruled, name
        assert function is not None or hasattr(mx.array, name) or hasattr(mx.array, f"__{name}__")
