"""Proxy: an mx.array that records what is done with it.

A Proxy is a subclass of mx.array, so that Python asks it first in `array * proxy` and so that
`isinstance(x, mx.array)` holds. Its base is a placeholder that has shape and dtype but no value:
MLX infers every result from it, and evaluating it raises. Every method of mx.array is overridden;
what is elementwise goes to its row of the op table, the rest is recorded for MLX to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import mlx.core as mx

from zmlx.errors import TraceError
from zmlx.ops.table import OPS

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

# Reads of values: what a user wrote, and the way out.
READS = {
    "__bool__": ("a branch on an array's value", "Use mx.where(condition, a, b)."),
    "__float__": ("float(array)", "Keep it an array, or compute it outside and pass it in."),
    "__int__": ("int(array)", "Keep it an array, or compute it outside and pass it in."),
    "__index__": ("an array as an index", "Use mx.take or indexing by an array."),
    "__complex__": ("complex(array)", "Keep it an array."),
    "__iter__": ("iterating over an array", "Index it (x[0], x[1]), or use mx.split."),
    "__array__": ("a conversion to NumPy", "Do it outside of the fused function."),
    "__dlpack__": ("a conversion through DLPack", "Do it outside of the fused function."),
    "__bytes__": ("bytes(array)", "Do it outside of the fused function."),
    "__reduce__": ("pickling an array", "Do it outside of the fused function."),
    "__reduce_ex__": ("pickling an array", "Do it outside of the fused function."),
    "__getstate__": ("pickling an array", "Do it outside of the fused function."),
    "item": ("array.item()", "Return the array and read it outside."),
    "tolist": ("array.tolist()", "Return the array and read it outside."),
    "__contains__": ("`in` on an array's values", "Use mx.any(x == value)."),
}
_INHERITED = {
    "__class__", "__delattr__", "__dir__", "__doc__", "__getattribute__", "__init__", "__new__",
    "__init_subclass__", "__module__", "__setattr__", "__sizeof__", "__subclasshook__", "__hash__",
    "__array_namespace__", "__dlpack_device__", "__setstate__", "__repr__", "__str__", "__format__",
    "dtype", "ndim", "itemsize",
}  # fmt: skip
_SHAPE_READS = ("shape", "size", "nbytes")


class Proxy(mx.array):
    """A traced array: node `node` of `tracer`'s graph."""

    __array_ufunc__ = None  # NumPy operands then leave the operator to the proxy

    # Made by Tracer.proxy only; `mx.array.__init__` must run, or MLX aborts on the empty base.
    def __init__(self, base: mx.array, tracer: Tracer, node: int) -> None:
        super().__init__(base)
        self.tracer, self.node = tracer, node

    def __repr__(self) -> str:
        return f"Proxy(shape={mx.array.shape.fget(self)}, dtype={self.dtype}, node={self.node})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __hash__(self) -> int:
        return id(self)

    def __len__(self) -> int:
        return self.shape[0]

    def __copy__(self) -> Proxy:
        return self

    def __deepcopy__(self, memo: Any) -> Proxy:
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.set_item(self, index, value)

    @property
    def at(self) -> At:
        return At(self)


class At:
    """`x.at[index].add(value)` and its siblings on a Proxy."""

    def __init__(self, proxy: Proxy, index: Any = None) -> None:
        self.proxy, self.index = proxy, index

    def __getitem__(self, index: Any) -> At:
        return At(self.proxy, index)

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in ("add", "subtract", "multiply", "divide", "maximum", "minimum"):
            raise AttributeError(name)

        def update(x: mx.array, index: Any, value: Any) -> Any:
            return getattr(x.at[index], name)(value)

        return lambda value: self.proxy.tracer.opaque(
            f"at.{name}", update, (self.proxy, self.index, value), {}
        )


def _read(name: str) -> Callable[..., NoReturn]:
    what, way_out = READS[name]

    def method(self: Proxy, *_: Any, **__: Any) -> NoReturn:
        raise TraceError(
            self.tracer.message(f"{what} needs a value, which a trace has not.", way_out)
        )

    return method


def _dunder(op: str, reflected: bool, in_place: bool) -> Callable[[Proxy, Any], Any]:
    def method(self: Proxy, *other: Any) -> Any:
        operands = (*other, self) if reflected else (self, *other)
        result = self.tracer.elementwise(op, operands)
        return self.tracer.rebind(self, result) if in_place else result

    return method


def _method(name: str) -> Callable[..., Any]:
    original = getattr(mx.array, name)
    in_place = name in ("__imatmul__",)

    def method(self: Proxy, *args: Any, **kwargs: Any) -> Any:
        result = self.tracer.method(name, original, (self, *args), kwargs)
        return self.tracer.rebind(self, result) if in_place else result

    return method


def _property(name: str) -> property:
    original = getattr(mx.array, name)
    if name in _SHAPE_READS:
        return property(lambda self: self.tracer.read_shape(original.fget(self)))
    return property(lambda self: self.tracer.opaque(name, lambda x: getattr(x, name), (self,), {}))


def _install() -> None:
    """Give Proxy an override of every attribute that mx.array has."""
    dunders: dict[str, tuple[str, bool, bool]] = {}
    for spec in OPS.values():
        if spec.dunder:
            dunders[f"__{spec.dunder}__"] = (spec.name, False, False)
            if spec.arity == 2:
                dunders[f"__r{spec.dunder}__"] = (spec.name, True, False)
                dunders[f"__i{spec.dunder}__"] = (spec.name, False, True)
    for name in dir(mx.array):
        if name in _INHERITED or name in Proxy.__dict__:
            continue
        if name in READS:
            setattr(Proxy, name, _read(name))
        elif name in dunders:
            setattr(Proxy, name, _dunder(*dunders[name]))
        elif callable(getattr(mx.array, name)):
            setattr(Proxy, name, _method(name))
        else:
            setattr(Proxy, name, _property(name))
    for name in dunders:  # reflected forms that mx.array itself lacks (2 & x)
        if name not in Proxy.__dict__ and not name.startswith("__i"):
            setattr(Proxy, name, _dunder(*dunders[name]))


_install()
