"""Values with attributes of a user's own, and writes to what carries a function."""

from __future__ import annotations

import datetime
import enum
import functools
import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from zmlx.errors import TraceError


class Text(str): ...


class Raw(bytes): ...


class Whole(int): ...


class Real(float): ...


class Complex(complex): ...


class Members(set[Any]): ...


class Fixed(frozenset[Any]): ...


class Memory(bytearray): ...


class Day(datetime.date): ...


class Problem(Exception): ...


class Planet(enum.Enum):
    EARTH = 1


class Level(enum.IntEnum):
    LOW = 1


VALUES: dict[str, Callable[[], Any]] = {
    "str": lambda: Text("a"), "bytes": lambda: Raw(b"a"), "int": lambda: Whole(2),
    "float": lambda: Real(2.0), "complex": lambda: Complex(2), "set": lambda: Members({1.0, 2}),
    "frozenset": lambda: Fixed({1.0, 2}), "bytearray": lambda: Memory(b"a"),
    "date": lambda: Day(2020, 1, 1), "Exception": lambda: Problem(1), 
    "OSError": lambda: OSError(3, "a"),
    "Enum": lambda: Planet.EARTH, "IntEnum": lambda: Level.LOW,
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_attributes_of_values_are_new_at_every_call(name: str) -> None:
    x, held = mx.array([1.0, 2.0]), VALUES[name]()
    fused = zmlx.fuse(lambda x, held: x * held.scale)
    for scale in (1.0, 2.0, 3.0, mx.array(4.0), mx.array(5.0)):
        held.scale = scale
        assert fused(x, held).tolist() == (x * scale).tolist()
    assert fused.cache_info().misses == 3  # a number, the number as it moves, an array
    del held.scale


@pytest.mark.parametrize("name", VALUES)
def test_attributes_of_values_are_written_at_every_call(name: str) -> None:
    x, held = mx.array([1.0, 2.0]), VALUES[name]()
    held.count, held.total = 0, mx.array(0.0)

    @zmlx.fuse
    def step(x: mx.array, held: Any) -> mx.array:
        held.count += 1
        held.total = held.total + x.sum()
        return x * held.total

    results = [step(x, held)[0].item() for _ in range(3)]
    assert results == [3.0, 6.0, 9.0]
    assert (held.count, held.total.item()) == (3, 9.0)
    del held.count, held.total


@pytest.mark.parametrize("kind", [Text, Raw, Whole, Real, Members, Fixed, Memory])
def test_values_with_equal_attributes_are_told_by_themselves(kind: Any) -> None:
    fused, x = zmlx.fuse(lambda x, held: x * len(repr(held)) + held.scale), mx.array([1.0, 2.0])
    for content in (kind(), kind("1" if kind in (Text, Whole, Real) else [1, 2]), kind()):
        content.scale = 2.0
        assert fused(x, content).tolist() == (x * len(repr(content)) + 2.0).tolist()
    assert fused.cache_info().misses == 2


@pytest.mark.parametrize("kind", [Problem, ValueError, KeyError, OSError])
def test_arguments_of_exceptions_are_new_at_every_call(kind: Any) -> None:
    fused, x, held = zmlx.fuse(lambda x, held: x * held.args[0]), mx.array([1.0, 2.0]), kind(1.0)
    for first in (1.0, 2.0, 3.0, mx.array(4.0), mx.array(5.0)):
        held.args = (first,)
        assert fused(x, held).tolist() == (x * first).tolist()


def test_attributes_of_a_dicts_keys_are_seen() -> None:
    fused, x, key = zmlx.fuse(lambda x, d: x * next(iter(d)).scale), mx.array([1.0]), Text("a")
    for scale in (1.0, 2.0):
        key.scale = scale
        assert fused(x, {key: 0}).item() == scale


def test_values_with_attributes_are_not_kept_alive() -> None:
    fused, held = zmlx.fuse(lambda x, held: x * held.scale), Text("a")
    held.scale = mx.array(2.0)
    fused(mx.array([1.0]), held)
    gone = weakref.ref(held.scale)
    del held
    assert gone() is None


def test_an_attribute_that_a_function_sets_on_itself_is_refused() -> None:
    @zmlx.fuse
    def counted(x: mx.array) -> mx.array:
        counted.calls += 1
        return x * 2

    def plain(x: mx.array) -> mx.array:
        plain.calls = 1
        return x * 2

    counted.calls = 0
    for fused in (counted, zmlx.fuse(plain)):
        for _ in range(2):
            with pytest.raises(TraceError, match=r"`calls` of a fused function is set"):
                fused(mx.array(1.0))
    assert counted.calls == 0


class Scaled:
    def __init__(self) -> None:
        self.count, self.weight = 0, mx.array(2.0)

    def step(self, factor: float, x: mx.array, power: int = 1) -> mx.array:
        self.count += 1
        self.weight = self.weight + 1
        return (x * factor * self.weight) ** power

    __call__ = step
    doubled = functools.partialmethod(step, 2.0, power=2)


PARTIALS: dict[str, Callable[[Scaled], Any]] = {
    "of a method": lambda owner: functools.partial(owner.step, 2.0, power=2),
    "of a function": lambda owner: functools.partial(Scaled.step, owner, 2.0, power=2),
    "of a partial": lambda owner: functools.partial(functools.partial(owner.step, power=2), 2.0),
    "of an object": lambda owner: functools.partial(owner, 2.0, power=2),
    "of a class": lambda owner: owner.doubled,
    "with attributes": lambda owner: functools.update_wrapper(
        functools.partial(owner.step, 2.0, power=2), Scaled.step
    ),
}


@pytest.mark.parametrize("name", PARTIALS)
def test_a_fused_partial_reads_and_writes_what_it_holds(name: str) -> None:
    fused_owner, owner, x = Scaled(), Scaled(), mx.array([1.0, 2.0])
    fused, plain = zmlx.fuse(PARTIALS[name](fused_owner)), PARTIALS[name](owner)
    for _ in range(3):
        assert fused(x).tolist() == plain(x).tolist()
        assert (fused_owner.count, fused_owner.weight.item()) == (owner.count, owner.weight.item())
        fused_owner.weight = owner.weight = owner.weight * 2
    assert fused(x, power=1).tolist() == plain(x, power=1).tolist()


def test_a_fused_partial_writes_to_its_list_and_its_array() -> None:
    def step(x: mx.array, total: mx.array, log: list[int]) -> mx.array:
        total += x.sum()
        log.append(len(log))
        return x * total

    total, log = mx.array(0.0), [0]
    fused = zmlx.fuse(functools.partial(step, total=total, log=log))
    assert [fused(mx.array([1.0, 2.0]))[0].item() for _ in range(3)] == [3.0, 6.0, 9.0]
    assert total.item() == 9 and log == [0, 1, 2, 3]
    report = fused.explain(mx.array([1.0, 2.0]))
    assert report.names.arrays == ("partial.keywords['total']", "x")


def test_a_subclass_of_partial_is_refused() -> None:
    class Own(functools.partial[Any]): ...

    with pytest.raises(TypeError, match="a subclass of functools.partial"):
        zmlx.fuse(Own(lambda a, x: a * x, 2.0))(mx.array(1.0))
