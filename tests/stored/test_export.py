"""A stored function is the function: results, gradients, sizes, kinds of calls, weights."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import zmlx
from tests.near import close, normal
from zmlx.errors import StoredError


def gated(x: mx.array, params: dict[str, mx.array], rate: float = 1.0) -> mx.array:
    h = x @ params["w"] + params["b"]
    return rate * (h * mx.sigmoid(h)) / h.shape[-1]


def params(width: int = 4) -> dict[str, mx.array]:
    return {"w": normal(3, width, seed=1), "b": normal(width, seed=2)}


def stored(path: Path, f: Any, *args: Any, **kwargs: Any) -> Any:
    zmlx.export(f, path, *args, **kwargs)
    return zmlx.load(path)


@pytest.mark.smoke
def test_it_is_the_function_for_other_sizes_and_numbers(tmp_path: Path) -> None:
    loaded = stored(tmp_path / "f.zmlx", zmlx.fuse(gated), normal(2, 3), params(), 0.5)
    close(loaded(normal(2, 3), params(), 0.5), gated(normal(2, 3), params(), 0.5))
    close(loaded(normal(7, 3), params(5), 2.0), gated(normal(7, 3), params(5), 2.0))
    close(loaded(x=normal(7, 3), params=params(5), rate=2.0), gated(normal(7, 3), params(5), 2.0))
    assert loaded.__name__ == "gated"


def test_defaults_are_those_of_the_function(tmp_path: Path) -> None:
    x = normal(2, 3)
    loaded = stored(tmp_path / "f.zmlx", gated, x, params())  # with the default, 1.0
    close(loaded(x, params()), gated(x, params()))
    close(loaded(x, params(), rate=3.0), gated(x, params(), 3.0))

    def shifted(x: mx.array, by: Any = OFFSET, *, axis: int = -1) -> mx.array:
        return mx.softmax(x, axis=axis) + by

    again = stored(tmp_path / "g.zmlx", shifted, x)
    close(again(x), shifted(x))
    assert str(inspect.signature(again)) == "(x, by=Ellipsis, *, axis=-1)"
    with pytest.raises(StoredError, match="by: absent -> float"):
        again(x, 2.0)
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        again()


OFFSET = mx.array(1.0)


def test_it_is_copied_and_pickled_by_its_file(tmp_path: Path) -> None:
    zmlx.export(gated, tmp_path / "f.zmlx", normal(2, 3), params())
    loaded = zmlx.load(tmp_path / "f.zmlx", kernels="compile")
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert other.kernels == "compile"
        close(other(normal(4, 3), params()), gated(normal(4, 3), params()))


def test_its_gradients_are_the_functions(tmp_path: Path) -> None:
    x = normal(2, 3)
    loaded = stored(tmp_path / "f.zmlx", gated, x, params(), 0.5)

    def loss(f: Any) -> Any:
        return lambda x, p: f(x, p, 0.5).square().sum()

    got = mx.grad(loss(loaded), argnums=(0, 1))(x, params())
    wanted = mx.grad(loss(gated), argnums=(0, 1))(x, params())
    close(got[0], wanted[0])
    for name in wanted[1]:
        close(got[1][name], wanted[1][name])
    tangents = [mx.jvp(lambda x, f=f: f(x, params(), 0.5), [x], [x])[1][0] for f in (loaded, gated)]
    close(*tangents)
    twice = mx.grad(lambda x: mx.grad(lambda x: loss(loaded)(x, params()))(x).sum())(x)
    close(twice, mx.grad(lambda x: mx.grad(lambda x: loss(gated)(x, params()))(x).sum())(x), 1e-5)


def test_it_goes_through_transformations_and_other_fused_functions(tmp_path: Path) -> None:
    x, p = normal(2, 3), params()
    loaded = stored(tmp_path / "f.zmlx", gated, x, p, 0.5)
    wanted = gated(x, p, 0.5) + 1
    close(mx.compile(lambda x: loaded(x, p, 0.5) + 1)(x), wanted)
    close(mx.compile(lambda x: loaded(x, p, 0.5) + 1, shapeless=True)(x), wanted)
    close(zmlx.fuse(lambda x: loaded(x, p, 0.5) + 1)(x), wanted)
    both = mx.stack([x, 2 * x])
    mapped = mx.vmap(lambda x: loaded(x, p, 0.5))(both)
    close(mapped, mx.vmap(lambda x: gated(x, p, 0.5))(both))


def test_weights_are_stored_as_they_are(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4))
    x, other = normal(5, 3), normal(2, 3)
    loaded = stored(tmp_path / "f.zmlx", model, x)
    wanted = model(other)
    mx.eval(wanted)
    model.layers[0].weight = mx.zeros((4, 3))
    close(loaded(other), wanted)

    state = {"scale": mx.array([2.0, 3.0, 4.0])}
    scaled = zmlx.fuse(lambda x: x * state["scale"] + CAPTURED, inputs=state)
    again = stored(tmp_path / "g.zmlx", scaled, x)
    state["scale"] = mx.zeros(3)
    close(again(other), other * mx.array([2.0, 3.0, 4.0]) + CAPTURED)


CAPTURED = mx.array([1.0, 2.0, 3.0])


class Scale:
    def __init__(self) -> None:
        self.by = mx.array(3.0)
        self.power = 2

    def __call__(self, x: mx.array) -> mx.array:
        return self.by * x**self.power

    def doubled(self, x: mx.array) -> mx.array:
        return 2 * self(x)


def test_methods_and_objects_bring_what_they_hold(tmp_path: Path) -> None:
    x = normal(4)
    close(stored(tmp_path / "m.zmlx", Scale().doubled, x)(x), 6 * x**2)
    close(stored(tmp_path / "o.zmlx", Scale(), x)(x), 3 * x**2)


def calls(x: mx.array, at: mx.array) -> dict[str, Any]:
    y = mx.fast.rms_norm(x.reshape(-1, 4)[:, ::-1], None, 1e-5).astype(mx.float16)
    y = mx.concatenate([y, y * 2], axis=0).T.astype(mx.float32)
    y[0] = 1.0
    z = y.at[at].add(2.0)
    first, rest = mx.split(z, [1], axis=0)
    top = mx.softmax(z, axis=-1) + z.max(axis=-1, keepdims=True) + z[..., None].squeeze(-1)
    with mx.stream(mx.cpu):
        moved = mx.sort(z, axis=-1)
    found = mx.linalg.norm(rest), mx.fft.rfft(z).real.sum()
    return {"z": [z, (first, top)], "found": found, "moved": moved, "kind": "calls", "n": None}


def test_calls_of_mlx_are_made_by_name(tmp_path: Path) -> None:
    x, at = normal(2, 2, 4), mx.array([0, 2])
    loaded = stored(tmp_path / "f.zmlx", calls, x, at)
    got, wanted = loaded(x, at), calls(x, at)
    assert (got["kind"], got["n"], list(got)) == ("calls", None, list(wanted))
    assert isinstance(got["found"], tuple) and isinstance(got["z"], list)
    for key in ("z", "found", "moved"):
        pairs = zip(flat(got[key]), flat(wanted[key]), strict=True)
        for a, b in pairs:
            close(a, b, 1e-3 if key == "z" else 1e-2)


def flat(tree: Any) -> list[mx.array]:
    return [tree] if isinstance(tree, mx.array) else [a for item in tree for a in flat(item)]


def test_draws_are_new_at_each_call_and_exporting_makes_none(tmp_path: Path) -> None:
    def noisy(x: mx.array) -> mx.array:
        return x + mx.random.normal(x.shape)

    x = mx.zeros((8,))
    mx.random.seed(3)
    loaded = stored(tmp_path / "f.zmlx", noisy, x)
    got = [loaded(x), loaded(x)]
    mx.random.seed(3)
    close(got[0], noisy(x))
    close(got[1], noisy(x))


def test_arguments_are_written_in_place(tmp_path: Path) -> None:
    def push(x: mx.array, by: mx.array) -> mx.array:
        x += by
        return x * 2

    x, by = mx.ones(3), mx.array([1.0, 2.0, 3.0])
    loaded = stored(tmp_path / "f.zmlx", push, x, by)
    assert x.tolist() == [1, 1, 1]
    assert loaded(x, by).tolist() == [4, 6, 8]
    assert x.tolist() == [2, 3, 4]


def powers(x: mx.array, n: int) -> mx.array:
    for _ in range(n):
        x = x * x + 1
    return x / x.shape[0]


def test_one_file_holds_several_kinds_of_calls(tmp_path: Path) -> None:
    path = tmp_path / "f.zmlx"
    with zmlx.exporter(powers, path) as write:
        for n in (1, 3):
            write(normal(4), n)
        write(mx.ones((2, 2), mx.float16), n=3)
    loaded = zmlx.load(path)
    close(loaded(normal(6), 1), powers(normal(6), 1))
    close(loaded(normal(6), 3), powers(normal(6), 3))
    close(loaded(mx.ones((5, 2), mx.float16), 3), powers(mx.ones((5, 2), mx.float16), 3), 1e-3)
    with pytest.raises(StoredError, match=r"read a size or number, 1: 2 here"):
        loaded(normal(6), 2)
    with pytest.raises(StoredError, match=r"x: float32\[n\] -> int32\[n\]"):
        loaded(mx.array([1, 2]), 1)


def test_what_patterns_ask_of_sizes_is_not_asked_of_a_file(tmp_path: Path) -> None:
    def attend(q: mx.array, k: mx.array) -> mx.array:
        return mx.softmax((q * 0.125) @ k.swapaxes(-1, -2), axis=-1) @ k

    large, small = normal(1, 8, 128, 8), normal(1, 8, 16, 8)
    fused = zmlx.fuse(attend)
    assert zmlx.explain(fused, large, large).fired
    loaded = stored(tmp_path / "f.zmlx", fused, large, large)
    close(loaded(small, small), attend(small, small), 1e-5)


def test_the_same_export_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with zmlx.exporter(gated, tmp_path / name, machine_code=False) as write:
            write(normal(2, 3), params(), 0.5)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_numerics_are_the_functions(tmp_path: Path) -> None:
    def chain(x: mx.array) -> mx.array:
        return (x * 1.1 + 0.3) * x

    x = normal(64, dtype=mx.float16)
    for numerics in ("mlx", "fp32"):
        fused = zmlx.fuse(chain, numerics=numerics)
        loaded = stored(tmp_path / numerics, fused, x)
        assert mx.array_equal(loaded(x), fused(x))
