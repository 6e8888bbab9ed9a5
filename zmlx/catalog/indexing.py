"""Rows gathered and added, and rows added up where indices say; never outside of an array.

Sums over equal indices go in the order of the updates, without atomics: the same bits in every run.
Everything is differentiable in its float arrays, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx

from zmlx.catalog.by_hand import ROW, ByHand, Text, by_rows, known_lanes
from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, wide
from zmlx.registry import forgets

__all__ = ["fused_gather_add", "fused_scatter_add"]

MODULE = "indexing"
Arrays = Sequence[mx.array]


def _placed(indices: mx.array, n: int) -> tuple[mx.array, mx.array]:
    """Indices, negative ones counted from the end, as int64; and which are inside."""
    at = indices.astype(mx.int64)
    at = mx.where(at < 0, at + n, at)
    return at, (at >= 0) & (at < n)


def _taken(src: mx.array, indices: mx.array) -> mx.array:
    """Rows of `src`, zeros where an index is outside."""
    n = src.shape[0]
    if n == 0:
        return mx.zeros((*indices.shape, src.shape[1]), src.dtype)
    at, inside = _placed(indices, n)
    rows = mx.take(src, mx.where(inside, at, 0), 0)
    return mx.where(inside[:, None], rows, mx.zeros_like(rows))


# -- gather ---------------------------------------------------------------------------------------
_FROM = f"const ulong row = {ROW};" + """
const ulong d = src_shape[1], n = src_shape[0];
const ulong given = ulong(indices[row]);   // a negative one is very large
const ulong at = given < n ? given : given + n;
const ulong from = at * d, here = row * d;
if (at < n) {
  for (ulong i = thread_index_in_simdgroup; i < d; i += LANES) out[here + i] = INSIDE;
} else {
  for (ulong i = thread_index_in_simdgroup; i < d; i += LANES) out[here + i] = OUTSIDE;
}
"""


def _from(inside: str, outside: str) -> str:
    return _FROM.replace("INSIDE", inside).replace("OUTSIDE", outside)


_GATHER = Text(
    "gather_add", "src indices other", "out",
    _from("O(float(src[from + i]) + float(other[here + i]))", "O(float(other[here + i]))"),
)  # fmt: skip
_TAKE = Text("take_rows", "src indices", "out", _from("src[from + i]", "O(0.0f)"))


def _gathered(src: mx.array, indices: mx.array, other: mx.array) -> list[mx.array]:
    given = [src, indices, other]
    return _GATHER(given, [other.shape], [src.dtype], *by_rows(other.shape[0]), known_lanes())


def _plain_gathered(src: mx.array, indices: mx.array, other: mx.array) -> list[mx.array]:
    return [(wide(_taken(src, indices)) + wide(other)).astype(src.dtype)]


def _pull_gathered(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
    src, indices, _ = primals
    (g,) = given
    return [_added(indices, wide(g), src.shape), None, g]


_gather = ByHand("fused_gather_add", _gathered, _plain_gathered, _pull_gathered)


def _take_rows(src: mx.array, indices: mx.array) -> list[mx.array]:
    shape = (indices.shape[0], src.shape[1])
    return _TAKE([src, indices], [shape], [src.dtype], *by_rows(shape[0]), known_lanes())


def _pull_taken(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
    src, indices = primals
    return [_added(indices, wide(given[0]), src.shape), None]


_take = ByHand("rows of an index", _take_rows, lambda *a: [_taken(*a)], _pull_taken)


def fused_gather_add(
    src: mx.array,
    indices: mx.array,
    other: mx.array,
    *,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """src[indices] + other.

    Args:
        src: (N, D); float32, float16 or bfloat16.
        indices: (M,), integers; negative ones count from the end. Rows outside of src count as 0.
        other: (M, D).
        compute_dtype: accepted for the contract; sums are float32.

    Returns:
        (M, D) of src's dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "fused_gather_add")
    call.compute(compute_dtype)
    src = call.known(call.of_rank("src", call.rows("src", src), 2, "(N, D)"))
    indices = call.of_rank("indices", call.integers("indices", indices), 1, "(M,)")
    other = call.shaped("other", other, (indices.shape[0], src.shape[1]))
    if not src.shape[0] or not indices.shape[0]:
        return _plain_gathered(src, indices, other)[0]
    return _gather(src, indices, other)[0]


# -- scatter --------------------------------------------------------------------------------------
# Indices come sorted with their places, as one number each: a row's updates stand side by side.
_SCATTER = Text("scatter_add", "keys updates indices", "out", f"const ulong row = {ROW};" + """
const ulong d = updates_shape[1], m = keys_shape[0];
const long first = long(row * m), last = long(row * m + m);
ulong low = 0, high = m;
while (low < high) {
  const ulong middle = (low + high) / 2;
  if (keys[middle] < first) low = middle + 1; else high = middle;
}
if (LANES == 1) {   // a core has rows beside each other in its cache
  for (ulong i = 0; i < d; ++i) out[row * d + i] = 0.0f;
  for (ulong k = low; k < m && keys[k] < last; ++k) {
    const ulong from = ulong(keys[k] - first) * d;
    for (ulong i = 0; i < d; ++i) out[row * d + i] += float(updates[from + i]);
  }
  return;
}
for (ulong i = thread_index_in_simdgroup; i < d; i += LANES) {
  float sum = 0.0f;
  for (ulong k = low; k < m && keys[k] < last; ++k) {
    sum += float(updates[ulong(keys[k] - first) * d + i]);
  }
  out[row * d + i] = O(sum);
}
""")  # fmt: skip


@fused
def _keys(indices: mx.array, n: int) -> mx.array:
    m = indices.shape[0]
    at, inside = _placed(indices, n)
    return mx.where(inside, at, n) * m + mx.arange(m, dtype=mx.int64)


def _added(indices: mx.array, updates: mx.array, shape: tuple[int, int]) -> mx.array:
    keys = mx.sort(_keys(indices, shape[0]))
    return _scatterer(shape)(keys, updates, indices)[0]


@lru_cache(maxsize=256)
def _scatterer(shape: tuple[int, int]) -> ByHand:
    """(keys, updates, indices) -> float32 sums of this shape; the keys are of the indices."""
    n, _ = shape

    def run(keys: mx.array, updates: mx.array, indices: mx.array) -> list[mx.array]:
        return _SCATTER([keys, updates, indices], [shape], [mx.float32], *by_rows(n), known_lanes())

    def plain(keys: mx.array, updates: mx.array, indices: mx.array) -> list[mx.array]:
        at, inside = _placed(indices, n)
        kept = mx.where(inside[:, None], wide(updates), 0.0)
        return [mx.zeros(shape).at[mx.where(inside, at, 0)].add(kept)]

    def pull(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
        return [None, _take(given[0], primals[2])[0], None]

    return ByHand("fused_scatter_add", run, plain, pull, linear=1)


forgets(_scatterer.cache_clear)


def fused_scatter_add(
    indices: mx.array,
    updates: mx.array,
    out_shape: Sequence[int],
    *,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """Zeros of `out_shape`, to which each row of `updates` is added where its index says.

    Args:
        indices: (M,), integers; negative ones count from the end, those outside are left out.
        updates: (M, D); float32, float16 or bfloat16.
        out_shape: (N, D); N is a run-time number of the kernel.
        compute_dtype: the type of the result, float32 if None; sums are float32.

    Returns:
        (N, D), the same bits in every run.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "fused_scatter_add")
    kind = call.result(compute_dtype)
    indices = call.of_rank("indices", call.integers("indices", indices), 1, "(M,)")
    updates = call.known(call.of_rank("updates", call.rows("updates", updates), 2, "(M, D)"))
    call.of_shape("updates", updates, (indices.shape[0], updates.shape[1]))
    if isinstance(out_shape, (str, int)) or len(out_shape) != 2:
        raise call.wrong("out_shape", repr(out_shape), "two sizes, (N, D)")
    n = call.whole("out_shape", out_shape[0], 0, 2**31 - 1)
    d = call.whole("out_shape", out_shape[1], 1, 2**31 - 1)
    if d != updates.shape[1]:
        raise call.wrong("out_shape", repr(out_shape), f"(N, {updates.shape[1]}), as updates")
    if not n or not indices.shape[0]:
        return mx.zeros((n, d), kind)
    return _added(indices, updates, (n, d)).astype(kind)
