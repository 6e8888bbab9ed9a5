"""Values: what stands in calls, results and keys of a trace, as JSON and back.

Comes in: Python's constants and containers, types and slices of MLX, references to operands and
outputs, expressions of numbers. Goes out: lists and dicts that JSON writes; anything else is
refused. A container is a list with its kind in front, so that nothing is taken for something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.errors import StoredError
from zmlx.trace.exprs import FUNCTIONS, LEAVES, Expr, parts
from zmlx.trace.graph import Ref
from zmlx.trace.operands import name_of
from zmlx.trace.recipe import Copy, Made, NumberOutput, Older, Once, Output
from zmlx.trace.static import Static
from zmlx.trace.tree import ARRAY, NUMBER, SAME

_PLAIN = (bool, int, str, type(None))
_NUMBERS = {"int": int, "float": float}


class Unwritable(Exception):
    """Something that no file holds; the message says what."""


def written(value: Any) -> Any:
    """`value` as JSON; raises Unwritable."""
    kind = type(value)
    if kind in _PLAIN or (kind is float and math.isfinite(value)):
        return value
    for tag, (wanted, write, _) in _KINDS.items():
        if kind is wanted:
            return [tag, *write(value)]
    if value is Ellipsis:
        return ["..."]
    held = value.template if kind is Made else value.value if kind in (Older, Copy) else value
    raise Unwritable(f"a {type(held).__name__}")


def read(text: Any) -> Any:
    """The value; raises StoredError where no `written` made `text`."""
    if type(text) in (*_PLAIN, float):
        return text
    if type(text) is not list or not text:
        raise StoredError(f"[zmlx.load] {text!r} is no value of a stored function.")
    tag, *rest = text
    if tag == "...":
        return Ellipsis
    if tag not in _KINDS:
        raise StoredError(f"[zmlx.load] {tag!r} is no kind of value of a stored function.")
    return _KINDS[tag][2](rest)


def _dict(value: dict[Any, Any]) -> list[Any]:
    return [[written(key), written(item)] for key, item in value.items()]


def _dtype(rest: list[Any]) -> mx.Dtype:
    if rest[0] not in dtypes.ALL:
        raise StoredError(f"[zmlx.load] {rest[0]!r} is no dtype of this MLX.")
    found: mx.Dtype = getattr(mx, dtypes.attribute(rest[0]))
    return found


def _device(rest: list[Any]) -> Any:
    return mx.cpu if rest[0] == "cpu" else mx.gpu


_KINDS: dict[str, tuple[type, Callable[[Any], list[Any]], Callable[[list[Any]], Any]]] = {
    "tuple": (tuple, lambda v: list(map(written, v)), lambda r: tuple(map(read, r))),
    "list": (list, lambda v: list(map(written, v)), lambda r: list(map(read, r))),
    "dict": (dict, _dict, lambda r: {read(key): read(item) for key, item in r}),
    "slice": (
        slice,
        lambda v: [written(v.start), written(v.stop), written(v.step)],
        lambda r: slice(*map(read, r)),
    ),
    "float": (float, lambda v: [repr(v)], lambda r: float(r[0])),  # inf, nan
    "complex": (complex, lambda v: [repr(v.real), repr(v.imag)], lambda r: complex(*map(float, r))),
    "operand": (Ref, lambda v: [v.position], lambda r: Ref(int(r[0]))),
    "output": (Output, lambda v: [v.index], lambda r: Output(int(r[0]))),
    "number": (
        NumberOutput,
        lambda v: expr_written(v.expr),
        lambda r: NumberOutput(expr_read(r)),
    ),
    "dtype": (mx.Dtype, lambda v: [name_of(v)], _dtype),
    "device": (mx.Device, lambda v: ["cpu" if v.type == mx.DeviceType.cpu else "gpu"], _device),
    "kind": (mx.DeviceType, lambda v: [v.name], lambda r: getattr(mx.DeviceType, r[0])),
}


# -- expressions of numbers -----------------------------------------------------------------------
def expr_written(expr: Expr) -> list[Any]:
    """An expression as its parts, operands first: what it uses twice is written once."""
    order = parts(expr)
    places = {id(part): i for i, part in enumerate(order)}
    found = []
    for name, *rest in order:
        leaf = name in LEAVES
        found.append([name, *(map(written, rest) if leaf else [places[id(p)] for p in rest])])
    return found


def expr_read(text: list[Any]) -> Expr:
    made: list[Expr] = []
    for name, *rest in text:
        if name not in LEAVES and name not in FUNCTIONS:
            raise StoredError(f"[zmlx.load] {name!r} is no function of numbers.")
        made.append((name, *(map(read, rest) if name in LEAVES else [made[i] for i in rest])))
    return made[-1]


# -- results --------------------------------------------------------------------------------------
def result_written(recipe: Any) -> Any:
    """The recipe of a result; lists and dicts that stand in two places are made twice."""
    return written(_without_once(recipe, ()))


def _without_once(recipe: Any, inside: tuple[Once, ...]) -> Any:
    if type(recipe) is Once:
        if recipe in inside:
            raise Unwritable("a container that holds itself")
        return _without_once(recipe.recipe, (*inside, recipe))
    if type(recipe) is dict:
        return {key: _without_once(item, inside) for key, item in recipe.items()}
    if type(recipe) in (list, tuple):
        return type(recipe)([_without_once(item, inside) for item in recipe])
    return recipe


# -- structures -----------------------------------------------------------------------------------
def structure_written(structure: Any) -> Any:
    """What zmlx.trace.tree says of one argument."""
    if structure is ARRAY:
        return "array"
    head, *rest = structure
    if head is Static and len(rest) == 1 and type(rest[0].value) in (*_PLAIN, float):
        return ["static", written(rest[0].value)]
    if head is NUMBER and rest[0] in _NUMBERS.values():
        return ["number", rest[0].__name__]
    if head is SAME:
        return ["same", rest[0]]
    if head in (tuple, list):
        return [head.__name__, *map(structure_written, rest[0])]
    if head is dict:
        return ["dict", *[[_key_written(key), structure_written(s)] for key, s in rest[0]]]
    named = head.__name__ if isinstance(head, type) else type(head).__name__
    if rest and isinstance(rest[0], type):
        named = rest[0].__name__
    elif rest and type(rest[0]) is Static:
        named = type(rest[0].value).__name__
    raise Unwritable(f"a {named}")


def _key_written(key: Any) -> Any:
    return written(key.value if type(key) is Static else key)


def structure_read(text: Any) -> Any:
    if text == "array":
        return ARRAY
    tag, *rest = text
    if tag == "static":
        return (Static, Static(read(rest[0])))
    if tag == "number":
        return (NUMBER, _NUMBERS[rest[0]])
    if tag == "same":
        return (SAME, rest[0])
    if tag in ("tuple", "list"):
        return (tuple if tag == "tuple" else list, tuple(map(structure_read, rest)))
    if tag == "dict":
        return (dict, tuple([(_key_read(key), structure_read(item)) for key, item in rest]))
    raise StoredError(f"[zmlx.load] {tag!r} is no kind of argument of a stored function.")


def _key_read(text: Any) -> Any:
    key = read(text)
    return key if type(key) is str else Static(key)
