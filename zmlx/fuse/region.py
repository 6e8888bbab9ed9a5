"""Running one region: specialised to its inputs, launched, differentiated, batched.

Comes in: a region's graph. Goes out: RegionFunction, a callable from arrays to arrays that picks
the kernel made for their ranks, types and sizes of one, or replays the region as MLX ops where no
kernel can run, or sizes are still to come (mx.compile with shapeless=True). Its results carry
derived rules for MLX's transformations; the rules' own regions are RegionFunctions again, so that
gradients of gradients come for free. zmlx.fuse.program calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

import mlx.core as mx

from zmlx import dtypes
from zmlx.device import watch
from zmlx.device.base import Device, Launcher, device_for_current_stream
from zmlx.device.rules import Pull, differentiable, new_pulls, put_down, sizes_to_come
from zmlx.device.warned import problem_of, run_as_ops
from zmlx.errors import CompilerError, DeviceError
from zmlx.fuse import dumped
from zmlx.fuse.check import checked
from zmlx.fuse.replay import dtype_of, replay
from zmlx.fuse.rows import sized
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.shapes import Shape, reshaped
from zmlx.fuse.shortened import shortened as in_short
from zmlx.fuse.simplify import simplify
from zmlx.fuse.walked import Made, Walked
from zmlx.log import logger
from zmlx.msl.emit import MAX_BUFFERS, buffer_slots, emit
from zmlx.msl.kernel import KernelSource
from zmlx.trace.graph import Graph, broadcast
from zmlx.trace.operands import name_of

if TYPE_CHECKING:
    from zmlx.derive.accumulate import Derivative

Arrays = Sequence[mx.array]
T = TypeVar("T")
_log = logger("zmlx.fuse")


class RegionFunction:
    """A region as a function: one array for each region input, one result for each output."""

    def __init__(self, graph: Graph, runtime: Runtime, name: str) -> None:
        self.graph, self.runtime, self.name = graph, runtime, name
        self._arrays = [i for i, n in enumerate(graph.inputs) if graph.kind(n) == "input"]
        self._runs: dict[bytes, Run] = {}
        self._launched: dict[bytes, tuple[Launcher, RegionRules]] = {}
        self._special: dict[tuple[str, tuple[Shape, ...]], Specialized] = {}

    def __call__(self, arrays: Arrays) -> list[mx.array]:
        run = self._runs.get(self.runtime.signature(arrays))
        return (run or self.settled(arrays))(arrays)

    def settled(self, arrays: Arrays) -> Run:
        """The function for arrays of this signature alone: it does not look again."""
        signature = self.runtime.signature(arrays)
        run = self._runs.get(signature)
        if run is None:
            with self.runtime.making():
                run = self._runs[signature] = self._guarded(self._chosen(arrays))
        return run

    def launched(self, arrays: Arrays) -> tuple[Launcher, RegionRules] | None:
        """What runs for arrays of this signature, where that is a launch and nothing else."""
        self.settled(arrays)
        return self._launched.get(self.runtime.signature(arrays))

    def _guarded(self, runner: Run) -> Run:
        def run(arrays: Arrays) -> list[mx.array]:
            try:
                return runner(arrays)
            except ValueError:  # inputs of no common shape: MLX says so, unless no op needs one
                return replay(self.graph, arrays)
            except CompilerError as error:  # watched kernels are compiled when first launched
                run_as_ops(error.problem)
                return replay(self.graph, arrays)

        return run

    def arrays(self, inputs: Sequence[T]) -> list[T]:
        """Those of `inputs` that are arrays: a number comes in shape (1,) but has no dimension."""
        return [inputs[i] for i in self._arrays]

    def specialized(self, shapes: Sequence[Shape]) -> Specialized:
        """The region for inputs of these ranks and sizes of one; other sizes do not matter."""
        device = device_for_current_stream()
        pattern = tuple([tuple([1 if size == 1 else 2 for size in shape]) for shape in shapes])
        key = (device.name, pattern)
        if key not in self._special:
            graph = reshaped(self.graph, pattern)
            self._special[key] = Specialized(graph, self.runtime, self.name)
        return self._special[key]

    def walked(self, shapes: Sequence[Shape]) -> Made | None:
        """What is launched for a region that folds rows, of these sizes; None where it takes
        other kernels.
        """
        special = self.specialized(shapes)
        return self._walked(special).launched(shapes) if special.folds else None

    def cut(self, shapes: Sequence[Shape]) -> Runtime:
        """How the region is planned where no one kernel computes it for these sizes."""
        special = self.specialized(shapes)
        return self._walked(special).cut if special.folds else self.runtime

    def _walked(self, special: Specialized) -> Walked:
        return Walked(special.graph, self.runtime, self.name, self._ruled)

    def _ruled(self, graph: Graph, shapes: Sequence[Shape]) -> tuple[Run, RegionRules]:
        """`graph`, another form of the region, as a function, with rules for these shapes."""
        function = RegionFunction(graph, self.runtime, self.name)
        return function, RegionRules(function, function.specialized(shapes))

    def _chosen(self, arrays: Arrays) -> Run:
        return self._sized_later() if sizes_to_come(arrays) else self._runner(arrays)

    def _sized_later(self) -> Run:
        """The function where sizes are examples: a kernel would take sizes of one as such."""
        return partial(replay, self.graph)

    def _runner(self, arrays: Arrays) -> Run:
        special = self.specialized([a.shape for a in arrays])
        if special.folds:
            return self._walked(special)
        if special.kernel is None:
            inner = dumped.inner(self.runtime, self.name, special.graph)
            return inner.program(special.graph, self.name)
        launch = special.launcher
        if launch is None:
            return special.replayed
        launch = dumped.launching(self.runtime, self.name, special.kernel, launch)
        if self.runtime.watched:
            device = device_for_current_stream().name
            launch = watch.watched(special.kernel, device, launch, self.name)
        if self.runtime.check:
            launch = checked(special.graph, launch, self.runtime.exact, self.name)
        rules = RegionRules(self, special)
        self._launched[self.runtime.signature(arrays)] = (launch, rules)
        return differentiable(launch, rules)


class Picked:
    """A region as a function of other inputs: those that it reads, and what it gives, picked."""

    def __init__(self, function: Run, reads: Sequence[int], gives: Sequence[int]) -> None:
        self.function, self.reads, self.gives = function, tuple(reads), tuple(gives)

    def __call__(self, arrays: Arrays) -> list[mx.array]:
        results = self.function([arrays[i] for i in self.reads])
        return [results[i] for i in self.gives]

    def settled(self, arrays: Arrays) -> Picked:
        """The function for arrays of this signature alone."""
        run = self.function
        if isinstance(run, RegionFunction):
            run = run.settled([arrays[i] for i in self.reads])
        return Picked(run, self.reads, self.gives)


@dataclass(eq=False)
class Specialized:
    """A region whose shapes say for which ranks and sizes of one it is made."""

    graph: Graph
    runtime: Runtime
    name: str

    @cached_property
    def space(self) -> Shape:
        """The iteration space for the example shapes: the broadcast of all inputs."""
        nodes = [n for n in self.graph.inputs if self.graph.kind(n) == "input"]
        return broadcast([self.graph[n]["shape"] for n in nodes])

    @cached_property
    def folds(self) -> bool:
        """Whether it folds rows: its kernel then knows more of its sizes (zmlx.fuse.walked)."""
        return any(self.graph.kind(n) == "reduce" for n in self.graph)

    @cached_property
    def kernel(self) -> KernelSource | None:
        """The region's kernel; None where these shapes (under vmap, or where calls that MLX runs
        return sizes of one) take more than one: its outputs differ in shape, or the buffers end.
        """
        if self.folds or any(self.graph[n]["shape"] != self.space for n in self.graph.outputs):
            return None
        if buffer_slots(self.graph) > MAX_BUFFERS:
            return None
        kernel = emit(self.graph, exact=self.runtime.exact)
        dumped.kernel(self.name, kernel)
        _log.debug("kernel %s:\n%s%s", kernel.name, kernel.header, kernel.body)
        return kernel

    @cached_property
    def launcher(self) -> Launcher | None:
        """The kernel on the current device; None where it must be replayed, after one warning."""
        device = device_for_current_stream()
        if self.kernel is None:
            return None
        built = launchers(device, [self.kernel])
        return built[0] if built else None

    def replayed(self, arrays: Arrays) -> list[mx.array]:
        return replay(self.graph, arrays)

    @cached_property
    def vjp(self) -> Derivative:
        from zmlx.derive.accumulate import derive_vjp

        derived = derive_vjp(self.graph)
        found = shortened(derived, self.runtime.exact)
        dumped.derivative(f"{self.name}.vjp", self.graph, derived.graph, found.graph)
        return found


class RegionRules:
    """The transformations of a specialised region (zmlx.device.rules.Rules)."""

    def __init__(self, function: RegionFunction, special: Specialized) -> None:
        self._function, self._special = function, special
        self._pulls: dict[tuple[tuple[int, ...], ...], tuple[Run, tuple[int, ...]]] = {}
        self._pushes: dict[tuple[tuple[int, str], ...], tuple[Run, Derivative]] = {}
        self.pulls = new_pulls()

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        """The gradients asked for, by one kernel and the sums over broadcast dimensions."""
        wanted = tuple(argnums)
        given = [(i, c) for i, c in enumerate(cotangents) if c is not None]
        used = tuple([i for i, _ in given])
        seeds = [like(part, outputs[i]) for i, part in given]
        if (wanted, used) not in self._pulls:
            self._pulls[wanted, used] = self._pull(wanted, used)
            self._put_down(wanted, used, [*primals, *seeds])
        run, found = self._pulls[wanted, used]
        results = run([*primals, *seeds]) if found else []
        if found == wanted:
            return results
        gradients = dict(zip(found, results, strict=True))
        return [gradients[i] if i in gradients else mx.zeros_like(primals[i]) for i in wanted]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        """The tangents of all outputs, for inputs that move along with the tangents given."""
        known = {
            i: like(t, primals[i], _moves_as(t, primals[i]))
            for i, t in zip(argnums, tangents, strict=True)
        }
        moving = tuple((i, name_of(t.dtype)) for i, t in known.items())
        if moving not in self._pushes:
            self._pushes[moving] = self._push(dict(moving))
        run, derivative = self._pushes[moving]
        given = [known[t] for t in derivative.targets]
        places = derivative.outputs
        pushed = dict(zip(places, run([*primals, *given]), strict=True)) if places else {}
        graph = self._special.graph
        shapes = sized(graph, [p.shape for p in primals])
        zeros = [(shapes[n], dtype_of(graph[n]["dtype"])) for n in graph.outputs]
        return [pushed[i] if i in pushed else mx.zeros(*z) for i, z in enumerate(zeros)]

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        """The region itself, over inputs of one rank more."""
        pairs = list(zip(inputs, axes, strict=True))
        rank = max(x.ndim - (axis >= 0) for x, axis in self._function.arrays(pairs))
        size = next(x.shape[axis] for x, axis in pairs if axis >= 0)
        outputs = self._function([batch_first(x, a, rank) if a >= 0 else x for x, a in pairs])
        return [o if o.ndim > rank else mx.broadcast_to(o, (size, *o.shape)) for o in outputs]

    def _pull(self, wanted: tuple[int, ...], used: tuple[int, ...]) -> tuple[Run, tuple[int, ...]]:
        """The program for gradients through the `used` outputs, and which it does compute."""
        special = self._special
        with special.runtime.making():
            return self._pulled(special, wanted, used)

    def _pulled(
        self, special: Specialized, wanted: tuple[int, ...], used: tuple[int, ...]
    ) -> tuple[Run, tuple[int, ...]]:
        if used == tuple(range(len(special.graph.outputs))):
            derivative = special.vjp
        else:
            part = simplify(_with_outputs(special.graph, used))
            derivative = Specialized(part, special.runtime, special.name).vjp
        kept = [i for i, target in enumerate(derivative.targets) if target in wanted]
        graph = _with_outputs(derivative.graph, kept)
        return self._program(graph, "vjp"), tuple(derivative.targets[i] for i in kept)

    def _put_down(self, wanted: tuple[int, ...], used: tuple[int, ...], inputs: Arrays) -> None:
        """Tell the primitive where one launch computes these gradients and nothing else."""
        run, found = self._pulls[wanted, used]
        picked = Picked(run, range(len(inputs)), range(len(found)))
        if isinstance(run, Picked):
            picked, run = run, run.function
        if not isinstance(run, RegionFunction) or sorted(found) != sorted(wanted):
            return
        launched = run.launched([inputs[i] for i in picked.reads])
        if launched is not None:
            gives = [picked.gives[found.index(i)] for i in wanted]
            put_down(self.pulls, Pull(wanted, used, picked.reads, gives), *launched)

    def _push(self, moving: dict[int, str]) -> tuple[Run, Derivative]:
        """The program for the tangents when these inputs move, in tangents of these types."""
        from zmlx.derive.accumulate import derive_jvp

        special = self._special
        derived = derive_jvp(special.graph, moving, moving)
        derivative = shortened(derived, special.runtime.exact)
        with special.runtime.making():
            dumped.derivative(f"{special.name}.jvp", special.graph, derived.graph, derivative.graph)
        return self._program(derivative.graph, "jvp"), derivative

    def _program(self, graph: Graph, what: str) -> Run:
        name = f"{self._function.name}.{what}"
        return dumped.inner(self._function.runtime, name, graph).program(graph, name)


def launchers(device: Device, kernels: Sequence[KernelSource]) -> list[Launcher] | None:
    """Launchers for kernels that were generated; None, after one warning, where none can be had."""
    if problem := device.unavailable():
        run_as_ops(problem)
        return None
    try:
        return watch.build(device, kernels)
    except DeviceError as error:
        run_as_ops(problem_of(error))
        return None


def shortened(derivative: Derivative, exact: bool) -> Derivative:
    """`derivative` in fewer operations; where `exact`, each op keeps the rounding it would have."""
    if exact:
        return derivative
    return replace(derivative, graph=in_short(derivative.graph, derivative.seeds))


def like(value: mx.array, pattern: mx.array, kind: mx.Dtype | None = None) -> mx.array:
    """`value` in type (or `kind`) and shape of `pattern`: MLX does not check what a user gave."""
    kind = kind or pattern.dtype
    if value.dtype != kind:
        value = value.astype(kind)
    return value if value.shape == pattern.shape else mx.broadcast_to(value, pattern.shape)


def _moves_as(tangent: mx.array, primal: mx.array) -> mx.Dtype:
    """The type of a tangent: its own where an integer moves by a number that is none, as in MLX."""
    free = not dtypes.is_float(name_of(primal.dtype)) and dtypes.has_msl(name_of(tangent.dtype))
    return tangent.dtype if free else primal.dtype


def _with_outputs(graph: Graph, positions: Sequence[int]) -> Graph:
    """`graph` with only some of its outputs; what the others need dies in simplification."""
    chosen = Graph()
    chosen.nx, chosen.inputs = graph.nx, graph.inputs
    chosen.outputs = [graph.outputs[p] for p in positions]
    return chosen


def batch_first(x: mx.array, axis: int, rank: int) -> mx.array:
    """The mapped axis in front of `rank` others, sizes of one in between."""
    moved = mx.moveaxis(x, axis, 0)
    missing = rank - (moved.ndim - 1)
    return moved.reshape(moved.shape[0], *(1,) * missing, *moved.shape[1:]) if missing else moved
