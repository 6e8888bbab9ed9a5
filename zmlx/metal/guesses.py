"""Guesses: where a launch that was left out would leave outputs unwritten.

Comes in: a kernel's text and the outputs of a call. Goes out: why a grid or a threadgroup cannot be
left out, None where it can. The guess is one thread for each element of the first output, in groups
of any size, which fits a text that asks for `thread_position_in_grid.x` and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from math import prod

from zmlx.expr.header import uncommented
from zmlx.msl.spec import MetalKernelSpec

_OTHER_POSITION = re.compile(
    r"\b(threadgroup_position_in_grid|thread_position_in_threadgroup|thread_index_in_\w+"
    r"|simdgroup_index_in_threadgroup|quadgroup_index_in_threadgroup)\b"
)
_ALONG = re.compile(r"\bthread_position_in_grid\s*\.\s*(?!x\b)")  # another axis of it
_WHOLE = re.compile(r"\bthread_position_in_grid\b(?!\s*\.)")  # all of it, under another name
_FURTHER = re.compile(r"\.\s*(?:[yz]|[xyz]{2,3})\b")
_GROUPS = re.compile(r"\bthreadgroup_position_in_grid\b")
_READS_SIZE = re.compile(r"\b(dispatch_)?threads_per_threadgroup\b")


def no_grid(spec: MetalKernelSpec, shapes: Sequence[tuple[int, ...]]) -> str | None:
    """Why this call must say its grid."""
    sizes = [prod(shape) for shape in shapes]
    if max(sizes) > max(1, sizes[0]):
        larger = spec.output_names[sizes.index(max(sizes))]
        return f"output {larger!r} has more elements than {spec.output_names[0]!r}"
    return None if sizes[0] <= 1 else _asks_for_more(spec.source)


def no_threadgroup(spec: MetalKernelSpec) -> str | None:
    """Why a call must say its threadgroup."""
    return _counts_on_groups(f"{spec.header}\n{spec.source}")


@lru_cache(maxsize=1024)
def _asks_for_more(source: str) -> str | None:
    """What beside a thread's place in a row of threads the text wants to know."""
    text = uncommented(source)
    if other := _OTHER_POSITION.search(text):
        return f"the text asks for {other.group()}"
    if "thread_position_in_grid" not in text:
        return "the text never asks for thread_position_in_grid"
    whole = _WHOLE.search(text) is not None
    further = _FURTHER.search(text) if whole else _ALONG.search(text)
    return None if further is None else "the text asks for more than thread_position_in_grid.x"


@lru_cache(maxsize=1024)
def _counts_on_groups(text: str) -> str | None:
    text = uncommented(text)
    found = _GROUPS.search(text)
    if found is None or _READS_SIZE.search(text):
        return None
    return f"the text asks for {found.group()} but never for threads_per_threadgroup"
