"""Rules: how MLX's transformations go through a launched kernel.

Comes in: a launcher and an object with the rules vjp, jvp and vmap. Goes out: a launcher whose
results mx.grad, mx.jvp and mx.vmap can pass. With the native module a primitive of ours asks the
rules; without it mx.custom_function does, which cannot batch a kernel and wants every gradient.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx

from zmlx.device.base import Launcher, device_for_current_stream, device_named
from zmlx.device.warned import run_as_ops
from zmlx.errors import CompilerError, DeriveError

Arrays = Sequence[mx.array]
_thread = threading.local()


class Rules(Protocol):
    """The transformations of one kernel; arrays come and go as lists."""

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> Arrays:
        """The gradient of each primal named in `argnums`; None for outputs that nobody uses."""
        ...

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> Arrays:
        """The tangent of each output; tangents[i] is that of primals[argnums[i]]."""
        ...

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> Arrays:
        """The outputs, mapped along their first axis; axis -1 where an input is not mapped."""
        ...


@runtime_checkable
class AttachesRules(Protocol):
    """A launcher that can make results with rules at once, without bare ones first."""

    def with_rules(self, rules: Rules, ruled: Any) -> Launcher:
        """The launcher for results that carry `rules`; `ruled(results, rules)` attaches them."""
        ...


def differentiable(launch: Launcher, rules: Rules) -> Launcher:
    """`launch` with `rules` attached."""
    if _bare():
        return launch
    native = native_or_none()
    if native is None:
        return differentiable_ops(launch, rules)
    ruled = native.ruled
    if isinstance(launch, AttachesRules):
        return launch.with_rules(rules, ruled)

    if isinstance(launch, native.Kernel):
        kernel: Any = launch
        return lambda arrays: kernel(arrays, rules)
    fit = _fitting(rules)
    return lambda arrays: ruled(launch(arrays), fit(len(arrays)))


def launched(outputs: list[mx.array], rules: Any) -> list[mx.array]:
    """`outputs` of one launch with `rules`, which may also have `output_shapes`, see ruled.h."""
    native = native_or_none()
    if native is None or _bare():
        return outputs
    ruled: list[mx.array] = native.ruled(outputs, rules)
    return ruled


def repeated(launch: Launcher, rules: Rules, contiguous: bool = False) -> Launcher:
    """`launch` with `rules`, where it makes the same of all arrays of the same shapes and types.

    The native module then repeats what it made, without Python; `contiguous` says that the kernel
    reads arrays row after row, for a device that leaves that to whoever launches.
    """
    native = native_or_none()
    if native is None:
        return differentiable_ops(launch, rules)
    repeat, ruled = native.Repeater(contiguous), native.ruled
    fit = _fitting(rules)

    def run(arrays: Arrays) -> list[mx.array]:
        if _bare():
            return launch(arrays)
        fitted = fit(len(arrays))
        again: list[mx.array] | None = repeat(arrays, fitted)
        if again is not None:
            return again
        made = launch(arrays)
        repeat.learn(arrays, made)
        first: list[mx.array] = ruled(made, fitted)
        return first

    return run


@contextmanager
def without_rules() -> Iterator[None]:
    """Within the block launches are made without rules: MLX's own primitives, which files hold."""
    before, _thread.bare = _bare(), True
    try:
        yield
    finally:
        _thread.bare = before


def _bare() -> bool:
    return getattr(_thread, "bare", False)


def is_native(launch: Launcher) -> bool:
    """Whether `launch` is a kernel of the native module, and nothing around it."""
    native = native_or_none()
    return native is not None and isinstance(launch, native.Kernel)


def grouped(launches: Sequence[Launcher]) -> Launcher:
    """Kernels of the native module, none of which waits for another, as one primitive.

    It takes and gives the arrays of one after those of another, and has no rules.
    """
    made: Launcher = native_or_none().Group(list(launches))
    return made


def new_pulls() -> Any:
    """What rules keep as their attribute `pulls`, see `put_down`; None without a native module."""
    native = native_or_none()
    return None if native is None else native.Pulls()


@dataclass(frozen=True)
class Pull:
    """Which gradients a kernel computes, and from what."""

    wanted: Sequence[int]  # the primals
    used: Sequence[int]  # the outputs whose cotangents it takes
    reads: Sequence[int]  # its inputs, by position among the primals and then those cotangents
    gives: Sequence[int]  # for each gradient wanted, which of its outputs it is


def put_down(pulls: Any, pull: Pull, launch: Launcher, rules: Rules) -> None:
    """Note that `launch`, with `rules`, computes gradients.

    Where it is a kernel of the native module, a primitive with such pulls asks Python no more.
    """
    if pulls is not None and is_native(launch):
        kernel: Any = launch
        kernel.pull(pulls, pull.wanted, pull.used, pull.reads, pull.gives, rules)


def or_ops(run: Launcher, ops: Launcher) -> Launcher:
    """`run`, a kernel's; where the device cannot have the kernel, `ops`, after one warning."""

    def instead(problem: str, arrays: Arrays) -> list[mx.array]:
        try:
            results = ops(arrays)
        except DeriveError as error:
            raise CompilerError(f"{problem}\nNor can MLX ops do it: {error}") from None
        run_as_ops(problem)
        return results

    def call(arrays: Arrays) -> list[mx.array]:
        if problem := device_for_current_stream().unavailable():
            return instead(problem, arrays)
        try:
            return run(arrays)
        except CompilerError as error:
            return instead(error.problem, arrays)

    return call


def _fitting(rules: Rules) -> Callable[[int], Fitted]:
    """For a number of arrays, `rules` that take no notice of inputs behind them; made once."""
    return cache(lambda count: Fitted(rules, [False] * count))


class Fitted:
    """`rules` for a kernel whose inputs, as MLX sees them, are not quite those of the op.

    There may be more of them at the end (a grid, on CUDA), and those in `scalars` have shape (1,)
    in place of ().
    """

    def __init__(self, rules: Rules, scalars: Sequence[bool]) -> None:
        self._rules, self._scalars = rules, scalars

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> Arrays:
        found = self._rules.vjp(self._own(primals), cotangents, argnums, outputs)
        pairs = zip(argnums, found, strict=True)
        return [g.reshape(1) if self._scalars[i] else g for i, g in pairs]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> Arrays:
        pairs = zip(argnums, tangents, strict=True)
        known = [t.reshape(()) if self._scalars[i] else t for i, t in pairs]
        return self._rules.jvp(self._own(primals), known, argnums)

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> Arrays:
        arrays, mapped = [], []
        for x, axis, scalar in zip(inputs, axes, self._scalars, strict=False):
            arrays.append((x.reshape(-1) if axis >= 0 else x.reshape(())) if scalar else x)
            mapped.append(min(axis, 0) if scalar else axis)
        return self._rules.vmap(arrays, mapped)

    def _own(self, primals: Arrays) -> list[mx.array]:
        pairs = zip(primals, self._scalars, strict=False)
        return [x.reshape(()) if scalar else x for x, scalar in pairs]


def any_traced(arrays: Arrays) -> bool:
    """Whether a transformation of MLX traces one of `arrays`; False where that cannot be known."""
    if not _tracers:
        native = native_or_none()
        if native is None:
            return False
        _tracers.append(native.any_tracer)
    return _tracers[0](arrays)


_tracers: list[Callable[[Arrays], bool]] = []  # one, when the native module is there


def identities(arrays: Arrays) -> list[int]:
    """For each array a number that is another one once it is written in place (`w += 1`).

    It holds while a copy of the array lives; none where the native module is not there.
    """
    if not _identities:
        native = native_or_none()
        if native is None:
            return []
        _identities.append(native.identities)
    return _identities[0](arrays)


_identities: list[Callable[[Arrays], list[int]]] = []  # one, when the native module is there


def native_or_none() -> Any:
    """The native module, where this machine has it or can build it."""
    host: Any = device_named("host")
    return host.native_or_none()


@contextmanager
def lazily() -> Iterator[None]:
    """Within the block little kernels wait for mx.eval as all others do, in every thread.

    For those who look at graphs: else such a kernel runs when it is called, if what it reads is
    there, as a task of MLX's would cost more than the kernel.
    """
    native = native_or_none()
    before = native is not None and native.set_at_once(False)
    try:
        yield
    finally:
        if native is not None:
            native.set_at_once(before)


def differentiable_ops(launch: Launcher, rules: Rules) -> Launcher:
    """The same for what gives the results of several ops: a primitive's rule holds one op only."""
    if _bare():
        return launch
    call = mx.custom_function(lambda *arrays: tuple(launch(arrays)))

    def vjp(primals: Any, cotangents: Any, outputs: Any) -> list[mx.array]:
        primals = _several(primals)
        everything = range(len(primals))
        return list(rules.vjp(primals, _several(cotangents), everything, _several(outputs)))

    def jvp(primals: Any, tangents: Any) -> tuple[mx.array, ...]:
        given = [(i, t) for i, t in enumerate(_several(tangents)) if t is not None]
        argnums, known = [i for i, _ in given], [t for _, t in given]
        return tuple(rules.jvp(_several(primals), known, argnums))

    def vmap(inputs: Any, axes: Any) -> tuple[tuple[mx.array, ...], tuple[int, ...]]:
        mapped = [-1 if axis is None else axis for axis in _several(axes)]
        outputs = tuple(rules.vmap(_several(inputs), mapped))
        return outputs, (0,) * len(outputs)

    call.vjp(vjp)
    call.jvp(jvp)
    call.vmap(vmap)
    return lambda arrays: list(call(*arrays))


def _several(values: Any) -> list[Any]:
    """A single positional argument comes bare, see mx.custom_function."""
    return list(values) if isinstance(values, (list, tuple)) else [values]


def elements(x: mx.array, axes: Sequence[int]) -> mx.array:
    """How many elements `x` has along `axes`, as they turn out; asked where sizes are examples."""
    found: mx.array = native_or_none().elements(x, axes)
    return found


def sizes_to_come(arrays: Arrays) -> bool:
    """Whether sizes of `arrays` are examples: a shapeless mx.compile traces them."""
    return any_traced(arrays) and traces_shapeless()


_probes: list[Callable[[], bool]] = []  # one, when the native module is there


def traces_shapeless() -> bool:
    """Whether mx.compile(..., shapeless=True) traces; False where that cannot be known."""
    if not _probes:
        probe = getattr(native_or_none(), "traces_shapeless", None)
        if probe is None:
            return False
        _probes.append(probe)
    return _probes[0]()
