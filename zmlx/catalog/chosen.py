"""The k largest elements of rows, in order: what top-k and the gates of experts share.

One simdgroup takes a row. Its lanes hold the best element of a chunk each; a round takes the best
of these, and all lanes look through the winner's chunk for the next one: 3 reads of a row for
k = 64 instead of 64, no memory beside registers, whatever k is. Comes in: rows and k. Goes out:
values and places.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx

from zmlx.catalog.by_hand import ROW, ByHand, Text, by_rows, known_lanes
from zmlx.registry import forgets

Arrays = Sequence[mx.array]

_HEADER = """
// Floats as integers of the same order, NaN above all, both zeros equal.
inline uint kk_order(float v) {
  const uint bits = as_type<uint>(v + 0.0f);
  if (v != v) return 0xffffffffu;
  return (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
}
inline bool kk_ahead(uint key, uint at, uint key2, uint at2) {
  return key > key2 || (key == key2 && at < at2);
}
"""
_LARGEST = Text("largest", "x count", "values places", f"const ulong row = {ROW};" + """
const uint lane = thread_index_in_simdgroup, width = LANES;
const uint d = x_shape[x_ndim - 1], k = count[0];
const uint chunk = (d + width - 1) / width;
uint best = 0, place = 0xffffffffu;           // of this lane's chunk
uint last = 0xffffffffu, last_place = 0;      // what was taken from it, if `taken`
bool taken = false;
for (uint turn = 0; turn < width + k; ++turn) {
  uint of = turn;                              // first each chunk, then the winner's
  if (turn >= width) {
    uint key = best, at = place, who = lane;
    for (ushort step = width / 2; step > 0; step /= 2) {
      const uint key2 = simd_shuffle_xor(key, step), at2 = simd_shuffle_xor(at, step);
      const uint who2 = simd_shuffle_xor(who, step);
      if (kk_ahead(key2, at2, key, at)) { key = key2; at = at2; who = who2; }
    }
    if (lane == 0) {
      values[row * k + (turn - width)] = x[row * d + at];
      places[row * k + (turn - width)] = at;
    }
    of = who;
    if (lane == who) { last = key; last_place = at; taken = true; }
    if (turn == width + k - 1) break;
  }
  const bool after = simd_broadcast(taken ? 1u : 0u, ushort(of)) != 0u;
  const uint below = simd_broadcast(last, ushort(of));
  const uint beyond = simd_broadcast(last_place, ushort(of));
  uint key = 0, at = 0xffffffffu;
  const uint end = min(d, (of + 1) * chunk);
  for (uint i = of * chunk + lane; i < end; i += width) {
    const uint found = kk_order(float(x[row * d + i]));
    if ((!after || kk_ahead(below, beyond, found, i)) && kk_ahead(found, i, key, at)) {
      key = found;
      at = i;
    }
  }
  for (ushort step = width / 2; step > 0; step /= 2) {
    const uint key2 = simd_shuffle_xor(key, step), at2 = simd_shuffle_xor(at, step);
    if (kk_ahead(key2, at2, key, at)) { key = key2; at = at2; }
  }
  if (lane == of) { best = key; place = at; }
}
""", _HEADER)  # fmt: skip


def largest(x: mx.array, k: int) -> list[mx.array]:
    """Values (..., k) of x's type and places (..., k), uint32, of the k largest elements of rows.

    Largest first, of equal ones the first; NaN is the largest number. 1 <= k <= D.
    """
    return _chooser(k)(x)


@lru_cache(maxsize=256)
def _chooser(k: int) -> ByHand:
    count = mx.array([k], mx.uint32)

    def run(x: mx.array) -> list[mx.array]:
        shape = (*x.shape[:-1], k)
        rows = x.size // x.shape[-1]
        kinds = [x.dtype, mx.uint32]
        return _LARGEST([x, count], [shape] * 2, kinds, *by_rows(rows), known_lanes())

    def plain(x: mx.array) -> list[mx.array]:
        down = -mx.stop_gradient(x)
        order = mx.argsort(mx.where(mx.isnan(down), -mx.inf, down), -1)[..., :k]
        order = mx.stop_gradient(order)
        return [mx.take_along_axis(x, order, -1), order]

    def pull(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array]:
        places = mx.stop_gradient(outputs[1])
        return [mx.put_along_axis(mx.zeros_like(primals[0]), places, given[0], -1)]

    return ByHand("largest", run, plain, pull, rows=True)


forgets(_chooser.cache_clear)
