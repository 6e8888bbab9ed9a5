"""Whether the text of a kernel fixes its threadgroup, so that no other may be launched.

Comes in: a header and a body in Metal Shading Language. Goes out: the reason, in words, or None.
zmlx.autotune asks. It is a reading of the text, no proof: results are compared all the same.
"""

from __future__ import annotations

import re

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ARRAY = re.compile(r"\bthreadgroup\s+[\w:<>,\s]*?\b(\w+)\s*((?:\[[^\]]*\])+)")
_READS_SIZE = re.compile(
    r"\b(threads_per_threadgroup|dispatch_threads_per_threadgroup|simdgroups_per_threadgroup"
    r"|dispatch_simdgroups_per_threadgroup)\b"
)
# They count within a group or count groups; with the grid's position alone no size matters.
_COUNTS = re.compile(
    r"\b(thread_position_in_threadgroup|thread_index_in_threadgroup|simdgroup_index_in_threadgroup"
    r"|threadgroup_position_in_grid|threadgroups_per_grid)\b"
)


def fixes_threadgroup(header: str, source: str) -> str | None:
    """Why this kernel runs under one threadgroup only, as far as its text tells."""
    text = _COMMENT.sub(" ", f"{header}\n{source}")
    array = _ARRAY.search(text)
    if array is not None:
        return f"its threadgroup array {array[1]}{array[2]} has a size that no launch changes"
    counts = _COUNTS.search(text)
    if counts is not None and not _READS_SIZE.search(text):
        return f"it reads {counts[1]} but never threads_per_threadgroup, so the size is in the text"
    return None
