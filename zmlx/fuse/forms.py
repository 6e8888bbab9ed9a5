"""Forms: calls that MLX runs, in one spelling, so that equal ones can be told.

Comes in: an opaque node of a graph. Goes out: its Form: transpose, swapaxes and moveaxis are one
permutation, `x[:, None]` and expand_dims one new axis, axes count from the front, arguments that
state a default are left out. zmlx.fuse.matching compares the nodes of a pattern and of a graph by
their forms. A call has none where it runs on another stream or draws random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from zmlx.trace.calls import Flat
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref

Term = tuple[str, Any]  # ("value", number or None) or ("node", the node of a number)
_MODULES = {"": mx, "fast.": mx.fast, "linalg.": mx.linalg}
_PLACES = ("transpose", "permute_dims", "swapaxes", "moveaxis", "expand_dims", "squeeze")
_DEFAULTS: dict[str, tuple[tuple[str, Any], ...]] = {  # parameters after the first array
    "softmax": (("axis", None), ("precise", False)),
    "logsumexp": (("axis", None), ("keepdims", False)),
    "mean": (("axis", None), ("keepdims", False)),
    "var": (("axis", None), ("keepdims", False), ("ddof", 0)),
    "cumsum": (("axis", None), ("reverse", False), ("inclusive", True)),
    "argsort": (("axis", -1),),
    "argpartition": (("kth", None), ("axis", -1)),
    "take_along_axis": (("indices", None), ("axis", None)),
    "take": (("indices", None), ("axis", None)),
    "concatenate": (("axis", 0),),
    "stack": (("axis", 0),),
    "split": (("indices_or_sections", None), ("axis", 0)),
    "tril": (("k", 0),),
    "triu": (("k", 0),),
    "dequantize": (
        ("scales", None), ("biases", None), ("group_size", 64), ("bits", 4),
        ("mode", "affine"), ("dtype", None),
    ),
    "fast.rms_norm": (("weight", None), ("eps", None)),
    "fast.layer_norm": (("weight", None), ("bias", None), ("eps", None)),
}  # fmt: skip
_IGNORED = {"softmax": ("precise",)}  # that say how


@dataclass(frozen=True)
class Form:
    """What a call is: equal calls have equal names, and `fixed` parts, of equal operands."""

    name: str
    fixed: tuple[Any, ...]
    arrays: tuple[int, ...]
    terms: tuple[Term, ...] = ()  # numbers, which may be known at call time only


def form_of(graph: Graph, node: int) -> Form | None:
    """The form of an opaque node; None where it has none."""
    data = graph[node]
    call: OpaqueCall = data["call"]
    if not data["pure"] or call.kwargs.get("stream") is not None:
        return None
    fn = call.fn.fn if type(call.fn) is Flat else call.fn
    name = _NAMES.get(id(fn))
    try:
        if name is None:
            return _plain(graph, node, f"call {id(fn)}", call.args, call.kwargs)
        rule = _RULES.get(name, _named)
        return rule(graph, node, name)
    except (TypeError, ValueError, IndexError, AttributeError):
        return None  # arguments in a form that no rule knows


def is_place(form: Form | None) -> bool:
    """Whether a call only gives an array another shape or order: it costs nothing to share."""
    return form is not None and form.name in ("place", "reshape", "getitem", "split")


# -- arguments ------------------------------------------------------------------------------------
def _plain(graph: Graph, node: int, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Form:
    """The form of a call whose arguments are compared as they are."""
    operands = graph.operands(node)
    arrays: list[int] = []
    terms: list[Term] = []

    def fixed(value: Any) -> Any:
        kind = type(value)
        if kind is Ref:
            operand = operands[value.position]
            if graph.kind(operand) in (*NUMBERS, "const"):
                terms.append(("node", operand))
                return ("number",)
            arrays.append(operand)
            return ("array",)
        if kind in (list, tuple):
            return ("row", *map(fixed, value))
        if kind is dict:
            return ("named", *[(key, fixed(value[key])) for key in sorted(value)])
        if kind is slice:
            return ("slice", *map(fixed, (value.start, value.stop, value.step)))
        if kind is float:
            terms.append(("value", value))
            return ("number",)
        return repr(value) if isinstance(value, mx.Dtype) else value

    found = (*map(fixed, args), fixed(kwargs))
    hash(found)
    return Form(name, found, tuple(arrays), tuple(terms))


def _named(graph: Graph, node: int, name: str) -> Form:
    """By the names of its parameters, where they are known."""
    call: OpaqueCall = graph[node]["call"]
    known = _DEFAULTS.get(name)
    if known is None:
        dropped = _IGNORED.get(name, ())
        kwargs = {k: v for k, v in call.kwargs.items() if k not in dropped}
        return _plain(graph, node, name, call.args, kwargs)
    first, *rest = call.args
    given = dict(zip([key for key, _ in known], rest, strict=False)) | call.kwargs
    kept = {}
    for key, default in known:
        value = given.pop(key, default)
        value = default if value is None else value
        if key in _IGNORED.get(name, ()) or (value == default and type(value) is type(default)):
            continue
        rank = _rank(graph, node, first) + (name == "stack")
        kept[key] = _from_front(value, rank) if key == "axis" else value
    return _plain(graph, node, name, (first,), kept | given)


def _rank(graph: Graph, node: int, first: Any) -> int:
    if isinstance(first, (list, tuple)):
        first = first[0]
    if type(first) is not Ref:
        raise ValueError("no array first")
    return len(graph[graph.operands(node)[first.position]]["shape"])


def _from_front(axis: Any, rank: int) -> Any:
    if isinstance(axis, (list, tuple)):
        return tuple(sorted([a % rank for a in axis]))
    return None if axis is None else axis % rank


# -- views ----------------------------------------------------------------------------------------
def _place(graph: Graph, node: int, name: str) -> Form:
    """For each axis of the result, the axis of the operand that it is, or "new"."""
    call: OpaqueCall = graph[node]["call"]
    (operand,) = graph.operands(node)
    shape = graph[operand]["shape"]
    rank = len(shape)
    if name == "squeeze":
        given = _given(call, "axis")
        gone = [d for d, n in enumerate(shape) if n == 1] if given is None else given
        out = {a % rank for a in (gone if isinstance(gone, (list, tuple)) else [gone])}
        return _placed(operand, [d for d in range(rank) if d not in out], rank)
    if name == "expand_dims":
        given = _given(call, "axis")
        axes = given if isinstance(given, (list, tuple)) else [given]
        whole = rank + len(axes)
        new, old = {a % whole for a in axes}, iter(range(rank))
        return _placed(operand, ["new" if d in new else next(old) for d in range(whole)], rank)
    if name == "swapaxes":
        order = list(range(rank))
        a, b = _given(call, "axis1"), _given(call, "axis2", 2)
        order[a], order[b] = order[b], order[a]
        return _placed(operand, order, rank)
    if name == "moveaxis":
        source, to = _given(call, "source") % rank, _given(call, "destination", 2) % rank
        order = [d for d in range(rank) if d != source]
        return _placed(operand, [*order[:to], source, *order[to:]], rank)
    axes = call.kwargs.get("axes", call.args[1] if len(call.args) == 2 else call.args[1:])
    listed = [axes] if isinstance(axes, int) else list(axes or range(rank)[::-1])
    return _placed(operand, [a % rank for a in listed], rank)


def _given(call: OpaqueCall, key: str, position: int = 1) -> Any:
    return call.args[position] if len(call.args) > position else call.kwargs.get(key)


def _placed(operand: int, axes: Sequence[Any], rank: int) -> Form:
    return Form("place", (rank, *axes), (operand,))


def _reshape(graph: Graph, node: int, name: str) -> Form:
    """A reshape is told by the shapes before and after, which matching compares."""
    operands = graph.operands(node)
    return Form("reshape", (len(graph[node]["shape"]),), operands[:1])


def _getitem(graph: Graph, node: int, name: str) -> Form:
    """Numbers, slices and new axes by dimension; what indexes by arrays, as it is."""
    call: OpaqueCall = graph[node]["call"]
    operands = graph.operands(node)
    if any(graph.kind(o) not in (*NUMBERS, "const") for o in operands[1:]):
        return _plain(graph, node, name, call.args, call.kwargs)
    index = call.args[1] if type(call.args[1]) is tuple else (call.args[1],)
    rank = len(graph[operands[0]]["shape"])
    missing = rank - sum(item is not None and item is not Ellipsis for item in index)
    items: list[Any] = []
    for item in index if Ellipsis in index else (*index, Ellipsis):
        items += [slice(None)] * missing if item is Ellipsis else [item]
    terms: list[Term] = []
    fixed: list[str] = []
    sizes = iter(graph[operands[0]]["shape"])
    for item in items:
        size = None if item is None else next(sizes)
        if item is None:
            fixed.append("new")
        elif size == 1 and item in (0, -1) and type(item) is int:
            fixed.append("gone")
        elif type(item) is slice:
            whole = item.start in (None, 0) and item.stop is None and item.step in (None, 1)
            fixed.append("all" if whole else "part")
            parts = () if whole else (item.start or 0, item.stop, item.step or 1)
            terms += [_term(operands, part) for part in parts]
        else:
            fixed.append("one")
            terms.append(_term(operands, item))
    if {*fixed} <= {"new", "all", "gone"}:
        old = iter(range(rank))
        axes = ["new" if f == "new" else next(old) for f in fixed]
        return _placed(operands[0], [a for a, f in zip(axes, fixed, strict=True) if f != "gone"],
                       rank)  # fmt: skip
    return Form("getitem", tuple(fixed), operands[:1], tuple(terms))


def _term(operands: Sequence[int], value: Any) -> Term:
    return ("node", operands[value.position]) if type(value) is Ref else ("value", value)


def _einsum(graph: Graph, node: int, name: str) -> Form:
    """Letters named anew, in the order in which they come."""
    call: OpaqueCall = graph[node]["call"]
    text, *arrays = call.args
    new: dict[str, str] = {}
    letters = "".join(text.split())
    told = [new.setdefault(c, chr(97 + len(new))) if c.isalpha() else c for c in letters]
    return _plain(graph, node, name, ("".join(told), *arrays), call.kwargs)


def _sized(graph: Graph, node: int, name: str) -> Form:
    """Sizes, whether they stand in the text or not, are numbers; the type is the node's."""
    call: OpaqueCall = graph[node]["call"]
    operands = graph.operands(node)
    first = call.args[0] if call.args else call.kwargs["shape"]
    listed = first if isinstance(first, (list, tuple)) else [first]
    rest = call.args[1:] if name != "arange" else ()
    listed = [*listed, *call.args[1:]] if name == "arange" else listed
    extra = {k: v for k, v in call.kwargs.items() if k not in ("dtype", "shape")}
    extra_args = [v for v in rest if not isinstance(v, mx.Dtype)]
    if extra or extra_args:
        return _plain(graph, node, name, call.args, call.kwargs)
    terms = tuple([_term(operands, v) for v in listed if not isinstance(v, mx.Dtype)])
    return Form(name, (len(terms),), (), terms)


def _attention(graph: Graph, node: int, name: str) -> Form:
    """Without the parameters that are not given."""
    call: OpaqueCall = graph[node]["call"]
    kwargs = {k: v for k, v in call.kwargs.items() if v is not None}
    return _plain(graph, node, name, call.args, kwargs)


_RULES: dict[str, Callable[[Graph, int, str], Form]] = {
    **dict.fromkeys(_PLACES, _place),
    **dict.fromkeys(("reshape", "flatten", "unflatten"), _reshape),
    "getitem": _getitem,
    "einsum": _einsum,
    **dict.fromkeys(("ones", "zeros", "arange"), _sized),
    "fast.scaled_dot_product_attention": _attention,
}


def _names() -> dict[int, str]:
    """What MLX's functions are called here, by identity: a label may be the name of a user's.

    Of several names of one function, that which a rule knows.
    """
    named = [(f"{m}{n}", v) for m, module in _MODULES.items() for n, v in vars(module).items()]
    named += [(n.strip("_"), v) for n, v in vars(mx.array).items() if callable(v)]
    named.sort(key=lambda pair: pair[0] in (*_DEFAULTS, *_RULES))
    return {id(function): name for name, function in named}


_NAMES = _names()  # before any trace replaces them
