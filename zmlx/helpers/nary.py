"""Nary: an op from whole kernel bodies, forward and backward.

Comes in: a NarySpec (zmlx.autograd checks it). Goes out: NaryOp. A body may read any element, so
nothing is known of its derivative but the backward body; vmap runs it once for each example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from zmlx import dtypes, metal
from zmlx.device.rules import differentiable
from zmlx.errors import DeriveError
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.runtime import Run
from zmlx.helpers.rules import Arrays, Refused
from zmlx.helpers.spec import check_arrays
from zmlx.msl import DEFAULT_HEADER
from zmlx.trace import intercept
from zmlx.trace.operands import name_of


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


class NaryOp:
    """Call it with one array for each input, all of one shape."""

    def __init__(self, spec: NarySpec, where: str) -> None:
        self.spec, self.where = spec, where
        self.__name__ = spec.name
        self._runs: dict[str, Run] = {}
        self._kernel(f"{spec.name}_fwd", spec.inputs, spec.outputs, spec.forward)
        if spec.backward is not None:
            self._backward()

    def __call__(self, *arrays: mx.array) -> mx.array | tuple[mx.array, ...]:
        spec = self.spec
        check_arrays(arrays, spec.inputs, spec.name, self.where)
        tracer = intercept.current()
        if tracer is not None and tracer.sees(arrays):
            return tracer.opaque(spec.name, self, arrays, {})
        shape = arrays[0].shape
        if any(a.shape != shape for a in arrays):
            shapes = ", ".join(f"{n}: {a.shape}" for n, a in zip(spec.inputs, arrays, strict=True))
            raise ValueError(
                f"[zmlx.{self.where}] {spec.name!r}: shapes differ ({shapes}); its bodies index "
                "all buffers alike, so make them equal (mx.broadcast_to)."
            )
        run = self._run(name_of(arrays[0].dtype))
        outputs = run([a.reshape(1) for a in arrays] if shape == () else arrays)
        outputs = [o.reshape(()) for o in outputs] if shape == () else outputs
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def __repr__(self) -> str:
        return f"<zmlx.{self.where} {self.spec.name}({', '.join(self.spec.inputs)})>"

    def backward(self, arrays: Arrays, kind: str) -> list[mx.array]:
        """(inputs, cotangents) -> the gradient of each input."""
        if self.spec.backward is None:
            raise DeriveError(
                f"[zmlx.{self.where}] {self.spec.name!r} has no gradient: a kernel body cannot be "
                "differentiated, and bwd_source is missing. Give it."
            )
        shapes = [arrays[0].shape] * len(self.spec.inputs)
        kinds = [dtype_of(kind)] * len(shapes)
        template = self._template(kind)
        kernel = self._backward()
        return kernel(*arrays, template=template, output_shapes=shapes, output_dtypes=kinds)

    def _run(self, kind: str) -> Run:
        """The op for outputs of type `kind`; made once."""
        if kind not in self._runs:
            spec = self.spec
            kernel = self._kernel(f"{spec.name}_fwd", spec.inputs, spec.outputs, spec.forward)
            template, kinds = self._template(kind), [dtype_of(kind)] * len(spec.outputs)

            def launch(arrays: Arrays) -> list[mx.array]:
                shapes = [arrays[0].shape] * len(kinds)
                return kernel(*arrays, template=template, output_shapes=shapes, output_dtypes=kinds)

            self._runs[kind] = differentiable(launch, _NaryRules(self, kind))
        return self._runs[kind]

    def _template(self, kind: str) -> list[tuple[str, mx.Dtype]]:
        compute = "float32" if self.spec.compute in dtypes.HALVES else self.spec.compute
        return [("T", dtype_of(compute)), ("O", dtype_of(kind))]

    def _backward(self) -> metal.MetalKernel:
        spec = self.spec
        inputs = (*spec.inputs, *spec.cotangents)
        results = tuple(f"d{name}" for name in spec.inputs)
        return self._kernel(f"{spec.name}_bwd", inputs, results, spec.backward or "")

    def _kernel(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str], source: str
    ) -> metal.MetalKernel:
        return metal.kernel(
            name=name, input_names=inputs, output_names=outputs, source=source,
            header=self.spec.header or DEFAULT_HEADER, ensure_row_contiguous=self.spec.contiguous,
        )  # fmt: skip


class _NaryRules:
    """The backward body as a rule."""

    def __init__(self, op: NaryOp, kind: str) -> None:
        self._op, self._kind = op, kind
        why = (
            f"[zmlx.{op.where}] {op.spec.name!r} has no second derivative: a kernel body cannot "
            "be differentiated."
        )
        self._pull = differentiable(self._gradients, _NoSecond(self._gradients, why))

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:
        seeds = [
            mx.zeros_like(o) if c is None else c for c, o in zip(cotangents, outputs, strict=True)
        ]
        seeds = [c.astype(o.dtype) for c, o in zip(seeds, outputs, strict=True)]
        found = self._pull([*primals, *seeds])
        return [found[i].astype(primals[i].dtype) for i in argnums]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        raise DeriveError(
            f"[zmlx.{self._op.where}] {self._op.spec.name!r} has no jvp: kernel bodies give its "
            "vjp only. Use unary_from_expr or binary_from_expr."
        )

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return _each(lambda arrays: self._op._run(self._kind)(arrays), inputs, axes)

    def _gradients(self, arrays: Arrays) -> list[mx.array]:
        return self._op.backward(arrays, self._kind)


class _NoSecond(Refused):
    """The rules of the backward kernel: only vmap, one example after the other."""

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return _each(self._run, inputs, axes)


def _each(run: Run, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
    """`run` on one example after the other, the results stacked."""
    size = next(x.shape[axis] for x, axis in zip(inputs, axes, strict=True) if axis >= 0)
    results = []
    for k in range(size):
        pairs = zip(inputs, axes, strict=True)
        results.append(run([mx.take(x, k, axis) if axis >= 0 else x for x, axis in pairs]))
    return [mx.stack(column) for column in zip(*results, strict=True)]
