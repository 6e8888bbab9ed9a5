"""Parts: the class that a patched module has, and how each call of it runs.

Comes in: a module's class. Goes out: a subclass with the same name, state and behaviour whose calls
run fused where that pays: whole, in pieces around calls with objects (zmlx.models.breaks), or as
plain MLX, in which patched modules below decide for themselves. zmlx.models.patching makes them,
zmlx.models.deciding says what pays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import mlx.core as mx
import mlx.nn as nn

from zmlx import errors, log, switches
from zmlx.device.rules import any_traced
from zmlx.fuse.api import FusedFunction, fuse
from zmlx.models import breaks
from zmlx.trace import intercept

PLAIN, WHOLE, PIECES = "plain", "whole", "in pieces"
_PART = "_zmlx_part"
_log = log.logger("zmlx.models")


@dataclass(frozen=True)
class Options:
    """What zmlx.patch was asked for."""

    measure: bool = True
    numerics: str = "fp32"
    model: str = ""  # a name of its own: models share no decisions, a model's copies do


class Key(NamedTuple):
    """A kind of calls that are run in one way."""

    mode: str  # "call", "cache" (an object is among the arguments) or "gradient"
    dtype: mx.Dtype | None  # of the first array
    width: int  # its last dimension
    size: int  # its class of sizes: binary digits of its number of elements


class Decision(NamedTuple):
    """How a kind of calls runs, and why."""

    way: str
    why: str
    arrays: bool = False  # in pieces: masks are handed on too
    lone: tuple[int, ...] = ()  # pieces that run plainly, as nothing joins there
    plain_ms: float = 0.0  # where it was measured
    fused_ms: float = 0.0


@dataclass(eq=False)
class Part:
    """One class of modules whose calls are fused; the modules have weights of the same shapes."""

    plain_class: type
    options: Options
    signature: str  # of the weights
    decide: Callable[[Part, nn.Module, Key, Any, Any], Decision]
    _met: dict[int, tuple[Key, Decision]] = field(default_factory=dict)  # by kind
    examples: dict[Key, tuple[Any, Any]] = field(default_factory=dict)  # shapes of arguments
    below: dict[Key, list[Any]] = field(
        default_factory=dict
    )  # likewise, before the first fused piece
    seen: Callable[[], nn.Module | None] = lambda: None  # a module of it, while it lives
    watcher: Callable[[Part, nn.Module, Any, Any], Any] | None = None  # zmlx.models.locating's
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.plain: Callable[..., Any] = self.plain_class.__call__
        numerics = self.options.numerics
        self.whole: FusedFunction = fuse(self.plain, numerics=numerics)
        self.pieces: FusedFunction = fuse(breaks.piece_of(self.plain), numerics=numerics)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = breaks.answered(module, args, kwargs)
        if found is not None:
            return found[0]
        if intercept.current() is not None:
            return self.plain(module, *args, **kwargs)
        if self.watcher is not None:
            return self.watcher(self, module, args, kwargs)
        kind = kind_of(args, kwargs)
        key, decision = self._met.get(kind) or self._decided(kind, module, args, kwargs)
        if decision.way is PLAIN:  # with fusion switched off, what is fused runs plainly too
            return self.plain(module, *args, **kwargs)
        try:
            return self.run(decision, module, args, kwargs, partial(self._refused, key))
        except (errors.SanitizeError, errors.CheckError, errors.DeviceError):
            raise
        except (Exception, breaks.Touched) as error:
            result = self.plain(module, *args, **kwargs)  # a fault of the caller's is raised here
            self._refused(key, error)
            return result

    @property
    def decisions(self) -> dict[Key, Decision]:
        """How each kind of calls runs that was met."""
        return dict(self._met.values())

    def decided(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Decision | None:
        """How a call runs; None where no such call was met."""
        found = self._met.get(kind_of(args, kwargs))
        return None if found is None else found[1]

    def _decided(self, kind: int, module: Any, args: Any, kwargs: Any) -> tuple[Key, Decision]:
        key = key_of(kind, args, kwargs)
        if not switches.FUSE.on():
            return key, Decision(PLAIN, "fusion is off")
        with self._lock:
            if kind not in self._met:
                self._met[kind] = key, self.decide(self, module, key, args, kwargs)
            return self._met[kind]

    def _refused(self, key: Key, error: BaseException) -> None:
        why = refusal(error)
        for kind, (other, _) in list(self._met.items()):
            if other == key:
                self._met[kind] = key, Decision(PLAIN, why)
        _log.info("%s runs as plain MLX: %s", self.plain_class.__name__, why)

    def run(
        self,
        decision: Decision,
        module: Any,
        args: Any,
        kwargs: Any,
        refused: Callable[[BaseException], None] | None = None,
    ) -> Any:
        """A call, run in one way; what that cannot do is raised, see zmlx.models.breaks.run."""
        if decision.way is PLAIN:
            return self.plain(module, *args, **kwargs)
        if decision.way is WHOLE:
            return self.whole(module, *args, **kwargs)
        call = breaks.given(args, kwargs, decision.arrays)
        return breaks.run(self.plain, self.pieces, module, call, refused, decision.lone)


def refusal(error: BaseException) -> str:
    """Why a call cannot be fused, in a line."""
    return f"cannot be fused: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def kind_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The kind of a call, as a number that is quick to look up.

    Its mode, and the item size and the class of sizes of the first array.
    """
    first, mode = None, 0
    for value in (*args, *kwargs.values()) if kwargs else args:
        cls = type(value)
        if cls is mx.array:
            if first is None:
                first = value
        elif cls not in _SIMPLE and not breaks.is_data(value):
            mode = 1
    if first is None:
        return mode
    if mode == 0 and any_traced((first,)):
        mode = 2
    return first.size.bit_length() * 64 + first.itemsize * 4 + mode


def key_of(kind: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
    """The same in full."""
    first = next((a for a in (*args, *kwargs.values()) if type(a) is mx.array), None)
    mode = ("call", "cache", "gradient")[kind % 4]
    if first is None:
        return Key(mode, None, 0, 0)
    return Key(mode, first.dtype, first.shape[-1] if first.ndim else 0, first.size.bit_length())


_SIMPLE = frozenset((type(None), str, int, float, bool))


# -- classes --------------------------------------------------------------------------------------
_made: WeakValueDictionary[tuple[type, Options, str], type] = WeakValueDictionary()
_making = threading.RLock()


def part_of(module: Any) -> Part | None:
    """The part of a patched module; None for any other."""
    found: Part | None = vars(type(module)).get(_PART)
    return found


def patched_class(plain: type, options: Options, signature: str, decide: Any) -> type:
    """The class of patched modules of class `plain`: one for the same arguments, while it is used.

    Raises:
        TypeError: the class cannot be subclassed.
    """
    with _making:
        key = (plain, options, signature)
        made = _made.get(key)
        if made is None:
            made = _made[key] = _class(plain, Part(plain, options, signature, decide))
        return made


def _class(plain: type, part: Part) -> type:
    @wraps(part.plain)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        mine: Part = type(self).__dict__[_PART]  # the function may be another class's: see _Shared
        return mine(self, args, kwargs)

    def reduced(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        """A copy, or what is read from a file, is patched too; the class is made where needed."""
        reduced: Any = object.__reduce_ex__(self, max(protocol, 2))
        _, arguments, *rest = reduced
        return (
            _made_anew,
            (plain, part.options, part.signature, part.decide, *arguments[1:]),
            *rest,
        )

    names = {
        "__call__": call, "__reduce_ex__": reduced, "__module__": plain.__module__,
        "__qualname__": plain.__qualname__, "__doc__": plain.__doc__, _PART: part,
    }  # fmt: skip
    meta: Any = type(f"Shared{type(plain).__name__}", (_Shared, type(plain)), {})
    made: type = meta(plain.__name__, (plain,), names)
    return made


class _Shared(type):
    """Classes that stand for one class of the user's: what is set on one is set on that class.

    But for `__call__`, which is set on all that stand for it: so does mlx-lm's grad_checkpoint.
    """

    def __setattr__(cls, name: str, value: Any) -> None:
        part: Part = cls.__dict__[_PART]
        if name != "__call__":
            setattr(part.plain_class, name, value)
            return
        for (plain, options, _), made in list(_made.items()):
            if plain is part.plain_class and options == part.options:
                type.__setattr__(made, name, value)


def _made_anew(plain: type, options: Options, signature: str, decide: Any, *arguments: Any) -> Any:
    made: Any = patched_class(plain, options, signature, decide)
    return made.__new__(made, *arguments)


def swap(module: nn.Module, cls: type) -> None:
    """Give a module another class, past what nn.Module does with attributes."""
    object.__setattr__(module, "__class__", cls)
