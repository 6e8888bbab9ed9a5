"""Attention in tiles, as Metal text for groups of four simdgroups: forward, and both gradients.

Each simdgroup holds 8 rows in matrices of 8 x 8 and goes through the other side's tiles, which the
group copies to its memory in float32, zeros beyond the ends. `N` is a row's width in such matrices,
`MASK` 0 for none, 1 for booleans, 2 for numbers to be added, `CAP` 1 where scores have a cap; `how`
is the scale, 1 for causal, and the cap.
zmlx.catalog.flash launches the texts; zmlx.catalog.flash_alone has those of one thread.
"""

from __future__ import annotations

from zmlx.catalog.by_hand import Text

ROWS = 32  # of a group, 8 for each simdgroup

# A score is looked at once: what a mask leaves out counts as the least number, as in mx.fast, so
# that a row of which nothing is left weighs all keys alike; keys beyond the end do not count.
SCORE = """
inline float kk_score(float z, bool kept, uint row, uint key, uint rows, uint keys, bool causal) {
  const bool seen = kept && !(causal && key + rows > row + keys);
  return key >= keys ? -INFINITY : (seen ? z : -FLT_MAX);
}
"""
SIZES = """
const uint heads = q_shape[1], rows = q_shape[2], d = q_shape[3];
const uint kv_heads = k_shape[1], keys = k_shape[2];
const float scale = how[0];
const bool causal = how[1] != 0.0f;
const float cap = how[2];
const ulong mask_row = mask_shape[2] > 1 ? mask_shape[3] : 0, mask_key = mask_shape[3] > 1;
const ulong mask_plane = ulong(mask_shape[2]) * mask_shape[3];
"""
# Where query head `head` of example `of` has its part of the mask.
MASK_AT = """
const ulong mask_at = ((mask_shape[0] > 1 ? of * mask_shape[1] : 0)
                       + (mask_shape[1] > 1 ? head : 0)) * mask_plane;
"""
_LANES = """
constexpr uint W = 8 * N, P = W + 4;
const uint lane = thread_index_in_simdgroup, part = thread_position_in_threadgroup.y;
const uint thread_at = part * 32 + lane;
const uint up = (lane / 4 & 4) + lane / 2 % 4, across = (lane / 4 & 2) * 2 + lane % 2 * 2;
"""
_QUERIES = """
const ulong plane = threadgroup_position_in_grid.x, of = plane / heads, head = plane % heads;
const ulong q_at = plane * rows * d;
const ulong k_at = (of * kv_heads + head / (heads / kv_heads)) * keys * d;
const uint first = threadgroup_position_in_grid.y * 32, row = first + part * 8 + up;
uint last = keys;  // of keys that the group's rows see
if (causal) last = first + 32 + keys > rows ? min(keys, first + 32 + keys - rows) : 0;
"""


def _held(name: str, array: str, at: str, row: str, end: str) -> str:
    """Text: a simdgroup's own 8 rows of `array` as the matrices `name`."""
    return f"""
simdgroup_float8x8 {name}[N];
for (uint i = 0; i < N; ++i) {{
  for (uint e = 0; e < 2; ++e) {{
    const uint c = 8 * i + across + e;
    {name}[i].thread_elements()[e] =
        {row} < {end} && c < d ? float({array}[{at} + ulong({row}) * d + c]) : 0.0f;
  }}
}}
"""


def _copied(tile: str, array: str, at: str, first: str, end: str, count: str) -> str:
    """Text: `count` rows of `array` from `first` on, copied by the whole group."""
    return f"""
for (uint i = thread_at; i < {count} * W; i += 128) {{
  const uint r = i / W, c = i % W;
  {tile}[r * P + c] =
      {first} + r < {end} && c < d ? float({array}[{at} + ulong({first} + r) * d + c]) : 0.0f;
}}
"""


def _product(into: str, held: str, tile: str) -> str:
    """Text: `into` is the held rows times 8 rows of a tile, from row 8 j on."""
    return f"""
simdgroup_float8x8 {into}(0.0f);
for (uint i = 0; i < N; ++i) {{
  simdgroup_float8x8 other;
  simdgroup_load(other, {tile} + j * 8 * P + i * 8, P, ulong2(0, 0), true);
  simdgroup_multiply_accumulate({into}, {held}[i], other, {into});
}}
"""


def _added(into: str, weights: str, tile: str, count: str) -> str:
    """Text: the weighted rows of a tile are added to `into`."""
    return f"""
for (uint i = 0; i < N; ++i) {{
  for (uint j = 0; j < {count} / 8; ++j) {{
    simdgroup_float8x8 other;
    simdgroup_load(other, {tile} + j * 8 * P + i * 8, P);
    simdgroup_multiply_accumulate({into}[i], {weights}[j], other, {into}[i]);
  }}
}}
"""


def _scored(row: str, key: str) -> str:
    """Text: element e of `z`, scaled, capped and masked, as `score`; `bend` is what a cap does to
    slopes."""
    return f"""
    const uint at_row = {row}, at_key = {key};
    float score = z.thread_elements()[e] * scale;
    const float part_of_cap = CAP != 0 ? tanh(score / cap) : 0.0f;
    const float bend = 1.0f - part_of_cap * part_of_cap;
    if (CAP != 0) score = cap * part_of_cap;
    bool kept = true;
    if (MASK != 0 && at_row < rows && at_key < keys) {{
      const float said = float(mask[mask_at + at_row * mask_row + at_key * mask_key]);
      if (MASK == 1) kept = said != 0.0f;
      else score += said;
    }}
    score = kk_score(score, kept, at_row, at_key, rows, keys, causal);
"""


_ZEROS = "for (uint i = 0; i < N; ++i) {names} = simdgroup_float8x8(0.0f);\n"


def _stored(into: str, name: str, at: str, row: str, end: str, more: str = "") -> str:
    """Text: a simdgroup's own 8 rows are written."""
    return f"""
if ({row} < {end}) {{
  for (uint i = 0; i < N; ++i) {{
    for (uint e = 0; e < 2; ++e) {{
      const uint c = 8 * i + across + e;
      if (c < d) {into}[{at} + ulong({row}) * d + c] = O({name}[i].thread_elements()[e]{more});
    }}
  }}
}}
"""


_FORWARD = f"""
{_LANES}{SIZES}{_QUERIES}{MASK_AT}
constexpr uint BK = N > 16 ? 16 : 32;
threadgroup float tile[BK * P];
threadgroup uint bare[4];
{_held("own", "q", "q_at", "row", "rows")}
simdgroup_float8x8 sums[N];
{_ZEROS.format(names="sums[i]")}
float top = -INFINITY, whole = 0.0f;
uint k0 = 0;
for (uint turn = 0; turn < 2; ++turn) {{
  for (; k0 < last; k0 += BK) {{
    threadgroup_barrier(mem_flags::mem_threadgroup);
    {_copied("tile", "k", "k_at", "k0", "keys", "BK")}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_float8x8 weights[BK / 8];
    float most = top;
    for (uint j = 0; j < BK / 8; ++j) {{
      {_product("z", "own", "tile")}
      for (uint e = 0; e < 2; ++e) {{
        {_scored("row", "k0 + 8 * j + across + e")}
        weights[j].thread_elements()[e] = score;
        most = score > most || score != score ? score : most;
      }}
    }}
    most = max(most, simd_shuffle_xor(most, ushort(1)));
    most = max(most, simd_shuffle_xor(most, ushort(8)));
    const float base = most == -INFINITY ? 0.0f : most, faded = exp(top - base);
    float part_sum = 0.0f;
    for (uint j = 0; j < BK / 8; ++j) {{
      for (uint e = 0; e < 2; ++e) {{
        const float power = exp(weights[j].thread_elements()[e] - base);
        weights[j].thread_elements()[e] = power;
        part_sum += power;
      }}
    }}
    part_sum += simd_shuffle_xor(part_sum, ushort(1));
    part_sum += simd_shuffle_xor(part_sum, ushort(8));
    whole = whole * faded + part_sum;
    top = most;
    for (uint i = 0; i < N; ++i) {{
      for (uint e = 0; e < 2; ++e) sums[i].thread_elements()[e] *= faded;
    }}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    {_copied("tile", "v", "k_at", "k0", "keys", "BK")}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    {_added("sums", "weights", "tile", "BK")}
  }}
  if (turn == 1 || last >= keys) break;
  // A row that may look at nothing so far weighs the keys beyond, too.
  const uint any = simd_max(row < rows && top <= -FLT_MAX ? 1u : 0u);
  if (lane == 0) bare[part] = any;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if ((bare[0] | bare[1] | bare[2] | bare[3]) != 0u) last = keys;
}}
{_stored("out", "sums", "q_at", "row", "rows", " / whole")}
if (row < rows && across == 0) {{
  stats[(plane * rows + row) * 2] = top;
  stats[(plane * rows + row) * 2 + 1] = whole;
}}
"""
_TO_QUERIES = f"""
{_LANES}{SIZES}{_QUERIES}{MASK_AT}
constexpr uint BK = N > 16 ? 8 : 16;
threadgroup float tile[BK * P], values[BK * P];
{_held("own", "q", "q_at", "row", "rows")}
{_held("given", "g", "q_at", "row", "rows")}
simdgroup_float8x8 sums[N];
{_ZEROS.format(names="sums[i]")}
const bool within = row < rows;
const ulong stat = plane * rows + row;
const float top = within ? stats[stat * 2] : 0.0f, whole = within ? stats[stat * 2 + 1] : 1.0f;
const float less = within ? delta[stat] : 0.0f;
for (uint k0 = 0; k0 < last; k0 += BK) {{
  threadgroup_barrier(mem_flags::mem_threadgroup);
  {_copied("tile", "k", "k_at", "k0", "keys", "BK")}
  {_copied("values", "v", "k_at", "k0", "keys", "BK")}
  threadgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_float8x8 slopes[BK / 8];
  for (uint j = 0; j < BK / 8; ++j) {{
    {_product("z", "own", "tile")}
    {_product("pulled", "given", "values")}
    for (uint e = 0; e < 2; ++e) {{
      {_scored("row", "k0 + 8 * j + across + e")}
      const float weight = exp(score - top) / whole;
      slopes[j].thread_elements()[e] = score == -FLT_MAX
          ? 0.0f : weight * (pulled.thread_elements()[e] - less) * scale * bend;
    }}
  }}
  {_added("sums", "slopes", "tile", "BK")}
}}
{_stored("dq", "sums", "q_at", "row", "rows")}
"""
# The group's own rows are keys: matrices of scores have keys down and queries across.
_TO_KEYS = f"""
{_LANES}{SIZES}
constexpr uint BQ = N > 16 ? 8 : 16;
threadgroup float tile[BQ * P], given[BQ * P];
const ulong plane = threadgroup_position_in_grid.x, of = plane / kv_heads;
const uint group = heads / kv_heads, key0 = threadgroup_position_in_grid.y * 32;
const uint key = key0 + part * 8 + up;
const ulong k_at = plane * keys * d;
{_held("own", "k", "k_at", "key", "keys")}
{_held("values", "v", "k_at", "key", "keys")}
simdgroup_float8x8 key_sums[N], value_sums[N];
{_ZEROS.format(names="key_sums[i] = value_sums[i]")}
for (uint member = 0; member < group; ++member) {{
  const ulong head = plane % kv_heads * group + member, q_plane = of * heads + head;
  const ulong q_at = q_plane * rows * d;
  {MASK_AT}
  for (uint q0 = 0; q0 < rows; q0 += BQ) {{
    if (causal && q0 + BQ + keys <= rows + key0) {{  // none of these rows sees the group's keys
      const uint at = q0 + lane;
      const bool none = lane < BQ && at < rows && stats[(q_plane * rows + at) * 2] <= -FLT_MAX;
      if (simd_max(none ? 1u : 0u) == 0u) continue;
    }}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    {_copied("tile", "q", "q_at", "q0", "rows", "BQ")}
    {_copied("given", "g", "q_at", "q0", "rows", "BQ")}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_float8x8 weights[BQ / 8], slopes[BQ / 8];
    for (uint j = 0; j < BQ / 8; ++j) {{
      {_product("z", "own", "tile")}
      {_product("pulled", "values", "given")}
      for (uint e = 0; e < 2; ++e) {{
        {_scored("q0 + 8 * j + across + e", "key")}
        const bool within = at_row < rows && at_key < keys;
        const ulong stat = q_plane * rows + at_row;
        const float weight = within ? exp(score - stats[stat * 2]) / stats[stat * 2 + 1] : 0.0f;
        const float less = within ? delta[stat] : 0.0f;
        weights[j].thread_elements()[e] = weight;
        slopes[j].thread_elements()[e] = score == -FLT_MAX
            ? 0.0f : weight * (pulled.thread_elements()[e] - less) * scale * bend;
      }}
    }}
    {_added("value_sums", "weights", "given", "BQ")}
    {_added("key_sums", "slopes", "tile", "BQ")}
  }}
}}
{_stored("dk", "key_sums", "k_at", "key", "keys")}
{_stored("dv", "value_sums", "k_at", "key", "keys")}
"""

BACK = "q k v stats delta g mask how"
FORWARD = Text("flash_attention", "q k v mask how", "out stats", _FORWARD, SCORE)
TO_QUERIES = Text("flash_attention_dq", BACK, "dq", _TO_QUERIES, SCORE)
TO_KEYS = Text("flash_attention_dkv", BACK, "dk dv", _TO_KEYS, SCORE)
