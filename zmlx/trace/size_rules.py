"""Rules: the sizes of what MLX's functions return, from the sizes of what they take.

A rule is called as the function was, after the Sizes that asks: arrays come as Shaped, whose sizes
are ints or numbers known at call time, and arithmetic on these is recorded. It returns sizes, or a
list of them for several results, or None where it does not know: a size is then read from the
array. A rule must hold for all sizes, so none compares any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import TYPE_CHECKING, Any

from zmlx.trace.scalars import ScalarProxy, combined

if TYPE_CHECKING:
    from zmlx.trace.sizes import Sizes

Dims = tuple[Any, ...]
Rule = Callable[..., Any]


@dataclass(frozen=True)
class Shaped:
    """An array among a rule's arguments."""

    dims: Dims
    dtype: str


def product(sizes: Sequence[Any]) -> Any:
    """All sizes, multiplied."""
    return reduce(mul, sizes, 1)


def _axis(axis: Any, rank: int) -> int:
    if type(axis) is not int or not -rank <= axis < rank:
        raise IndexError(axis)
    return axis % rank


def _axes(axis: Any, rank: int) -> list[int]:
    if axis is None:
        return list(range(rank))
    several = isinstance(axis, (list, tuple))
    return [_axis(a, rank) for a in (axis if several else [axis])]


def _listed(sizes: Sequence[Any]) -> Sequence[Any]:
    """Sizes that came one by one, or as one list or tuple."""
    one = len(sizes) == 1 and isinstance(sizes[0], (list, tuple))
    return sizes[0] if one else sizes


def _with(dims: Dims, axis: int, *sizes: Any) -> Dims:
    """`dims` with `sizes` in place of the one at `axis`."""
    return (*dims[:axis], *sizes, *dims[axis + 1 :])


# -- other shapes of the same elements ------------------------------------------------------------
def _factors(sizes: Sequence[Any], ask: Sizes) -> list[Any]:
    """What to multiply for the product of `sizes`."""
    found: list[Any] = []
    for size in sizes:
        if type(size) is ScalarProxy and size.expr[0] == "mul":
            found += _factors([ask.number(part) for part in size.expr[1:]], ask)
        elif type(size) is ScalarProxy or size != 1:
            found.append(size)
    return found


def _quotient(sizes: Sequence[Any], others: Sequence[Any], ask: Sizes) -> Any:
    """product(sizes) // product(others), with what is common left out."""
    above, below = _factors(sizes, ask), []
    for other in _factors(others, ask):
        same = [i for i, size in enumerate(above) if ask.same(size, other)]
        if same:
            del above[same[0]]
        else:
            below.append(other)
    return product(above) // product(below) if below else product(above)


def _filled(sizes: Sequence[Any], shape: Sequence[Any], ask: Sizes) -> Dims:
    """`shape` for elements of `sizes`, with its -1 worked out."""
    unknown = [i for i, size in enumerate(shape) if type(size) is int and size == -1]
    if not unknown:
        return tuple(shape)
    place = unknown[0]
    others = [size for i, size in enumerate(shape) if i != place]
    return _with(tuple(shape), place, _quotient(sizes, others, ask))


def _reshape(ask: Sizes, x: Shaped, *shape: Any, **named: Any) -> Dims:
    return _filled(x.dims, named.get("shape") or _listed(shape), ask)


def _flatten(ask: Sizes, x: Shaped, start_axis: int = 0, end_axis: int = -1) -> Dims:
    rank = len(x.dims)
    if rank == 0:
        return (1,)
    start, end = _axis(start_axis, rank), _axis(end_axis, rank)
    return (*x.dims[:start], product(x.dims[start : end + 1]), *x.dims[end + 1 :])


def _unflatten(ask: Sizes, x: Shaped, axis: int, shape: Sequence[Any]) -> Dims:
    place = _axis(axis, len(x.dims))
    return _with(x.dims, place, *_filled([x.dims[place]], shape, ask))


def _transpose(ask: Sizes, x: Shaped, *axes: Any, **named: Any) -> Dims:
    order = named.get("axes") or _listed(axes)
    rank = len(x.dims)
    if not order or order[0] is None:
        return x.dims[::-1]
    return tuple([x.dims[_axis(a, rank)] for a in order])


def _swapaxes(ask: Sizes, x: Shaped, axis1: int, axis2: int) -> Dims:
    dims, a, b = list(x.dims), _axis(axis1, len(x.dims)), _axis(axis2, len(x.dims))
    dims[a], dims[b] = dims[b], dims[a]
    return tuple(dims)


def _moveaxis(ask: Sizes, x: Shaped, source: int, destination: int) -> Dims:
    dims = list(x.dims)
    size = dims.pop(_axis(source, len(x.dims)))
    dims.insert(_axis(destination, len(x.dims)), size)
    return tuple(dims)


def _expand_dims(ask: Sizes, x: Shaped, axis: Any) -> Dims:
    several = isinstance(axis, (list, tuple))
    rank = len(x.dims) + (len(axis) if several else 1)
    places, rest = _axes(axis, rank), iter(x.dims)
    return tuple([1 if i in places else next(rest) for i in range(rank)])


def _squeeze(ask: Sizes, x: Shaped, axis: Any = None) -> Dims | None:
    if axis is None:  # which are 1 is not known from here
        return None
    places = _axes(axis, len(x.dims))
    return tuple([size for i, size in enumerate(x.dims) if i not in places])


def _broadcast_to(ask: Sizes, x: Shaped, shape: Sequence[Any]) -> Dims:
    return tuple(shape)


# -- joining and cutting --------------------------------------------------------------------------
def _concatenate(ask: Sizes, arrays: Sequence[Shaped], axis: int = 0) -> Dims:
    place = _axis(axis, len(arrays[0].dims))
    return _with(arrays[0].dims, place, sum([a.dims[place] for a in arrays]))


def _stack(ask: Sizes, arrays: Sequence[Shaped], axis: int = 0) -> Dims:
    place = _axis(axis, len(arrays[0].dims) + 1)
    return (*arrays[0].dims[:place], len(arrays), *arrays[0].dims[place:])


def _split(ask: Sizes, x: Shaped, indices_or_sections: Any, axis: int = 0) -> list[Dims]:
    place, cuts = _axis(axis, len(x.dims)), indices_or_sections
    if type(cuts) is int:
        return [_with(x.dims, place, x.dims[place] // cuts)] * cuts
    ends = [0, *cuts, x.dims[place]]
    parts = [ask.span(x.dims[place], a, b, None) for a, b in zip(ends, ends[1:], strict=False)]
    return [_with(x.dims, place, part) for part in parts]


def _repeat(ask: Sizes, x: Shaped, repeats: Any, axis: int | None = None) -> Dims:
    if axis is None:
        return (product(x.dims) * repeats,)
    place = _axis(axis, len(x.dims))
    return _with(x.dims, place, x.dims[place] * repeats)


def _tile(ask: Sizes, x: Shaped, reps: Any) -> Dims:
    times = tuple(reps) if isinstance(reps, (list, tuple)) else (reps,)
    rank = max(len(times), len(x.dims))
    dims = (1,) * (rank - len(x.dims)) + x.dims
    return tuple([a * b for a, b in zip(dims, (1,) * (rank - len(times)) + times, strict=True)])


def _pad(ask: Sizes, x: Shaped, pad_width: Any, *_: Any, **__: Any) -> Dims:
    widths = pad_width if isinstance(pad_width, (list, tuple)) else [pad_width]
    if not isinstance(widths[0], (list, tuple)):  # the same for every axis
        widths = [widths] * len(x.dims)
    pairs = [(w[0], w[-1]) for w in widths]
    return tuple([size + a + b for size, (a, b) in zip(x.dims, pairs, strict=True)])


def _getitem(ask: Sizes, x: Shaped, index: Any) -> Dims | None:
    items = list(index) if isinstance(index, tuple) else [index]
    arrays = [item for item in items if isinstance(item, Shaped)]
    whole = [i for i in items if isinstance(i, int)]  # numbers known at call time too
    if len(arrays) + bool(whole and arrays) > 1 or any(type(i) is bool for i in items):
        return None
    taken = sum(item is not None and item is not Ellipsis for item in items)
    if Ellipsis not in [item if item is Ellipsis else None for item in items]:
        items.append(Ellipsis)
    rest, dims = list(x.dims), []
    for item in items:
        if item is None:
            dims.append(1)
        elif item is Ellipsis:
            count = len(x.dims) - taken
            dims += [rest.pop(0) for _ in range(count)]
        elif isinstance(item, slice):
            dims.append(ask.span(rest.pop(0), item.start, item.stop, item.step))
        elif isinstance(item, Shaped) and item.dtype != "bool":
            rest.pop(0)
            dims += item.dims
        elif isinstance(item, int):
            rest.pop(0)
        else:
            return None
    return tuple(dims)


def _take(ask: Sizes, x: Shaped, indices: Any, axis: int | None = None) -> Dims:
    dims = indices.dims if isinstance(indices, Shaped) else ()
    return dims if axis is None else _with(x.dims, _axis(axis, len(x.dims)), *dims)


# -- products and reductions ----------------------------------------------------------------------
def _matmul(ask: Sizes, a: Shaped, b: Shaped) -> Dims:
    left = a.dims if len(a.dims) > 1 else (1, *a.dims)
    right = b.dims if len(b.dims) > 1 else (*b.dims, 1)
    rows = left[-2:-1] if len(a.dims) > 1 else ()
    columns = right[-1:] if len(b.dims) > 1 else ()
    return (*ask.broadcast([left[:-2], right[:-2]]), *rows, *columns)


def _addmm(ask: Sizes, c: Shaped, a: Shaped, b: Shaped, *_: Any, **__: Any) -> Dims:
    return _matmul(ask, a, b)


def _attention(ask: Sizes, q: Shaped, k: Shaped, v: Shaped, **_: Any) -> Dims:
    return (*q.dims[:-1], v.dims[-1])


def _quantized(
    ask: Sizes, x: Shaped, w: Shaped, *rest: Any, transpose: Any = True, **_: Any
) -> Dims | None:
    turned = transpose is True and all(isinstance(r, Shaped) for r in rest)
    return (*x.dims[:-1], w.dims[0]) if turned and len(w.dims) == 2 else None


def _reduced(
    ask: Sizes, x: Shaped, axis: Any = None, keepdims: Any = False, *_: Any, **__: Any
) -> Dims | None:
    if type(keepdims) is not bool:
        return None
    places = _axes(axis, len(x.dims))
    kept = [(1 if i in places else size, i in places) for i, size in enumerate(x.dims)]
    return tuple([size for size, gone in kept if keepdims or not gone])


def _as_first(ask: Sizes, x: Shaped, *_: Any, **__: Any) -> Dims:
    return x.dims


# -- arrays made of sizes -------------------------------------------------------------------------
def _shaped(ask: Sizes, shape: Any, *_: Any, **__: Any) -> Dims:
    return tuple(shape) if isinstance(shape, (list, tuple)) else (shape,)


def _drawn(place: int) -> Rule:
    """For draws that take their shape at `place`, or by name."""

    def rule(ask: Sizes, *args: Any, **named: Any) -> Dims:
        return _shaped(ask, named["shape"] if "shape" in named else args[place])

    return rule


def _arange(ask: Sizes, *args: Any, **named: Any) -> Dims | None:
    if named.keys() - {"dtype"}:
        return None
    start, stop, step = {1: (0, *args, 1), 2: (*args, 1)}.get(len(args), args[:3])
    whole = all(isinstance(n, int) for n in (start, stop, step))
    sure = type(step) is int and step == 1 and type(start) is int and start == 0
    if type(stop) is ScalarProxy and stop.expr[0] == "size":
        return (stop,) if whole and sure else None
    return (combined("max", 0, stop),) if whole and sure and type(stop) is ScalarProxy else None


def _eye(ask: Sizes, n: Any, m: Any = None, *_: Any, **__: Any) -> Dims:
    return (n, n if m is None else m)


def _linspace(ask: Sizes, start: Any, stop: Any, num: Any = 50, *_: Any, **__: Any) -> Dims:
    return (num,)


_SAME = (
    "softmax", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "argsort", "tril",
    "triu", "roll", "contiguous", "stop_gradient", "copy", "setitem", "fast.rms_norm",
    "fast.layer_norm", "fast.rope", "at.add", "at.subtract", "at.multiply", "at.divide",
    "at.maximum", "at.minimum", "put_along_axis", "partition", "argpartition",
)  # fmt: skip
_REDUCED = (
    "sum", "mean", "prod", "max", "min", "var", "std", "all", "any", "logsumexp", "argmax",
    "argmin",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME, _as_first),
    **dict.fromkeys(_REDUCED, _reduced),
    **dict.fromkeys(("zeros", "ones", "full"), _shaped),
    "reshape": _reshape,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "transpose": _transpose,
    "permute_dims": _transpose,
    "T": _transpose,
    "swapaxes": _swapaxes,
    "moveaxis": _moveaxis,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "broadcast_to": _broadcast_to,
    "concatenate": _concatenate,
    "concat": _concatenate,
    "stack": _stack,
    "split": _split,
    "repeat": _repeat,
    "tile": _tile,
    "pad": _pad,
    "getitem": _getitem,
    "take": _take,
    "matmul": _matmul,
    "addmm": _addmm,
    "quantized_matmul": _quantized,
    "fast.scaled_dot_product_attention": _attention,
    "arange": _arange,
    "eye": _eye,
    "linspace": _linspace,
    "identity": _eye,
    "random.normal": _drawn(0),
    "random.uniform": _drawn(2),
    "random.bernoulli": _drawn(1),
    "random.randint": _drawn(2),
}
# Functions whose sizes change neither the rank nor the number nor the type of their results: a size
# among their arguments stays a number known at call time. Any other is called with one value, and
# so is an axis: kernels are planned by it.
_TAKE_AXES = (
    "softmax", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "argsort",
    "transpose", "permute_dims", "T", "swapaxes", "moveaxis", "concatenate", "concat", "stack",
    "flatten", "expand_dims", "squeeze", *_REDUCED,
)  # fmt: skip
TAKES_SIZES = frozenset(RULES) - set(_TAKE_AXES) | {
    "array", "tri", "take_along_axis", "topk", "as_strided", "slice",
    "slice_update", "random.gumbel", "random.truncated_normal", "random.laplace",
    "random.categorical", "random.permutation", "fft.fft", "fft.ifft", "fft.rfft", "fft.irfft",
    "diag", "diagonal", "trace",
}  # fmt: skip
AXIS_NAMES = frozenset({"axis", "axes", "axis1", "axis2"})
AXES: dict[str, tuple[int, ...]] = {  # their places among the positional arguments
    **dict.fromkeys(("unflatten", "random.categorical", "random.permutation"), (1,)),
    **dict.fromkeys(("repeat", "take", "roll", "split", "take_along_axis", "topk"), (2,)),
    **dict.fromkeys(("partition", "argpartition"), (2,)),
    **dict.fromkeys(("fft.fft", "fft.ifft", "fft.rfft", "fft.irfft"), (2,)),
    "put_along_axis": (3,),
    "diagonal": (2, 3),
    "trace": (2, 3),
}
BY_VALUE = frozenset({"array", "full", "arange"})  # an int's value says the type of the result


def counts(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
    """The arguments that say how many results there are."""
    return [*args[1:2], kwargs.get("indices_or_sections")] if name == "split" else ()
