"""Tracer: records one run of a function into a Graph.

Comes in: a function, a tree of example arguments. Goes out: a Trace (graph, output tree, what was
captured, what the trace depends on). zmlx.fuse calls `trace`; proxies and intercepted functions
call the Tracer's methods while the function runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from zmlx import dtypes
from zmlx.errors import TraceError
from zmlx.ops.infer import infer
from zmlx.trace import intercept, namespace, placeholders
from zmlx.trace.graph import Graph, OpaqueCall, Ref
from zmlx.trace.proxy import Proxy
from zmlx.trace.scalars import Expr, ScalarProxy

_OWN = (os.path.dirname(os.path.dirname(__file__)) + os.sep, os.path.dirname(mx.__file__) + os.sep)
_VISIBLE = (os.path.join(_OWN[0], "demo") + os.sep,)


@dataclass
class Capture:
    """An array that the function reached through a closure: fixed in the trace."""

    array: mx.array
    node: int
    loc: str


@dataclass
class Tracer:
    """The state of one running trace."""

    graph: Graph = field(default_factory=Graph)
    sources: list[mx.array] = field(default_factory=list)  # placeholders of the inputs
    captures: dict[int, Capture] = field(default_factory=dict)  # by id of the array
    shape_reads: list[str] = field(default_factory=list)  # where a size was read
    notes: list[tuple[int, str]] = field(default_factory=list)  # (node, why it is opaque)

    # -- inputs -----------------------------------------------------------------------------------
    def array_inputs(self, examples: Sequence[mx.array]) -> list[Proxy]:
        """One proxy for each example array."""
        self.sources = placeholders.placeholders([(a.shape, a.dtype) for a in examples])
        return [self.proxy(base, "input") for base in self.sources]

    def proxy(
        self, base: mx.array, kind: str, operands: Sequence[int] = (), **attributes: Any
    ) -> Proxy:
        node = self.graph.add(
            kind,
            operands,
            shape=base.shape,
            dtype=name_of(base.dtype),
            loc=self.location(),
            **attributes,
        )
        return Proxy(base, self, node)

    # -- what intercepted calls do ----------------------------------------------------------------
    def sees(self, tree: Any) -> bool:
        """Whether a traced value is anywhere in `tree`."""
        kind = type(tree)
        if kind is Proxy or kind is ScalarProxy:
            return True
        if kind in (list, tuple):
            return any(self.sees(item) for item in tree)
        if isinstance(tree, dict):
            return any(self.sees(item) for item in tree.values())
        return False

    def call(
        self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict
    ) -> Any:
        """A function of mlx.core, by its name there."""
        meaning = namespace.meaning(name, args, kwargs)
        if meaning is not None:
            return meaning(self)
        if name.startswith("random."):
            return self.random(name, function, args, kwargs)
        return self.opaque(name, function, args, kwargs)

    def method(
        self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict
    ) -> Any:
        """A method of mx.array; args[0] is the proxy."""
        meaning = namespace.meaning(name, args, kwargs) if not name.startswith("__") else None
        if meaning is not None:
            return meaning(self)
        return self.opaque(name.strip("_"), function, args, kwargs)

    def call_object(self, target: Any, args: Sequence[Any], kwargs: dict) -> Any:
        """A compiled function, a gradient, a custom function: an object that MLX calls."""
        activation = namespace.activation(target)
        if activation is not None:
            return activation(namespace.Elementwise(self), *args, **kwargs)
        return self.opaque(getattr(target, "__name__", type(target).__name__), target, args, kwargs)

    def random(
        self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict
    ) -> Any:
        """A draw from mx.random: recorded, so that each call draws anew; the trace draws nothing."""

        def example(*base_args: Any, **base_kwargs: Any) -> Any:
            if base_kwargs.get("key") is not None:
                return function(*base_args, **base_kwargs)
            return function(*base_args, **{**base_kwargs, "key": mx.random.key(0)})

        return self.opaque(name, function, args, kwargs, example=example, pure=False)

    # -- recording --------------------------------------------------------------------------------
    def elementwise(self, op: str, operands: Sequence[Any], param: mx.Dtype | None = None) -> Any:
        """Record row `op` of the table on `operands` (proxies, arrays, numbers)."""
        self._check_running()
        operands = [_plain(operand) for operand in operands]
        bases = [self._base(operand) for operand in operands]
        function = namespace.function(op, param)
        result = function(*bases)
        strong = [b.dtype for b in bases if isinstance(b, mx.array)]
        types = [self._dtype(b, strong) for b in bases]
        target = None if param is None else name_of(param)
        at, inferred = infer(op, types, target)
        if inferred != name_of(result.dtype):  # the table and MLX disagree: MLX runs it
            return self.opaque(op, function, operands, {})
        nodes = [self._operand(o, t) for o, t in zip(operands, types, strict=True)]
        return self.proxy(result, "op", nodes, op=op, at=at)

    def opaque(
        self,
        label: str,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        pure: bool = True,
        example: Callable[..., Any] | None = None,
    ) -> Any:
        """Record a call that MLX runs, with the traced values inside `args` and `kwargs`.

        `example` stands in for `fn` while tracing, where `fn` would have an effect.
        """
        self._check_running()
        operands: list[int] = []
        template = self._template((tuple(args), kwargs), operands)
        base_args, base_kwargs = self._bases((tuple(args), kwargs))
        with intercept.recording(None):
            result = (example or fn)(*base_args, **base_kwargs)
        count = len(list(arrays_in(result)))
        if count == 0:
            return result
        single = isinstance(result, mx.array)
        call = OpaqueCall(fn, template[0], template[1], label, 0 if single else count)
        if single:
            return self.proxy(result, "opaque", operands, call=call, pure=pure)
        node = self.graph.add("opaque", operands, loc=self.location(), call=call, pure=pure)
        indices = iter(range(count))
        return map_arrays(
            result, lambda base: self.proxy(base, "item", (node,), index=next(indices))
        )

    def set_item(self, target: Proxy, index: Any, value: Any) -> None:
        """`target[index] = value`: the proxy from now on stands for the updated array."""

        def update(array: mx.array, index: Any, value: Any) -> mx.array:
            copy = array[...]
            copy[index] = value
            return copy

        self.rebind(target, self.opaque("setitem", update, (target, index, value), {}))

    def rebind(self, target: Proxy, result: Proxy) -> Proxy:
        """Make `target` stand for `result`, as MLX's in-place operators do."""
        if result.tracer is not target.tracer:
            return result
        mx.array.__init__(target, result)
        target.node = result.node
        return target

    def read_shape(self, value: Any) -> Any:
        """A size becomes a Python number: the trace then holds for these sizes only."""
        if intercept.current() is self:
            loc = self.location()
            if loc not in self.shape_reads:
                self.shape_reads.append(loc)
        return value

    # -- operands ---------------------------------------------------------------------------------
    def _check_running(self) -> None:
        if intercept.current() is not self:
            raise TraceError(
                self.message(
                    "a traced array is used inside another function transformation (through a closure).",
                    "Pass it to the inner function as an argument, or fuse inside: mx.grad(zmlx.fuse(f)).",
                )
            )

    def _base(self, operand: Any) -> Any:
        if isinstance(operand, ScalarProxy):
            return operand.value
        return mx.array(operand) if isinstance(operand, np.ndarray) else operand

    def _dtype(self, base: Any, strong: Sequence[mx.Dtype]) -> str:
        if isinstance(base, mx.array):
            return name_of(base.dtype)
        return dtypes.weak(base, [name_of(d) for d in strong])

    def _operand(self, operand: Any, dtype: str) -> int:
        if isinstance(operand, Proxy):
            return operand.node
        if isinstance(operand, mx.array):
            return self.capture(operand)
        if isinstance(operand, ScalarProxy):
            return self.scalar(operand.expr, dtype)
        return self.graph.add("const", dtype=dtype, value=operand, loc=self.location())

    def scalar(self, expr: Expr, dtype: str) -> int:
        """The node of a Python number given at call time, adopted as `dtype`."""
        for node in self.graph.inputs:
            data = self.graph[node]
            if data["kind"] == "scalar" and data["expr"] == expr and data["dtype"] == dtype:
                return node
        return self.graph.add("scalar", dtype=dtype, expr=expr, loc=self.location())

    def capture(self, array: mx.array) -> int:
        """The node of an array that is not an argument; raises where it hides a lost trace."""
        found = self.captures.get(id(array))
        if found is None:
            if placeholders.depends_on(array, self.sources):
                raise TraceError(
                    self.message(
                        "an array was computed from a traced one where zmlx could not see it "
                        "(a name imported with `from mlx.core import ...`, mx.array(x), or a C extension).",
                        "Call the function through its module (mx.exp), or outside of the fused function.",
                    )
                )
            loc = self.location()
            node = self.graph.add(
                "array", shape=array.shape, dtype=name_of(array.dtype), value=array, loc=loc
            )
            found = self.captures[id(array)] = Capture(array, node, loc)
        return found.node

    def _template(self, tree: Any, operands: list[int]) -> Any:
        """`tree` with every array replaced by a Ref; the operands are appended in order."""
        if isinstance(tree, Proxy):
            return _ref(tree.node, operands)
        if isinstance(tree, mx.array):
            return _ref(self.capture(tree), operands)
        if isinstance(tree, ScalarProxy):
            if not isinstance(tree.value, float):
                raise tree.specialize()
            return _ref(self.scalar(tree.expr, "float32"), operands)
        if type(tree) in (list, tuple):
            return type(tree)([self._template(item, operands) for item in tree])
        if type(tree) is dict:
            return {key: self._template(item, operands) for key, item in tree.items()}
        if isinstance(tree, slice):
            parts = [self._template(p, operands) for p in (tree.start, tree.stop, tree.step)]
            return slice(*parts)
        return tree

    def _bases(self, tree: Any) -> Any:
        if isinstance(tree, Proxy):
            return mx.array(tree)
        if isinstance(tree, ScalarProxy):
            return tree.value
        if type(tree) in (list, tuple):
            return type(tree)([self._bases(item) for item in tree])
        if type(tree) is dict:
            return {key: self._bases(item) for key, item in tree.items()}
        if isinstance(tree, slice):
            return slice(self._bases(tree.start), self._bases(tree.stop), self._bases(tree.step))
        return tree

    # -- messages ---------------------------------------------------------------------------------
    def location(self) -> str:
        """`file.py:12` of the innermost line outside ZMLX and MLX."""
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if not name.startswith(_OWN) or name.startswith(_VISIBLE):
                return f"{os.path.basename(name)}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return ""

    def message(self, what: str, way_out: str) -> str:
        return f"[zmlx.trace] {self.location()}: {what} {way_out}"


def name_of(dtype: mx.Dtype) -> str:
    """MLX's name of a dtype ("float32"; bool is "bool")."""
    return _NAMES.get(dtype) or str(dtype).removeprefix("mlx.core.").rstrip("_")


_NAMES: dict[mx.Dtype, str] = {
    getattr(mx, n if n != "bool" else "bool_"): n
    for n in dtypes.ALL
    if hasattr(mx, n) or n == "bool"
}


def arrays_in(tree: Any) -> Any:
    """The arrays of nested lists, tuples and dicts, in order."""
    if isinstance(tree, mx.array):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from arrays_in(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from arrays_in(item)


def map_arrays(tree: Any, function: Callable[[mx.array], Any]) -> Any:
    """`tree` with `function` applied to each array."""
    if isinstance(tree, mx.array):
        return function(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[map_arrays(item, function) for item in tree])
    if isinstance(tree, (list, tuple)):
        return type(tree)([map_arrays(item, function) for item in tree])
    if isinstance(tree, dict):
        return {key: map_arrays(item, function) for key, item in tree.items()}
    return tree


def _plain(operand: Any) -> Any:
    return operand.item() if isinstance(operand, np.generic) else operand


def _ref(node: int, operands: list[int]) -> Ref:
    operands.append(node)
    return Ref(len(operands) - 1)
