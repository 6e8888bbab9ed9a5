"""Autotuning: how a kernel is launched best, found by measuring. The module can be called itself.

`zmlx.autotune(f, *args)` tunes the kernels that a call of `f` launches (zmlx.tuning.fused);
`autotune_threadgroup` and `get_autotuned_threadgroup` find the threadgroup of a kernel written by
hand; `KernelSearch` picks among functions that do the same. Winners must give equal results. They
are kept for this process, and on disk by device, kernel, template and class of sizes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from types import ModuleType
from typing import Any, SupportsIndex

import mlx.core as mx

from zmlx.device import tuning
from zmlx.device.base import current_name
from zmlx.errors import DeviceError
from zmlx.metal import MetalKernel
from zmlx.metal.asked import whole_numbers
from zmlx.msl.spec import MAX_THREADS, Extent
from zmlx.registry import forgets
from zmlx.tuning import timing
from zmlx.tuning.fused import tune_fused
from zmlx.tuning.report import TunedKernel, TuneReport
from zmlx.tuning.threadgroups import fixes_threadgroup

__all__ = [
    "GLOBAL_AUTOTUNE_CACHE",
    "AutotuneKey",
    "AutotuneResult",
    "KernelSearch",
    "TuneReport",
    "TunedKernel",
    "autotune_threadgroup",
    "get_autotuned_threadgroup",
]

DEFAULT_CANDIDATES: tuple[Extent, ...] = tuple((n, 1, 1) for n in (32, 64, 128, 256, 512, 1024))


@dataclass(frozen=True)
class AutotuneResult:
    """The fastest threadgroup, and the median time of each that ran."""

    best_threadgroup: Extent
    timings_ms: dict[Extent, float]


@dataclass(frozen=True)
class AutotuneKey:
    """What a winner holds for; `source_hash` is the SHA-256 of all that the kernel computes."""

    kernel_name: str
    input_shapes: tuple[tuple[int, ...], ...]
    input_dtypes: tuple[str, ...]
    grid: Extent
    source_hash: str = ""
    template: tuple[tuple[str, str], ...] = ()
    device: str = ""


GLOBAL_AUTOTUNE_CACHE: dict[AutotuneKey, Extent] = {}
forgets(GLOBAL_AUTOTUNE_CACHE.clear)


def autotune_threadgroup(
    kernel: MetalKernel,
    *,
    inputs: Sequence[mx.array],
    template: Sequence[tuple[str, Any]] | None = None,
    output_shapes: Sequence[Sequence[int]] | None = None,
    output_dtypes: Sequence[mx.Dtype] | None = None,
    grid: Sequence[int] | None = None,
    candidates: Sequence[int | Sequence[int]] = DEFAULT_CANDIDATES,
    warmup: int = 3,
    iters: int = 10,
    init_value: float | None = None,
    any_threadgroup: bool = False,
) -> AutotuneResult:
    """Measure a kernel under each threadgroup and give the fastest.

    Args:
        kernel: what metal.kernel returned; the next arguments are those of a call.
        candidates: threadgroups, (x, y, z) or x alone. Those above 1024 threads and those that
            fail are left out.
        warmup: runs of each that do not count.
        iters: runs of each that do. The candidates take turns.
        any_threadgroup: the author's word that the text works under every threadgroup, where it
            looks as if it did not.

    Returns:
        The winner and the median milliseconds of each candidate that ran.

    Raises:
        ValueError: where the text fixes its threadgroup, or results differ by threadgroup (floats
            may differ by rounding), since then the launch alone must not be changed.
        DeviceError: where no candidate runs; the message says why for each.
    """
    if not isinstance(kernel, MetalKernel):
        got = type(kernel).__name__
        raise TypeError(f"[zmlx.autotune] kernel is a {got}; give what zmlx.metal.kernel returned.")
    _refuse_fixed(kernel, any_threadgroup)
    extents = _extents(candidates)
    if iters < 1 or warmup < 0:
        raise ValueError(
            f"[zmlx.autotune] iters is {iters}, warmup {warmup}; give at least 1 and 0."
        )

    def launch(threadgroup: Extent) -> list[mx.array]:
        return kernel(
            *inputs, template=template, grid=grid, threadgroup=threadgroup,
            output_shapes=output_shapes, output_dtypes=output_dtypes, init_value=init_value,
        )  # fmt: skip

    mx.eval(list(inputs))
    ready = _ready(kernel, extents, launch)
    for threadgroup in ready:
        for _ in range(warmup):
            mx.eval(launch(threadgroup))
    builds: dict[Extent, timing.Build] = {t: partial(launch, t) for t in ready}
    timings = timing.medians(builds, iters, f"autotune {kernel.spec.name}")
    return AutotuneResult(min(timings, key=lambda t: timings[t]), timings)


def get_autotuned_threadgroup(
    kernel: MetalKernel,
    *,
    inputs: Sequence[mx.array],
    template: Sequence[tuple[str, Any]] | None = None,
    output_shapes: Sequence[Sequence[int]] | None = None,
    output_dtypes: Sequence[mx.Dtype] | None = None,
    grid: Sequence[int] | None = None,
    candidates: Sequence[int | Sequence[int]] | None = None,
    warmup: int = 3,
    iters: int = 10,
    init_value: float | None = None,
    any_threadgroup: bool = False,
) -> Extent:
    """The fastest threadgroup: known in this process, kept on disk, or measured now.

    Arguments as for `autotune_threadgroup`. The disk is asked by class of sizes, this process by
    exact shapes. A winner that is not among the candidates does not count.
    """
    allowed = _extents(DEFAULT_CANDIDATES if candidates is None else candidates)
    wide = _grid(inputs, output_shapes, grid)
    key = AutotuneKey(
        kernel.spec.name, tuple(x.shape for x in inputs), tuple(str(x.dtype) for x in inputs),
        wide, kernel.spec.digest, tuple((n, str(v)) for n, v in template or ()), current_name(),
    )  # fmt: skip
    device, name = tuning.identity(key.device), _disk_key(key)
    size = tuning.size_class(prod(wide))
    for found in (GLOBAL_AUTOTUNE_CACHE.get(key), tuning.STORE.find(device, name).get(size)):
        if found in allowed:
            GLOBAL_AUTOTUNE_CACHE[key] = found
            return found
    best = autotune_threadgroup(
        kernel, inputs=inputs, template=template, output_shapes=output_shapes,
        output_dtypes=output_dtypes, grid=grid, candidates=allowed, warmup=warmup, iters=iters,
        init_value=init_value, any_threadgroup=any_threadgroup,
    ).best_threadgroup  # fmt: skip
    GLOBAL_AUTOTUNE_CACHE[key] = best
    tuning.STORE.keep(device, name, size, best)
    return best


class KernelSearch:
    """Picks the fastest of several functions that compute the same; the first says what is right.

    `rejected` tells, by position among `candidates`, why some were left out of the last search.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.candidates: list[Callable[..., Any]] = []
        self.best_fn: Callable[..., Any] | None = None
        self.rejected: dict[int, str] = {}

    def add_candidate(self, fn: Callable[..., Any]) -> None:
        """Add a function from arrays to an array, or to a list or tuple of them."""
        self.candidates.append(fn)

    def find_best(self, *inputs: Any, iters: int = 10) -> Callable[..., Any]:
        """The fastest for these inputs, by medians of `iters` rounds; also kept as `best_fn`.

        Candidates that fail or part from the first (floats: by more than rounding) are left out.
        ValueError without candidates; what the first one raises is raised.
        """
        if not self.candidates:
            raise ValueError(f"[zmlx.autotune] search {self.name!r} has no candidates; add some.")
        self.rejected = {}
        wanted = _evaluated(self.candidates[0](*inputs))
        builds: dict[int, timing.Build] = {}
        for i, fn in enumerate(self.candidates):
            try:
                problem = timing.difference(_evaluated(fn(*inputs)), wanted, exact=False)
            except Exception as error:  # noqa: BLE001 - whatever a user's candidate raises
                problem = f"{type(error).__name__}: {error}"
            if problem is None:
                builds[i] = partial(fn, *inputs)
            else:
                self.rejected[i] = problem
        timings = timing.medians(builds, iters, f"search {self.name}")
        self.best_fn = self.candidates[min(timings, key=lambda i: timings[i])]
        return self.best_fn


def _ready(
    kernel: MetalKernel, extents: Sequence[Extent], launch: Callable[[Extent], list[mx.array]]
) -> list[Extent]:
    """The threadgroups under which the kernel runs; all give the same results."""
    failures: dict[Extent, str] = {}
    results: dict[Extent, list[mx.array]] = {}
    for extent in extents:
        if prod(extent) > MAX_THREADS:
            failures[extent] = f"more than {MAX_THREADS} threads"
            continue
        try:
            results[extent] = launch(extent)
            mx.eval(results[extent])
        except (DeviceError, RuntimeError, ValueError) as error:
            results.pop(extent, None)
            failures[extent] = str(error)
    if not results:
        causes = "\n".join(f"  {extent}: {why}" for extent, why in failures.items())
        raise DeviceError(
            f"[zmlx.autotune] kernel {kernel.spec.name!r} runs under no threadgroup given:\n"
            f"{causes}\nGive other candidates, or mend the kernel."
        )
    first, *others = results
    for extent in others:
        if problem := timing.difference(results[extent], results[first], exact=False):
            raise ValueError(
                f"[zmlx.autotune] kernel {kernel.spec.name!r} depends on its threadgroup: under "
                f"{extent} and {first}, {problem}. Launch it as its text asks, or have the text "
                "read threads_per_threadgroup."
            )
    return list(results)


def _refuse_fixed(kernel: MetalKernel, any_threadgroup: bool) -> None:
    reason = None if any_threadgroup else fixes_threadgroup(kernel.spec.header, kernel.spec.source)
    if reason is not None:
        raise ValueError(
            f"[zmlx.autotune] kernel {kernel.spec.name!r} fixes its threadgroup: {reason}. To tune "
            "it, make one kernel for each size and use KernelSearch; if the text does work under "
            "every threadgroup, pass any_threadgroup=True."
        )


def _extents(candidates: Sequence[int | Sequence[int]]) -> list[Extent]:
    found: list[Extent] = []
    for candidate in candidates:
        single = isinstance(candidate, SupportsIndex)
        sizes = whole_numbers((candidate, 1, 1) if single else candidate)
        if sizes is None or len(sizes) != 3 or not all(n > 0 for n in sizes):
            raise ValueError(
                f"[zmlx.autotune] candidate {candidate!r} is no threadgroup; give three whole "
                "numbers from 1 on, or one."
            )
        found.append((sizes[0], sizes[1], sizes[2]))
    if not found:
        raise ValueError("[zmlx.autotune] candidates is empty; give some threadgroups.")
    return list(dict.fromkeys(found))


def _grid(
    inputs: Sequence[mx.array],
    shapes: Sequence[Sequence[int]] | None,
    grid: Sequence[int] | None,
) -> Extent:
    if grid is None:
        first = shapes[0] if shapes else inputs[0].shape if inputs else ()
        return (prod(first), 1, 1)
    wide = whole_numbers(grid) or (1, 1, 1)  # a wrong one is refused by the call
    return (wide[0], wide[1], wide[2])


def _disk_key(key: AutotuneKey) -> str:
    return tuning.kernel_key(key.kernel_name, key.source_hash, (key.template, key.input_dtypes))


def _evaluated(result: Any) -> list[mx.array]:
    arrays = list(result) if isinstance(result, (list, tuple)) else [result]
    mx.eval(arrays)
    return arrays


class _CallableModule(ModuleType):
    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TuneReport:
        return tune_fused(fn, *args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
__call__ = tune_fused  # for help()
