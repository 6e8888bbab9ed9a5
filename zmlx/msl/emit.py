"""Emission: an elementwise region becomes one KernelSource.

Comes in: a Graph of input, scalar, const and op nodes whose shapes carry the broadcast pattern
(which dimensions are one). Goes out: the MSL text. With exact=True (numerics="mlx") values are
rounded after every op, else once, at the outputs. The fuse layer calls it for each planned region.
"""

from __future__ import annotations

from zmlx import dtypes
from zmlx.errors import EmitError
from zmlx.msl.element import Element
from zmlx.msl.kernel import Arg, KernelSource
from zmlx.msl.layouts import may_be_flat
from zmlx.msl.loop import LOOP_MACRO, body
from zmlx.msl.space import MAX_BUFFERS, Space, buffer_slots
from zmlx.trace.graph import Graph

__all__ = ["MAX_BUFFERS", "buffer_slots", "emit", "scalar_type"]


def emit(region: Graph, exact: bool = False) -> KernelSource:
    """The kernel that computes `region`'s outputs from its inputs.

    Arrays come first (in0, in1, …), then run-time scalars (s0, …) as arrays of one element. Every
    output has the shape that the arrays broadcast to. Raises EmitError for a region that no kernel
    can compute.
    """
    space = Space.of(region)
    _check(region, space)
    element = Element(region, space, exact)
    types = {n: region[n]["dtype"] for n in (*space.arrays, *space.scalars, *region.outputs)}
    rank = len(space.shape)
    return KernelSource(
        stem="_".join(dict.fromkeys(element.ops)) or "copy",
        inputs=(
            *[Arg(f"in{i}", types[n], space.ranks[i]) for i, n in enumerate(space.arrays)],
            *[Arg(f"s{i}", scalar_type(types[n]), 1) for i, n in enumerate(space.scalars)],
        ),
        outputs=tuple(Arg(f"out{i}", types[n], rank) for i, n in enumerate(region.outputs)),
        header=LOOP_MACRO + element.text(),
        body=body(
            space,
            [dtypes.value_type(types[n]) for n in space.arrays],
            [dtypes.value_type(types[n]) for n in space.scalars],
            [(dtypes.value_type(types[n]), dtypes.msl_type(types[n])) for n in region.outputs],
        ),
        rank=rank,
        exact=exact,
        ops=element.ops,
        flat=may_be_flat(space),
    )


def scalar_type(dtype: str) -> str:
    """The type in which a run-time Python number reaches a kernel that adopts it as `dtype`."""
    return "float32" if dtypes.value_type(dtype) == "float" else dtype


def _check(region: Graph, space: Space) -> None:
    if not space.arrays:
        raise EmitError(
            "[zmlx.emit] a region without array inputs has no size. Run its ops in MLX."
        )
    if not region.outputs:
        raise EmitError("[zmlx.emit] a region without outputs. Name the nodes it computes.")
    for node in region:
        data = region[node]
        if data["kind"] not in ("input", "scalar", "const", "op"):
            raise EmitError(
                f"[zmlx.emit] node {node} is {data['kind']}, which only MLX can run. Plan it "
                "outside the region."
            )
        if not dtypes.has_msl(data["dtype"]):
            raise EmitError(
                f"[zmlx.emit] node {node}: MSL has no {data['dtype']} "
                f"({data['loc'] or 'no source line'}). Run it as an MLX op."
            )
    for node in region.outputs:
        if region[node]["shape"] != space.shape:
            raise EmitError(
                f"[zmlx.emit] output node {node} has shape {region[node]['shape']}, the inputs "
                f"broadcast to {space.shape}. All outputs of a region have the inputs' shape."
            )
    if space.slots > MAX_BUFFERS:
        raise EmitError(
            f"[zmlx.emit] the region takes {space.slots} buffers (arguments, shapes, strides); "
            f"Metal has {MAX_BUFFERS}. Split it."
        )
