"""Stand-ins for classes: what a name gives to a traced function in place of a class.

Comes in: a class, and what a call of its name does while a trace runs. Goes out: a stand-in that
answers isinstance, issubclass, == and hash as the class does, has its attributes, and is the class
itself where another one is derived from it. zmlx.trace.type_name stands for `type`,
zmlx.trace.array_name for mx.array.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class _Told:
    own: Any  # the stand-in
    real: Any
    call: Callable[..., Any]
    attribute: Callable[[Any], Any]
    alike: Collection[type]


_told: list[_Told] = []


class StandsFor(type):
    """The class of a stand-in for the class `real`: `class Array(metaclass=StandsFor, ...)`.

    `call` is what a call of it does, in a frame of the metaclass's; `attribute` makes what the
    trace finds of an attribute of `real`; it equals `real` and the classes that are `alike`.
    """

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *,
        real: Any = None, call: Any = None, attribute: Any = None, alike: Collection[type] = (),
    ) -> Any:  # fmt: skip
        if bases:  # a class that is derived from a stand-in
            bases = tuple(map(real_of, bases))
            return types.new_class(name, bases, exec_body=lambda ns: ns.update(namespace))
        made = super().__new__(cls, name, bases, namespace)
        _told.append(_Told(made, real, call, attribute or (lambda value: value), alike))
        return made

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _of(cls).call(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, real_of(cls))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return subclass is cls or issubclass(subclass, real_of(cls))

    def __getattribute__(cls, name: str) -> Any:
        told = _of(cls)
        return told.attribute(getattr(told.real, name))

    def __eq__(cls, other: object) -> bool:
        told = _of(cls)
        return any(other is one for one in (cls, told.real, *told.alike))

    def __hash__(cls) -> int:
        return hash(real_of(cls))

    def __or__(cls, other: Any) -> Any:
        return real_of(cls) | other

    def __ror__(cls, other: Any) -> Any:
        return other | real_of(cls)

    def __getitem__(cls, item: Any) -> Any:
        return real_of(cls)[item]

    def __repr__(cls) -> str:
        return repr(real_of(cls))


def _of(cls: Any) -> _Told:
    return next(told for told in _told if told.own is cls)


def real_of(value: Any) -> Any:
    """The class that `value` stands for; any other value as it is."""
    return next((told.real for told in _told if told.own is value), value)
