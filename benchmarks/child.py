"""What latency rows measure in a fresh process: `python -m benchmarks.child TASK DEVICE ...`.

Prints one line of JSON. A clock starts after the imports of mlx.core and zmlx, and
of benchmarks.cases, which imports nothing else. Counts want private caches (benchmarks.fresh).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

import zmlx
from benchmarks.cases import chain, gelu_tanh, silu_mul, tempered
from zmlx.device.base import device_for_current_stream
from zmlx.device.cache import ENTRY_SUFFIX
from zmlx.fuse.plan import Plan, plan
from zmlx.fuse.simplify import simplify
from zmlx.msl.emit import emit
from zmlx.msl.kernel import KernelSource
from zmlx.trace.run import Call, trace
from zmlx.trace.tree import flatten_call

SIZE = (1024,)
WARM = 5  # further runs of the stages in the same process
WIDTH = 16  # of the arrays whose lengths change
GPU_MAKERS = ("cuda_kernel", "metal_kernel")  # of mx.fast; what they make is not kept on disk
COMPILED = ("*.so", "*.ptx")  # what MLX leaves below TMPDIR on a CPU and under CUDA
FIRST: dict[str, tuple[Callable[..., mx.array], int]] = {"chain": (chain, 1), "silu": (silu_mul, 2)}
BARE = "k = thread; out[k] = a[k] / (1.0f + exp(-a[k])) * b[k];"  # of silu_mul


def bare(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """silu_mul by hand, through MLX's own custom kernel."""
    assert function is silu_mul
    metal = mx.metal.is_available()
    make: Any = mx.fast.metal_kernel if metal else mx.fast.cuda_kernel
    thread = "thread_position_in_grid.x" if metal else "blockIdx.x * blockDim.x + threadIdx.x"
    source = f"unsigned {BARE.replace('thread', thread)}"
    kernel = make(name="bare", input_names=["a", "b"], output_names=["out"], source=source)

    def run(a: mx.array, b: mx.array) -> mx.array:
        shape = {"output_shapes": [a.shape], "output_dtypes": [a.dtype]}
        out: mx.array = kernel(
            inputs=[a, b], grid=(a.size, 1, 1), threadgroup=(256, 1, 1), **shape
        )[0]
        return out

    return run


WAYS: dict[str, Callable[..., Any]] = {"fuse": zmlx.fuse, "compile": mx.compile, "bare": bare}


def first_call(way: str, case: str) -> dict[str, float]:
    """From nothing to the evaluated result of one of FIRST; its sum, for comparison."""
    function, arguments = FIRST[case]
    start = time.perf_counter()
    x = mx.arange(SIZE[0]) / SIZE[0]
    y = WAYS[way](function)(*[x] * arguments)
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
    call = Call(*flatten_call((x,), {}))
    recorded = trace(chain, call)
    return plan(simplify(recorded.graph), device_for_current_stream().worth_alone)


def emitted(x: mx.array) -> list[KernelSource]:
    """The chain's kernels as text."""
    return [emit(region.graph) for region in planned(x).regions]


# -- calls that change ----------------------------------------------------------------------------
def changing(task: str, way: str, count: int, evaluated: int) -> dict[str, Any]:
    """Traces and kernels that `count` changes cost, and the sums of the results, for comparison.

    Only the first `evaluated` results are computed: without that, MLX builds no kernel.
    """
    ran: list[int] = []
    handed: set[str] = set()
    for maker in GPU_MAKERS:
        setattr(mx.fast, maker, noting(getattr(mx.fast, maker), handed))
    function, settled, calls = changes(task, count)

    def counted(*given: Any) -> mx.array:
        ran.append(1)
        return function(*given)

    # A fused function that counts would be traced at each call, for its count's sake: it is asked.
    fused = way == "fuse"
    run, sums, before = WAYS[way](function if fused else counted), [], (0, 0)
    traces = (lambda: run.cache_info().misses) if fused else (lambda: len(ran))
    for index, call in enumerate(calls):
        if index == settled:
            before = traces(), max(built(), len(handed))
        result = run(*call)
        if index < settled + evaluated:
            sums.append(total(result))
    kernels = max(built(), len(handed)) - before[1]
    return {"traces": traces() - before[0], "kernels": kernels, "sums": sums}


def noting(maker: Callable[..., Any], handed: set[str]) -> Callable[..., Any]:
    """One of GPU_MAKERS that adds to `handed` what MLX tells kernels apart by."""

    def make(**text: Any) -> Callable[..., Any]:
        kernel = maker(**text)

        def launch(**call: Any) -> Any:
            kinds = [(str(x.dtype), x.ndim) for x in call["inputs"]]
            handed.add(repr((text["name"], call.get("template"), call["output_dtypes"], kinds)))
            return kernel(**call)

        return launch

    return make


def changes(
    task: str, count: int
) -> tuple[Callable[..., mx.array], int, Sequence[tuple[Any, ...]]]:
    """A function, how many calls do not count, and all calls' arguments.

    Lengths begin at 2: a size of one is broadcast, which is another kernel. Values change after a
    first call.
    """
    import numpy as np  # and no MLX op: these would count among the kernels

    def ramp(length: int) -> mx.array:
        return mx.array(np.linspace(-3, 3, length * WIDTH, dtype=np.float32).reshape(-1, WIDTH))

    if task == "lengths":
        return gelu_tanh, 0, [(ramp(2 + i),) for i in range(count)]
    return tempered, 1, [(ramp(64), 0.5 + i / count) for i in range(count + 1)]


def built() -> int:
    """Kernels in the private caches: ZMLX's entries, and the libraries of mx.compile."""
    entries = list(Path(os.environ["ZMLX_CACHE_DIR"]).glob(f"*{ENTRY_SUFFIX}"))
    scratch = Path(os.environ["TMPDIR"])
    return len(entries) + sum(len(list(scratch.rglob(pattern))) for pattern in COMPILED)


def total(result: mx.array) -> float:
    import numpy as np

    return float(np.array(result).sum(dtype=np.float64))


def main() -> None:
    task, device, *more = sys.argv[1:]
    if mx.default_device() != mx.Device(getattr(mx.DeviceType, device), 0):
        mx.set_default_device(getattr(mx, device))
    if task == "stages":
        found = stages()
    elif task == "first":
        found = first_call(*more)
    else:
        way, count, evaluated = more
        found = changing(task, way, int(count), int(evaluated))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
