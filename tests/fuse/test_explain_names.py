"""Explanations: inputs by the parameters' names, what is frozen by its name, and what runs here."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import zmlx

HERE = Path(__file__).name
SCALE, FLAG = 3.0, True
SETTINGS = {"eps": 1e-5, "deep": {"table": mx.ones((3, 1))}}
UNREAD = 17


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch, on_cpu: None) -> None:
    """Nothing here runs a kernel."""
    monkeypatch.setenv("ZMLX_DEVICE", "replay")


def inputs_of(explanation: Any) -> set[str]:
    return {p.source for region in explanation.regions for p in region.inputs}


x = mx.ones((3, 4))


# -- names of inputs ------------------------------------------------------------------------------
def several(params: Any, first: Any, *rest: Any, rate: float, **more: Any) -> Any:
    h = params["w"] * first + rest[1] * rate
    return mx.tanh(h) * more["scale"] + params["layers"][0]["b"]


def test_every_kind_of_parameter_lends_its_name() -> None:
    params = {"w": x + 1, "layers": [{"b": x + 2}]}
    e = zmlx.explain(several, params, x, x, x + 3, rate=0.5, scale=x + 4)
    wanted = {"params['w']", "params['layers'][0]['b']", "first", "rest[1]", "rate", "scale"}
    assert inputs_of(e) == wanted
    assert all(name in str(e.graph) for name in wanted)
    assert "params" in e._repr_html_()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = mx.ones((4,))
        self.layers = [{"shift": mx.zeros((4,))}]

    def __call__(self, x: Any) -> Any:
        return mx.tanh(x * self.weight) + self.layers[0]["shift"]


def test_a_module_s_arrays_are_its_attributes() -> None:
    module = Scaled()
    wanted = {"x", "self.weight", "self.layers[0]['shift']"}
    assert inputs_of(zmlx.explain(module, x)) == wanted
    e = zmlx.explain(lambda model, a: mx.exp(model(a)), module, x)
    assert inputs_of(e) == {"a", "model.weight", "model.layers[0]['shift']"}


def test_state_is_called_by_its_place_in_inputs() -> None:
    state = {"count": mx.ones((4,))}
    e = zmlx.fuse(lambda x: mx.exp(x) * state["count"], inputs=state).explain(x)
    assert inputs_of(e) == {"x", "inputs['count']"}


def test_one_array_in_two_places_is_called_by_the_first() -> None:
    f = lambda a, b: mx.exp(a) - mx.sin(b)  # noqa: E731
    assert inputs_of(zmlx.explain(f, x, x + 0)) == {"a", "b"}
    assert inputs_of(zmlx.explain(f, x, x)) == {"a"}


def test_numbers_computed_from_arguments_show_how() -> None:
    e = zmlx.explain(lambda x, rate, decay: mx.exp(x) * (rate * decay), x, 0.5, 0.25)
    assert inputs_of(e) == {"x", "mul(rate, decay)"}


# -- what is frozen -------------------------------------------------------------------------------
def helper(x: Any) -> Any:
    return x * SETTINGS["eps"] if FLAG else x


def test_numbers_read_by_name_are_listed_and_others_are_not() -> None:
    power, own = 2, SimpleNamespace(gain=4.0)

    def f(x: Any) -> Any:
        local = 5.0
        inner = [helper(x) * local for _ in range(2)]
        return mx.exp(inner[0]) * SCALE**power * own.gain + mx.pi

    found = {frozen.name: frozen.value for frozen in zmlx.explain(f, x).frozen}
    assert found == {
        "SCALE": "3.0", "power": "2", "own.gain": "4.0", "FLAG": "True", "SETTINGS['eps']": "1e-05"
    }  # fmt: skip
    assert "SCALE = 3.0" in str(zmlx.explain(f, x))
    assert "SCALE = 3.0" in zmlx.explain(f, x)._repr_html_()


@pytest.mark.parametrize(
    "wrap", [lambda f: f, zmlx.fuse, functools.partial], ids=["nothing", "fuse", "partial"]
)
def test_wrappers_hide_no_frozen_number(wrap: Any) -> None:
    def f(x: Any) -> Any:
        return mx.exp(x) * SCALE

    assert [frozen.name for frozen in zmlx.explain(wrap(f), x).frozen] == ["SCALE"]


def test_a_local_that_is_called_like_a_global_is_not_frozen() -> None:
    def f(x: Any) -> Any:
        UNREAD = x * 2
        return (lambda: mx.exp(UNREAD))()

    assert zmlx.explain(f, x).frozen == []


def test_captured_arrays_are_called_by_the_name_that_reaches_them() -> None:
    module = Scaled()
    e = zmlx.explain(lambda x: mx.exp(x) * SETTINGS["deep"]["table"] + module.weight, x)
    assert {c.name for c in e.captures} == {"SETTINGS['deep']['table']", "module.weight"}
    assert "SETTINGS['deep']['table']" in str(e)


LAZY = {"table": [mx.ones((3, 4))]}  # not evaluated: as mx.ones_like(x) would have made it


def test_a_captured_array_is_no_size_that_was_read() -> None:
    row = mx.zeros((4,))
    e = zmlx.explain(lambda x: mx.exp(x) * LAZY["table"][0] + row, x)
    assert len(e.captures) == 2
    assert e.shape_reads == []
    assert "size" not in str(e)


# -- what runs here -------------------------------------------------------------------------------
def gated(x: Any) -> Any:
    return x * mx.sigmoid(x) * mx.sigmoid(x)


def test_where_no_kernel_runs_the_report_says_so_and_why() -> None:
    e = zmlx.explain(gated, x)
    assert e.kernels_before == 4
    assert e.kernels_after == 3  # sigmoid(x) once
    assert e.bytes_before > e.bytes_after
    for text in (str(e), e.text(full=True), " ".join(e._repr_html_().split())):
        assert "regions run as MLX ops" in text
        assert "ZMLX_DEVICE" in text


def test_with_fusion_off_plain_mlx_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_FUSE", "0")
    e = zmlx.explain(gated, x)
    assert (e.kernels_before, e.kernels_after) == (4, 4)
    assert e.bytes_before == e.bytes_after
    assert "ZMLX_FUSE is '0'" in str(e)
    assert "MLX ops" not in str(e)
