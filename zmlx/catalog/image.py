"""Images, (N, H, W, C): bilinear resizing and a 3 by 3 convolution of each channel.

Results have x's type; arithmetic is float32. Backward passes gather as forward ones do, without
atomics: results are the same bits in every run. Everything is differentiable, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import mlx.core as mx

from zmlx.catalog import image_alone
from zmlx.catalog.by_hand import ByHand, Text, by_elements, element
from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, wide
from zmlx.fuse.by_size import alone
from zmlx.registry import forgets

__all__ = ["depthwise_conv_3x3", "resize_bilinear"]

MODULE = "image"
Arrays = Sequence[mx.array]
Size = tuple[int, int]


# -- resizing -------------------------------------------------------------------------------------
_RESIZE = Text("resize_bilinear", "x size", "out",
    element("x_shape[0] * ulong(size[0]) * size[1] * x_shape[3]") + """
const uint c = elem % x_shape[3];
ulong rest = elem / x_shape[3];
const uint col = rest % size[1];
rest /= size[1];
const uint row = rest % size[0];
const ulong image = rest / size[0];
const uint h = x_shape[1], w = x_shape[2], channels = x_shape[3];
const float y = kk_source(row, h, size[0]), z = kk_source(col, w, size[1]);
const float up = floor(y), left = floor(z);
const float fy = y - up, fz = z - left;
const uint y0 = kk_inside(up, h), y1 = kk_inside(up + 1.0f, h);
const uint z0 = kk_inside(left, w), z1 = kk_inside(left + 1.0f, w);
const ulong base = image * h;
const float a = x[((base + y0) * w + z0) * channels + c];
const float b = x[((base + y0) * w + z1) * channels + c];
const float d = x[((base + y1) * w + z0) * channels + c];
const float e = x[((base + y1) * w + z1) * channels + c];
const float top = a * (1.0f - fz) + b * fz, bottom = d * (1.0f - fz) + e * fz;
out[elem] = O(top * (1.0f - fy) + bottom * fy);
""", image_alone.SOURCE)  # fmt: skip
_UNSIZE = Text("resize_bilinear_grad", "g size", "out",
    element("g_shape[0] * ulong(size[0]) * size[1] * g_shape[3]") + """
const uint c = elem % g_shape[3];
ulong rest = elem / g_shape[3];
const uint col = rest % size[1];
rest /= size[1];
const uint row = rest % size[0];
const ulong image = rest / size[0];
const uint oh = g_shape[1], ow = g_shape[2], channels = g_shape[3];
float sum = 0.0f;
for (uint y = kk_first(row, size[0], oh); y < kk_last(row, size[0], oh); ++y) {
  const float share = kk_share(y, row, size[0], oh);
  if (share == 0.0f) continue;
  float line = 0.0f;
  for (uint z = kk_first(col, size[1], ow); z < kk_last(col, size[1], ow); ++z) {
    const float part = kk_share(z, col, size[1], ow);
    if (part != 0.0f) line += part * float(g[((image * oh + y) * ow + z) * channels + c]);
  }
  sum += share * line;
}
out[elem] = O(sum);
""", image_alone.SOURCE)  # fmt: skip


_SHARED, _ALONE = (_RESIZE, _UNSIZE), (image_alone.RESIZE, image_alone.UNSIZE)


def _plain_resize(x: mx.array, size: Size) -> mx.array:
    """By one gather for each neighbour, along rows and then along columns."""
    v = wide(x)
    for axis, onto in zip((1, 2), size, strict=True):
        length = v.shape[axis]
        at = (mx.arange(onto).astype(mx.float32) + 0.5) * length / onto - 0.5
        left = mx.floor(at)
        part = (at - left).reshape((-1,) + (1,) * (3 - axis))
        near = [mx.clip(left + n, 0, length - 1).astype(mx.uint32) for n in (0, 1)]
        low, high = (mx.take(v, places, axis) for places in near)
        v = low * (1 - part) + high * part
    return v.astype(x.dtype)


@lru_cache(maxsize=256)
def _resizer(size: Size, back: bool) -> ByHand:
    """Resizing to `size`; `back`: the gradient of resizing from `size` to what comes in."""
    wanted = mx.array(size, mx.uint32)

    def run(x: mx.array) -> list[mx.array]:
        shape = (x.shape[0], *size, x.shape[3])
        if alone():
            text, launch = _ALONE[back], image_alone.by_rows_of(shape)
        else:
            text, launch = _SHARED[back], by_elements(prod(shape))
        return text([x, wanted], [shape], [x.dtype], *launch)

    def plain(x: mx.array) -> list[mx.array]:
        if not back:
            return [_plain_resize(x, size)]
        onto, start = x.shape[1:3], mx.zeros((x.shape[0], *size, x.shape[3]))
        found = mx.vjp(lambda v: [_plain_resize(v, onto)], [start], [wide(x)])[1][0]
        return [found.astype(x.dtype)]

    def pull(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array]:
        return _resizer(primals[0].shape[1:3], not back)(given[0])

    return ByHand("resize_bilinear", run, plain, pull)


forgets(_resizer.cache_clear)


def resize_bilinear(
    x: mx.array, output_shape: Sequence[int], *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """Each output is the mean of its four neighbours, by distance; beyond the edge, the edge.

    Centres are half a pixel in: the output's row i reads at (i + 0.5) * H / OH - 0.5. Neither
    smoothed where it shrinks nor aligned at corners; equal sizes change nothing.

    Args:
        x: (N, H, W, C), H and W from 1 on; float32, float16 or bfloat16.
        output_shape: (OH, OW), from 1 on; run-time numbers of the kernel.
        compute_dtype: accepted for the contract; all arithmetic is float32.

    Returns:
        (N, OH, OW, C) of x's dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "resize_bilinear")
    call.compute(compute_dtype)
    x = _image(call, x)
    wanted = "two whole numbers from 1 on, (OH, OW)"
    if isinstance(output_shape, (str, int)) or len(output_shape) != 2:
        raise call.wrong("output_shape", repr(output_shape), wanted)
    height, width = (call.whole("output_shape", n, 1, 2**31 - 1) for n in output_shape)
    return _resizer((height, width), False)(x)[0]


# -- convolution ----------------------------------------------------------------------------------
_CONVOLVE = Text("depthwise_conv_3x3", "x w", "out",
    element("ulong(x_shape[0]) * x_shape[1] * x_shape[2] * x_shape[3]") + """
const int height = x_shape[1], width = x_shape[2];
const uint channels = x_shape[3];
const uint c = elem % channels;
const ulong pixel = elem / channels;
const int col = pixel % width, row = (pixel / width) % height;
float sum = 0.0f;
for (int i = 0; i < 3; ++i) {
  for (int j = 0; j < 3; ++j) {
    const int y = row + i - 1, z = col + j - 1;
    if (y < 0 || y >= height || z < 0 || z >= width) continue;
    const long at = long(elem) + (long(i - 1) * width + (j - 1)) * long(channels);
    sum += float(x[at]) * float(w[(i * 3 + j) * channels + c]);
  }
}
out[elem] = O(sum);
""")  # fmt: skip


def _convolved(x: mx.array, w: mx.array) -> list[mx.array]:
    if alone():
        launch = image_alone.by_rows_of(x.shape)
        return image_alone.CONVOLVE([x, w], [x.shape], [x.dtype], *launch)
    return _CONVOLVE([x, w], [x.shape], [x.dtype], *by_elements(x.size))


def _plain_convolved(x: mx.array, w: mx.array) -> list[mx.array]:
    padded, (height, width) = mx.pad(wide(x), [(0, 0), (1, 1), (1, 1), (0, 0)]), x.shape[1:3]
    taps = [
        padded[:, i : i + height, j : j + width] * wide(w)[i, j] for i in range(3) for j in range(3)
    ]
    return [sum(taps[1:], taps[0]).astype(x.dtype)]


@fused
def _of_taps(padded: mx.array, g: mx.array) -> mx.array:
    """The gradient of the weights: a sum over all pixels for each tap."""
    height, width = g.shape[1:3]
    taps = [
        mx.sum(padded[:, i : i + height, j : j + width] * g, (0, 1, 2))
        for i in range(3)
        for j in range(3)
    ]
    return mx.stack(taps).reshape(3, 3, -1)


def _weighed(x: mx.array, g: mx.array) -> list[mx.array]:
    return [_of_taps(mx.pad(wide(x), [(0, 0), (1, 1), (1, 1), (0, 0)]), wide(g))]


def _summed(x: mx.array, g: mx.array) -> list[mx.array]:
    return [image_alone.taps(x, g)[0].sum(0)] if alone() else _weighed(x, g)


def _pull_weighed(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
    (x, g), t = primals, given[0]
    return [_convolution(g, t[::-1, ::-1])[0], _convolution(x, t)[0]]


_weights = ByHand("depthwise_conv_3x3 weights", _summed, _weighed, _pull_weighed, composed=True)


def _pull_convolved(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
    (x, w), g = primals, given[0]
    return [_convolution(g, w[::-1, ::-1])[0], _weights(x, g)[0] if x.size else None]


_convolution = ByHand("depthwise_conv_3x3", _convolved, _plain_convolved, _pull_convolved)


def depthwise_conv_3x3(
    x: mx.array, w: mx.array, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """Each channel correlated with its own 3 by 3 weights: stride 1, a border of zeros.

    Args:
        x: (N, H, W, C); float32, float16 or bfloat16.
        w: (3, 3, C).
        compute_dtype: accepted for the contract; all arithmetic is float32.

    Returns:
        (N, H, W, C) of x's dtype: the sum over i, j of x[h+i-1, w+j-1, c] * w[i, j, c].

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "depthwise_conv_3x3")
    call.compute(compute_dtype)
    x = _image(call, x)
    return _convolution(x, call.shaped("w", w, (3, 3, x.shape[3])))[0]


def _image(call: Call, x: mx.array) -> mx.array:
    x = call.known(call.of_rank("x", call.array("x", x), 4, "(N, H, W, C)"))
    if 0 in x.shape[1:]:
        raise call.wrong("x", f"of shape {x.shape}", "H, W and C from 1 on")
    return x
