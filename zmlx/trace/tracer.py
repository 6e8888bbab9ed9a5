"""Tracer: records one run of a function into a Graph.

Proxies and intercepted functions call its methods while the function runs; zmlx.trace.run starts it
and reads what it holds afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.errors import TraceError
from zmlx.ops.infer import infer
from zmlx.trace import calls, intercept, locate, namespace, placeholders, reductions, through
from zmlx.trace.calls import Flat, Streams, is_flat, keeping_random_state
from zmlx.trace.graph import Graph, OpaqueCall, Ref
from zmlx.trace.living import Living
from zmlx.trace.moment import Late, Moment
from zmlx.trace.operands import (
    arrays_in,
    children,
    from_numpy,
    is_numpy,
    mapped,
    name_of,
    strong_types,
)
from zmlx.trace.proxy import Proxy, foreign
from zmlx.trace.scalars import ScalarProxy, Specialize, Token, adopted
from zmlx.trace.sizes import Sizes
from zmlx.trace.state import State
from zmlx.trace.unseen import Unseen

__all__ = ["Capture", "Tracer", "arrays_in", "name_of"]

_UNTIED, _SIZED_BY_VALUE = ("zeros_like", "ones_like"), ("arange",)  # by name: see below


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
    captures: list[Capture] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)  # (node, why it is opaque)
    refused: TraceError | None = None  # what the function did wrong first, even if it caught it
    static: frozenset[Token] = frozenset()  # numbers and sizes that stand for their example
    wanted: frozenset[Token] = frozenset()  # those whose values were read
    reading: bool = False  # what is computed out of sight is read from MLX's own graph
    finished: bool = False
    lent: bool = False  # whether C code reads the memory of an array made inside
    personal: bool = False  # a call that MLX runs holds on to the very objects of this call
    first_nodes: tuple[int, ...] = ()  # of the inputs, before anything is written in place
    moments: list[Moment] = field(default_factory=list)
    older: Callable[[], set[int]] = set  # the ids of what was there before the trace
    living: Living = field(default_factory=Living)
    state: State = field(default_factory=State)
    streams: Streams = field(default_factory=Streams)
    copies: dict[int, tuple[mx.array, mx.array]] = field(default_factory=dict)  # of others, by id
    gradients: list[Token] = field(default_factory=list)  # those that became nodes, or shall not
    values_read: dict[int, mx.array] = field(default_factory=dict)  # of captured arrays, by id
    _captured: dict[int, Capture] = field(default_factory=dict)  # by id of the array
    sizes: Sizes = field(init=False)
    unseen: Unseen = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = Sizes(self, self.static)
        self.unseen = Unseen(self, self.reading)

    # -- inputs -----------------------------------------------------------------------------------
    def array_inputs(self, examples: Sequence[mx.array]) -> list[Proxy]:
        """A proxy for each example array; the same one for the same one."""
        bases = placeholders.placeholders([(a.shape, a.dtype) for a in examples])
        made = [self.proxy(base, "input", tie=False, loc="") for base in bases]
        first = {id(a): p for a, p in reversed(list(zip(examples, made, strict=True)))}
        proxies = [first[id(array)] for array in examples]
        self.first_nodes = tuple([proxy.node for proxy in proxies])
        return proxies

    def proxy(
        self,
        base: mx.array,
        kind: str,
        operands: Sequence[int] = (),
        tie: bool = True,
        loc: str | None = None,
        known: bool = False,
        **attributes: Any,
    ) -> Proxy:
        """A new node and the traced array that stands for it.

        Unless its value is known, its base depends on the placeholders' root, or else a function
        that zmlx cannot see would compute with it unnoticed.
        """
        shape, dtype = mx.array.shape.fget(base), name_of(base.dtype)
        loc = locate.here() if loc is None else loc
        node = self.graph.add(kind, operands, shape=shape, dtype=dtype, loc=loc, **attributes)
        if not known:
            base = self.unseen.base(base, node, tie)
        return Proxy(base, self, node, known)

    def lifted(self, array: mx.array) -> Proxy:
        """`array`, or the traced array that stands for a captured one."""
        if type(array) is Proxy:
            return array
        node = self.capture(array)
        if self.graph.kind(node) != "array":
            return Proxy(self.unseen.placeholder(node), self, node)
        return Proxy(mx.array(array), self, node, known=True)

    def alias(self, proxy: Proxy) -> Proxy:
        """A second array object of the same value; in-place changes do not reach the first."""
        self.check(proxy)
        return Proxy(mx.array(proxy), self, proxy.node, proxy.known)

    # -- what intercepted calls do ----------------------------------------------------------------
    def sees(self, tree: Any) -> bool:
        """Whether a traced value is anywhere in `tree`."""
        kind = type(tree)
        return kind is Proxy or kind is ScalarProxy or any(map(self.sees, children(tree)))

    def varies(self, tree: Any) -> bool:
        """Whether a traced value in `tree` may differ from call to call."""
        if type(tree) is Proxy:
            return not tree.known
        return type(tree) is ScalarProxy or any(map(self.varies, children(tree)))

    def plainly(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """What `function` returns for known arrays; nothing is recorded."""
        base_args, base_kwargs = mapped((tuple(args), kwargs), self.base)
        with intercept.recording(None):
            return function(*base_args, **base_kwargs)

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        draws: bool = False,
    ) -> Any:
        """A function of mlx.core, by its name there."""
        if name == "broadcast_shapes":
            return self.sizes.common(function, args)
        meaning = namespace.meaning(name, args, kwargs)
        if meaning is not None:
            return self.fresh(meaning(self), args)
        if (folded := reductions.recorded(self, name, function, args, kwargs)) is not None:
            return folded
        if draws:
            return self.random(name, function, args, kwargs)
        why = namespace.reason(name, kwargs)
        return self.opaque(name, function, args, kwargs, why=why, named=True)

    def call_object(
        self, fn: Callable[..., Any], target: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """A compiled function, a gradient, a custom function: an object that MLX calls."""
        return through.call(self, fn, target, args, kwargs)

    def random(
        self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """A draw from mx.random: recorded, so that calls draw anew; the trace draws nothing."""
        if kwargs.get("key") is not None:
            return self.opaque(name, function, args, kwargs, named=True)
        drawn = calls.keyed(function)
        return self.opaque(name, function, args, kwargs, example=drawn, named=True)

    def constant(self, array: mx.array) -> Proxy:
        """An array made of Python's data: made once, and no capture."""
        intercept.original("eval")(array)  # a cast of it waits on this thread's stream
        return self.proxy(array, "array", known=True, value=array)

    def fresh(self, result: Any, args: Sequence[Any]) -> Any:
        """`result`, or an alias where it is one of the arguments (mx.positive)."""
        same = any(result is argument for argument in args)
        return self.alias(result) if same and isinstance(result, Proxy) else result

    # -- recording --------------------------------------------------------------------------------
    def elementwise(self, op: str, operands: Sequence[Any], param: mx.Dtype | None = None) -> Any:
        """Record row `op` of the table on `operands` (proxies, arrays, numbers)."""
        for operand in operands:
            self.check(operand)
        adopting = strong_types(op, operands)
        operands = [
            from_numpy(o, adopting) if is_numpy(o) else adopted(o, adopting) for o in operands
        ]
        bases = [self.base(operand) for operand in operands]
        function = namespace.function(op, param)
        result = function(*bases)
        strong = [name_of(dtype) for dtype in strong_types(op, bases)]
        types = [
            name_of(b.dtype) if isinstance(b, mx.array) else dtypes.weak(b, strong) for b in bases
        ]
        at, inferred = infer(op, types, None if param is None else name_of(param))
        if why := self._misfit(operands, bases, types, strong, inferred, name_of(result.dtype)):
            return self.opaque(op, function, operands, {}, why=why)
        nodes = [self._operand(o, t, strong) for o, t in zip(operands, types, strict=True)]
        varies = self.varies(operands)
        tied = op not in _UNTIED and any(isinstance(operand, Proxy) for operand in operands)
        return self.proxy(result, "op", nodes, not tied, known=not varies, op=op, at=at)

    def _misfit(
        self,
        operands: Sequence[Any],
        bases: Sequence[Any],
        types: Sequence[str],
        strong: Sequence[str],
        inferred: str,
        dtype: str,
    ) -> str:
        """Why MLX must run the row itself, or ""; raises where a number must become static."""
        if not strong:
            for operand in operands:
                if type(operand) is ScalarProxy and isinstance(operand.value, int):
                    raise operand.specialize()  # int32 or int64, by its value
        if inferred != dtype:
            return f"MLX returns {dtype} here"
        if not all(dtypes.fits(b, t, strong) for b, t in zip(bases, types, strict=True)):
            return "a number does not fit its type"
        return "it runs on another stream" if self.streams.elsewhere() else ""

    def opaque(
        self,
        label: str,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        example: Callable[..., Any] | None = None,
        why: str = "",
        closed: bool = True,
        runs_always: bool = False,
        named: bool = False,
    ) -> Any:
        """Record a call that MLX runs, with the traced values inside `args` and `kwargs`.

        `example` stands in for `fn` while tracing, where `fn` would draw random numbers. Where
        `fn` is not `closed`, it may compute with more than its arguments; `runs_always` says that
        it has effects beside its result, `named` that it is MLX's function of the name `label`.
        """
        operands: list[int] = []
        args, kwargs = self.sizes.settled(label if named else "", (tuple(args), kwargs))
        sizes = label in _SIZED_BY_VALUE
        template_args, template_kwargs = self._template((tuple(args), kwargs), operands, sizes)
        base_args, base_kwargs = mapped((tuple(args), kwargs), self.base)
        with intercept.recording(None), keeping_random_state() as drew:
            result = (example or fn)(*base_args, **base_kwargs)
            pure = example is None and not drew() and not runs_always
        found = list(arrays_in(result))
        if not found:
            return result
        if not is_flat(result):
            fn = Flat(fn)
        why = why or ("it runs on another stream" if self.streams.elsewhere() else "")
        fn = self.streams.placed(fn, template_kwargs)
        count = 0 if isinstance(result, mx.array) else len(found)
        call = calls.opaque(fn, template_args, template_kwargs, label, count, named)
        known = pure and closed and not self.varies((args, kwargs))
        node, proxies = self._results(call, operands, found, pure, known)
        self.sizes.names[node] = label if named else ""
        calls.tell(call, example or fn, (base_args, base_kwargs), result)
        if why:
            self.notes.append((node, why))
        return mapped(result, lambda leaf: next(proxies) if isinstance(leaf, mx.array) else leaf)

    def _results(
        self,
        call: OpaqueCall,
        operands: Sequence[int],
        found: Sequence[mx.array],
        pure: bool,
        known: bool,
    ) -> tuple[int, Iterator[Proxy]]:
        """The opaque node and a proxy for each array that it returns."""
        if call.outputs == 0:
            proxy = self.proxy(found[0], "opaque", operands, known=known, call=call, pure=pure)
            return proxy.node, iter([proxy])
        node = self.graph.add("opaque", operands, loc=locate.here(), call=call, pure=pure)
        return node, (
            self.proxy(a, "item", (node,), known=known, index=i) for i, a in enumerate(found)
        )

    # -- operands ---------------------------------------------------------------------------------
    def takes(self, operand: Any) -> bool:
        """Whether `operand` may stand beside an array: an array or a number."""
        known = isinstance(operand, (mx.array, bool, int, float, complex))
        return known or type(operand) is ScalarProxy or is_numpy(operand)

    def base(self, operand: Any) -> Any:
        """What MLX computes with in place of `operand`."""
        if isinstance(operand, Proxy):
            return mx.array(operand)
        return operand.value if type(operand) is ScalarProxy else operand

    def check(self, operand: Any) -> None:
        """Raise unless `operand` may be used here and now."""
        kind = type(operand)
        if kind is Late:
            operand.refused()
        traced = kind is Proxy or kind is ScalarProxy
        if traced and (intercept.current() is not self or operand.tracer is not self):
            raise foreign(operand)

    def refuse_closures(self, tree: Any) -> None:
        """Raise for the first traced value in `tree`, met inside an opaque call."""
        kind = type(tree)
        if kind is Proxy or kind is ScalarProxy:
            raise foreign(tree)
        for item in children(tree):
            self.refuse_closures(item)

    def _operand(self, operand: Any, dtype: str, strong: Sequence[str] = ()) -> int:
        if isinstance(operand, Proxy):
            self.unseen.check(operand)
            return operand.node
        if isinstance(operand, mx.array):
            return self.capture(operand)
        if type(operand) is ScalarProxy:
            wrapped = dtypes.wraps(dtype, strong)
            return self.sizes.node(operand.wrapped() if wrapped else operand, dtype)
        value = dtypes.adopted(operand, dtype)
        return self.graph.add("const", dtype=dtype, value=value, loc=locate.here())

    def capture(self, array: mx.array) -> int:
        """The node of an array that is not an argument."""
        self.check(array)
        array = self.copies.get(id(array), (array, array))[1]
        found = self._captured.get(id(array))
        if found is None:
            if self.unseen.is_lost(array):
                return self.unseen.node(array)
            loc, value = locate.here(), mx.array(array)  # a copy: the user may write to `array`
            shape, dtype = value.shape, name_of(value.dtype)
            self.unseen.note_filled(array)
            node = self.graph.add("array", shape=shape, dtype=dtype, value=value, loc=loc)
            found = self._captured[id(array)] = Capture(array, node, loc)
            self.captures.append(found)
        return found.node

    def lets_write(self, array: mx.array, values: Any) -> bool:
        """Whether a plain array may be written: a copy that a compiled function got, constants."""
        if id(array) not in self.copies or self.sees(values):
            return False
        self.copies[id(array)] = array, array
        self._captured.pop(id(array), None)
        return True

    def _template(self, tree: Any, operands: list[int], sizes: bool) -> Any:
        """`tree` with every traced value and array replaced by a Ref to an operand, in order.

        Ints that the caller passes become static, as they say shapes and axes, and with `sizes`
        floats too.
        """

        def leaf(value: Any) -> Any:
            self.check(value)
            number = type(value) is ScalarProxy
            if number and not value.sized and (sizes or not isinstance(value.value, float)):
                raise value.specialize()
            if not number and not isinstance(value, mx.array):
                return value
            operands.append(self._operand(value, "float32"))
            return Ref(len(operands) - 1)

        return mapped(tree, leaf)

    # -- refusals ---------------------------------------------------------------------------------
    def refuse(self, what: str, way_out: str, kind: type[TraceError] = TraceError) -> TraceError:
        """The error to raise; remembered, in case the function catches it and goes on."""
        error = kind(f"[zmlx.trace] {locate.where()}{what} {way_out}")
        self.refused = self.refused or error
        return error

    def specialize(self, tokens: frozenset[Token]) -> BaseException:
        """What to raise where the numbers and sizes that `tokens` name are read."""
        if self.finished:
            tracer = intercept.current() or intercept.paused() or self
            return tracer.refuse(
                "a number of a trace that has ended is used.",
                "Do not keep a fused function's arguments outside of it; return what you need.",
            )
        tokens = self.sizes.tokens(tokens)
        self.wanted |= tokens
        return Specialize(tokens, self, locate.here())
