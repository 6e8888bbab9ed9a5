"""Recipes: what a function returned and what it wrote, to be made anew at every call.

Comes in: the tree that a traced function returned, and the objects that it was given. Goes out:
the same tree with Outputs in place of arrays, and Updates for what it changed in those objects.
zmlx.trace.run makes recipes, zmlx.fuse.entry follows them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace.exprs import Compute, Expr, Number, computed, leaves
from zmlx.trace.kinds import Kind, content, kind_of, parts_of, refill, store
from zmlx.trace.leaks import holds
from zmlx.trace.machines import StandIn, stood_for
from zmlx.trace.moment import Late
from zmlx.trace.proxy import Proxy
from zmlx.trace.scalars import ScalarProxy
from zmlx.trace.unflatten import row
from zmlx.trace.values import is_memory
from zmlx.trace.wrappers import unwrapped

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer


@dataclass(frozen=True)
class Output:
    """Stands for output number `index` of the graph in a tree that the function returned."""

    index: int


_MADE_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE
UNCHANGED = Output(-1)  # in the recipe of a container: what it holds already


@dataclass(frozen=True)
class NumberOutput:
    """Stands for a Python number that the function computed from its arguments' numbers."""

    expr: Expr

    @cached_property
    def compute(self) -> Compute:
        """Its value, in a tuple, of (arrays, numbers); written once, as each call wants it."""
        return computed((self.expr,))


@dataclass(frozen=True)
class Passed:
    """Stands for object number `index` of the call (Leaves.objects)."""

    index: int


@dataclass(frozen=True)
class PassedArray:
    """Stands for array number `index` of the call, stored as it is in another place."""

    index: int


@dataclass(frozen=True, eq=False)
class Made:
    """An object that the function made: a copy of `template` with these parts."""

    template: Any
    parts: tuple[Any, ...]


@dataclass(eq=False)
class Once:
    """A container or object that is met in several places, and made once a call."""

    recipe: Any = None
    places: int = 0
    settled: bool = False


@dataclass(frozen=True, eq=False)
class Copy:
    """A static value that can be written in place: each call gets one of its own."""

    value: Any


@dataclass(frozen=True, eq=False)
class Older:
    """A container or object that was there before the trace."""

    value: Any


@dataclass(frozen=True, eq=False)
class Update:
    """What the function left in part `part` of object number `index` of the call."""

    index: int
    part: int
    content: Any  # a dict or list of recipes


@dataclass(frozen=True)
class Write:
    """Array number `array` of the call was written in place, and is output number `output` now."""

    array: int
    output: int


@dataclass(frozen=True)
class Given:
    """What a call provides to rebuild what its function returns."""

    values: Sequence[mx.array]  # the graph's outputs
    numbers: Sequence[Number]
    objects: Sequence[Any] = ()
    made: dict[Once, Any] = field(default_factory=dict)
    arrays: Sequence[mx.array] = ()  # that the call brought


class Recipes:
    """Makes recipes; arrays that it meets become outputs of the tracer's graph.

    `known` tells the ids of what was there before the trace: that is returned as it is.
    """

    def __init__(
        self, tracer: Tracer, known: Callable[[], set[int]] = set, inputs: Sequence[Any] = ()
    ) -> None:
        self._tracer = tracer
        self._inputs = {id(array): PassedArray(i) for i, array in enumerate(inputs)}
        self._outputs: dict[int, Output] = {}  # by id of the traced array
        self._passed = {id(value): Passed(i) for i, value in enumerate(tracer.state.live)}
        self._copies = tracer.state.copied  # are themselves only where they are stored
        self._made: dict[int, tuple[Any, Once]] = {}  # by id of the container, which it keeps
        self._find_known = known
        self._known: set[int] | None = None
        self._storing = False  # in the caller's objects arrays of the caller's stay what they are

    def all(self, result: Any) -> tuple[Any, tuple[Update, ...]]:
        """The recipe of the result, and what the function changed in the objects of the call."""
        self._storing = True
        updates = self.updates()  # first: a container stored and returned is the stored one
        self._storing = False
        recipe = self.of(result)
        return _settled(recipe), tuple(
            [Update(u.index, u.part, _settled(u.content)) for u in updates]
        )

    def of(self, tree: Any) -> Any:
        """The recipe of `tree`; raises TraceError where a tree cannot be made anew."""
        if isinstance(tree, mx.array):
            stored = self._inputs.get(id(tree)) if self._storing else None
            return stored or self.output(tree)
        tree = unwrapped(tree)
        if type(tree) is Late:
            tree.refused()
        if type(tree) is StandIn:
            return stood_for(tree)
        if type(tree) is ScalarProxy:
            self._tracer.check(tree)
            if any(leaf[0] == "size" for leaf in leaves(tree.expr)):
                return self._append(self._tracer.sizes.node(tree, "int32"))
            return NumberOutput(tree.expr)
        passed = self._passed.get(id(tree))
        if passed is not None and (self._storing or passed.index not in self._copies):
            return passed
        make = _BY_KIND.get(kind_of(tree), Recipes._static)
        if make in (Recipes._static, Recipes._row):
            return make(self, tree)
        known = self._made.get(id(tree))
        if known is None:
            known = self._made[id(tree)] = (tree, Once())
            known[1].recipe = make(self, tree)
        known[1].places += 1
        return known[1]

    def output(self, array: mx.array) -> Output:
        """The output that stands for `array`; one array object is one output."""
        if id(array) not in self._outputs:
            self._tracer.check(array)
            node = array.node if isinstance(array, Proxy) else self._tracer.capture(array)
            self._outputs[id(array)] = self._append(node)
        return self._outputs[id(array)]

    def _append(self, node: int) -> Output:
        self._tracer.graph.outputs.append(node)
        return Output(len(self._tracer.graph.outputs) - 1)

    def updates(self) -> tuple[Update, ...]:
        """What the function changed in the objects of the call."""
        found = []
        for changed in self._tracer.state.changed():
            found.append(
                Update(
                    changed.index,
                    changed.place,
                    _each(changed.now, lambda key, value, c=changed: self._kept(c, key, value)),  # type: ignore[misc]
                )
            )
        return tuple(found)

    def _kept(self, changed: Any, key: Any, value: Any) -> Any:
        if changed.held(key, value) or type(value) is Late:
            return UNCHANGED
        return self.of(value)

    def _was_there(self, tree: Any) -> bool:
        """Whether `tree` is older than the trace, and holds nothing of it."""
        if holds(tree):
            return False
        if self._known is None:
            self._known = self._find_known()
        return id(tree) in self._known

    def _copied(self, tree: Any) -> Any:
        return Older(tree) if self._was_there(tree) else self._contents(tree)

    def _contents(self, tree: Any) -> Any:
        return _each(tree, lambda _, value: self.of(value))

    def _row(self, tree: Any) -> Any:
        if getattr(tree, "__dict__", None):
            raise self._refused(tree, f"with the attribute {next(iter(vars(tree)))!r}")
        return row(type(tree), [self.of(item) for item in tree])

    def _object(self, tree: Any) -> Any:
        if self._was_there(tree):
            return Older(tree)
        contents = [content(part) for part in parts_of(tree)]
        parts = tuple([self._contents(held) for held in contents])
        template = _copy(tree)
        for part, held in zip(parts_of(template), contents, strict=True):
            refill(part, _each(held, lambda _, value: () if type(value) is tuple else None))
        return Made(template, parts)

    def _valued(self, tree: Any) -> Any:
        if isinstance(tree, (set, frozenset)):
            return self._set(tree)
        return self._written(tree) if is_memory(tree) else self._static(tree)

    def _set(self, tree: Any) -> Any:
        if holds(list(tree)):
            raise self._refused(tree, "of traced arrays")
        return Copy(tree)

    def _written(self, tree: Any) -> Copy:
        return Copy(tree)

    def _static(self, tree: Any) -> Any:
        if any(hasattr(type(tree), name) for name in ("__next__", "__anext__", "__await__")):
            raise self._refused(tree, "that can be read only once")
        if holds(tree):
            raise self._refused(tree, "that holds traced arrays")
        return tree

    def _refused(self, tree: Any, what: str) -> BaseException:
        return self._tracer.refuse(
            f"a {type(tree).__name__} {what} is returned or stored.",
            "Use lists, tuples, dicts or dataclasses.",
        )


_BY_KIND: dict[Kind, Callable[[Recipes, Any], Any]] = {
    Kind.COPIED: Recipes._copied,
    Kind.ROW: Recipes._row,
    Kind.OBJECT: Recipes._object,
    Kind.SET: Recipes._set,
    Kind.BYTES: Recipes._written,
    Kind.VALUED: Recipes._valued,
    Kind.NUMPY: Recipes._written,
}


def _copy(tree: Any) -> Any:
    """An object of the same class with the same parts, whatever the class does when copied."""
    try:
        made = copy.copy(tree)
    except Exception:
        made = tree
    if made is tree or type(made) is not type(tree):
        base: Any = next(b for b in type(tree).__mro__ if not b.__flags__ & _MADE_IN_PYTHON)
        made = base.__new__(type(tree))
        if isinstance(tree, BaseException):
            made.args = tree.args
    for part, of in zip(parts_of(made), parts_of(tree), strict=True):
        refill(part, content(of))
    return made


def _settled(recipe: Any) -> Any:
    """`recipe` without the Onces that stand in one place only."""
    if type(recipe) is Once:
        if recipe.places == 1:
            return _settled(recipe.recipe)
        if not recipe.settled:
            recipe.settled = True
            recipe.recipe = _settled(recipe.recipe)
        return recipe
    if type(recipe) in (list, dict):
        return _each(recipe, lambda _, value: _settled(value))
    if isinstance(recipe, tuple):
        return row(type(recipe), [_settled(item) for item in recipe])
    if type(recipe) is Made:
        return Made(recipe.template, tuple([_settled(part) for part in recipe.parts]))
    return recipe


def _each(held: Any, made: Callable[[Any, Any], Any]) -> Any:
    """A dict or list with each value replaced by made(key, value)."""
    if isinstance(held, dict):
        return {key: made(key, value) for key, value in held.items()}
    return [made(i, value) for i, value in enumerate(held)]


# -- following ------------------------------------------------------------------------------------
def rebuild(recipe: Any, given: Given) -> Any:
    """The tree that the function returns."""
    kind = type(recipe)
    if kind is Output:
        return given.values[recipe.index]
    if kind is NumberOutput:
        return recipe.compute((), given.numbers)[0]
    if kind is Passed:
        return given.objects[recipe.index]
    if kind is PassedArray:
        return given.arrays[recipe.index]
    if kind is list or kind is dict:
        return _filled([] if kind is list else {}, recipe, given)
    if isinstance(recipe, tuple):
        return row(kind, [rebuild(item, given) for item in recipe])
    if kind is Copy:
        return copy.copy(recipe.value)
    if kind is Made:
        return _filled(_copy(recipe.template), recipe, given)
    if kind is Once:
        return _made_once(recipe, given)
    return recipe.value if kind is Older else recipe


def _filled(made: Any, recipe: Any, given: Given) -> Any:
    """An empty container or a copy of a template with the parts that `recipe` asks for."""
    if type(recipe) is list:
        made.extend([rebuild(item, given) for item in recipe])
    elif type(recipe) is dict:
        made.update({key: rebuild(item, given) for key, item in recipe.items()})
    else:
        for part, held in zip(parts_of(made), recipe.parts, strict=True):
            refill(part, rebuild(held, given))
    return made


def _made_once(once: Once, given: Given) -> Any:
    if once not in given.made:
        recipe = once.recipe
        kind = type(recipe)
        if kind in (list, dict, Made):  # it may hold itself
            made = _copy(recipe.template) if kind is Made else kind()
            given.made[once] = made
            _filled(made, recipe, given)
        else:
            given.made[once] = rebuild(recipe, given)
    return given.made[once]


def update(updates: Sequence[Update], given: Given) -> None:
    """Write into the call's objects what the function left in them."""
    for each in updates:
        part = parts_of(given.objects[each.index])[each.part]
        old = content(part)
        wanted = _each(
            each.content,
            lambda key, item, old=old: old[key] if item is UNCHANGED else rebuild(item, given),  # type: ignore[misc]
        )
        if isinstance(wanted, dict) and list(wanted) == list(old):
            for key, value in wanted.items():
                if value is not old[key]:
                    store(part, key, value)
        else:
            refill(part, wanted)


def overwrite(array: mx.array, value: mx.array) -> None:
    """Make `array` hold `value`, under every name it has, as MLX's in-place operators do."""
    if array.shape != value.shape:
        array += mx.zeros(value.shape, array.dtype)
    array[...] = value
