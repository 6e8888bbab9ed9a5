"""Unseen: arrays that a traced function computed where proxies could not see it.

A function that only C code holds takes a traced array's placeholder and gives a plain lazy array.
Its graph is taken from mx.export_function (zmlx.trace.exported), down to the traced arrays it was
computed from, and is recorded primitive by primitive (zmlx.trace.primitives). What was recorded is
computed once more over placeholders, and must be the same graph. The trace is then for the sizes
of this call. The tracer asks; where a graph cannot be read the function is refused, and runs as
plain MLX.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.errors import LostTraceError
from zmlx.trace import exported, intercept, locate, namespace, placeholders
from zmlx.trace.alike import Forms
from zmlx.trace.exported import Found, Primitive, Unreadable
from zmlx.trace.graph import broadcast
from zmlx.trace.operands import name_of
from zmlx.trace.primitive_rows import row_of
from zmlx.trace.primitives import again
from zmlx.trace.proxy import Proxy

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

UNSEEN = (
    "an array was computed from a traced one where zmlx could not see it (a function of MLX that "
    "only C code or a running frame refers to)"
)
_WRITTEN = "a traced array was written in place where zmlx could not see it"
_WAY_OUT = "Call it through its module (mx.exp)."
_CONST_TYPES = (
    "bool", "float32", "float16", "bfloat16",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
_LARGEST = 2**31
_serials = itertools.count(1)
# While a trace runs there are wrappers in the places of these.
_SET_ITEM, _I_ADD, _SHAPE = mx.array.__setitem__, mx.array.__iadd__, mx.array.shape.fget


class Unseen:
    """What a tracer knows of arrays that it has not recorded."""

    def __init__(self, tracer: Tracer, reading: bool) -> None:
        self._tracer, self.reading = tracer, reading
        self.told: list[str] = []  # the lines where a graph was taken from mx.export_function
        self._serial = next(_serials) % _LARGEST

    # -- placeholders that can be found again -----------------------------------------------------
    def placeholder(self, node: int) -> mx.array:
        """What stands for `node` where MLX computes with it out of sight."""
        data = self._tracer.graph[node]
        dtype = getattr(mx, "bool_" if data["dtype"] == "bool" else data["dtype"])
        return placeholders.marked(data["shape"], dtype, self._serial << 32 | node)

    def base(self, array: mx.array, node: int, tie: bool) -> mx.array:
        """What the traced array of `node` is for MLX, which infers `array` for it."""
        if self.reading:
            return self.placeholder(node)
        return placeholders.tied(array) if tie else array

    def renew(self, array: mx.array, node: int) -> None:
        """Let MLX find `node` in `array`, which was written in place or read."""
        if not self.reading:
            return
        base = self.placeholder(node)
        if _SHAPE(array) != base.shape:
            _I_ADD(array, mx.zeros(base.shape, array.dtype))
        _SET_ITEM(array, Ellipsis, base)

    # -- lost arrays ------------------------------------------------------------------------------
    def is_lost(self, array: mx.array) -> bool:
        """Whether a plain array was computed from traced ones; raises where none is read."""
        if not placeholders.depends_on_one(array):
            return False
        if not self.reading:
            raise self._refused(UNSEEN)
        return True

    def node(self, array: mx.array) -> int:
        """Record how a lost array was computed; its node."""
        try:
            found = exported.read([array])
            values = dict(self._recorded(found))
            _compare(array, found)
        except Unreadable as error:
            raise self._refused(f"{UNSEEN}; {error}") from None
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            raise self._refused(f"{UNSEEN}; its graph cannot be made again: {error}") from None
        node: int = values[found.results[0]].node
        if found.primitives:
            self._tracer.sizes.decide_inputs()
            self.told.append(locate.here())
            self.renew(array, node)
        return node

    def note_filled(self, array: mx.array) -> None:
        """A plain array is captured: it may be zeros_like(x), by a name that zmlx cannot see."""
        if placeholders.is_filled(array) and not locate.is_named(array):
            graph, shape = self._tracer.graph, _SHAPE(array)
            traced = (graph[node] for node in graph if graph.kind(node) != "array")
            if max(shape, default=1) != 1 and any(data["shape"] == shape for data in traced):
                self._tracer.sizes.decide_inputs()

    def why(self, function: str) -> str:
        """Why and where parts of the trace come from mx.export_function; "" where none do.

        `function` is the line of what was returned and then read.
        """
        lines = ", ".join(dict.fromkeys(line or function for line in self.told))
        return f"traced by mx.export_function: {UNSEEN} at {lines}" if lines else ""

    def note_size(self, array: mx.array) -> None:
        """The function reads a size of a plain array."""
        if self.is_lost(array):
            self.node(array)

    def write(self, array: mx.array, name: str, args: Sequence[Any]) -> Any:
        """`array.<name>(*args)`, which writes a lost array in place."""
        traced = self._tracer.lifted(array)
        result = getattr(traced, name)(*args)
        self._tracer.copies[id(array)] = (array, array)
        with intercept.recording(None):
            self.renew(array, traced.node)
        return array if result is traced else result

    def check(self, operand: Proxy) -> None:
        """Raise where MLX wrote a traced array in place out of sight, before it is used."""
        if self.reading and not operand.known and not placeholders.are_untouched([operand]):
            raise self._refused(_WRITTEN)

    def refuse_writes(self, living: Iterable[Any]) -> None:
        """Raise where MLX wrote a traced array in place out of sight; an argument, unless reading.

        Only placeholders that are marked tell what they were.
        """
        proxies = [p for p in living if type(p) is Proxy and not p.known]
        if not self.reading:
            graph = self._tracer.graph
            inputs = [p for p in proxies if graph.kind(p.node) == "input"]
            if not placeholders.are_untouched(inputs):
                raise self._refused(_WRITTEN)
            return
        if not proxies:
            return
        try:
            found = exported.read([mx.array(proxy) for proxy in proxies])
        except Unreadable as error:
            raise self._refused(f"{_WRITTEN}; {error}") from None
        for proxy, name in zip(proxies, found.results, strict=True):
            if found.marked.get(name) != self._serial << 32 | proxy.node:
                raise self._refused(_WRITTEN)

    def _refused(self, what: str) -> BaseException:
        return self._tracer.refuse(f"{what}.", _WAY_OUT, LostTraceError)

    # -- recording --------------------------------------------------------------------------------
    def _recorded(self, found: Found) -> Iterator[tuple[str, Any]]:
        """The traced array for each name of the graph."""
        values: dict[str, Any] = {}
        made_by = {value.name: p for p in found.primitives for value in p.outputs}
        recorder = _Recorder(self._tracer)
        for name, mark in found.marked.items():
            if mark >> 32 != self._serial:
                raise Unreadable("it computes with an array of another trace")
            node = mark & 0xFFFFFFFF
            values[name] = Proxy(self.placeholder(node), self._tracer, node)
        for name, array in found.constants.items():
            values[name] = self._constant(array)
        for primitive in found.primitives:
            operands = self._operands(primitive, values, made_by, found)
            for value, result in _outputs(primitive, again(recorder, primitive, operands)):
                data = self._tracer.graph[result.node]
                if (data["shape"], data["dtype"]) != (value.shape, name_of(value.dtype)):
                    raise Unreadable(f"{primitive.name} comes back as {data['dtype']}")
                values[value.name] = result
        yield from values.items()

    def _constant(self, array: mx.array) -> Proxy:
        dtype = name_of(array.dtype)
        if array.ndim == 0 and dtype in _CONST_TYPES:
            value: Any = array.item()
            if not isinstance(value, int) or abs(value) < _LARGEST:
                return self._tracer.proxy(array, "const", known=True, value=value)
        return self._tracer.lifted(array)

    def _operands(
        self,
        primitive: Primitive,
        values: dict[str, Any],
        made_by: dict[str, Primitive],
        found: Found,
    ) -> list[Any]:
        """The operands; those of a row as they were before they were broadcast to its shape.

        A call takes numbers as arrays.
        """
        operands = [values[name] for name in primitive.inputs]
        if row_of(primitive) is None and primitive.name != "AsType":
            return [
                self._tracer.constant(found.constants[name])
                if self._tracer.graph.kind(operand.node) == "const"
                else operand
                for name, operand in zip(primitive.inputs, operands, strict=True)
            ]
        sources = [_source(name, values, made_by) for name in primitive.inputs]
        shapes = [self._tracer.graph[values[name].node]["shape"] for name in sources]
        same = broadcast(shapes) == primitive.outputs[0].shape
        return [values[name] for name in sources] if same else operands


def _source(name: str, values: dict[str, Any], made_by: dict[str, Primitive]) -> str:
    """What `name` is broadcast from; filled with one number counts where nothing traced is in."""
    while (made := made_by.get(name)) is not None:
        known = made.name == "Full" and values[made.inputs[0]].known
        if made.name != "Broadcast" and not known:
            break
        name = made.inputs[0]
    return name


def _outputs(primitive: Primitive, made: Any) -> Iterator[tuple[Any, Any]]:
    several = list(made) if isinstance(made, (list, tuple)) else [made]
    if len(several) != len(primitive.outputs):
        raise Unreadable(f"{primitive.name} comes back as {len(several)} arrays")
    return zip(primitive.outputs, several, strict=True)


class _Recorder:
    """Makes primitives again as nodes of a trace."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def row(self, name: str, *operands: Any) -> Any:
        return self._tracer.elementwise(name, operands)

    def cast(self, x: Any, dtype: mx.Dtype) -> Any:
        return self._tracer.elementwise("astype", (x,), dtype)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._tracer.call(name, intercept.original(name), args, kwargs)

    def method(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        return self._tracer.opaque(name, function, args, {})


class _Computer:
    """Makes primitives again by computing."""

    def row(self, name: str, *operands: Any) -> Any:
        return namespace.function(name)(*operands)

    def cast(self, x: Any, dtype: mx.Dtype) -> Any:
        return namespace.function("astype", dtype)(x)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return intercept.original(name)(*args, **kwargs)

    def method(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


def _compare(array: mx.array, found: Found) -> None:
    """Raise Unreadable unless what is made again is computed as `array` is."""
    values: dict[str, Any] = {
        name: placeholders.marked(*found.shapes[name], mark) for name, mark in found.marked.items()
    }
    values.update(found.constants)
    computer = _Computer()
    with intercept.recording(None):
        for primitive in found.primitives:
            operands = [values[name] for name in primitive.inputs]
            for value, result in _outputs(primitive, again(computer, primitive, operands)):
                values[value.name] = result
    mine, theirs = Forms().of(exported.read([values[found.results[0]], array]))
    if mine != theirs:
        raise Unreadable("what mx.export_function reports does not make the same graph again")


def within_export(run: Callable[[], Any]) -> Any:
    """`run()` where MLX exports: compiled functions that it meets run as what they compile."""
    results: list[Any] = []

    def traced() -> Sequence[mx.array]:
        results.append(run())
        return []

    intercept.original("export_function")(lambda item: None, traced)
    return results[0]
