"""Images, as Metal text for threads that have no others beside them, as on the CPU.

A thread takes a row of an image, channels side by side in loops that a compiler makes vectors of;
names and results are those of zmlx.catalog.image, which launches the texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from zmlx.catalog.by_hand import Text

Arrays = Sequence[mx.array]
STRIPS = 64  # of rows of images, whose sums are added at the end

# Where the output's element `to` reads, and what it gives back; those of a GPU's texts as well.
SOURCE = """
// Where the output's element `to` reads: the left neighbour may be -1, the right one `from`.
inline float kk_source(uint to, uint from, uint onto) {
  return (float(to) + 0.5f) * float(from) / float(onto) - 0.5f;
}
inline uint kk_inside(float at, uint from) {
  return uint(clamp(at, 0.0f, float(from - 1)));
}
// What input `i` counts for in output `to`.
inline float kk_share(uint to, uint i, uint from, uint onto) {
  const float at = kk_source(to, from, onto), left = floor(at);
  const float part = at - left;
  return (kk_inside(left, from) == i ? 1.0f - part : 0.0f)
      + (kk_inside(left + 1.0f, from) == i ? part : 0.0f);
}
inline uint kk_first(uint i, uint from, uint onto) {
  if (i == 0) return 0;
  return uint(max(0.0f, floor((float(i) - 0.5f) * float(onto) / float(from) - 0.5f) - 1.0f));
}
inline uint kk_last(uint i, uint from, uint onto) {
  if (i + 1 >= from) return onto;
  const float end = ceil((float(i) + 1.5f) * float(onto) / float(from) - 0.5f) + 2.0f;
  return min(onto, uint(max(0.0f, end)));
}
"""
_ROW = """
const uint row = thread_position_in_grid.x % size[0];
const ulong image = thread_position_in_grid.x / size[0];
"""
RESIZE = Text("resize_bilinear_alone", "x size", "out", _ROW + """
const uint h = x_shape[1], w = x_shape[2], channels = x_shape[3];
const float y = kk_source(row, h, size[0]), up = floor(y), fy = y - up;
const ulong top = (image * h + kk_inside(up, h)) * w;
const ulong low = (image * h + kk_inside(up + 1.0f, h)) * w;
for (uint col = 0; col < size[1]; ++col) {
  const float z = kk_source(col, w, size[1]), left = floor(z), fz = z - left;
  const uint z0 = kk_inside(left, w), z1 = kk_inside(left + 1.0f, w);
  const ulong a = (top + z0) * channels, b = (top + z1) * channels;
  const ulong d = (low + z0) * channels, e = (low + z1) * channels;
  const ulong to = ((image * size[0] + row) * size[1] + col) * channels;
  for (uint c = 0; c < channels; ++c) {
    const float above = float(x[a + c]) * (1.0f - fz) + float(x[b + c]) * fz;
    const float below = float(x[d + c]) * (1.0f - fz) + float(x[e + c]) * fz;
    out[to + c] = O(above * (1.0f - fy) + below * fy);
  }
}
""", SOURCE)  # fmt: skip
# Most rows and columns of a large image have no share in a small one.
UNSIZE = Text("resize_bilinear_grad_alone", "g size", "out", _ROW + """
const uint oh = g_shape[1], ow = g_shape[2], channels = g_shape[3];
const ulong to = (image * size[0] + row) * size[1] * channels;
uint top = kk_first(row, size[0], oh), low = kk_last(row, size[0], oh);
while (top < low && kk_share(top, row, size[0], oh) == 0.0f) ++top;
while (low > top && kk_share(low - 1, row, size[0], oh) == 0.0f) --low;
if (top >= low) {
  for (ulong i = 0; i < ulong(size[1]) * channels; ++i) out[to + i] = O(0.0f);
  return;
}
float shares[16];
for (uint k = 0; k < 16; ++k) shares[k] = kk_share(min(top + k, low - 1), row, size[0], oh);
for (uint col = 0; col < size[1]; ++col) {
  const uint left = kk_first(col, size[1], ow), right = kk_last(col, size[1], ow);
  for (uint c0 = 0; c0 < channels; c0 += 64) {
    const uint count = min(64u, channels - c0);
    float sums[64];
    for (uint c = 0; c < count; ++c) sums[c] = 0.0f;
    for (uint z = left; z < right; ++z) {
      const float part = kk_share(z, col, size[1], ow);
      if (part == 0.0f) continue;
      for (uint y = top; y < low; ++y) {
        const float share = y - top < 16 ? shares[y - top] : kk_share(y, row, size[0], oh);
        if (share == 0.0f) continue;
        const float factor = part * share;
        const ulong from = ((image * oh + y) * ow + z) * channels + c0;
        for (uint c = 0; c < count; ++c) sums[c] += factor * float(g[from + c]);
      }
    }
    for (uint c = 0; c < count; ++c) out[to + ulong(col) * channels + c0 + c] = O(sums[c]);
  }
}
""", SOURCE)  # fmt: skip


# Channels from c0 on, `wide` of them, of as many pixels as make 64 numbers.
_BLOCKS = """
const int height = x_shape[1], width = x_shape[2];
const uint channels = x_shape[3], together = channels < 64 ? 64 / channels : 1;
"""
# The pixels from `col` on, one at the edges; and where a tap finds those that it reads.
_PIXELS = """
    const uint pixels = col > 0 && col + int(together) < width ? together : 1;
    const uint count = pixels * wide;
"""
_TAP = """
      for (int j = 0; j < 3; ++j) {
        if (col + j == 0 || col + j > width) continue;
        const ulong at = (ulong(line + i - 1) * width + (col + j - 1)) * channels + c0;
"""
CONVOLVE = Text("depthwise_conv_alone", "x w", "out", _BLOCKS + f"""
const long line = thread_position_in_grid.x;
const int row = line % height;
for (uint c0 = 0; c0 < channels; c0 += 64) {{
  const uint wide = min(64u, channels - c0);
  float taps[9][64];
  for (uint tap = 0; tap < 9; ++tap) {{
    for (uint k = 0; k < wide; ++k) taps[tap][k] = float(w[tap * channels + c0 + k]);
    for (uint k = wide; k < together * wide; ++k) taps[tap][k] = taps[tap][k - wide];
  }}
  for (int col = 0; col < width;) {{
    {_PIXELS}
    float sums[64];
    for (uint k = 0; k < count; ++k) sums[k] = 0.0f;
    for (int i = 0; i < 3; ++i) {{
      if (row + i == 0 || row + i > height) continue;
      {_TAP}
        for (uint k = 0; k < count; ++k) sums[k] += float(x[at + k]) * taps[i * 3 + j][k];
      }}
    }}
    const ulong to = (ulong(line) * width + col) * channels + c0;
    for (uint k = 0; k < count; ++k) out[to + k] = O(sums[k]);
    col += pixels;
  }}
}}
""")  # fmt: skip
_TAPS = Text("depthwise_taps_alone", "x g", "out", _BLOCKS + f"""
const ulong lines = ulong(x_shape[0]) * height, strip = thread_position_in_grid.x;
const long first = lines * strip / threads_per_grid.x;
const long last = lines * (strip + 1) / threads_per_grid.x;
for (uint c0 = 0; c0 < channels; c0 += 64) {{
  const uint wide = min(64u, channels - c0);
  float taps[9][64];
  for (uint tap = 0; tap < 9; ++tap) {{
    for (uint k = 0; k < 64; ++k) taps[tap][k] = 0.0f;
  }}
  for (long line = first; line < last; ++line) {{
  const int row = line % height;
  for (int col = 0; col < width;) {{
    {_PIXELS}
    const ulong to = (ulong(line) * width + col) * channels + c0;
    for (int i = 0; i < 3; ++i) {{
      if (row + i == 0 || row + i > height) continue;
      {_TAP}
        for (uint k = 0; k < count; ++k) {{
          taps[i * 3 + j][k] += float(x[at + k]) * float(g[to + k]);
        }}
      }}
    }}
    col += pixels;
  }}
  }}
  for (uint tap = 0; tap < 9; ++tap) {{
    for (uint c = 0; c < wide; ++c) {{
      float sum = 0.0f;
      for (uint k = c; k < together * wide; k += wide) sum += taps[tap][k];
      out[(strip * 9 + tap) * channels + c0 + c] = sum;
    }}
  }}
}}
""")  # fmt: skip


def by_rows_of(shape: Sequence[int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and group of a launch with a thread for each row of images of this shape."""
    return (max(1, shape[0] * shape[1]), 1, 1), (1, 1, 1)


def taps(x: mx.array, g: mx.array) -> list[mx.array]:
    """Sums of strips of rows, (strips, 3, 3, C), float32: x beside g, for each tap."""
    strips = max(1, min(STRIPS, x.shape[0] * x.shape[1]))
    shape = (strips, 3, 3, x.shape[3])
    return _TAPS([x, g], [shape], [mx.float32], (strips, 1, 1), (1, 1, 1))
