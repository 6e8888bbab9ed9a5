"""Layouts: how the inputs of an elementwise kernel lie in memory, as conditions in its text.

Comes in: a Space. Goes out: what its pattern allows, and MSL conditions on steps. zmlx.msl.loop and
short ask.
"""

from __future__ import annotations

from zmlx.msl.space import Space


def may_be_flat(space: Space) -> bool:
    """Whether the pattern broadcasts nothing: dense inputs are read in the order of the output."""
    moves = [m for m, read in zip(space.moves, space.read, strict=True) if read and m]
    return len(space.dims) > 1 and bool(moves) and all(m == space.dims for m in moves)


def has_short(space: Space) -> bool:
    """Whether the text has a way of its own for short rows: patterns that broadcast."""
    return len(space.dims) > 1 and not may_be_flat(space)


def dense(space: Space) -> str:
    """The condition under which every input is row-contiguous, or one element all over.

    The second is the cotangent of a sum, which MLX broadcasts with steps of 0.
    """
    tests = []
    for i, dims in enumerate(space.moves):
        if space.read[i] and dims:
            same = [f"in{i}_step{d} == 0" for d in space.dims]
            tests.append(f"(({contiguous(space, i)}) || ({' && '.join(same)}))")
    return " && ".join(tests)


def contiguous(space: Space, i: int) -> str:
    """The condition under which input `i`, which moves in all dimensions, is row-contiguous."""
    *outer, inner = space.dims
    tests = [f"in{i}_step{inner} == 1"]
    for d, after in zip(outer, space.dims[1:], strict=True):
        span = f"in{i}_step{after} * long(n{after})" if after != inner else f"long(n{after})"
        tests.append(f"in{i}_step{d} == {span}")
    return " && ".join(tests)


def full_inputs(space: Space) -> list[int]:
    """Inputs that move in all dimensions."""
    read = zip(space.moves, space.read, strict=True)
    return [i for i, (moves, used) in enumerate(read) if used and moves == space.dims]


def crossing(space: Space) -> list[int]:
    """Inputs whose memory may run along the second innermost dimension."""
    last = set(space.dims[-2:])
    return [i for i, m in enumerate(space.moves) if space.read[i] and last <= set(m)]
