"""The text of kernels that walk over rows, with holes that zmlx.msl.walk and walk_alone fill.

Names: kk_row is a row, kk_line its place in the group, kk_thread a thread of the row, kk_at the
first column of a pack. Template: TX threads share a row (a power of two), RY rows a group, which
takes only one row a line where ONCE; a thread takes LANES neighbouring columns at once, PACKS times
(0: as often as it needs); EXACT says that no thread is left without columns, FULL that no line is
without a row. Where columns are cut, a group takes CUT of them, kk_columns in all, from kk_left on;
a row has kk_wide. Where rows have outer dimensions, kk_o counts what lies in these, kk_before the
rows before it, and kk_nth parts, of which each group gives one.
"""

from __future__ import annotations

# A pack of neighbours as memory holds them; on devices that move 16 bytes in one go halves stay two
# in a word. No pointer into an input is spelled: its address space depends on the input's size.
PARTS = """\
#ifndef ZMLX_UNROLL
#define ZMLX_UNROLL
#endif
#if defined(ZMLX_WIDE) || defined(ZM_SANITIZE)
#define KK_AHEAD true
#else
#define KK_AHEAD false
#endif
#ifdef ZMLX_WIDE
template <typename T, int N>
using kk_part = zm_part<N, T>;
template <typename T, int N, typename P>
inline kk_part<T, N> kk_take(const P* from) {
  return *reinterpret_cast<const kk_part<T, N>*>(from);
}
template <typename T, int N, typename P, typename V>
inline void kk_give(P* to, const V (&values)[N]) {
  kk_part<T, N> part;
  part.convert(values);
  *reinterpret_cast<kk_part<T, N>*>(to) = part;
}
template <bool Many, typename P>
inline void kk_renew(P& part) {
  if constexpr (Many) {
    zm_renew(part);
  }
}
template <typename T, int N, typename P>
inline bool kk_whole(const P* from) {
  return zm_aligned<N>(from);
}
template <typename T>
inline T kk_other(T a, int far) {
  return metal::zm_xor_of_all(a, far);
}
inline float kk_max(float a, float b) {
  return zm_max(a, b);
}
inline float kk_min(float a, float b) {
  return zm_min(a, b);
}
#else
template <typename T, int N>
struct kk_part {
  T item[N];
  T operator[](int k) const thread {
    return item[k];
  }
};
template <typename T, int N, typename P>
inline kk_part<T, N> kk_take(P from) {
  kk_part<T, N> part;
  for (int k = 0; k < N; ++k) {
    part.item[k] = from[k];
  }
  return part;
}
template <typename T, int N, typename P, typename V>
inline void kk_give(P to, thread const V (&values)[N]) {
  for (int k = 0; k < N; ++k) {
    to[k] = T(values[k]);
  }
}
template <bool Many, typename P>
inline void kk_renew(thread P&) {
}
template <typename T, int N, typename P>
inline bool kk_whole(P) {
  return true;
}
template <typename T>
inline T kk_other(T a, int far) {
  return metal::simd_shuffle_xor(a, ushort(far));
}
inline float kk_max(float a, float b) {
  return (b > a || b != b) ? b : a;
}
inline float kk_min(float a, float b) {
  return (b < a || b != b) ? b : a;
}
#endif
"""

# All threads of a simdgroup must come here; each of `near` neighbours gets the same result.
NEAR = """\
inline {kind} kk_near_{op}({kind} a, int near) {{
  ZMLX_UNROLL
  for (int far = near / 2; far > 0; far >>= 1) {{
    const {kind} b = kk_other(a, far);
    a = {join};
  }}
  return a;
}}
"""
# The same for a value and its place; the earlier one of equal ones.
FOUND = """\
{{ const {kind} a = {a}, b = {b};
  const int kk_a = {spot_a}, kk_b = {spot_b};
  const bool kk_same = a == b || (a != a && b != b);
  const bool kk_hit = kk_same ? kk_b < kk_a : ({hit});
  {a} = kk_hit ? b : a;
  {spot_a} = kk_hit ? kk_b : kk_a; }}"""
NEAR_PLACE = """\
inline void kk_near_{op}(thread {kind}& value, thread int& place, int near) {{
  ZMLX_UNROLL
  for (int far = near / 2; far > 0; far >>= 1) {{
    const {kind} other = kk_other(value, far);
    const int there = kk_other(place, far);
{found}
  }}
}}
"""
PLACE = """\
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_block = kk_group * long(RY) + long(kk_line);
const long kk_blocks = kk_groups * long(RY);
"""
CUT = """\
const long kk_cut = long(threadgroup_position_in_grid.x);
const long kk_cuts = long(threadgroups_per_grid.x);
const long kk_left = kk_cut * long(CUT);
const int kk_columns = int((kk_wide - kk_left < long(CUT)) ? kk_wide - kk_left : long(CUT));
"""
OUTER = """\
for (long kk_o = long(threadgroup_position_in_grid.z); kk_o < kk_outer;
     kk_o += long(threadgroups_per_grid.z)) {{
  const long kk_before = kk_o * kk_rows;
  const long kk_nth = kk_o * kk_groups + kk_group;
{body}
}}
"""
SHARED = "threadgroup {kind} kk_partials_{kind}[2][{count}][32];"
MEETING = """\
const int kk_place = kk_line * TX + kk_thread;
int kk_turn = 0;
"""
BOTH_WAYS = """\
if ({quick}) {{
{first}
}} else {{
{second}
}}
"""
# Rows beyond the last are computed as the last one, so that all threads of a group meet.
ROWS = """\
for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {{
  const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
  const long kk_row = {before}(kk_live ? kk_base + long(kk_line) : kk_rows - 1);
{body}
  if (ONCE) {{
    break;
  }}
}}
"""
# All loads of a walk before its first use, so that many are under way.
PACK_LOOP = """\
ZMLX_UNROLL
for (int kk_p = 0; kk_p < PACKS; ++kk_p) {{
  const int kk_at = (kk_p * TX + kk_thread) * LANES;
  if (EXACT || kk_at < kk_columns) {{
{lines}
  }}
}}"""
STREAM_LOOP = """\
for (int kk_at = kk_thread * LANES; kk_at < kk_columns; kk_at += TX * LANES) {{
{lines}
}}"""
SINGLE_LOOP = """\
for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {{
{lines}
}}"""
# Column by column, with a place for each in registers.
HELD_LOOP = """\
ZMLX_UNROLL
for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {{
  const int kk_at = kk_k * TX + kk_thread;
  if (EXACT || kk_at < kk_columns) {{
{lines}
  }}
}}"""
LANE_LOOP = """\
ZMLX_UNROLL
for (int kk_v = 0; kk_v < LANES; ++kk_v) {{
{lines}
}}"""
# Where groups go through many rows: the next one is on its way while this one is worked on. GPUs
# that hide the wait by other groups, of which registers allow fewer so, do without (KK_AHEAD).
AHEAD_FIRST = """\
if (KK_AHEAD) {{
  const long kk_row = {before}((kk_block < kk_rows) ? kk_block : kk_rows - 1);
{begins}
{next}
}}"""
AHEAD = """\
if (KK_AHEAD) {{
{moved}
  if (kk_base + kk_blocks < kk_rows) {{
    const long kk_far = kk_base + kk_blocks + long(kk_line);
    const long kk_row = {before}((kk_far < kk_rows) ? kk_far : kk_rows - 1);
{begins}
{next}
  }}
}} else {{
{here}
}}"""
# One barrier a meeting: its threadgroup memory is not written again before the next but one.
MEET = """\
if (TX > 32) {{
  const int kk_share = (TX > 32) ? TX / 32 : 1;
  if (kk_place % 32 == 0) {{
{tell}
  }}
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  const int kk_of = kk_line * kk_share + kk_place % kk_share;
{hear}
  kk_turn ^= 1;
}}"""
SINK_START = """\
{kind} kk_sink{node}[PACKS * LANES];
ZMLX_UNROLL
for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {{
  kk_sink{node}[kk_k] = {neutral};
}}"""
# The lines of a group join what they have of each column, half upon half; the first one gives it.
# `turn` values of each take their turn at one time, so that few barriers serve many.
LINES = "threadgroup {kind} kk_lines_{kind}[{count}][{turn}][(RY > 1) ? RY * TX : 1];"
LINES_JOIN = """\
ZMLX_UNROLL
for (int kk_b = 0; kk_b < ((RY > 1) ? {values} : 0); kk_b += {turn}) {{
{tell}
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  for (int kk_half = RY / 2; kk_half > 0; kk_half /= 2) {{
    if (kk_line < kk_half) {{
      const int kk_far = kk_place + kk_half * TX;
{join}
    }}
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  }}
{hear}
}}"""
LINES_TURN = """\
ZMLX_UNROLL
for (int kk_k = kk_b; kk_k < ((kk_b + {turn} < {values}) ? kk_b + {turn} : {values}); ++kk_k) {{
{lines}
}}"""
SINK_END = """\
ZMLX_UNROLL
for (int kk_p = 0; kk_p < PACKS; ++kk_p) {{
  const int kk_at = (kk_p * TX + kk_thread) * LANES;
  if (kk_line == 0 && (EXACT || kk_at < kk_columns)) {{
    ZMLX_UNROLL
    for (int kk_v = 0; kk_v < LANES; ++kk_v) {{
      {out}[{place} + kk_at + kk_v] = kk_sink{node}[kk_p * LANES + kk_v];
    }}
  }}
}}"""
SLOW_SINK_END = """\
ZMLX_UNROLL
for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {{
  const int kk_at = kk_k * TX + kk_thread;
  if (kk_line == 0 && (EXACT || kk_at < kk_columns)) {{
    {out}[{place} + kk_at] = kk_sink{node}[kk_k];
  }}
}}"""

# -- a thread alone ------------------------------------------------------------------------------
# It takes whole rows, LANES columns at a time, in loops that a compiler for CPUs makes vectors of;
# a fold has a value for each of LANES columns until the end. What it keeps has ROOM elements.
ALONE_PLACE = """\
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_span = (kk_rows + kk_groups - 1) / kk_groups;
const long kk_first = kk_group * kk_span;
const long kk_end = (kk_first + kk_span < kk_rows) ? kk_first + kk_span : kk_rows;
const bool kk_live = true;
const int kk_thread = 0;
const int kk_lead = (kk_columns < LANES) ? kk_columns : LANES;
"""
ALONE_ROWS = """\
for (long kk_inner = kk_first; kk_inner < kk_end; ++kk_inner) {{
  const long kk_row = {before}kk_inner;
{body}
}}"""
ALONE_START = """\
{kind} {name}[{size}];
for (int kk_v = 0; kk_v < {count}; ++kk_v) {{
  {name}[kk_v] = {neutral};
}}"""
ALONE_END = """\
for (int kk_v = 0; kk_v < kk_columns; ++kk_v) {{
  {out}[{place} + kk_v] = kk_sink{node}[kk_v];
}}"""
ALONE_WALK = """\
for (int kk_at = 0; kk_at < kk_columns; kk_at += LANES) {{
  const int kk_run = (kk_columns - kk_at < LANES) ? kk_columns - kk_at : LANES;
  const long kk_from = kk_at;  // an int might wrap around: neighbours would not be read together
  if ({unit}) {{
    ZMLX_LOOP
    for (int kk_v = 0; kk_v < kk_run; ++kk_v) {{
{unit_lane}
    }}
  }} else {{
    ZMLX_LOOP
    for (int kk_v = 0; kk_v < kk_run; ++kk_v) {{
{lane}
    }}
  }}
}}"""
# By fold: what it makes of one value for each of the first columns. Those of a whole step are
# folded half upon half, so that no addition waits for the one before.
_SUM = """\
{kind} kk_all{node} = {unit};
int kk_left{node} = kk_lead;
for (; kk_lead == LANES && kk_left{node} > 16 && kk_left{node} % 2 == 0; kk_left{node} /= 2) {{
  const int kk_half = kk_left{node} / 2;
  #pragma omp simd
  for (int kk_v = 0; kk_v < kk_half; ++kk_v) {{
    kk_terms{node}[kk_v] {sign}= kk_terms{node}[kk_v + kk_half];
  }}
}}
#pragma omp simd reduction({sign} : kk_all{node})
for (int kk_v = 0; kk_v < kk_left{node}; ++kk_v) {{
  kk_all{node} {sign}= kk_terms{node}[kk_v];
}}
{total} {sign}= kk_all{node};"""
_EXTREME = """\
{kind} kk_all{node} = {total};
int kk_odd{node} = 0;
#pragma omp simd reduction({name} : kk_all{node}) reduction(+ : kk_odd{node})
for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {{
  const {kind} kk_b = kk_terms{node}[kk_v];
  kk_all{node} = (kk_b {sign} kk_all{node}) ? kk_b : kk_all{node};
  kk_odd{node} += (kk_b != kk_b) ? 1 : 0;
}}
{total} = (kk_odd{node} != 0 || {total} != {total}) ? {odd} : kk_all{node};"""
_TRUTH = """\
for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {{
  {total} = {total} {sign} int(kk_terms{node}[kk_v]);
}}"""
# The first of the places where the extreme stands.
ALONE_FOUND = """\
int kk_spot_{total} = 2147483647;
#pragma omp simd reduction(min : kk_spot_{total})
for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {{
  const {kind} kk_b = kk_terms{node}[kk_v];
  const int kk_s = kk_spot_kk_terms{node}[kk_v];
  const bool kk_hit = (kk_odd{node} != 0) ? kk_b != kk_b : kk_b == {total};
  kk_spot_{total} = (kk_hit && kk_s < kk_spot_{total}) ? kk_s : kk_spot_{total};
}}"""
ALONE_FOLD = {
    "sum": (_SUM, {"sign": "+", "unit": "0"}),
    "prod": (_SUM, {"sign": "*", "unit": "1"}),
    "max": (_EXTREME, {"sign": ">", "name": "max"}),
    "min": (_EXTREME, {"sign": "<", "name": "min"}),
    "argmax": (_EXTREME, {"sign": ">", "name": "max"}),
    "argmin": (_EXTREME, {"sign": "<", "name": "min"}),
    "all": (_TRUTH, {"sign": "&"}),
    "any": (_TRUTH, {"sign": "|"}),
}
