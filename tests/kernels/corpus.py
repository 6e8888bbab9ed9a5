"""What is recorded: one set of cases for all revisions, none of which needs a value.

Comes in: a RecordingDevice. Goes out: cases by name, each a call that makes kernels. A name says
the area, then the case.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
for folder in ("derive", "fuse", "msl"):  # as pyproject.toml has it for pytest
    if (path := str(TESTS / folder)) not in sys.path:
        sys.path.insert(0, path)

import mlx.core as mx  # noqa: E402
from msl_cases import FLOATS, TYPES  # noqa: E402

import zmlx  # noqa: E402
from benchmarks.user_cases import USERS, UserCase  # noqa: E402
from tests import emitted, launched, rowwise_cases  # noqa: E402
from tests.kernels.recording import RecordingDevice  # noqa: E402
from tests.sanitized.catalog_cases import NAMES  # noqa: E402
from tests.sanitized.helper_cases import CASES  # noqa: E402
from zmlx.msl.kernel import KernelSource  # noqa: E402
from zmlx.ops.composite import COMPOSITES  # noqa: E402

Case = Callable[[], object]
SMALL = 2**10  # elements of the users' arrays
GENERATED, ORDERS = 12, 6  # functions that a seed draws


def cases(device: RecordingDevice) -> Iterator[tuple[str, Case]]:
    """All of one device; texts that no device has a say in belong to the CPU's."""
    if device.takes_turns:
        yield from _table(device)
        yield from _derived(device)
    yield from _fused()
    yield from _shared()
    yield from _users()
    yield from _called()


def _table(device: RecordingDevice) -> Iterator[tuple[str, Case]]:
    keep = partial(_keep, device)
    for exact in (False, True):
        which = "exact" if exact else "fp32"
        for dtype in FLOATS if exact else TYPES:
            yield f"op table/{dtype}, {which}", keep(partial(emitted.row_kernels, dtype, exact))
        yield f"op table/casts, {which}", keep(partial(emitted.cast_kernels, exact))
    for dtype in FLOATS:
        yield f"op table/constants, {dtype}", keep(partial(emitted.constant_kernels, dtype))


def _derived(device: RecordingDevice) -> Iterator[tuple[str, Case]]:
    for name in COMPOSITES:
        kernels = partial(emitted.composite_kernels, name)
        yield f"composites/{name}", _keep(device, kernels)
    for seed in range(ORDERS):
        dtype = FLOATS[seed % len(FLOATS)]
        kernels = partial(_orders, seed, dtype)
        yield f"derivatives/seed {seed}, {dtype}", _keep(device, kernels)


def _orders(seed: int, dtype: str) -> list[KernelSource]:
    first, second = emitted.kernels_of_orders(seed, dtype)
    return [*first, *second]


def _fused() -> Iterator[tuple[str, Case]]:
    for seed in range(GENERATED):
        kind, numerics = FLOATS[seed % 3], ("fp32", "mlx")[seed % 2]
        call = partial(launched.launch_fused, seed, kind, numerics)
        yield f"generated/seed {seed}, {kind}, {numerics}", call
    for kind in ("int8", "uint32"):
        yield f"generated/{kind}", partial(launched.launch_fused, 1, kind, "fp32")


def _shared() -> Iterator[tuple[str, Case]]:
    for kind in FLOATS:
        yield f"several/parts, {kind}", partial(launched.launch_joined, kind, "fp32")
        yield f"several/alike, {kind}", partial(_alike, kind)
        yield f"folds/rows, {kind}", partial(launched.launch_rows, kind)
        yield f"folds/ends, {kind}", partial(launched.launch_ends, kind)


def _alike(kind: str) -> None:
    """What a GPU launches for regions of one body; here nobody knows whether MLX traces."""
    arrays = [mx.zeros((n, 3), getattr(mx, kind)) for n in (7, 300, 5, 9) * 2]
    trees = [{str(i): a for i, a in enumerate(half)} for half in (arrays[:4], arrays[4:])]
    step = zmlx.fuse(lambda p, g, rate: {k: v - rate * mx.tanh(g[k]) for k, v in p.items()})
    (together,) = step.entry(*trees, 0.5).program.together
    together([*[arrays[n] for n in together.ends.inputs], mx.array([0.5])])


def _users() -> Iterator[tuple[str, Case]]:
    for case in USERS:
        yield f"users/{case.name}", partial(_user, case)


def _user(case: UserCase) -> None:
    inputs = case.inputs(SMALL)
    zmlx.fuse(case.fn)(*inputs)
    if case.wrt:
        mx.grad(case.loss_of(zmlx.fuse(case.fn)), argnums=case.wrt)(*inputs)


def _called() -> Iterator[tuple[str, Case]]:
    for name in NAMES:
        for kind in FLOATS:
            yield f"catalog/{name}, {kind}", partial(launched.launch_function, name, kind)
    for name, case in CASES.items():
        yield f"helpers/{name}", partial(launched.launch_case, case, case.kinds[0])
    for name in ("SOFTMAX", "LAYERNORM", "RMSNORM"):
        for d in (33, 4096):
            yield f"map_reduce/{name}, d {d}", partial(_rows, getattr(rowwise_cases, name), d)


def _rows(what: dict[str, Any], d: int) -> None:
    names = what.get("input_names", ("x",))
    arrays = [mx.zeros((6, d)), *[mx.zeros(() if n == "eps" else (d,)) for n in names[1:]]]
    op = rowwise_cases.op(what, d)
    mx.vjp(lambda *given: op(*given), arrays, op(*arrays))


def _keep(device: RecordingDevice, kernels: Callable[[], Iterable[KernelSource]]) -> Case:
    def run() -> None:
        for kernel in kernels():
            device.keep(kernel)

    return run
