"""Nary: an op from whole kernel bodies, forward and backward.

Comes in: a NarySpec (zmlx.autograd checks it). Goes out: NaryOp. Bodies run as they are written;
derivatives that were not given are taken from a body that can be read. Another body may read any
element, so nothing is known of its derivative, and vmap runs it once for each example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx import dtypes, metal, switches
from zmlx.device.rules import Rules, differentiable, differentiable_ops, or_ops
from zmlx.errors import DeriveError
from zmlx.expr import Names, Source, Unparsed, parse_body
from zmlx.expr.header import uncommented
from zmlx.fuse.region import RegionFunction, RegionRules, Specialized
from zmlx.fuse.replay import dtype_of, replay_fp32
from zmlx.fuse.runtime import Run
from zmlx.helpers.complaint import complaining, counted
from zmlx.helpers.op import runtime
from zmlx.helpers.rules import Arrays, Refused, mapped_first, seeds
from zmlx.helpers.settled import settled
from zmlx.helpers.spec import check_arrays, defined_by, full_header, readable_functions
from zmlx.helpers.written import one_thread_each
from zmlx.trace import intercept
from zmlx.trace.graph import Graph
from zmlx.trace.operands import name_of
from zmlx.trace.spliced import joins, spliced

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

_WAY_OUT = (
    "Give bwd_source, or write the body in what zmlx can read: declarations, assignments and "
    "out[elem] = ...; with elem = thread_position_in_grid.x."
)


@dataclass(frozen=True)
class NarySpec:
    """Two kernel bodies and the names of their buffers."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    forward: str
    backward: str | None
    compute: str
    contiguous: bool
    header: str

    @property
    def cotangents(self) -> tuple[str, ...]:
        """The cotangents' names: `cotan`, or `cotan_<output>` where there are several."""
        return ("cotan",) if len(self.outputs) == 1 else tuple(f"cotan_{o}" for o in self.outputs)

    @property
    def gradients(self) -> tuple[str, ...]:
        """What the backward body calls the gradients."""
        return tuple(f"d{name}" for name in self.inputs)

    def check(self, where: str) -> None:
        """Raise for buffers of one name, and for a body that never names what it should write."""
        bodies = [("fwd_source", self.forward, self.inputs, self.outputs)]
        if self.backward is not None:
            names = (*self.inputs, *self.cotangents)
            bodies.append(("bwd_source", self.backward, names, self.gradients))
        for what, text, inputs, outputs in bodies:
            names = (*inputs, *outputs)
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(
                    f"[zmlx.{where}] {self.name!r}: two buffers of {what} are called {twice[0]!r} "
                    f"({', '.join(names)}); rename an input or an output."
                )
            words = set(re.findall(r"\w+", uncommented(text + self.header)))
            missing = [name for name in outputs if name not in words]
            if missing:
                raise ValueError(
                    f"[zmlx.{where}] {self.name!r}: {what} never names {missing[0]!r}, which it "
                    f"should write, as in {missing[0]}[elem] = ...;"
                )
        self._check_cotangents(where)

    def _check_cotangents(self, where: str) -> None:
        """Raise for a backward body that leaves a cotangent out."""
        if self.backward is None:
            return
        words = set(re.findall(r"\w+", uncommented(self.backward + self.header)))
        missing = [name for name in self.cotangents if name not in words]
        if missing:
            several = len(self.cotangents) > 1
            each = "; each output has a cotangent of its own" if several else ""
            raise ValueError(
                f"[zmlx.{where}] {self.name!r}: bwd_source never names {missing[0]!r}{each} "
                f"({', '.join(self.cotangents)}). Use it, or write (void){missing[0]}; where no "
                "gradient depends on it."
            )


class NaryOp:
    """Call it with one array for each input, all of one shape.

    `reason` says why the forward body gives no derivatives, `pull_reason` why the backward body
    gives none; None where they do (or where there is no such body).
    """

    def __init__(self, spec: NarySpec, where: str) -> None:
        self.spec, self.where = spec, where
        self.__name__ = spec.name
        self._runs: dict[Any, Run] = {}
        self._settled = cache(lambda kinds: settled(self.graph(kinds)))
        self._forward = self._kernel("fwd", spec.inputs, spec.outputs, spec.forward)
        names = (*spec.inputs, *spec.cotangents)
        if spec.backward is not None:
            self._backward = self._kernel("bwd", names, spec.gradients, spec.backward)
        kinds = ["float32"] * len(spec.inputs)
        self.reason, self.pull_reason = self._why(self.graph, kinds), None
        if spec.backward is not None:
            self.pull_reason = self._why(self.pull_graph, kinds)

    def __call__(self, *arrays: mx.array) -> mx.array | tuple[mx.array, ...]:
        spec = self.spec
        check_arrays(arrays, spec.inputs, spec.name, self.where)
        tracer = intercept.current()
        if tracer is not None and tracer.sees(arrays):
            return self._recorded(tracer, arrays)
        shape = self._shape(arrays)
        run = self._run(tuple([name_of(a.dtype) for a in arrays]))
        outputs = run([a.reshape(1) for a in arrays] if shape == () else arrays)
        outputs = [o.reshape(()) for o in outputs] if shape == () else outputs
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def __repr__(self) -> str:
        return f"<zmlx.{self.where} {self.spec.name}({', '.join(self.spec.inputs)})>"

    def _shape(self, arrays: Arrays) -> tuple[int, ...]:
        """The one shape of all arrays."""
        spec, shape = self.spec, arrays[0].shape
        if any(a.shape != shape for a in arrays):
            shapes = ", ".join(f"{n}: {a.shape}" for n, a in zip(spec.inputs, arrays, strict=True))
            raise ValueError(
                f"[zmlx.{self.where}] {spec.name!r}: shapes differ ({shapes}); its bodies index "
                "all buffers alike, so make them equal (mx.broadcast_to)."
            )
        return shape

    def _recorded(self, tracer: Tracer, arrays: Arrays) -> Any:
        """The call inside a fused function: nodes of its trace, or one call where it must be one.

        A gradient that was given is not what the nodes would have.
        """
        spec = self.spec
        if self.reason is not None or spec.backward is not None or not joins(tracer, arrays):
            return tracer.opaque(spec.name, self, arrays, {})
        bases = [tracer.base(a) for a in arrays]
        self._shape(bases)
        found = spliced(tracer, self._settled(tuple([name_of(a.dtype) for a in bases])), arrays)
        return found[0] if len(found) == 1 else tuple(found)

    # -- reading ----------------------------------------------------------------------------------
    def graph(self, kinds: Sequence[str]) -> Graph:
        """The forward body for inputs of these types; Unparsed where it cannot be read."""
        spec = self.spec
        inputs = dict(zip(spec.inputs, kinds, strict=True))
        return self._read("fwd_source", spec.forward, inputs, spec.outputs, kinds[0])

    def pull_graph(self, kinds: Sequence[str]) -> Graph:
        """The backward body: (inputs, cotangents) -> the gradient of each input."""
        spec = self.spec
        inputs = dict(zip(spec.inputs, kinds, strict=True)) | dict.fromkeys(
            spec.cotangents, kinds[0]
        )
        return self._read("bwd_source", spec.backward or "", inputs, spec.gradients, kinds[0])

    def _read(
        self, what: str, text: str, inputs: dict[str, str], outputs: Sequence[str], kind: str
    ) -> Graph:
        header = self.spec.header
        names = Names(
            "float64" if kind == "float64" else self.spec.compute, kind,
            header=defined_by(header), functions=readable_functions(header),
        )  # fmt: skip
        source = Source(text, f"{what} of {self.spec.name!r}")
        return parse_body(source, inputs, dict.fromkeys(outputs, kind), names)

    @staticmethod
    def _why(read: Callable[[Sequence[str]], Graph], kinds: Sequence[str]) -> str | None:
        try:
            read(kinds)
        except Unparsed as problem:
            return str(problem)
        return None

    # -- running ----------------------------------------------------------------------------------
    def _run(self, kinds: tuple[str, ...]) -> Run:
        """The op for inputs of these types; made once."""
        key = (kinds, switches.mode())
        if key not in self._runs:
            read = None if self.reason else cache(lambda: self.graph(kinds))
            text = {"fwd_source": self.spec.forward}
            launch = self._launch(self._forward, kinds[0], text)
            self._runs[key] = _ruled(launch, read, self._rules(kinds))
        return self._runs[key]

    def _rules(self, kinds: tuple[str, ...]) -> Rules:
        def again(arrays: Arrays) -> list[mx.array]:
            return self._run(kinds)(arrays)

        if self.spec.backward is not None:
            return _GivenRules(self, kinds, again, self._pull(kinds))
        if self.reason is None:
            function = RegionFunction(self.graph(kinds), runtime(), self.spec.name)
            return _ReadRules(function, again)
        why = f"[zmlx.{self.where}] {self.spec.name!r} has no gradient: {self.reason}\n{_WAY_OUT}"
        return _Refused(again, why)

    def _pull(self, kinds: tuple[str, ...]) -> Run:
        """The backward body: (inputs, cotangents) -> gradients, differentiable if it is read."""
        read = None if self.pull_reason else cache(lambda: self.pull_graph(kinds))
        text = {"bwd_source": self.spec.backward or ""}
        launch = self._launch(self._backward, kinds[0], text)

        def again(arrays: Arrays) -> list[mx.array]:
            return ruled(arrays)

        if self.pull_reason is None:
            name = f"{self.spec.name}_bwd"
            rules: Rules = _ReadRules(
                RegionFunction(self.pull_graph(kinds), runtime(), name), again
            )
        else:
            rules = _Refused(
                again, f"[zmlx.{self.where}] {self.spec.name!r} has no second derivative: "
                f"{self.pull_reason}\nWrite bwd_source in what zmlx can read: declarations, "
                "assignments and da[elem] = ...; with elem = thread_position_in_grid.x.",
            )  # fmt: skip
        ruled = _ruled(launch, read, rules)
        return again

    def _launch(self, kernel: metal.MetalKernel, kind: str, text: dict[str, str]) -> Run:
        """The kernel for outputs of one type."""
        compute = "float32" if self.spec.compute in dtypes.HALVES else self.spec.compute
        template = [("T", dtype_of(compute)), ("O", dtype_of(kind))]
        kinds = [dtype_of(kind)] * len(kernel.spec.output_names)

        def launch(arrays: Arrays) -> list[mx.array]:
            grid, threadgroup = one_thread_each(arrays[0])
            return kernel(
                *arrays, template=template, grid=grid, threadgroup=threadgroup,
                output_shapes=[arrays[0].shape] * len(kinds), output_dtypes=kinds,
            )  # fmt: skip

        return complaining(launch, {"header": self.spec.header, **text})

    def _kernel(
        self, suffix: str, inputs: Sequence[str], outputs: Sequence[str], source: str
    ) -> metal.MetalKernel:
        return metal.kernel(
            name=f"{self.spec.name}_{suffix}", input_names=inputs, output_names=outputs,
            source=counted(source, f"{suffix}_source"), header=full_header(self.spec.header),
            ensure_row_contiguous=self.spec.contiguous,
        )  # fmt: skip


def _ruled(launch: Run, read: Callable[[], Graph] | None, rules: Rules) -> Run:
    """A kernel with `rules`; where none can run, what was read as MLX ops, with them too."""
    run = differentiable(launch, rules)
    if read is None:
        return run
    return or_ops(run, differentiable_ops(lambda arrays: replay_fp32(read(), arrays), rules))


class _ReadRules:
    """Rules derived from a body that was read; `again` is the op itself, with these rules."""

    def __init__(self, function: RegionFunction, again: Run) -> None:
        self._function, self._again = function, again
        self._kept: dict[Specialized, RegionRules] = {}

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        return self._derived(primals).vjp(primals, cotangents, argnums, outputs)

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        return self._derived(primals).jvp(primals, tangents, argnums)

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return self._again(mapped_first(inputs, axes))

    def _derived(self, primals: Arrays) -> RegionRules:
        special = self._function.specialized([p.shape for p in primals])
        if special not in self._kept:
            self._kept[special] = RegionRules(self._function, special)
        return self._kept[special]


class _GivenRules:
    """The backward body as a rule."""

    def __init__(self, op: NaryOp, kinds: Sequence[str], again: Run, pull: Run) -> None:
        self._op, self._again, self._pull = op, again, pull
        self._outputs = [dtype_of(kinds[0])] * len(op.spec.outputs)

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        found = self._pull([*primals, *seeds(cotangents, outputs)])
        return [found[i].astype(primals[i].dtype) for i in argnums]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        """An op of elements: what pulls a cotangent back also pushes a tangent on."""
        op = self._op
        if op.reason is not None and op.pull_reason is not None:
            raise DeriveError(
                f"[zmlx.{op.where}] {op.spec.name!r} has no jvp: bwd_source gives its vjp only, "
                f"since elements may depend on one another: {op.reason}\nUse mx.vjp, or write one "
                "of the bodies in what zmlx can read."
            )
        pushed = []
        for k, kind in enumerate(self._outputs):
            parts = []
            for i, tangent in zip(argnums, tangents, strict=True):
                taken = [mx.zeros(tangent.shape, kind) for kind in self._outputs]
                taken[k] = tangent.astype(kind)
                parts.append(self._pull([*primals, *taken])[i])
            pushed.append(reduce(mx.add, parts).astype(kind))
        return pushed

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        if self._op.reason is None:
            return self._again(mapped_first(inputs, axes))
        return _each(self._again, inputs, axes)


class _Refused(Refused):
    """The rules of a body that has no derivative: only vmap, one example after the other."""

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return _each(self._run, inputs, axes)


def _each(run: Run, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
    """`run` on one example after the other, the results stacked."""
    pairs = list(zip(inputs, axes, strict=True))
    size = next(x.shape[axis] for x, axis in pairs if axis >= 0)
    if not size:  # the shapes of no results are those of one
        shapes = [[n for d, n in enumerate(x.shape) if d != axis] for x, axis in pairs]
        one = run([mx.zeros(s, x.dtype) for s, x in zip(shapes, inputs, strict=True)])
        return [mx.zeros((0, *o.shape), o.dtype) for o in one]
    results = [
        run([mx.take(x, k, axis) if axis >= 0 else x for x, axis in pairs]) for k in range(size)
    ]
    return [mx.stack(column) for column in zip(*results, strict=True)]
