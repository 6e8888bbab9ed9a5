"""Ops: an elementwise op made of C text, as a function of arrays.

Comes in: an OpSpec. Goes out: ElementwiseOp. Text that can be read becomes a graph, which runs and
is differentiated like a region of `zmlx.fuse`; other text runs as the kernel it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx import switches
from zmlx.device import signature
from zmlx.device.rules import differentiable, differentiable_ops
from zmlx.errors import DeriveError
from zmlx.expr import Source, Unparsed, parse_all
from zmlx.fuse.check import checked
from zmlx.fuse.program import make_program
from zmlx.fuse.region import RegionFunction
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.simplify import simplify
from zmlx.helpers.rules import Arrays, Given, Pull, Refused, handed
from zmlx.helpers.settled import settled
from zmlx.helpers.spec import OpSpec, check_arrays, common_shape
from zmlx.helpers.written import forward_kernel, pull_kernel
from zmlx.trace import intercept
from zmlx.trace.graph import Graph
from zmlx.trace.operands import name_of
from zmlx.trace.spliced import joins, spliced

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer


class ElementwiseOp:
    """One op; call it with one array for each name. `reason` says why no gradient is derived."""

    def __init__(self, spec: OpSpec, where: str, same_dtype: bool = False) -> None:
        self.spec, self.where, self._same_dtype = spec, where, same_dtype
        self.__name__ = spec.name
        self.reason, self.pull_reason = self._readable(), self._pull_readable()
        self._runs: dict[Any, Run] = {}
        self._settled = cache(lambda kinds: settled(self.graph(kinds)))
        self._refuse_strided_buffers()

    def __call__(self, *arrays: mx.array) -> mx.array:
        spec = self.spec
        check_arrays(arrays, spec.names, spec.name, self.where, self._same_dtype)
        tracer = intercept.current()
        if tracer is not None and tracer.sees(arrays):
            return self._recorded(tracer, arrays)
        shape = common_shape(arrays, spec.names, spec.name, self.where)
        kinds = tuple([name_of(a.dtype) for a in arrays])
        key = (kinds, switches.mode())
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = self._made(kinds)
        if self.reason is None:
            return run(arrays)[0]
        wide = [mx.broadcast_to(a, shape) if a.shape != shape else a for a in arrays]
        if shape == ():  # a kernel sees no array of rank 0
            return run([a.reshape(1) for a in wide])[0].reshape(())
        return run(wide)[0]

    def __repr__(self) -> str:
        return f"<zmlx.{self.where} {self.spec.name}({', '.join(self.spec.names)})>"

    def _recorded(self, tracer: Tracer, arrays: Arrays) -> Any:
        """The call inside a fused function: nodes of its trace, or one call where it must be one.

        A gradient that was given is not what the nodes would have.
        """
        spec = self.spec
        if self.reason is not None or spec.pulls or not joins(tracer, arrays):
            return tracer.opaque(spec.name, self, arrays, {})
        bases = [tracer.base(a) for a in arrays]
        common_shape(bases, spec.names, spec.name, self.where)
        kinds = tuple([name_of(a.dtype) for a in bases])
        return spliced(tracer, self._settled(kinds), arrays)[0]

    def graph(self, kinds: Sequence[str]) -> Graph:
        """The op as a graph, for inputs of these types; Unparsed where it has none.

        Inputs of float64 make all of it float64: a reference.
        """
        spec = self.spec
        return parse_all(
            [spec.source(spec.expr, spec.expr_name)],
            dict(zip(spec.names, kinds, strict=True)),
            spec.scope(kinds[0], kinds[0] == "float64"),
            prelude=self._prelude() if spec.prelude_forward else None,
            result=kinds[0],
        )

    def pull_graph(self, kinds: Sequence[str], wanted: Sequence[int], output: str) -> Graph:
        """Gradients that were given, of the inputs `wanted`: (inputs, y, g) -> one output each."""
        spec = self.spec
        inputs = dict(zip(spec.pull_inputs, kinds, strict=True))
        if spec.sees_output:
            inputs["y"] = output
        inputs["g"] = output
        sources = [spec.given[i] for i in wanted]
        scope = spec.scope(output)
        prelude = self._prelude()
        return parse_all(sources, inputs, scope, prelude=prelude, result=output, cover=("g",))

    # -- reading ----------------------------------------------------------------------------------
    def _prelude(self) -> Source:
        return self.spec.source(self.spec.prelude, "vjp_prelude")

    def _readable(self) -> str | None:
        try:
            self.graph(["float32"] * len(self.spec.names))
        except Unparsed as problem:
            return str(problem)
        return None

    def _pull_readable(self) -> str | None:
        count = len(self.spec.names)
        try:
            if self.spec.given:
                self.pull_graph(["float32"] * count, [*self.spec.given], "float32")
        except Unparsed as problem:
            return str(problem)
        return None

    def _refuse_strided_buffers(self) -> None:
        """A kernel that names its buffers indexes them by `elem`, which strides do not allow."""
        spec = self.spec
        if spec.contiguous or (self.reason is None and self.pull_reason is None):
            return
        text = " ".join((spec.expr, *(s.text for s in spec.given.values()), spec.prelude))
        used = [b for b in (*spec.buffers, "out", "cotan") if f"{b}[" in text.replace(" ", "")]
        if used:
            raise ValueError(
                f"[zmlx.{self.where}] {spec.name!r}: ensure_row_contiguous is False, but the text "
                f"indexes {', '.join(used)}, whose elements may lie anywhere then. Use the names "
                f"of values ({', '.join(spec.names)}), or ensure_row_contiguous=True."
            )

    # -- running ----------------------------------------------------------------------------------
    def _made(self, kinds: tuple[str, ...]) -> Run:
        """The op for inputs of these types."""
        spec = self.spec
        if self.reason is None:
            how = runtime()
            if not spec.pulls:
                return RegionFunction(self.graph(kinds), how, spec.name)
            pull = self._pull(kinds, how)
            return GivenFunction(self.graph(kinds), how, spec.name, pull)
        kernel = forward_kernel(spec, kinds[0])
        if spec.pulls:
            return _ruled(kernel, self._pull(kinds, runtime()))
        return refusing(
            kernel, f"[zmlx.{self.where}] {spec.name!r} has no gradient: {self.reason}"
            "\nGive its vjp (zmlx.autograd), or write the expression in what zmlx can read."
        )  # fmt: skip

    def _pull(self, kinds: tuple[str, ...], runtime: Runtime) -> Pull:
        spec = self.spec
        given = self._given_pull(kinds, runtime)
        if len(spec.given) == len(spec.names):
            return given
        derived = _DerivedPull(self, kinds, runtime)

        def pull(primals: Arrays, y: mx.array, g: mx.array, wanted: tuple[int, ...]) -> Arrays:
            found: dict[int, mx.array] = {}
            for part, own in ((given, True), (derived, False)):
                mine = tuple(i for i in wanted if (i in spec.given) == own)
                if mine:
                    found.update(zip(mine, part(primals, y, g, mine), strict=True))
            return [found[i] for i in wanted]

        return pull

    def _given_pull(self, kinds: tuple[str, ...], runtime: Runtime) -> Pull:
        spec = self.spec
        if self.pull_reason is None:
            return _ParsedPull(self, kinds, runtime)
        kernel = refusing(
            pull_kernel(spec, kinds[0]),
            f"[zmlx.{self.where}] {spec.name!r} has no second derivative: {self.pull_reason}",
        )
        places = {i: k for k, i in enumerate(spec.given)}

        def pull(primals: Arrays, y: mx.array, g: mx.array, wanted: tuple[int, ...]) -> Arrays:
            shape = y.shape
            wide = [mx.broadcast_to(p, shape) if p.shape != shape else p for p in primals]
            flat = [a.reshape(1) if shape == () else a for a in (*wide, y, g)]
            found = kernel(flat)
            chosen = [found[places[i]] for i in wanted]
            return [d.reshape(shape) for d in chosen] if shape == () else chosen

        return pull


class _ParsedPull:
    """Given gradients that could be read: regions, so that they have derivatives themselves."""

    def __init__(self, op: ElementwiseOp, kinds: tuple[str, ...], runtime: Runtime) -> None:
        self._op, self._kinds, self._runtime = op, kinds, runtime
        self._functions: dict[tuple[int, ...], Run] = {}

    def __call__(
        self, primals: Arrays, y: mx.array, g: mx.array, wanted: tuple[int, ...]
    ) -> Arrays:
        function = self._functions.get(wanted)
        if function is None:
            graph = self._op.pull_graph(self._kinds, wanted, self._kinds[0])
            name = f"{self._op.spec.name}_bwd"
            function = self._functions[wanted] = RegionFunction(graph, self._runtime, name)
        return function([*primals, *([y] if self._op.spec.sees_output else []), g])


class _DerivedPull:
    """Gradients that were left out beside one that was given: derived from the expression."""

    def __init__(self, op: ElementwiseOp, kinds: tuple[str, ...], runtime: Runtime) -> None:
        self._op, self._kinds, self._runtime = op, kinds, runtime
        self._functions: dict[tuple[int, ...], tuple[Run, tuple[int, ...]]] = {}

    def __call__(
        self, primals: Arrays, y: mx.array, g: mx.array, wanted: tuple[int, ...]
    ) -> Arrays:
        if wanted not in self._functions:
            self._functions[wanted] = self._derived(wanted)
        run, targets = self._functions[wanted]
        found = dict(zip(targets, run([*primals, g]), strict=True)) if targets else {}
        return [found[i] if i in found else mx.zeros_like(y) for i in wanted]

    def _derived(self, wanted: tuple[int, ...]) -> tuple[Run, tuple[int, ...]]:
        """The region for these gradients, and which of them are not zero everywhere."""
        from zmlx.derive.accumulate import derive_vjp

        op, spec = self._op, self._op.spec
        if op.reason is not None:
            missing = ", ".join(spec.pull_names[i] for i in wanted)
            raise DeriveError(
                f"[zmlx.{op.where}] {spec.name!r} has no gradient for {missing}, which was left "
                f"out: {op.reason}\nGive it, or write the expression in what zmlx can read."
            )
        derivative = derive_vjp(op.graph(self._kinds))
        pairs = zip(derivative.targets, derivative.graph.outputs, strict=True)
        kept = {target: node for target, node in pairs if target in wanted}
        derivative.graph.outputs = list(kept.values())
        graph = simplify(derivative.graph)
        return RegionFunction(graph, self._runtime, f"{spec.name}_bwd"), tuple(kept)


class GivenFunction(RegionFunction):
    """A region whose gradient was given instead of derived."""

    def __init__(self, graph: Graph, runtime: Runtime, name: str, pull: Pull) -> None:
        super().__init__(graph, runtime, name)
        self._given = Given(self, pull)

    def _sized_later(self) -> Run:
        return handed(super()._sized_later(), self._given)

    def _runner(self, arrays: Arrays) -> Run:
        special = self.specialized([a.shape for a in arrays])
        launch = special.launcher
        if launch is None:
            return differentiable_ops(special.replayed, self._given)
        if self.runtime.check:
            launch = checked(special.graph, launch, self.runtime.exact, self.name)
        return differentiable(launch, self._given)


def _ruled(kernel: Run, pull: Pull) -> Run:
    """A hand-written kernel with given gradients; vmap calls it again, rules attached."""

    def run(arrays: Arrays) -> list[mx.array]:
        return ruled(arrays)

    ruled = differentiable(kernel, Given(run, pull))
    return run


def refusing(kernel: Run, why: str) -> Run:
    def run(arrays: Arrays) -> list[mx.array]:
        return ruled(arrays)

    ruled = differentiable(kernel, Refused(run, why))
    return run


def runtime() -> Runtime:
    """How regions run under the switches as they stand."""
    fastest = signature.fastest()
    return Runtime(False, switches.CHECK.on(), fastest, make_program, switches.watched)
