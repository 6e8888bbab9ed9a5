"""What an error of a fused function shows: the caller's line, then the line inside."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx
from zmlx.errors import TraceError

HERE = str(Path(__file__))
OWN = str(Path(zmlx.__file__).parent) + os.sep


def frames(call: Callable[[], Any], kind: type[Exception]) -> list[str]:
    """The file and function of each frame, ours as "zmlx"."""
    with pytest.raises(kind) as caught:
        call()
    found = traceback.extract_tb(caught.value.__traceback__)
    return ["zmlx" if f.filename.startswith(OWN) else f.name for f in found if f.name != "frames"]


def product(x: mx.array, w: mx.array) -> mx.array:
    return x @ w


@zmlx.fuse
def layer(x: mx.array, w: mx.array) -> mx.array:
    return product(x, w) + 1


@zmlx.fuse
def branching(x: mx.array) -> mx.array:
    return x if x.sum() > 0 else -x


def wrong_shapes() -> None:
    layer(mx.ones((2, 3)), mx.ones((4, 5)))


def a_branch() -> None:
    branching(mx.ones(3))


def in_a_gradient() -> None:
    mx.grad(lambda x: layer(x, mx.ones((4, 5))).sum())(mx.ones((2, 3)))


def test_the_users_line_comes_behind_the_call() -> None:
    assert frames(wrong_shapes, ValueError) == ["wrong_shapes", "zmlx", "layer", "product"]
    assert frames(a_branch, TraceError) == ["a_branch", "zmlx", "branching"]
    last = frames(in_a_gradient, ValueError)
    assert last == ["in_a_gradient", "<lambda>", "zmlx", "layer", "product"]


def test_a_module_of_mlxs_shows_its_own_lines() -> None:
    model = zmlx.fuse(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)))
    assert frames(lambda: model(mx.ones((2, 3))), ValueError)[1] == "zmlx"
    assert frames(lambda: model(mx.ones((2, 3))), ValueError)[-1] == "__call__"


def test_arguments_and_options_are_refused_in_one_frame() -> None:
    assert frames(lambda: layer(np.ones(3), mx.ones(3)), TypeError) == ["<lambda>", "zmlx"]
    assert frames(lambda: zmlx.fuse(layer, shapeless=True), TypeError) == ["<lambda>", "zmlx"]


def test_all_frames_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_TRACEBACK", "1")
    assert frames(wrong_shapes, ValueError).count("zmlx") > 3


def test_a_defect_of_ours_keeps_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmlx.fuse.table.Table._entry", None)
    fused = zmlx.fuse(product)
    assert frames(lambda: fused(mx.ones((2, 2)), mx.ones((2, 2))), TypeError).count("zmlx") == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("assert (x > 0).all()", "an assertion about an array's values needs.*Check it outside"),
        (
            "while (x < 3).all():\n        x = x + 1",
            "a loop that an array's value ends needs.*known",
        ),
        ("if x.sum() > 0:\n        x = -x", r"a branch on an array's value needs.*mx\.where"),
    ],
)
def test_the_way_out_is_that_of_the_statement(body: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "users.py"
    path.write_text(f"def f(x):\n    {body}\n    return x\n")
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    with pytest.raises(TraceError, match=words):
        zmlx.fuse(names["f"])(mx.ones(3))
