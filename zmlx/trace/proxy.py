"""Proxy: an mx.array that records what is done with it.

A Proxy is a subclass of mx.array, so that Python asks it first in `array * proxy` and so that
`isinstance(x, mx.array)` holds. Its base is a placeholder that has shape and dtype but no value:
MLX infers every result from it, and evaluating it raises. (An array made of constants alone has its
value there, which may be read.) Every method of mx.array is overridden;
what is elementwise goes to its row of the op table, the rest is recorded for MLX to run.
"""

from __future__ import annotations

import linecache
import operator
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.ops.table import OPS
from zmlx.trace import buffers, intercept, type_name, writes
from zmlx.trace.calls import made_of_mlx
from zmlx.trace.members import BRANCHES, INHERITED, READS
from zmlx.trace.scalars import ScalarProxy
from zmlx.trace.size_rules import product

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

MATMUL = mx.array.__matmul__  # while a trace runs there is a wrapper in its place
_SWAP = mx.array.swapaxes
_CONVERSIONS: dict[str, Callable[..., Any]] = {
    "__complex__": complex, "__index__": operator.index, "__bytes__": bytes,
    "__contains__": operator.contains,
}  # fmt: skip


class Proxy(mx.array):
    """A traced array: node `node` of `tracer`'s graph."""

    __array_ufunc__ = None  # NumPy operands then leave the operator to the proxy

    # Made by Tracer.proxy only; `mx.array.__init__` must run, or MLX aborts on the empty base.
    def __init__(self, base: mx.array, tracer: Tracer, node: int, known: bool = False) -> None:
        mx.array.__init__(self, base)
        self.tracer, self.node = tracer, node
        self.known = known  # the same at every call: its base has the value
        tracer.living.note(self)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return mx.array

    def __repr__(self) -> str:
        return f"Proxy(shape={mx.array.shape.fget(self)}, dtype={self.dtype}, node={self.node})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __hash__(self) -> int:
        return id(self)

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def shape(self) -> tuple[Any, ...]:
        return mx.array.shape.fget(self) if self.known else self.tracer.sizes.shape(self.node)

    @property
    def size(self) -> Any:
        return product(self.shape)

    @property
    def nbytes(self) -> Any:
        return self.size * self.itemsize

    def __iter__(self) -> Iterator[Proxy]:
        if self.ndim == 0:
            raise TypeError("iter() 0-dimensional array.")
        rows = self.tracer.alias(self)  # what is written meanwhile is not seen, as in MLX
        return (rows[i] for i in range(len(self)))

    def __copy__(self) -> Proxy:
        return self.tracer.alias(self)

    def __deepcopy__(self, memo: Any) -> Proxy:
        return self.tracer.alias(self)

    def __pos__(self) -> Proxy:
        return self.tracer.alias(self)

    def __rmatmul__(self, other: Any) -> Any:
        return self.tracer.call("matmul", MATMUL, (other, self), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        writes.set_item(self, index, value)

    def __buffer__(self, flags: int, /) -> memoryview:
        """What NumPy reads, where the value is known; writes into it would be seen by nothing."""
        view = memoryview(mx.array(self)).toreadonly()  # raises for a placeholder
        self.tracer.lent = True
        return view

    @property
    def at(self) -> writes.At:
        return writes.At(self, self.tracer)


def foreign(operand: Any) -> BaseException:
    """What to raise for a traced value that is used where its tracer does not record."""
    if type(operand) is ScalarProxy:
        return operand.specialize()
    tracer = intercept.current() or intercept.paused() or operand.tracer
    if operand.tracer.finished:
        return tracer.refuse(
            "an array of a trace that has ended is used.",
            "Do not keep a fused function's arrays outside of it; return them instead.",
        )
    return tracer.refuse(
        "a traced array is used inside another function transformation, through a closure.",
        "Pass it to the inner function as an argument, or fuse inside: mx.grad(zmlx.fuse(f)).",
    )


def _statement(frame: FrameType) -> str:
    """The first word of the line that runs there."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return (line.split() or [""])[0]


def _read(name: str) -> Callable[..., Any]:
    what, way_out = READS[name]

    def method(self: Proxy, *args: Any, **kwargs: Any) -> Any:
        if not self.known:
            said = BRANCHES.get(_statement(sys._getframe(1)) if name == "__bool__" else "")
            needs, instead = said or (what, way_out)
            raise self.tracer.refuse(f"{needs} needs a value, which a trace has not.", instead)
        with intercept.recording(None):
            value = mx.array(self)
            if name in _CONVERSIONS:
                return _CONVERSIONS[name](value, *args)
            return getattr(value, name)(*args, **kwargs)

    return method


def _dunder(op: str, name: str, reflected: bool) -> Callable[..., Any]:
    own: Any = vars(mx.array).get(name)  # not getattr: `type` itself has an __ror__
    arity = OPS[op].arity

    def method(self: Proxy, *other: Any) -> Any:
        if own is None and not isinstance(other[0], mx.array):
            return NotImplemented  # `2 & x`: MLX has no such form
        if len(other) != arity - 1 or not all(map(self.tracer.takes, other)):
            # A list, a string, None: MLX answers (`x == "a"` is False) or raises.
            return own(mx.array(self), *other)
        return self.tracer.elementwise(op, (*other, self) if reflected else (self, *other))

    return method


def _in_place(op: str, name: str) -> Callable[[Proxy, Any], Any]:
    """`x += y`: records as `x + y`, then lets MLX give the proxy's base its new shape and type."""
    own = getattr(mx.array, name)

    def method(self: Proxy, other: Any) -> Any:
        if not self.tracer.takes(other):
            return own(mx.array(self), other)
        if op == "matmul":
            result = self.tracer.call(op, MATMUL, (self, other), {})
        else:
            result = self.tracer.elementwise(op, (self, other))
        return writes.rebind(self, result, lambda: own(self, self.tracer.base(other)))

    return method


def _method(name: str) -> Callable[..., Any]:
    original = getattr(mx.array, name)

    def method(self: Proxy, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.call(name.strip("_"), original, (self, *args), kwargs)

    return method


def _matrices_turned(x: Proxy) -> Any:
    if x.ndim < 2:  # MLX says what is wrong
        return mx.array(x).mT
    return x.tracer.call("swapaxes", _SWAP, (x, -1, -2), {})


def reader(name: str) -> Callable[[mx.array], Any]:
    """What reads that attribute of an array."""

    @made_of_mlx
    def read(x: mx.array) -> Any:
        return getattr(x, name)

    return read


def _property(name: str) -> property:
    read = reader(name)
    if name == "T":
        transpose = mx.array.transpose
        return property(lambda self: self.tracer.call("transpose", transpose, (self,), {}))
    if name == "mT":
        return property(_matrices_turned)
    return property(lambda self: self.tracer.call(name, read, (self,), {}))


def _install() -> None:
    """Give Proxy an override of every attribute that mx.array has."""
    made: dict[str, Callable[..., Any]] = {"__imatmul__": _in_place("matmul", "__imatmul__")}
    for spec in OPS.values():
        if spec.dunder:
            made[f"__{spec.dunder}__"] = _dunder(spec.name, f"__{spec.dunder}__", reflected=False)
        if spec.dunder and spec.arity == 2 and spec.result == "operand":
            made[f"__r{spec.dunder}__"] = _dunder(spec.name, f"__r{spec.dunder}__", reflected=True)
            if hasattr(mx.array, f"__i{spec.dunder}__"):
                made[f"__i{spec.dunder}__"] = _in_place(spec.name, f"__i{spec.dunder}__")
    for name in sorted({*dir(mx.array), *made, *READS}):
        if name in INHERITED or name in Proxy.__dict__:
            continue
        if name in READS:
            setattr(Proxy, name, _read(name))
        elif name in made:
            setattr(Proxy, name, made[name])
        elif callable(getattr(mx.array, name)):
            setattr(Proxy, name, _method(name))
        else:
            setattr(Proxy, name, _property(name))


_install()
Proxy.__name__, Proxy.__qualname__, Proxy.__module__ = "array", "array", "mlx.core"  # type(x) says
type_name.CLASSES.add(Proxy)
buffers.follow(Proxy)
