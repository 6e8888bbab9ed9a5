"""What `fuse` takes and refuses, how it shows itself, and copies of fused functions."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import pydoc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import zmlx

x = mx.array([0.5, -1.0, 2.0])


@zmlx.fuse
def by_name(a: mx.array) -> mx.array:
    return mx.sin(a) * 2 + 1


def plain(a: mx.array) -> mx.array:
    return mx.sin(a) * 3 + 1


other = zmlx.fuse(plain, numerics="mlx")


def generator(a: mx.array) -> Iterator[mx.array]:
    yield a * 2


async def coroutine(a: mx.array) -> mx.array:
    return a * 2


async def async_generator(a: mx.array) -> AsyncIterator[mx.array]:
    yield a * 2


class Calls:
    """An object whose call is a generator."""

    def __call__(self, a: mx.array) -> Iterator[mx.array]:
        yield a * 2


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (generator, "a generator function .generator., .*Fuse a plain function"),
        (coroutine, "an async function .coroutine."),
        (async_generator, "an async generator function .async_generator."),
        (functools.partial(generator), "a generator function"),
        (Calls(), "a generator function .Calls."),
        (Calls, "the class Calls, .*zmlx.fuse.Calls.*, or put @zmlx.fuse above its __call__"),
        (nn.Linear, "the class Linear"),
        (3, "fn is a int"),
    ],
)
def test_refused_at_once(fn: Any, words: str) -> None:
    for decorate in (zmlx.fuse, zmlx.fuse(numerics="mlx")):
        with pytest.raises(TypeError, match=words):
            decorate(fn)


def test_arguments_of_other_decorators() -> None:
    with pytest.raises(TypeError, match="no option 'shapeless': new sizes need no new kernel"):
        zmlx.fuse(plain, shapeless=True)
    with pytest.raises(TypeError, match="inputs=state, outputs=state"):
        zmlx.fuse(plain, [x], [x])
    with pytest.raises(TypeError, match="no option 'nummerics': wanted inputs, outputs, numerics"):
        zmlx.fuse(nummerics="mlx")
    with pytest.raises(TypeError, match="write @zmlx.fuse"):
        zmlx(plain)  # type: ignore[operator]


def test_it_shows_what_it_takes() -> None:
    assert list(inspect.signature(zmlx.fuse).parameters) == [
        *("fn", "inputs", "outputs", "numerics", "cache_size")
    ]
    text = pydoc.render_doc(zmlx.fuse, renderer=pydoc.plaintext)
    assert "cache_size: how many traces are kept" in text and "numerics: str = 'fp32'" in text
    assert (Path(zmlx.__file__).parent / "py.typed").is_file()


class Methods:
    """Methods of a class, decorated above and below."""

    @zmlx.fuse
    @staticmethod
    def above(a: mx.array) -> mx.array:
        return mx.sin(a) * 2 + 1

    @staticmethod
    @zmlx.fuse
    def below(a: mx.array) -> mx.array:
        return mx.sin(a) * 2 + 1

    @zmlx.fuse
    @classmethod
    def of_class(cls, a: mx.array) -> mx.array:
        return mx.sin(a) * 2 + 1


def test_static_and_class_methods() -> None:
    wanted = mx.sin(x) * 2 + 1
    for call in (Methods.above, Methods().above, Methods.below, Methods.of_class):
        assert mx.allclose(call(x), wanted).item()
    assert mx.allclose(Methods().of_class(x), wanted).item()


def test_copies_and_pickles_before_and_after_a_call() -> None:
    for _ in range(2):
        assert pickle.loads(pickle.dumps(by_name)) is by_name
        again = pickle.loads(pickle.dumps(other))
        assert again is not other and again._options == other._options
        for made in (again, copy.deepcopy(other), copy.deepcopy({"f": other})["f"]):
            assert mx.array_equal(made(x), plain(x)).item()
        assert copy.copy(by_name) is by_name
        assert mx.allclose(copy.deepcopy(by_name)(x), by_name(x)).item()
        other(x)


def test_a_copied_module_is_its_own() -> None:
    fused = zmlx.fuse(nn.Linear(3, 2))
    before = fused(x)
    twin = copy.deepcopy(fused)
    twin.weight = mx.zeros((2, 3))
    assert mx.array_equal(twin(x), twin.bias).item()
    assert mx.array_equal(fused(x), before).item()


def test_attributes_of_a_fused_module_are_the_modules() -> None:
    module = nn.Linear(3, 2)
    fused = zmlx.fuse(module)
    fused(x)
    fused.weight = mx.zeros((2, 3))
    assert module.weight is fused.weight
    assert mx.array_equal(fused(x), module.bias).item()
    by_name.note = "a function's own"
    assert by_name.note == "a function's own"
