"""Attention in tiles, as Metal text for threads that have no others beside them, as on the CPU.

A thread takes 32 rows, in loops that a compiler makes vectors of; names are those of
zmlx.catalog.flash_tiles, and so are results, up to rounding. zmlx.catalog.flash launches the texts.
"""

from __future__ import annotations

from zmlx.catalog.by_hand import Text
from zmlx.catalog.flash_tiles import BACK, MASK_AT, SCORE, SIZES

_START = f"""
constexpr uint W = 8 * N, BQ = 32, BK = 32;
{SIZES}
const ulong plane = thread_position_in_grid.x;
"""
_QUERIES = """
const ulong of = plane / heads, head = plane % heads, q_at = plane * rows * d;
const ulong k_at = (of * kv_heads + head / (heads / kv_heads)) * keys * d;
const uint first = thread_position_in_grid.y * BQ, count = min(BQ, rows - first);
uint last = keys;  // of keys that these rows see
if (causal) last = first + BQ + keys > rows ? min(keys, first + BQ + keys - rows) : 0;
"""


def _copied(into: str, array: str, at: str, first: str, count: str, size: str) -> str:
    """Text: rows of `array`, zeros behind them."""
    return f"""
float {into}[{size}][W];
for (uint r = 0; r < {size}; ++r) {{
  for (uint c = 0; c < W; ++c) {{
    {into}[r][c] = r < {count} && c < d ? float({array}[{at} + ulong({first} + r) * d + c]) : 0.0f;
  }}
}}
"""


def _turned(into: str, array: str, first: str, count: str, size: str, at: str) -> str:
    """Text: the same with rows side by side."""
    return f"""
float {into}[W][{size}];
for (uint r = 0; r < {size}; ++r) {{
  for (uint c = 0; c < W; ++c) {{
    {into}[c][r] = r < {count} && c < d ? float({array}[{at} + ulong({first} + r) * d + c]) : 0.0f;
  }}
}}
"""


def _product(into: str, row: str, turned: str, size: str) -> str:
    """Text: a row times each of the rows that lie side by side."""
    return f"""
float {into}[{size}];
for (uint j = 0; j < {size}; ++j) {into}[j] = 0.0f;
for (uint c = 0; c < W; ++c) {{
  const float factor = {row}[c];
  for (uint j = 0; j < {size}; ++j) {into}[j] += factor * {turned}[c][j];
}}
"""


def _added(into: str, weight: str, row: str) -> str:
    return f"{{ const float factor = {weight};\n" + (
        f"for (uint c = 0; c < W; ++c) {into}[c] += factor * {row}[c]; }}\n"
    )


_SLOPE = "(CAP != 0 ? scale * bends[j] : scale)"  # of a score
# `z`, scaled and capped; `bends` are what a cap does to slopes.
_CAPPED = """
float bends[BK];
if (CAP != 0) {
  for (uint j = 0; j < BK; ++j) {
    const float part_of_cap = tanh(z[j] * scale / cap);
    bends[j] = 1.0f - part_of_cap * part_of_cap;
    z[j] = cap * part_of_cap;
  }
}
"""


def _scored(z: str, row: str, key: str) -> str:
    return f"""
    float score = CAP != 0 ? {z} : {z} * scale;
    bool kept = true;
    if (MASK != 0 && {key} < keys) {{
      const float said = float(mask[mask_at + ({row}) * mask_row + ({key}) * mask_key]);
      if (MASK == 1) kept = said != 0.0f;
      else score += said;
    }}
    score = kk_score(score, kept, {row}, {key}, rows, keys, causal);
"""


_FORWARD = f"""
{_START}{_QUERIES}{MASK_AT}
{_copied("own", "q", "q_at", "first", "count", "BQ")}
float sums[BQ][W], tops[BQ], wholes[BQ];
for (uint r = 0; r < BQ; ++r) {{
  tops[r] = -INFINITY;
  wholes[r] = 0.0f;
  for (uint c = 0; c < W; ++c) sums[r][c] = 0.0f;
}}
uint k0 = 0;
for (uint turn = 0; turn < 2; ++turn) {{
  for (; k0 < last; k0 += BK) {{
    const uint here = min(BK, keys - k0);
    {_turned("turned", "k", "k0", "here", "BK", "k_at")}
    {_copied("values", "v", "k_at", "k0", "here", "BK")}
    for (uint r = 0; r < count; ++r) {{
      {_product("z", "own[r]", "turned", "BK")}
      {_CAPPED}
      float most = tops[r];
      for (uint j = 0; j < BK; ++j) {{
        {_scored("z[j]", "first + r", "k0 + j")}
        z[j] = score;
        most = score > most || score != score ? score : most;
      }}
      const float base = most == -INFINITY ? 0.0f : most, faded = exp(tops[r] - base);
      float part = 0.0f;
      for (uint j = 0; j < BK; ++j) z[j] = exp(z[j] - base);
      for (uint j = 0; j < BK; ++j) part += z[j];
      wholes[r] = wholes[r] * faded + part;
      tops[r] = most;
      for (uint c = 0; c < W; ++c) sums[r][c] *= faded;
      for (uint j = 0; j < here; ++j) {_added("sums[r]", "z[j]", "values[j]")}
    }}
  }}
  if (turn == 1 || last >= keys) break;
  // A row that may look at nothing so far weighs the keys beyond, too.
  for (uint r = 0; r < count; ++r) {{
    if (tops[r] <= -FLT_MAX) last = keys;
  }}
}}
for (uint r = 0; r < count; ++r) {{
  const ulong at = plane * rows + first + r;
  for (uint c = 0; c < d; ++c) out[at * d + c] = O(sums[r][c] / wholes[r]);
  stats[at * 2] = tops[r];
  stats[at * 2 + 1] = wholes[r];
}}
"""
_TO_QUERIES = f"""
{_START}{_QUERIES}{MASK_AT}
{_copied("own", "q", "q_at", "first", "count", "BQ")}
{_copied("given", "g", "q_at", "first", "count", "BQ")}
float sums[BQ][W];
for (uint r = 0; r < BQ; ++r) {{
  for (uint c = 0; c < W; ++c) sums[r][c] = 0.0f;
}}
for (uint k0 = 0; k0 < last; k0 += BK) {{
  const uint here = min(BK, keys - k0);
  {_turned("turned", "k", "k0", "here", "BK", "k_at")}
  {_turned("values", "v", "k0", "here", "BK", "k_at")}
  {_copied("straight", "k", "k_at", "k0", "here", "BK")}
  for (uint r = 0; r < count; ++r) {{
    {_product("z", "own[r]", "turned", "BK")}
    {_CAPPED}
    {_product("pulled", "given[r]", "values", "BK")}
    const ulong stat = plane * rows + first + r;
    const float top = stats[stat * 2], whole = stats[stat * 2 + 1], less = delta[stat];
    for (uint j = 0; j < BK; ++j) {{
      {_scored("z[j]", "first + r", "k0 + j")}
      const float weight = exp(score - top) / whole;
      z[j] = score == -FLT_MAX ? 0.0f : weight * (pulled[j] - less) * {_SLOPE};
    }}
    for (uint j = 0; j < here; ++j) {_added("sums[r]", "z[j]", "straight[j]")}
  }}
}}
for (uint r = 0; r < count; ++r) {{
  const ulong at = plane * rows + first + r;
  for (uint c = 0; c < d; ++c) dq[at * d + c] = O(sums[r][c]);
}}
"""
_TO_KEYS = f"""
{_START}
const ulong of = plane / kv_heads, k_at = plane * keys * d;
const uint group = heads / kv_heads, key0 = thread_position_in_grid.y * BK;
const uint here = min(BK, keys - key0);
{_turned("turned", "k", "key0", "here", "BK", "k_at")}
{_turned("values", "v", "key0", "here", "BK", "k_at")}
float key_sums[BK][W], value_sums[BK][W], own[W], given[W];
for (uint j = 0; j < BK; ++j) {{
  for (uint c = 0; c < W; ++c) key_sums[j][c] = value_sums[j][c] = 0.0f;
}}
for (uint member = 0; member < group; ++member) {{
  const ulong head = plane % kv_heads * group + member, q_plane = of * heads + head;
  {MASK_AT}
  for (uint row = 0; row < rows; ++row) {{
    const ulong stat = q_plane * rows + row;
    const float top = stats[stat * 2], whole = stats[stat * 2 + 1], less = delta[stat];
    if (causal && row + keys < rows + key0 && top > -FLT_MAX) continue;
    for (uint c = 0; c < W; ++c) {{
      own[c] = c < d ? float(q[stat * d + c]) : 0.0f;
      given[c] = c < d ? float(g[stat * d + c]) : 0.0f;
    }}
    {_product("z", "own", "turned", "BK")}
    {_CAPPED}
    {_product("pulled", "given", "values", "BK")}
    for (uint j = 0; j < BK; ++j) {{
      {_scored("z[j]", "row", "key0 + j")}
      const float weight = exp(score - top) / whole;
      z[j] = weight;
      pulled[j] = score == -FLT_MAX ? 0.0f : weight * (pulled[j] - less) * {_SLOPE};
    }}
    for (uint j = 0; j < here; ++j) {{
      {_added("value_sums[j]", "z[j]", "given")}
      {_added("key_sums[j]", "pulled[j]", "own")}
    }}
  }}
}}
for (uint j = 0; j < here; ++j) {{
  const ulong at = k_at + ulong(key0 + j) * d;
  for (uint c = 0; c < d; ++c) {{
    dk[at + c] = O(key_sums[j][c]);
    dv[at + c] = O(value_sums[j][c]);
  }}
}}
"""

FORWARD = Text("flash_attention_alone", "q k v mask how", "out stats", _FORWARD, SCORE)
TO_QUERIES = Text("flash_attention_dq_alone", BACK, "dq", _TO_QUERIES, SCORE)
TO_KEYS = Text("flash_attention_dkv_alone", BACK, "dk dv", _TO_KEYS, SCORE)
