"""Primitives: how each primitive that mx.export_function reports is made again.

Comes in: a primitive with its arguments, and its operands. Goes out: calls of rows of the op table
and of functions of mlx.core, on a `Maker`: one that records them in a trace, or one that computes.
zmlx.trace.unseen is the caller; what is made again is compared with the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Protocol

import mlx.core as mx

from zmlx.trace.exported import Primitive, Unreadable
from zmlx.trace.primitive_rows import row_of


class Maker(Protocol):
    """Where rows and calls go."""

    def row(self, name: str, *operands: Any) -> Any:
        """A row of the op table."""

    def cast(self, x: Any, dtype: mx.Dtype) -> Any:
        """The row astype."""

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A function of mlx.core, by its name there."""

    def method(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """A function that is no name of mlx.core."""


_GET_ITEM = mx.array.__getitem__  # while a trace runs there is a wrapper in its place
Again = Callable[[Maker, Primitive, Sequence[Any]], Any]

_MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")
_REDUCTIONS = ("all", "any", "sum", "prod", "min", "max")
_SCANS = ("cummax", "cummin", "cumsum", "cumprod")
_UPDATES = ("maximum", "minimum", "add", "multiply")  # and "set"
_ON_CPU = {"stream": mx.cpu}  # MLX has these there only


def again(maker: Maker, primitive: Primitive, operands: Sequence[Any]) -> Any:
    """What the primitive gives for `operands`: an array, or several; Unreadable if unknown."""
    row = row_of(primitive)
    if row is not None:
        return maker.row(row, *operands)
    if primitive.name == "AsType":
        return maker.cast(operands[0], primitive.arguments[0])
    make = _CALLS.get(primitive.name)
    if make is None:
        raise Unreadable(f"no function of mlx.core makes {primitive.name} again")
    return make(maker, primitive, operands)


def _called(name: str, *fixed: Any, **named: Any) -> Again:
    """`name` of the operands, then of the arguments."""

    def make(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
        return m.call(name, *operands, *p.arguments, *fixed, **named)

    return make


def _listed(name: str) -> Again:
    return lambda m, p, operands: m.call(name, list(operands), *p.arguments)


# -- reductions, scans ----------------------------------------------------------------------------
def _reduce(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    kind, axes = p.arguments
    return m.call(_REDUCTIONS[kind], operands[0], tuple(axes), keepdims=True)


def _arg_reduce(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    kind, axis = p.arguments
    return m.call(("argmin", "argmax")[kind], operands[0], axis, keepdims=True)


def _scan(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    kind, axis, reverse, inclusive = p.arguments
    return m.call(_SCANS[kind], operands[0], axis, reverse=reverse, inclusive=inclusive)


# -- views and placing ----------------------------------------------------------------------------
def _slices(*told: Sequence[int]) -> tuple[slice, ...]:
    """Slices by their starts, ends and strides."""
    return tuple([slice(*parts) for parts in zip(*told, strict=True)])


def _slice(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    index = _slices(*p.arguments)
    return m.method("getitem", _GET_ITEM, operands[0], index)


def _slice_update(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    kind, *told = p.arguments
    index = _slices(*told)
    return m.method(_at(kind), _updating(kind), operands[0], operands[1], index)


def _at(kind: int) -> str:
    return "setitem" if kind == len(_UPDATES) else f"at.{_UPDATES[kind]}"


def _updating(kind: int) -> Callable[..., Any]:
    def update(array: mx.array, value: mx.array, *index: Any) -> Any:
        where = index[0] if len(index) == 1 else index
        if kind == len(_UPDATES):
            copy = array[...]
            copy[where] = value
            return copy
        return getattr(array.at[where], _UPDATES[kind])(value)

    return update


def _in_order(axes: Sequence[int], indices: Sequence[Any]) -> tuple[list[int], list[Any]]:
    """Axes and what goes along them, by axis."""
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    return [axes[i] for i in order], [indices[i] for i in order]


def _gather(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    """Indices one for each of `axes`: the result has a size of one in the place of each axis."""
    source, sizes = operands[0], p.arguments[1]
    axes, indices = _in_order(p.arguments[0], operands[1:])
    whole = [1 if d in axes else size for d, size in enumerate(source.shape)]
    if list(sizes) != whole or list(axes) != list(range(len(axes))):
        return _taken(m, p, operands)
    first = len(p.outputs[0].shape) - len(whole)
    found = m.method("getitem", _indexed, source, *indices)
    return m.call("expand_dims", found, tuple(first + axis for axis in axes))


def _indexed(array: mx.array, *indices: mx.array) -> mx.array:
    return array[indices if len(indices) > 1 else indices[0]]


def _taken(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    """Along one axis, behind others: mx.take puts the indices' dimensions in its place."""
    (axes, sizes), shape = p.arguments, operands[0].shape
    whole = [1 if d in axes else size for d, size in enumerate(shape)]
    if len(axes) != 1 or list(sizes) != whole:
        raise Unreadable("no function of mlx.core makes this Gather again")
    (axis,), rank = axes, len(operands[1].shape)
    found = m.call("take", *operands, axis)
    order = [*range(axis, axis + rank), *range(axis), *range(axis + rank, rank + len(shape) - 1)]
    return m.call("expand_dims", m.call("transpose", found, order), rank + axis)


def _scatter(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    kind, axes = p.arguments
    array, *indices, updates = operands
    axes, indices = _in_order(axes, indices)
    shape = (*indices[0].shape, *array.shape[len(axes) :]) if indices else ()
    ones = (*indices[0].shape, *[1] * len(axes), *array.shape[len(axes) :]) if indices else ()
    if axes != list(range(len(axes))) or tuple(updates.shape) != tuple(ones) or not indices:
        raise Unreadable("no function of mlx.core makes this Scatter again")
    value = m.call("reshape", updates, shape)
    return m.method(_at(kind), _updating(kind), array, value, *indices)


def _masked_scatter(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    array, mask, values = operands
    if array.shape[0] != 1:
        raise Unreadable("no function of mlx.core makes this MaskedScatter again")
    flat = [m.call("reshape", x, x.shape[1:]) for x in (array, mask)]
    written = m.method("setitem", _updating(len(_UPDATES)), flat[0],
                       m.call("reshape", values, (-1,)), flat[1])  # fmt: skip
    return m.call("reshape", written, array.shape)


def _equal_or_nan(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    """Of no function of its own: as what it means."""
    a, b = operands
    nan = m.row("logical_and", m.row("not_equal", a, a), m.row("not_equal", b, b))
    return m.row("logical_or", m.row("equal", a, b), nan)


def _gather_mm(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    a, b, left, right = operands
    left, right = _unsorted(left, right, *p.arguments)
    return m.call("gather_mm", a, b, left, right, sorted_indices=any(p.arguments))


def _unsorted(left: Any, right: Any, left_sorted: bool, right_sorted: bool) -> tuple[Any, Any]:
    """The indices as they were given: sorted ones on one side come where the other has none."""
    return None if right_sorted and not left_sorted else left, (
        None if left_sorted and not right_sorted else right
    )


def _pad(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    widths = [(0, 0)] * len(operands[0].shape)
    for axis, low, high in zip(*p.arguments, strict=True):
        widths[axis] = (low, high)
    return m.call("pad", operands[0], widths, constant_values=operands[1])


def _scatter_axis(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    kind, axis = p.arguments
    if kind == 0:
        raise Unreadable("no function of mlx.core makes a ScatterAxis that adds")
    return m.call("put_along_axis", *operands, axis)


# -- products -------------------------------------------------------------------------------------
def _addmm(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    a, b, c = operands
    return m.call("addmm", c, a, b, *p.arguments)


def _convolution(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    stride, low, high, kernel, inputs, groups, flip = p.arguments
    return m.call("conv_general", *operands, stride, (low, high), kernel, inputs, groups, flip)


def _masked(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    a, b, *masks = operands
    masks = [None, *masks] if len(masks) == 2 else [*masks, None, None][:3]
    return m.call("block_masked_mm", a, b, p.arguments[0], *masks)


def _quantized(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    group, bits, mode, transpose = p.arguments
    x, w, scales, *biases = operands
    return m.call(
        "quantized_matmul", x, w, scales, *(biases or [None]), transpose, group, bits, _MODES[mode]
    )


def _quantize(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    group, bits, mode, back = p.arguments
    if not back:
        return m.call("quantize", operands[0], group, bits, _MODES[mode])
    w, scales, *biases = operands
    return m.call("dequantize", w, scales, *(biases or [None]), group, bits, _MODES[mode])


def _gather_qmm(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    group, bits, mode, transpose, *ordered = p.arguments
    x, w, scales, *biases, left, right = operands
    left, right = _unsorted(left, right, *ordered)
    return m.call(
        "gather_qmm", x, w, scales, *(biases or [None]), left, right, transpose, group, bits,
        _MODES[mode], sorted_indices=any(ordered),
    )  # fmt: skip


# -- all else -------------------------------------------------------------------------------------
def _arange(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    return m.call("arange", *p.arguments, dtype=p.outputs[0].dtype)


def _fft(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    axes, inverse, real, *_ = p.arguments
    name = f"fft.{'i' * inverse}{'r' * real}fftn"
    shape = p.outputs[0].shape if inverse else operands[0].shape
    return m.call(name, operands[0], [shape[axis] for axis in axes], list(axes))


def _random_bits(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    """New keys are random bits, two words each: how many there are decides, not their shape."""
    shape, width = p.arguments
    pairs, odd = divmod(prod(shape), 2)
    if odd or width != 4 or len(operands[0].shape) != 1:
        raise Unreadable("it draws an odd number of random numbers, or with several keys")
    return m.call("reshape", m.call("random.split", operands[0], pairs), shape)


def _search(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    return m.call("searchsorted", *operands, side="right" if p.arguments[0] else "left")


def _depends(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    count = len(p.outputs)
    return m.call("depends", list(operands[:count]), list(operands[count:]))


def _full(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    return m.call("full", p.outputs[0].shape, operands[0], p.outputs[0].dtype)


def _either(name: str, other: str) -> Again:
    """`name` where the last argument says so; `other` gives only some of its results."""

    def make(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
        return m.call(f"linalg.{name if p.arguments[-1] else other}", *operands,
                      *p.arguments[:-1], **_ON_CPU)  # fmt: skip

    return make


def _svd(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    return m.call("linalg.svd", *operands, compute_uv=p.arguments[0], **_ON_CPU)


def _inverse(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    triangular, upper = p.arguments
    if triangular:
        return m.call("linalg.tri_inv", *operands, upper=upper, **_ON_CPU)
    return m.call("linalg.inv", *operands, **_ON_CPU)


_FAST = {"RMSNorm": "fast.rms_norm", "LayerNorm": "fast.layer_norm"}


def _norm(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    """A weight of one element stands for none."""
    x, *weights = operands
    weights = [w if len(w.shape) else None for w in weights]
    return m.call(_FAST[p.name], x, *weights, p.arguments[-1])


def _rope(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    dims, traditional, base, scale, forward = p.arguments
    x, offset, *freqs = operands
    if not forward:
        raise Unreadable("no function of mlx.core makes the gradient of RoPE")
    return m.call(
        "fast.rope", x, dims, traditional=traditional, base=None if freqs else base, scale=scale,
        offset=offset, freqs=freqs[0] if freqs else None,
    )  # fmt: skip


def _attention(m: Maker, p: Primitive, operands: Sequence[Any]) -> Any:
    scale, causal, has_sinks, *_ = p.arguments
    q, k, v, *rest = operands
    sinks = rest.pop() if has_sinks else None
    mask = "causal" if causal else rest[0] if rest else None
    name = "fast.scaled_dot_product_attention"
    return m.call(name, q, k, v, scale=scale, mask=mask, sinks=sinks)


_CALLS: dict[str, Again] = {
    "AddMM": _addmm,
    "Arange": _arange,
    "ArgPartition": _called("argpartition"),
    "ArgReduce": _arg_reduce,
    "ArgSort": _called("argsort"),
    "AsStrided": _called("as_strided"),
    "BlockMaskedMM": _masked,
    "Broadcast": _called("broadcast_to"),
    "Cholesky": lambda m, p, o: m.call("linalg.cholesky", *o, *p.arguments, **_ON_CPU),
    "Concatenate": _listed("concatenate"),
    "Convolution": _convolution,
    "Depends": _depends,
    "DivMod": _called("divmod"),
    "DynamicSlice": lambda m, p, o: m.call("slice", *o, *p.arguments),
    "DynamicSliceUpdate": lambda m, p, o: m.call("slice_update", *o, *p.arguments),
    "Eig": _either("eig", "eigvals"),
    "Eigh": _either("eigh", "eigvalsh"),
    "Equal": _equal_or_nan,
    "ExpandDims": lambda m, p, o: m.call("expand_dims", *o, tuple(p.arguments[0])),
    "FFT": _fft,
    "Flatten": _called("flatten"),
    "Full": _full,
    "Gather": _gather,
    "GatherAxis": _called("take_along_axis"),
    "GatherMM": _gather_mm,
    "GatherQMM": _gather_qmm,
    "Hadamard": _called("hadamard_transform"),
    "Inverse": _inverse,
    "LayerNorm": _norm,
    "LogSumExp": _called("logsumexp", -1, keepdims=True),
    "MaskedScatter": _masked_scatter,
    "Matmul": _called("matmul"),
    "Pad": _pad,
    "Partition": _called("partition"),
    "QRF": lambda m, p, o: m.call("linalg.qr", *o, **_ON_CPU),
    "Quantize": _quantize,
    "QuantizedMatmul": _quantized,
    "RMSNorm": _norm,
    "RandomBits": _random_bits,
    "Reduce": _reduce,
    "Reshape": lambda m, p, o: m.call("reshape", o[0], p.outputs[0].shape),
    "RoPE": _rope,
    "SVD": _svd,
    "Scan": _scan,
    "ScaledDotProductAttention": _attention,
    "Scatter": _scatter,
    "ScatterAxis": _scatter_axis,
    "SearchSorted": _search,
    "Slice": _slice,
    "SliceUpdate": _slice_update,
    "Softmax": lambda m, p, o: m.call("softmax", *o, -1, precise=p.arguments[0]),
    "Sort": _called("sort"),
    "Split": lambda m, p, o: m.call("split", *o, list(p.arguments[0]), p.arguments[1]),
    "Squeeze": lambda m, p, o: m.call("squeeze", *o, tuple(p.arguments[0])),
    "Transpose": _called("transpose"),
    "Unflatten": _called("unflatten"),
    "View": _called("view"),
}
