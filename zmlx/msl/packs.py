"""Packs: neighbouring elements in registers, as texts that walk rows read and write them.

Goes out: PACKS_TEXT, Metal text with kk_pack<T, N>, kk_load, kk_fetch and kk_store, and
ZMLX_UNROLL for loops over their elements; SOME_TEXT, which may follow it, for packs that the end of
a row cuts off. A device that moves several elements at once brings its
own; no pointer into an input is spelled, for its address space depends on the input's size.
"""

from __future__ import annotations

PACKS_TEXT = """
#ifdef ZMLX_WIDE
template <typename T, int N>
using kk_pack = zm_pack<N, T>;
template <typename T, int N>
inline kk_pack<T, N> kk_load(const T* from) {
  return zmlx_fetch<N>(from, 1);
}
template <typename T, int N>
inline kk_pack<T, N> kk_fetch(const T* from, long step) {
  return zmlx_fetch<N>(from, step);
}
template <typename T, int N>
inline void kk_store(T* to, const kk_pack<T, N>& pack) {
  zmlx_put<N>(to, pack);
}
#else
template <typename T, int N>
struct kk_pack {
  T item[N];
};
template <typename T, int N, typename P>
inline kk_pack<T, N> kk_load(P from) {
  kk_pack<T, N> pack;
  for (int k = 0; k < N; ++k) {
    pack.item[k] = from[k];
  }
  return pack;
}
template <typename T, int N, typename P>
inline kk_pack<T, N> kk_fetch(P from, long step) {
  if (step == 1) {
    return kk_load<T, N>(from);
  }
  kk_pack<T, N> pack;
  const T first = from[0];
  for (int k = 0; k < N; ++k) {
    pack.item[k] = first;
  }
  for (int k = 1; k < N && step != 0; ++k) {
    pack.item[k] = from[k * step];
  }
  return pack;
}
template <typename T, int N, typename P>
inline void kk_store(P to, thread const kk_pack<T, N>& pack) {
  for (int k = 0; k < N; ++k) {
    to[k] = pack.item[k];
  }
}
#endif
#ifndef ZMLX_UNROLL
#define ZMLX_UNROLL
#endif
"""

# The first `count` elements of a pack; fewer than N.
SOME_TEXT = """
template <typename T, int N, typename P>
inline kk_pack<T, N> kk_fetch_some(P from, long step, int count) {
  kk_pack<T, N> pack;
  ZMLX_UNROLL
  for (int k = 0; k < N; ++k) {
    pack.item[k] = T(0.0f);
    if (k < count) {
      pack.item[k] = from[k * step];
    }
  }
  return pack;
}
template <typename T, int N, typename P>
inline void kk_store_some(P to, thread const kk_pack<T, N>& pack, int count) {
  ZMLX_UNROLL
  for (int k = 0; k < N; ++k) {
    if (k < count) {
      to[k] = pack.item[k];
    }
  }
}
"""
