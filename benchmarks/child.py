"""What latency rows measure in a fresh process: `python -m benchmarks.child TASK DEVICE`.

Prints one line of JSON. The clock starts after the imports of mlx.core and zmlx, and
of benchmarks.cases, which imports nothing else.
"""

from __future__ import annotations

import json
import sys
import time

import mlx.core as mx

import zmlx
from benchmarks.cases import chain
from zmlx.device.base import device_for_current_stream
from zmlx.fuse.plan import Plan, plan
from zmlx.fuse.simplify import simplify
from zmlx.msl.emit import emit
from zmlx.msl.kernel import KernelSource
from zmlx.trace.run import Call, trace
from zmlx.trace.tree import Leaves, flatten

SIZE = (1024,)
WARM = 5  # further runs of the stages in the same process


def first_call(way: str) -> dict[str, float]:
    """From nothing to the evaluated result of the chain; its sum, for comparison."""
    start = time.perf_counter()
    x = mx.arange(SIZE[0]) / SIZE[0]
    y = (zmlx.fuse(chain) if way == "fuse" else mx.compile(chain))(x)
    mx.eval(y)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "sum": y.sum().item()}


def stages() -> dict[str, float]:
    """Trace, plan and emit as the first work of a process and repeated; then the compiler."""
    x = mx.random.normal(SIZE)
    mx.eval(x)
    device = device_for_current_stream()
    reason = device.unavailable()  # on the host it also loads the native module
    start = time.perf_counter()
    kernels = emitted(x)
    cold = time.perf_counter() - start
    start = time.perf_counter()
    if reason is None:
        device.build(kernels)
    compiled = time.perf_counter() - start
    warm = []
    for _ in range(WARM):
        start = time.perf_counter()
        emitted(x)
        warm.append(time.perf_counter() - start)
    found = {"cold": cold, "warm": sorted(warm)[WARM // 2]}
    return found | ({"compile": compiled} if reason is None else {})


def planned(x: mx.array) -> Plan:
    """The plan of the chain, through the stages' own functions."""
    leaves = Leaves()
    structure = flatten(((x,), {}), leaves)
    recorded = trace(chain, Call(leaves, structure))
    return plan(simplify(recorded.graph), device_for_current_stream().worth_alone)


def emitted(x: mx.array) -> list[KernelSource]:
    """The chain's kernels as text."""
    return [emit(region.graph) for region in planned(x).regions]


def main() -> None:
    task, device = sys.argv[1:]
    if mx.default_device() != mx.Device(getattr(mx.DeviceType, device), 0):
        mx.set_default_device(getattr(mx, device))
    print(json.dumps(stages() if task == "stages" else first_call(task)))


if __name__ == "__main__":
    main()
