"""The text of kernels whose rows are neighbours in memory, with holes that zmlx.msl.walk_across
fills.

Names as in zmlx.msl.walk_text. The last dimension of the space counts neighbours, of which there
are kk_lanes; kk_lead counts what the dimensions of rows before it hold, kk_leads in all. An element
is at kk_row + kk_at * (step from column to column), its row's values at kk_row in their arrays.
"""

from __future__ import annotations

# -- threads of a group --------------------------------------------------------------------------
# TX neighbours side by side; RY threads share the columns of each. Neighbours beyond the last are
# computed as the last one, so that all threads of a group meet.
PLACE = """\
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_wanted = long(threadgroup_position_in_grid.x) * long(TX) + long(kk_thread);
const bool kk_live = kk_wanted < kk_lanes;
const long kk_lane = kk_live ? kk_wanted : kk_lanes - 1;
"""
LEADS = """\
for (long kk_lead = long(threadgroup_position_in_grid.y); kk_lead < kk_leads;
     kk_lead += long(threadgroups_per_grid.y)) {{
  const long kk_row = kk_lead * kk_lanes + kk_lane;
{body}
}}"""
WALK = """\
for (int kk_at = kk_line; kk_at < kk_columns; kk_at += RY) {{
{lines}
}}"""
SHARED = "threadgroup {kind} {name}[{count}][RY][TX];"
# Every thread joins the parts in one order, so that all of a row have the same result.
MEET = """\
{tell}
metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
{first}
for (int kk_of = 1; kk_of < RY; ++kk_of) {{
{hear}
}}
metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);"""

# -- a thread alone ------------------------------------------------------------------------------
# It takes LANES neighbours at once, column by column, in loops that a compiler makes vectors of.
# A fold is joined of parts of ROOM columns, so that long sums keep their digits.
ALONE_PLACE = """\
const long kk_strips = (kk_lanes + LANES - 1) / LANES;
const long kk_units = kk_leads * kk_strips;
const long kk_block = long(threadgroup_position_in_grid.y);
const long kk_blocks = long(threadgroups_per_grid.y);
const long kk_span = (kk_units + kk_blocks - 1) / kk_blocks;
const long kk_begin = kk_block * kk_span;
const long kk_end = (kk_begin + kk_span < kk_units) ? kk_begin + kk_span : kk_units;
"""
ALONE_UNITS = """\
for (long kk_unit = kk_begin; kk_unit < kk_end; ++kk_unit) {{
  const long kk_lead = kk_unit / kk_strips;
  const long kk_from = (kk_unit % kk_strips) * LANES;
  const int kk_run = int((kk_lanes - kk_from < LANES) ? kk_lanes - kk_from : LANES);
  const long kk_row = kk_lead * kk_lanes + kk_from;
{body}
}}"""
ALONE_LANES = """\
ZMLX_LOOP
for (int kk_v = 0; kk_v < kk_run; ++kk_v) {{
{lines}
}}"""
ALONE_WALK = """\
for (int kk_start = 0; kk_start < kk_columns; kk_start += ROOM) {{
  const int kk_stop = (kk_columns - kk_start < ROOM) ? kk_columns : kk_start + ROOM;
{start}
  if ({unit}) {{
    for (int kk_at = kk_start; kk_at < kk_stop; ++kk_at) {{
{unit_lanes}
    }}
  }} else {{
    for (int kk_at = kk_start; kk_at < kk_stop; ++kk_at) {{
{any_lanes}
    }}
  }}
{end}
}}"""
