"""The text of kernels that add up values of a region, with holes that zmlx.msl.sums fills.

Names: kk_o is an outer index, kk_row a row, kk_left the first column of a thread, kk_room how many
there are from it on; kk_block counts blocks of kk_span rows, kk_part the sums of a row.
"""

from __future__ import annotations

# Neighbours of a simdgroup whose number is a power of two; all its threads must come here.
NEAR_SUM = """\
inline float kk_near_sum(float value, int near) {
  for (int far = near / 2; far > 0; far >>= 1) {
    value += metal::simd_shuffle_xor(value, ushort(far));
  }
  return value;
}
"""
PLACE = """\
const long kk_blocks = long(threadgroups_per_grid.y) * long(TY);
const long kk_block = long(thread_position_in_grid.y);
const long kk_span = (kk_rows + kk_blocks - 1) / kk_blocks;
const long kk_left = long(thread_position_in_grid.x) * long(LANES);
const long kk_room = kk_columns - kk_left;
const long kk_layers = long(threadgroups_per_grid.z);
"""
PARTS = """\
const long kk_parts = long(threadgroups_per_grid.x) * long(TX / NEAR);
const long kk_part = long(thread_position_in_grid.x) / long(NEAR);
const bool kk_speaks = int(thread_position_in_grid.x) % NEAR == 0;
"""
# The loop over rows has the same length for all threads, so that those of a simdgroup meet.
WALK = """\
for (long kk_o = long(thread_position_in_grid.z); kk_o < kk_outer; kk_o += kk_layers) {{
{starts}
  for (long kk_i = 0; kk_i < kk_span; ++kk_i) {{
    const long kk_row = kk_block * kk_span + kk_i;
    const bool kk_live = kk_row < kk_rows;
{row_starts}
    if (kk_live) {{
{per_row}
      if (kk_room >= long(LANES)) {{
{packs}
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {{
{lane}
        }}
{stores}
      }} else if (kk_room > 0) {{
        const int kk_some = int(kk_room);
{some_packs}
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {{
{some_lane}
        }}
{some_stores}
      }}
    }}
{row_ends}
  }}
{ends}
}}
"""
# One thread alone: a plain loop over a row, which a compiler for CPUs makes vectors of.
WALK_ALONE = """\
const int kk_run = (kk_room < long(LANES)) ? int(kk_room) : LANES;
for (long kk_o = long(thread_position_in_grid.z); kk_o < kk_outer; kk_o += kk_layers) {{
{starts}
  for (long kk_i = 0; kk_i < kk_span; ++kk_i) {{
    const long kk_row = kk_block * kk_span + kk_i;
    const bool kk_live = kk_row < kk_rows;
    if (!kk_live) {{
      break;
    }}
{row_starts}
{per_row}
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
{row_ends}
  }}
{ends}
}}
"""
STEADY = """\
{begin}
{pack};
if (kk_room >= long(LANES)) {{
  {whole}
}} else if (kk_room > 0) {{
  {some}
}}"""
ZERO = """\
float {name}[LANES];
ZMLX_UNROLL
for (int kk_v = 0; kk_v < {count}; ++kk_v) {{
  {name}[kk_v] = 0.0f;
}}"""
ADDED_LANES = """\
float {total} = {lanes}[0];
ZMLX_UNROLL
for (int kk_v = 1; kk_v < LANES; ++kk_v) {{
  {total} += {lanes}[kk_v];
}}"""
# Apart from the loop over elements: GCC makes no vectors of half types beside a sum.
ADDED_TERMS = """\
float {total} = 0.0f;
#pragma omp simd reduction(+ : {total})
for (int kk_v = 0; kk_v < kk_run; ++kk_v) {{
  {total} += {terms}[kk_v];
}}"""
COLUMN_END = """\
{total} = kk_near_sum({total}, NEAR);
if (kk_speaks && kk_live) {{
  {out}[(kk_o * kk_rows + kk_row) * kk_parts + kk_part] = {total};
}}"""
BOTH_END = """\
{all} = kk_near_sum({all}, NEAR);
if (kk_speaks) {{
  {out}[(kk_o * kk_blocks + kk_block) * kk_parts + kk_part] = {all};
}}"""
ROW_END = """\
ZMLX_UNROLL
for (int kk_v = 0; kk_v < {count}; ++kk_v) {{
  const long kk_to = kk_left + long(kk_v);
  if (kk_to < kk_columns) {{
    {out}[(kk_o * kk_blocks + kk_block) * kk_columns + kk_to] = {lanes}[kk_v];
  }}
}}"""
