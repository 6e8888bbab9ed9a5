"""Views: calls that give an array another shape or order and compute nothing.

Comes in: nodes of a graph. Goes out: which of them are views and of what kind, and a view as it
applies to an operand that is broadcast. zmlx.fuse.lift moves views;
all else that is known about them stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import mlx.core as mx

from zmlx.fuse.splits import anywhere
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref

Shape = tuple[int, ...]

# Kinds. PLACE has a result whose dimensions are the operand's in another order, or ones.
PLACE, SQUEEZE, INDEX, SPLIT, RESHAPE, BROADCAST = (
    "place", "squeeze", "index", "split", "reshape", "broadcast",
)  # fmt: skip
TAKE = vars(mx.array)["__getitem__"]
MOST = 1024  # combinations of shapes that are remembered
CUTS = (INDEX, SPLIT, RESHAPE)  # of arrays that do not broadcast such views may
DENSE = (SQUEEZE, RESHAPE)  # what such a view gives of neighbouring elements are neighbours

_NAMES = {
    PLACE: ("transpose", "permute_dims", "swapaxes", "moveaxis", "expand_dims"),
    SQUEEZE: ("squeeze",),
    INDEX: ("__getitem__",),
    SPLIT: ("split",),
    RESHAPE: ("reshape", "flatten", "unflatten"),
    BROADCAST: ("broadcast_to",),
}
# By identity: a label may be the name of a user's function. Filled before any trace replaces names.
_KINDS: dict[int, str] = {
    id(function): kind
    for kind, names in _NAMES.items()
    for name in names
    for function in (getattr(mx, name, None), vars(mx.array).get(name))
    if function is not None
}


def kind_of(graph: Graph, node: int) -> str | None:
    """What kind of view `node` is of its operand 0; None where it is none.

    A view of an array by numbers alone: its further operands are Python numbers (sizes).
    """
    data = graph[node]
    if data["kind"] != "opaque" or not data["pure"] or not data["operands"]:
        return None
    call: OpaqueCall = data["call"]
    kind = _KINDS.get(id(call.fn))
    array, *numbers = data["operands"]
    fits = (
        kind is not None
        and (kind == SPLIT) == (call.outputs > 0)
        and call.args[:1] == (Ref(0),)
        and call.kwargs.get("stream") is None
        and all(graph.kind(o) in NUMBERS for o in numbers)
        and graph.kind(array) not in (*NUMBERS, "const")
    )
    if not fits or (kind == INDEX and not _is_basic(call.args[1:])):
        return None
    return PLACE if kind == INDEX and _adds_ones(call.args[1]) else kind


def content_of(call: OpaqueCall) -> tuple[Any, ...]:
    """What two equal calls of whatever operands have in common."""
    return id(call.fn), repr((call.args, call.kwargs)), call.outputs


def _is_basic(args: Sequence[Any]) -> bool:
    """Whether an index is of ints, slices, None and Ellipsis."""
    if len(args) != 1:
        return False
    known = (int, Ref, slice, type(None), type(Ellipsis))
    return all(type(item) in known for item in _items(args[0]))


def _adds_ones(index: Any) -> bool:
    """Whether an index takes everything, with further dimensions at most."""
    return all(item in (None, Ellipsis, slice(None)) for item in _items(index))


def _items(index: Any) -> tuple[Any, ...]:
    return index if type(index) is tuple else (index,)


def has_numbers(graph: Graph, node: int) -> bool:
    """Whether numbers of the caller steer the view."""
    return len(graph.operands(node)) > 1


# -- views of operands that are broadcast ---------------------------------------------------------
Plan = Callable[[mx.array], Any]


class Lifted:
    """A view of an elementwise result, as it applies to one operand of the op.

    Called with the operand, the op's other operands, and the numbers that steer the view, if any.
    Broadcast over each other, the results for all operands have the shape of the view of the op's
    result. What an operand needs depends on which sizes are one when it is called.
    """

    def __init__(self, kind: str, call: OpaqueCall) -> None:
        self.kind, self.call = kind, call
        self._plans: dict[Any, Plan] = {}

    def __call__(self, x: mx.array, *others: mx.array, given: Any = None) -> Any:
        shapes = (x.shape, *[o.shape for o in others])
        key = (shapes, None if given is None else repr(given))
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= MOST:
                self._plans.clear()
            plan = self._plans[key] = self._plan(shapes, given)
        return plan(x)

    def _plan(self, shapes: Sequence[Shape], given: Any) -> Plan:
        """What to do to an operand of the first shape; ValueError where they do not broadcast."""
        shape, full, call = shapes[0], tuple(mx.broadcast_shapes(*shapes)), self.call
        args, kwargs = (call.args[1:], call.kwargs) if given is None else given
        fn = anywhere(call.fn)
        if shape == full or self.kind == BROADCAST:
            return lambda x: fn(x, *args, **kwargs)
        if not shape or (self.kind == SPLIT and _stands(shape, full, args, kwargs)):
            return lambda x: [x] * call.outputs if call.outputs else x
        if self.kind == RESHAPE:
            return _reshaped(shapes, full, fn, args, kwargs)
        if self.kind == INDEX:
            index = narrow_index(args[0], (1,) * (len(full) - len(shape)) + shape, full)
            own = expanded(index, len(full))[len(full) - len(shape) :]
            if None not in index and full in shapes:
                short = own[0] if len(own) == 1 else tuple(own)
                return lambda x: fn(x, short)
            args = (index,)
        elif self.kind == SQUEEZE and not args and kwargs.get("axis") is None:
            args = (tuple(d for d, size in enumerate(full) if size == 1),)
        new = (1,) * (len(full) - len(shape))  # mx.vmap takes expand_dims wrongly along axis 1

        def plan(x: mx.array) -> Any:
            return fn(x.reshape(*new, *x.shape) if new else x, *args, **kwargs)

        moves = [] if self.kind == SPLIT else [d for d, n in enumerate(shape, len(new)) if n != 1]
        if self.kind == INDEX:
            items = expanded(args[0], len(full))
            moves = moves if all(items[d] == slice(None) for d in moves) else []
        return _shortened(plan, shape) if moves and full in shapes else plan


def _shortened(plan: Plan, shape: Shape) -> Plan:
    """`plan` as a reshape or nothing, where it keeps the order of all dimensions that are not one.

    Leading ones say nothing beside an operand of full rank.
    """
    marks = tuple(1 if size == 1 else 2 + d for d, size in enumerate(shape))
    result = plan(mx.broadcast_to(mx.zeros(()), marks)).shape
    if [m for m in result if m != 1] != [m for m in marks if m != 1]:
        return plan
    after = tuple(1 if m == 1 else shape[m - 2] for m in result)
    short = _without_leading_ones(after)
    if len(shape) <= len(after) and short == _without_leading_ones(shape):
        return lambda x: x
    return lambda x: x.reshape(short)


def _without_leading_ones(shape: Shape) -> Shape:
    return shape[next((d for d, size in enumerate(shape) if size != 1), len(shape)) :]


def _stands(shape: Shape, full: Shape, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether the array of `shape` is broadcast along the axis of a split."""
    axis = args[1] if len(args) > 1 else kwargs.get("axis", 0)
    return ((1,) * (len(full) - len(shape)) + shape)[axis] != full[axis]


def _reshaped(
    shapes: Sequence[Shape],
    full: Shape,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> Plan:
    shape = shapes[0]
    target = fn(mx.broadcast_to(mx.zeros(()), full), *args, **kwargs).shape
    narrow = narrow_shape(shape, full, target)
    if narrow is None:
        return lambda x: fn(mx.broadcast_to(x, full), *args, **kwargs)
    if full in shapes:
        narrow = _without_leading_ones(narrow)
    return (lambda x: x) if narrow == shape else (lambda x: x.reshape(narrow))


def narrow_index(index: Any, shape: Shape, full: Shape) -> tuple[Any, ...]:
    """`index` into an array of shape `full`, for one of `shape` that has ones where it stands."""
    items = _items(index)
    taken = sum(item is not None and item is not Ellipsis for item in items)
    found: list[Any] = []
    d = 0
    for item in items:
        if item is Ellipsis:
            d += len(full) - taken
        elif item is not None:
            if shape[d] != full[d]:
                item = slice(None) if type(item) is slice else 0
            d += 1
        found.append(item)
    return tuple(found)


def narrow_shape(shape: Shape, full: Shape, target: Shape) -> Shape | None:
    """What an operand of `shape` becomes where the result, of shape `full`, becomes `target`.

    None where a part of the operand would have to be spread first.
    """
    shape = (1,) * (len(full) - len(shape)) + shape
    found: list[int] = []
    for own, new in _groups(full, target):
        mine = [shape[d] for d in own]
        if mine == [full[d] for d in own]:
            found += [target[d] for d in new]
        elif all(size == 1 for size in mine):
            found += [1] * len(new)
        else:
            return None
    return tuple(found) if 0 not in full else None


def _groups(full: Shape, target: Shape) -> Iterator[tuple[range, range]]:
    """Neighbouring dimensions of one shape and of the other that hold equally many elements."""
    i = j = 0
    while i < len(full) or j < len(target):
        first, second = i, j
        i, j = min(i + 1, len(full)), min(j + 1, len(target))
        while (a := prod(full[first:i])) != (b := prod(target[second:j])):
            if (a < b and i < len(full)) or j == len(target):
                i += 1
            else:
                j += 1
            if i > len(full):  # sizes of zero
                i, j = len(full), len(target)
                break
        yield range(first, i), range(second, j)


def example_shapes(
    call: OpaqueCall, kind: str, shape: Shape, others: Sequence[Shape]
) -> list[Shape]:
    """The shapes that Lifted gives for operands of these shapes; nothing is computed."""
    first, *rest = [mx.broadcast_to(mx.zeros(()), s) for s in (shape, *others)]
    result = Lifted(kind, call)(first, *rest)
    return [tuple(r.shape) for r in (result if call.outputs else [result])]


# -- what a view costs a kernel -------------------------------------------------------------------
def run_of(kind: str, before: Shape, after: Shape, call: OpaqueCall) -> int:
    """About how many neighbours in the result are neighbours in the operand."""
    if kind in DENSE or prod(after) == 0:
        return prod(after)
    if kind == PLACE:
        return _kept_run(before, call)
    if kind == INDEX:
        return _indexed_run(before, call.args[1])
    run = 1
    for size, old in zip(reversed(after), reversed(before), strict=False):
        if kind == BROADCAST and size != old:
            break
        run *= size
        if size != old:
            break
    return run


def _indexed_run(before: Shape, index: Any) -> int:
    run = 1
    for size, item in reversed(list(zip(before, expanded(index, len(before)), strict=True))):
        if size == 1:
            continue
        if type(item) is not slice:  # one of them: the next ones lie apart
            return run
        if Ref in (type(item.start), type(item.stop), type(item.step)):
            return run * max(1, size // 2)
        found = range(*item.indices(size))
        if found.step != 1:
            return run
        run *= len(found)
        if len(found) != size:
            return run
    return run


def expanded(index: Any, rank: int) -> list[Any]:
    """One int or slice for each dimension of the operand."""
    items = [item for item in _items(index) if item is not None]
    if Ellipsis not in items:
        items.append(Ellipsis)
    at = items.index(Ellipsis)
    return [*items[:at], *[slice(None)] * (rank - len(items) + 1), *items[at + 1 :]]


def _kept_run(before: Shape, call: OpaqueCall) -> int:
    marks = mx.broadcast_to(mx.zeros(()), tuple(range(2, 2 + len(before))))
    moved = call.fn(marks, *call.args[1:], **call.kwargs).shape  # sizes tell dimensions apart
    order = [d - 2 for d in moved if d > 1 and before[d - 2] != 1]
    whole = [d for d, size in enumerate(before) if size != 1]
    run = 1
    while order and order[-1] == whole[-1]:
        run *= before[order.pop()]
        whole.pop()
    return run
