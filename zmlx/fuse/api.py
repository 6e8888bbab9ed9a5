"""`fuse`, the decorator, and `explain`: what users call.

Comes in: a function, a method, an nn.Module. Goes out: a FusedFunction, which finds or makes the
trace that fits a call (zmlx.fuse.table) and runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial, update_wrapper, wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from zmlx import switches
from zmlx.fuse.fusable import check
from zmlx.fuse.partials import applied
from zmlx.fuse.table import Options, Table, tracing_exactly
from zmlx.fuse.taken import taken
from zmlx.fuse.tracebacks import shortened
from zmlx.trace import intercept, through
from zmlx.trace.endings import random_state
from zmlx.trace.kinds import Kind, kind_of
from zmlx.trace.run import attribute_set

if TYPE_CHECKING:
    from zmlx.fuse.entry import Entry
    from zmlx.fuse.explain import Explanation
    from zmlx.trace.tracer import Tracer

NUMERICS = ("fp32", "mlx")
through.takers[:] = [taken]


class CacheInfo(NamedTuple):
    """Counts of a fused function's traces, as functools.lru_cache counts calls."""

    hits: int  # calls that found their trace
    misses: int  # traces made
    maxsize: int
    currsize: int  # traces kept


class FusedFunction:
    """A function whose elementwise regions run as single kernels; made by `zmlx.fuse`.

    Call it like the function. Attributes of the function (or module) can be read through it.
    """

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        self.__wrapped__: Callable[..., Any]  # set by update_wrapper
        self._bound: Any = None
        self._fn, self._options = fn, options
        if isinstance(fn, MethodType):
            self._bound, self._fn = fn.__self__, fn.__func__
        elif isinstance(fn, partial):
            self._bound, self._fn = fn, applied(fn)
        elif kind_of(fn) is Kind.OBJECT:
            self._bound, self._fn = fn, type(fn).__call__
        self._name = getattr(fn, "__qualname__", type(fn).__name__).rpartition("<locals>.")[2]
        self._tables: dict[tuple[Any, ...], Table | None] = {}
        self._held = self._bound, self._tables  # reading one attribute is slow beside __getattr__
        update_wrapper(self, fn, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            bound, tables = self._held
            if bound is not None:
                args = (bound, *args)
            tracer = intercept.current()
            if tracer is not None and self._meets_traced(tracer, args, kwargs):
                return self._inside(tracer, args, kwargs)
            try:
                table = tables[switches.mode()]
            except KeyError:
                table = self._table()
            if table is None:
                return self._fn(*args, **kwargs)
            if tracer is None:
                return table.call(args, kwargs)
            tracer.state.note_values(tracer, (self._fn, args, kwargs))
            with intercept.recording(None):
                return table.call(args, kwargs)
        except Exception as error:
            raise shortened(error)  # noqa: B904 - the same one

    def _meets_traced(self, tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call reads traced values: of its arguments, of objects, of its closure."""
        seen = tracer.sees((args, kwargs))
        return seen or tracer.state.meets_traced((self._fn, args, kwargs))

    def _inside(self, tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call in a function that is being traced."""
        if tracing_exactly() == self._options.exact:
            return self._fn(*args, **kwargs)
        call = partial(_called, self._unbound, list(args), kwargs)
        return tracer.state.run(tracer, self._name, call, (), {})

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_fn" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """An attribute of a fused module is the module's, as when it is read."""
        wrapped = self.__dict__.get("__wrapped__")
        own = name.startswith("__") or name in self.__dict__
        if own or kind_of(wrapped) is not Kind.OBJECT:
            tracer = intercept.current()
            if tracer is not None and not name.startswith("_"):
                raise tracer.refuse(*attribute_set(name))
            object.__setattr__(self, name, value)
        else:
            setattr(wrapped, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> FusedFunction:
        """The same for a copy of the module and of the state; traces are made anew."""
        options = {k: deepcopy(v, memo) for k, v in vars(self._options).items()}
        return FusedFunction(deepcopy(self.__wrapped__, memo), Options(**options))

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name where a module holds it under its function's name, else by its function."""
        found: Any = sys.modules.get(self.__module__)
        for part in self.__qualname__.split(".") if hasattr(self, "__qualname__") else ():
            found = getattr(found, part, None)
        if found is self:
            return self.__qualname__
        return FusedFunction, (self.__wrapped__, self._options)

    def __repr__(self) -> str:
        return f"<zmlx.fuse {self._name}>"

    def cache_info(self) -> CacheInfo:
        """Counts over all settings of the switches since the last `clear`."""
        tables = [t for t in self._tables.values() if t is not None]
        return CacheInfo(
            sum(t.hits for t in tables),
            sum(t.misses for t in tables),
            self._options.cache_size,
            sum(t.size for t in tables),
        )

    def clear(self) -> None:
        """Forget every trace; compiled kernels stay in the kernel cache."""
        self._tables.clear()

    def entry(self, *args: Any, **kwargs: Any) -> Entry:
        """The trace and the program that a call with these arguments runs, made if need be."""
        if self._bound is not None:
            args = (self._bound, *args)
        table = self._table() or Table(self._fn, self._name, self._options)
        return table.entry(args, kwargs)

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """What this function becomes for these arguments: see `zmlx.explain`."""
        from zmlx.fuse.explain import explained

        if self._bound is not None:
            args = (self._bound, *args)
        table = self._table() or Table(self._fn, self._name, self._options)
        return explained(table, args, kwargs)

    def _table(self) -> Table | None:
        """The table for the current switches; None where ZMLX_FUSE turns fusion off."""
        mode = switches.mode()
        try:
            return self._tables[mode]
        except KeyError:
            on = switches.FUSE.on()
            made = Table(self._fn, self._name, self._options, mode[0]) if on else None
            return self._tables.setdefault(mode, made)

    def _unbound(self, *args: Any, **kwargs: Any) -> Any:
        """The call with the module among the arguments, as a trace records it."""
        return self(*args[self._bound is not None :], **kwargs)


def _called(fn: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    """A call whose arguments stand in containers: what is written into them is then seen."""
    return fn(*args, **kwargs)


@overload
def fuse(
    fn: None = None,
    /,
    *,
    inputs: Any = ...,
    outputs: Any = ...,
    numerics: str = ...,
    cache_size: int = ...,
) -> Callable[[Callable[..., Any]], FusedFunction]: ...


@overload
def fuse(
    fn: Callable[..., Any],
    /,
    *,
    inputs: Any = ...,
    outputs: Any = ...,
    numerics: str = ...,
    cache_size: int = ...,
) -> FusedFunction: ...


def fuse(
    fn: Any = None,
    /,
    *,
    inputs: Any = None,
    outputs: Any = None,
    numerics: str = "fp32",
    cache_size: int = 128,
) -> Any:
    """Make a function's elementwise regions run as single kernels, gradients included.

    Use it as `@zmlx.fuse`, `@zmlx.fuse(...)` or `zmlx.fuse(f)`.

    Args:
        fn: a function, lambda, method or mlx.nn.Module over arrays of any shape and dtype. It runs
            once for each kind of arguments (see docs/fuse.md), over proxies without values.
        inputs: containers (list, dict, nn.Module, nested) of arrays that the function reads without
            taking them as arguments; read anew at every call.
        outputs: containers that the function updates; written back after every call.
        numerics: "fp32" computes in float32 inside a region and rounds once, at its outputs; "mlx"
            rounds after every op, bit by bit as plain MLX.
        cache_size: how many traces are kept; the one unused for longest goes first.

    Returns:
        A FusedFunction; without `fn`, a decorator that makes one.

    Raises:
        TypeError: for a function or state of the wrong kind.
        ValueError: for an option of the wrong value.
        TraceError: from calls, where the function needs the value of an array.
    """
    if numerics not in NUMERICS:
        raise ValueError(f"[zmlx.fuse] numerics is {numerics!r}; wanted one of {NUMERICS}.")
    if type(cache_size) is not int or cache_size < 1:
        raise ValueError(f"[zmlx.fuse] cache_size is {cache_size!r}; wanted an int of 1 or more.")
    for name, state in (("inputs", inputs), ("outputs", outputs)):
        held = kind_of(state) in (Kind.COPIED, Kind.OBJECT, Kind.ROW)
        if state is not None and not held and state is not random_state():
            raise TypeError(
                f"[zmlx.fuse] {name} is a {type(state).__name__}; wanted a list, dict or object "
                "that holds the arrays, so that they can be replaced in place."
            )
    options = Options(inputs, outputs, numerics == "mlx", cache_size)
    if fn is None:
        return lambda function: _made(function, options)
    return _made(fn, options)


def _made(fn: Any, options: Options) -> Any:
    if isinstance(fn, (staticmethod, classmethod)):
        return type(fn)(_made(fn.__func__, options))
    check(fn)
    return FusedFunction(_by_name(fn), options)


def _by_name(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of mlx.core as a call through its module, where a trace can see it."""
    name = getattr(fn, "__name__", "")
    module = next((m for m in intercept.MODULES.values() if getattr(m, name, None) is fn), None)
    if module is None:
        return fn

    @wraps(fn, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(module, name)(*args, **kwargs)

    return call


def explain(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """What `zmlx.fuse` makes of `fn` for these arguments: regions, kernels, derivatives, bytes.

    Args:
        fn: a fused function, one that is fused for this, or a gradient (`mx.grad(f)`): the report
            then shows the kernels inside it, forward and backward, of what is fused in `f`.
        *args: arguments as for a call; their values do not matter.
        **kwargs: likewise.

    Returns:
        An Explanation: prints as text, shows itself in a notebook, saves as HTML.

    Raises:
        TraceError: where the function cannot be traced.
    """
    # mx.grad(fused) says that it is of its function's class; its type is MLX's.
    fused: Any = fn if issubclass(type(fn), FusedFunction) else fuse(fn)
    report: Explanation = fused.explain(*args, **kwargs)
    return report
