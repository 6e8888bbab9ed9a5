"""Latency rows: what a call costs before and around its kernel, and a chain of 60 ops.

What happens once in a process is measured in fresh processes with private caches, of ZMLX and of
MLX (which keeps its compiled kernels below TMPDIR).
"""

from __future__ import annotations

import io
import os
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import zmlx
from benchmarks import cases, changing, small
from benchmarks.cases import CHAIN
from benchmarks.elementwise import forward
from benchmarks.fresh import child, json_of, private_caches, processes
from benchmarks.harness import SUBJECT, Bar, Parted, Peer, Result, Row, Settings, agree, measure
from benchmarks.peers import COMPILE, EAGER, call_of, mlx_peers, nothing
from zmlx.device.base import device_for_current_stream
from zmlx.device.rules import lazily

SUITE = "latency"
SMALL = (1024,)
CALLS = 2000  # in one sample of a call's host time
FEW, LEAVES = 100, 100  # calls and arrays where the argument is a tree
LINKS = 200  # calls in a row of dependent ones
NEW_SIZES = 5
WAYS = {SUBJECT: "fuse", COMPILE: "compile"}  # of benchmarks.child
BARE = "MLX's custom kernel"
NOTE = "in fresh processes with empty caches; the native module is there"
IMPORTS = """
import json, time
start = time.perf_counter()
import mlx.core
between = time.perf_counter()
import zmlx
end = time.perf_counter()
print(json.dumps({"mlx": between - start, "zmlx": end - between}))
"""


def rows(settings: Settings) -> list[Row]:
    listed: list[tuple[str, Callable[[Settings], Result]]] = [
        ("chain of 60 ops float32", lambda s: forward(CHAIN, "float32", s)),
        ("primitives of the chain's lazy result", kernels),
        ("trace, plan, emit the chain: first in a process", stages("cold", "ms", 100)),
        ("trace, plan, emit the chain: again", stages("warm", "ms", 100)),
        ("C++ compile of the chain", stages("compile", "s", 1.5)),
        ("first call of the chain, empty caches", first_call("chain", WAYS, 3)),
        ("first call of the chain, second process", second_process),
        ("host time to build a call, 1024 elements", build_call),
        ("host time to build a call, dict of 100 arrays", build_dict_call),
        ("host time to build a call, module of 100 parameters", build_module_call),
        ("200 dependent calls, 1024 elements, each", dependent_calls),
        ("traces for 5 new sizes", new_sizes),
        *small.rows(),
        *changing.rows(),
        ("import zmlx, beyond mlx.core", imports),
    ]
    if settings.device == "gpu":  # its compiler is part of the first call
        listed = [row for row in listed if not row[0].startswith("C++")]
        silu = first_call("silu", {**WAYS, BARE: "bare"}, 1.6)
        listed.append(("first call of silu(a)*b, empty caches", silu))
    return [Row(SUITE, name, run) for name, run in listed]


# -- in this process ------------------------------------------------------------------------------
def kernels(settings: Settings) -> Result:
    """Whether the chain is one kernel: MLX's own picture of its lazy result."""
    x = mx.random.normal(SMALL)
    mx.eval(x)
    peers = mlx_peers(cases.chain, [x])
    agree(peers, [cases.chain(x)], mx.float32)
    with lazily():
        counts = {peer.name: [float(primitives(peer.call()))] for peer in peers}
    return Result(SUITE, "", "primitives", counts, (Bar("at most", 1),))


def primitives(result: mx.array) -> int:
    """Primitives in the graph of a lazy array whose inputs were evaluated."""
    picture = io.StringIO()
    mx.export_to_dot(picture, result)
    return len(re.findall(r'label ?= ?"', picture.getvalue()))


def build_call(settings: Settings) -> Result:
    """Microseconds of Python for a call whose result is not evaluated."""
    inputs = [mx.random.normal(SMALL) for _ in range(2)]
    mx.eval(inputs)
    single = mlx_peers(cases.silu_mul, inputs)
    calls = 50 if settings.quick else CALLS
    built = _built(single, cases.silu_mul(*inputs), settings, calls)
    return replace(built, bars=(Bar("at most", 5),))


def build_dict_call(settings: Settings) -> Result:
    """The same where the one argument is a dict."""
    tree = {f"w{i}": mx.full((16,), float(i)) for i in range(LEAVES)}
    mx.eval(tree)

    def scaled(tree: dict[str, mx.array]) -> mx.array:
        return tree["w1"] * mx.sigmoid(tree["w2"])

    ways = ((SUBJECT, zmlx.fuse(scaled)), (COMPILE, mx.compile(scaled)))
    return _built([Peer(name, call_of(f, [tree])) for name, f in ways], scaled(tree), settings, FEW)


class Many(nn.Module):
    """A module of many parameters, two of which it uses."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [mx.full((16,), float(i)) for i in range(LEAVES)]

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.weights[1] + mx.sigmoid(self.weights[2])


def build_module_call(settings: Settings) -> Result:
    """The same of a module, whose parameters ZMLX looks up at each call."""
    x, model = mx.ones((16,)), Many()
    mx.eval(model.parameters(), x)
    compiled = mx.compile(lambda x: model(x), inputs=model.state)
    ways = ((SUBJECT, zmlx.fuse(model)), (COMPILE, compiled))
    return _built([Peer(name, call_of(f, [x])) for name, f in ways], model(x), settings, FEW)


def _built(single: list[Peer], expected: mx.array, settings: Settings, calls: int) -> Result:
    """Microseconds of Python for a call, from samples of so many."""
    agree(single, [expected], mx.float32)
    peers = [Peer(peer.name, repeated(peer.call, calls), nothing, nothing) for peer in single]
    taken = measure(peers, settings, "µs", launches=1)
    samples = {name: [t / calls for t in values] for name, values in taken.items()}
    return Result(SUITE, "", "µs", samples, note=f"samples of {calls} calls")


def repeated(call: Callable[[], Any], times: int) -> Callable[[], None]:
    """`call` that many times; results are dropped at once, so no graph grows."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def dependent_calls(settings: Settings) -> Result:
    """Microseconds a call in a row of calls, each on the result of the one before, evaluated."""
    x, y = (mx.random.uniform(0.5, 1.0, SMALL) for _ in range(2))
    mx.eval(x, y)
    links = 10 if settings.quick else LINKS
    ways = ((SUBJECT, zmlx.fuse(cases.silu_mul)), (COMPILE, mx.compile(cases.silu_mul)))
    peers = [
        Peer(name, call_of(linked, [f, x, y, links]))
        for name, f in (*ways, (EAGER, cases.silu_mul))
    ]
    agree(peers, [linked(cases.silu_mul, x, y, links)], mx.float32)
    taken = measure(peers, settings, "µs", launches=1)
    samples = {name: [t / links for t in values] for name, values in taken.items()}
    bars = (Bar("at most", 8),) if settings.device == "gpu" else ()
    return Result(SUITE, "", "µs", samples, bars, note=f"{links} calls a sample")


def linked(f: Callable[..., mx.array], x: mx.array, y: mx.array, links: int) -> mx.array:
    for _ in range(links):
        x = f(x, y)
    return x


def new_sizes(settings: Settings) -> Result:
    """How often a function's Python runs again when only sizes change."""
    ran: list[int] = []

    def counted(x: mx.array) -> mx.array:
        ran.append(1)
        return cases.gelu_tanh(x)

    mx.random.seed(0)
    arrays = [mx.random.normal((32 + i, 64)) for i in range(NEW_SIZES + 1)]
    expected = [cases.gelu_tanh(x) for x in arrays[1:]]
    counts = {}
    for name, f in ((SUBJECT, zmlx.fuse(counted)), (COMPILE, mx.compile(counted))):
        mx.eval(f(arrays[0]))
        before = len(ran)
        results = [f(x) for x in arrays[1:]]
        counts[name] = [float(len(ran) - before)]
        agree([Peer(name, call_of(list, [results]))], expected, mx.float32)
    return Result(SUITE, "", "traces", counts, (Bar("at most", 0),))


# -- in fresh processes ---------------------------------------------------------------------------
def stages(stage: str, unit: str, limit: float) -> Callable[[Settings], Result]:
    """A row for one of the figures of benchmarks.child.stages."""

    def run(settings: Settings) -> Result:
        taken = []
        for _ in range(processes(settings)):
            with private_caches() as environment:
                found = child(["stages", settings.device], environment)
            if stage not in found:
                raise RuntimeError(device_for_current_stream().unavailable() or "no kernels here")
            taken.append(found[stage] * (1e3 if unit == "ms" else 1))
        return Result(SUITE, "", unit, {SUBJECT: taken}, (Bar("at most", limit),), note=NOTE)

    return run


def first_call(case: str, ways: dict[str, str], limit: float) -> Callable[[Settings], Result]:
    """A row: trace, compile and run; mx.compile takes a minute on a GPU and runs there once.

    `limit` is the bar on a GPU.
    """

    def run(settings: Settings) -> Result:
        samples: dict[str, list[float]] = {name: [] for name in ways}
        found: dict[str, dict[str, float]] = {}
        for turn in range(processes(settings)):
            for name, way in ways.items():
                if name != COMPILE or turn == 0 or settings.device == "cpu":
                    with private_caches() as environment:
                        found[name] = child(["first", settings.device, way, case], environment)
            _keep(samples, found, 1)
        bars = (Bar("at most", limit),) if settings.device == "gpu" else ()
        return Result(SUITE, "", "s", samples, bars, note=NOTE)

    return run


def second_process(settings: Settings) -> Result:
    """The same call in a process that finds the caches filled by another."""
    samples: dict[str, list[float]] = {SUBJECT: [], COMPILE: []}
    with private_caches() as environment:
        for _ in range(1 + processes(settings)):
            found = {
                name: child(["first", settings.device, way, "chain"], environment)
                for name, way in WAYS.items()
            }
            _keep(samples, found, 1e3)
    samples = {name: taken[1:] for name, taken in samples.items()}  # the first filled the caches
    bars = (Bar("at most", 150),) if settings.device == "cpu" else ()
    return Result(SUITE, "", "ms", samples, bars, note="in fresh processes, imports not counted")


def _keep(
    samples: dict[str, list[float]], found: dict[str, dict[str, float]], scale: float
) -> None:
    """Add what children found to the samples, once their results agree."""
    mine = found[SUBJECT]["sum"]
    for name, values in found.items():
        if not abs(mine - values["sum"]) <= 1e-4 * abs(mine):
            raise Parted(f"results add up to {mine} in {SUBJECT}, to {values['sum']} in {name}")
        samples[name].append(scale * values["seconds"])


def imports(settings: Settings) -> Result:
    """Milliseconds that `import zmlx` adds to `import mlx.core`."""
    extra, base = [], []
    command = [sys.executable, "-c", IMPORTS]
    json_of(command, dict(os.environ))  # leaves byte code behind
    for _ in range(1 if settings.quick else max(7, settings.rounds)):
        found = json_of(command, dict(os.environ))
        extra.append(1e3 * found["zmlx"])
        base.append(1e3 * found["mlx"])
    note = f"in fresh processes; mlx.core itself: {statistics.median(base):.1f} ms"
    return Result(SUITE, "", "ms", {SUBJECT: extra}, (Bar("at most", 100),), note=note)
