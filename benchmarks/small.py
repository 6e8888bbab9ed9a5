"""Latency rows of small arrays: CPU time of a gradient beside the least that mx.grad can take.

Whatever stands in it, mx.grad traces: it copies its arguments, calls Python, walks back. So three
gradients of next to nothing are measured in turn with it: of a plain sum, of a sum of an
mx.custom_function whose rules return what they are given, and of such a primitive of the native
module. benchmarks.latency lists these rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import zmlx
from benchmarks.harness import SUBJECT, Bar, Peer, Result, Settings, Skipped, agree, measure
from benchmarks.peers import COMPILE, OUTSIDE, call_of, nothing
from zmlx.device.rules import native_or_none

SUITE = "latency"
ELEMENTS = 64
CALLS = 200  # in one sample
SUM, CUSTOM, BARE = "mx.grad of a sum", "mx.grad of a custom_function", "mx.grad of a primitive"
LIMIT = 1.3  # times OUTSIDE's CPU time


def rows() -> list[tuple[str, Callable[[Settings], Result]]]:
    return [
        (f"CPU time of a gradient, {ELEMENTS} elements", gradient),
        ("CPU time of a list of 16 arrays", tree),
        ("host time to build a call, module of 50 Linear layers", layers),
    ]


def gradient(settings: Settings) -> Result:
    """Built and evaluated."""
    x, y = (mx.random.normal((ELEMENTS,)) for _ in range(2))
    mx.eval(x, y)

    def slope(f: Callable[..., mx.array]) -> Callable[..., Any]:
        return mx.grad(lambda x, y: f(x, y).sum(), argnums=(0, 1))

    def formula(x: mx.array, y: mx.array) -> mx.array:
        return mx.sigmoid(x) * y * x + mx.tanh(y)

    ways = ((SUBJECT, slope(zmlx.fuse(formula))), (OUTSIDE, mx.compile(slope(formula))))
    same = [Peer(name, call_of(f, [x, y])) for name, f in ways]
    agree(same, slope(formula)(x, y), mx.float32)
    least = [
        Peer(SUM, call_of(slope(lambda x, y: x), [x, y])),
        Peer(CUSTOM, call_of(slope(custom()), [x, y])),
    ]
    bare = primitive()
    absent = () if bare is not None else (Skipped(BARE, "the native module is not there"),)
    least += [] if bare is None else [Peer(BARE, call_of(slope(bare), [x, y]))]
    samples = _used([*same, *least], settings)
    bars = (Bar("times", 1 / LIMIT, OUTSIDE),)
    return Result(SUITE, "", "µs", samples, bars, skipped=absent, note="CPU time, all threads")


def custom() -> Callable[..., mx.array]:
    """A function of MLX's own with a rule that does nothing."""
    f: Any = mx.custom_function(lambda x, y: x)
    f.vjp(lambda primals, cotangent, output: (cotangent, cotangent))
    return lambda x, y: f(x, y)


class Through:
    """Rules that hand on what they are given."""

    def vjp(self, primals: Any, cotangents: Any, argnums: Sequence[int], outputs: Any) -> Any:
        return [cotangents[0]] * len(argnums)


def primitive() -> Callable[..., mx.array] | None:
    """A primitive of the native module around one of MLX's, with rules that do nothing."""
    native, rules = native_or_none(), Through()
    if native is None:
        return None
    return lambda x, y: native.ruled([mx.add(x, y)], rules)[0]


def tree(settings: Settings) -> Result:
    """As many kernels as arrays, built and evaluated."""
    arrays = [mx.full((16 + i,), float(i)) for i in range(16)]
    mx.eval(arrays)

    def each(arrays: list[mx.array]) -> list[mx.array]:
        return [a * 2 + mx.sigmoid(a) for a in arrays]

    ways = ((SUBJECT, zmlx.fuse(each)), (COMPILE, mx.compile(each)))
    peers = [Peer(name, call_of(f, [arrays])) for name, f in ways]
    agree(peers, each(arrays), mx.float32)
    samples = _used(peers, settings)
    bars = (Bar("times", 1 / LIMIT, COMPILE),)
    return Result(SUITE, "", "µs", samples, bars, note="CPU time, all threads")


def layers(settings: Settings) -> Result:
    """A module of many modules, two of which it uses: ZMLX looks them all up at each call."""
    model, x = Stack(), mx.ones((8,))
    mx.eval(model.parameters(), x)
    compiled = mx.compile(lambda x: model(x), inputs=model.state)
    ways = ((SUBJECT, zmlx.fuse(model)), (COMPILE, compiled))
    peers = [Peer(name, call_of(f, [x])) for name, f in ways]
    agree(peers, [model(x)], mx.float32)
    samples = _used(peers, settings, evaluated=False)
    return Result(SUITE, "", "µs", samples, note="CPU time, not evaluated")


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(8, 8) for _ in range(50)]

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.layers[1].bias + mx.sigmoid(self.layers[2].bias)


def _used(
    peers: Sequence[Peer], settings: Settings, evaluated: bool = True
) -> dict[str, list[float]]:
    """Microseconds of CPU for a call, from samples of so many."""
    calls = 5 if settings.quick else CALLS

    def repeated(peer: Peer) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                result = peer.call()
                if evaluated:
                    mx.eval(result)

        return run

    timed = [Peer(peer.name, repeated(peer), nothing, nothing) for peer in peers]
    taken = measure(timed, replace(settings, clock=time.process_time), "µs", launches=1)
    return {name: [t / calls for t in values] for name, values in taken.items()}
