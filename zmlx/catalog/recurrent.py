"""Recurrent states over whole sequences, as Metal text: the gated delta rule, the selective scan.

A simdgroup takes a row of a state through time; its lanes share the row, in registers. Of every 32
steps the state is kept. The backward kernel goes back through time with a group for each state: it
computes 32 steps' states once more, and adds over rows in a fixed order. Comes in: arrays that
zmlx.catalog.scan has checked. Goes out: two ops whose results are outputs, last state (float32) and
kept states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import mlx.core as mx

from zmlx.catalog.by_hand import ROW, ByHand, Run, Text, by_rows, lanes
from zmlx.catalog.formulas import wide

Arrays = Sequence[mx.array]
Step = Callable[[mx.array, int], tuple[mx.array, mx.array]]
MOST = 256  # columns of a state
SPAN = 32  # steps from one kept state to the next
PARTS = 8  # simdgroups that go back through time together

# `PER` columns of a row belong to a lane: lane + e width, e from 0 on.
_EACH = "for (uint e = 0, j = lane; e < PER && j < columns; ++e, j += width)"
_LANES = "const uint lane = thread_index_in_simdgroup, width = LANES;\n"
_DELTA_SIZES = """
const uint steps = q_shape[q_ndim - 2], columns = q_shape[q_ndim - 1], rows = v_shape[v_ndim - 1];
const uint spans = (steps + 31) / 32;
"""
_SSM_SIZES = """
const uint steps = b_shape[b_ndim - 2], columns = b_shape[b_ndim - 1], rows = x_shape[x_ndim - 1];
const uint spans = (steps + 31) / 32;
"""
_DELTA_STEP = f"""
    const float fade = float(decay[at]), rate = float(beta[at]);
    float seen = 0.0f;
    {_EACH} {{
      s[e] *= fade;
      seen += s[e] * float(k[at * columns + j]);
    }}
    const float added = (float(v[at * rows + i]) - simd_sum(seen)) * rate;
    {_EACH} s[e] += added * float(k[at * columns + j]);
"""
_SSM_STEP = f"""
    const float step = float(dt[at * rows + i]), value = float(x[at * rows + i]);
    {_EACH} {{
      s[e] *= exp(step * float(a[i * columns + j]));
      s[e] += step * value * float(b[at * columns + j]);
    }}
"""


def _forward(sizes: str, step: str, read: str, more: str) -> str:
    return f"""
{_LANES}{sizes}
const ulong line = {ROW}, of = line / rows, i = line % rows;
float s[PER];
{_EACH} s[e] = float(state[line * columns + j]);
for (uint t = 0; t < steps; ++t) {{
  const ulong at = of * steps + t;
  if (t % 32 == 0) {{
    {_EACH} kept[((of * spans + t / 32) * rows + i) * columns + j] = s[e];
  }}
  {step}
  float sum = 0.0f;
  {_EACH} sum += s[e] * float({read}[at * columns + j]);
  sum = simd_sum(sum);
  if (lane == 0) out[at * rows + i] = O(sum{more});
}}
{_EACH} last[line * columns + j] = s[e];
"""


def _once_more(step: str) -> str:
    """Text: the states of the span's steps, where each lane keeps its own part."""
    return f"""
  for (uint i = part; i < rows; i += parts) {{
    float s[PER];
    {_EACH} s[e] = kept[((of * spans + span) * rows + i) * columns + j];
    for (uint n = 0; n < count; ++n) {{
      const ulong at = of * steps + first + n;
      {step}
      {_EACH} again[((of * room + n) * rows + i) * columns + j] = s[e];
    }}
  }}
"""


def _added(read: str, other: str, ends: str) -> str:
    """Text: the sums of all simdgroups, one after the other."""
    return f"""
    for (uint e = 0; e < PER; ++e) {{
      all_read[(part * PER + e) * LANES + lane] = sum_read[e];
      all_other[(part * PER + e) * LANES + lane] = sum_other[e];
    }}
    if (lane == 0) {{
      numbers[part] = number;
      numbers[8 + part] = number2;
    }}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint j = part * width + lane; j < columns; j += parts * width) {{
      float one = 0.0f, two = 0.0f;
      for (uint p = 0; p < parts; ++p) {{
        one += all_read[p * PER * LANES + j];
        two += all_other[p * PER * LANES + j];
      }}
      d{read}[at * columns + j] = one;
      d{other}[at * columns + j] = two;
    }}
    {ends}
    threadgroup_barrier(mem_flags::mem_threadgroup);
"""


def _backward(sizes: str, step: str, read: str, other: str, back: str, ends: str) -> str:
    """Text: sums over rows, of columns, are those of `read` and `other`; dstate goes back."""
    return f"""
{_LANES}{sizes}
threadgroup float all_read[8 * PER * LANES], all_other[8 * PER * LANES], numbers[2 * 8];
const uint part = thread_position_in_threadgroup.y, parts = threads_per_threadgroup.y;
const ulong of = threadgroup_position_in_grid.x, room = min(32u, steps);
for (uint i = part; i < rows; i += parts) {{
  const ulong line = (of * rows + i) * columns;
  {_EACH} dstate[line + j] = glast[line + j];
}}
for (uint span = spans; span-- > 0;) {{
  const uint first = span * 32, count = min(32u, steps - first);
  {_once_more(step)}
  for (uint n = count; n-- > 0;) {{
    const ulong at = of * steps + first + n;
    float sum_read[PER], sum_other[PER], number = 0.0f, number2 = 0.0f;
    for (uint e = 0; e < PER; ++e) sum_read[e] = sum_other[e] = 0.0f;
    for (uint i = part; i < rows; i += parts) {{
      const ulong line = (of * rows + i) * columns, now = ((of * room + n) * rows + i) * columns;
      const float given = float(g[at * rows + i]);
      float slope[PER], before[PER];
      {_EACH} {{
        slope[e] = dstate[line + j] + given * float({read}[at * columns + j]);
        sum_read[e] += given * again[now + j];
        before[e] = n > 0 ? again[now - ulong(rows) * columns + j]
                          : kept[((of * spans + span) * rows + i) * columns + j];
      }}
      {back}
    }}
    {_added(read, other, ends)}
  }}
}}
"""


_DELTA_SLOPES = f"""
      const float fade = float(decay[at]), rate = float(beta[at]);
      float through = 0.0f, seen = 0.0f, faded = 0.0f;
      {_EACH} {{
        through += slope[e] * float(k[at * columns + j]);
        seen += before[e] * float(k[at * columns + j]);
      }}
      through = simd_sum(through);
      const float missing = float(v[at * rows + i]) - simd_sum(seen) * fade;
      {_EACH} {{
        sum_other[e] += rate * (missing * slope[e] - through * fade * before[e]);
        const float left = slope[e] - rate * through * float(k[at * columns + j]);
        faded += left * before[e];
        dstate[line + j] = fade * left;
      }}
      number += simd_sum(faded);
      number2 += through * missing;
      if (lane == 0) dv[at * rows + i] = rate * through;
"""
_DELTA_ENDS = """
    if (part == 0 && lane == 0) {
      float one = 0.0f, two = 0.0f;
      for (uint p = 0; p < parts; ++p) {
        one += numbers[p];
        two += numbers[8 + p];
      }
      ddecay[at] = one;
      dbeta[at] = two;
    }
"""
_SSM_SLOPES = f"""
      const float step = float(dt[at * rows + i]), value = float(x[at * rows + i]);
      float stepped = 0.0f, valued = 0.0f;
      {_EACH} {{
        const float by = float(a[i * columns + j]), left = exp(step * by) * slope[e];
        const float taken = slope[e] * float(b[at * columns + j]);
        stepped += by * left * before[e] + value * taken;
        valued += step * taken;
        sum_other[e] += step * value * slope[e];
        da[line + j] = (at + 1 == (of + 1) * steps ? 0.0f : da[line + j]) + step * left * before[e];
        dstate[line + j] = left;
      }}
      stepped = simd_sum(stepped);
      valued = simd_sum(valued);
      if (lane == 0) {{
        ddt[at * rows + i] = stepped;
        dx[at * rows + i] = valued + given * float(d[i]);
      }}
"""
_DELTA = Text(
    "gated_delta", "state q k v decay beta", "out last kept",
    _forward(_DELTA_SIZES, _DELTA_STEP, "q", ""),
)  # fmt: skip
_DELTA_BACK = Text(
    "gated_delta_back", "state q k v decay beta kept g glast",
    "dstate dq dk dv ddecay dbeta again",
    _backward(_DELTA_SIZES, _DELTA_STEP, "q", "k", _DELTA_SLOPES, _DELTA_ENDS),
)  # fmt: skip
_SSM = Text(
    "ssm", "state x dt a b c d", "out last kept",
    _forward(_SSM_SIZES, _SSM_STEP, "c", " + float(d[i]) * value"),
)  # fmt: skip
_SSM_BACK = Text(
    "ssm_back", "state x dt a b c d kept g glast", "dstate dx ddt da db dc again",
    _backward(_SSM_SIZES, _SSM_STEP, "c", "b", _SSM_SLOPES, ""),
)  # fmt: skip


# -- by MLX's ops, step by step -------------------------------------------------------------------
def _walked(state: mx.array, steps: int, step: Step, like: mx.array) -> list[mx.array]:
    """`step` makes of a state and a number the next state and the output."""
    s, outputs, kept = wide(state), [], []
    for t in range(steps):
        if t % SPAN == 0:
            kept.append(s)
        s, out = step(s, t)
        outputs.append(out)
    return [mx.stack(outputs, -2).astype(like.dtype), s, mx.stack(kept, -3)]


def _plain_delta(state: mx.array, *arrays: mx.array) -> list[mx.array]:
    q, k, v, decay, beta = (wide(x) for x in arrays)

    def step(s: mx.array, t: int) -> tuple[mx.array, mx.array]:
        s, key = s * decay[..., t][..., None, None], k[..., t, :][..., None, :]
        missing = (v[..., t, :] - (s * key).sum(-1)) * beta[..., t][..., None]
        s = s + missing[..., None] * key
        return s, (s * q[..., t, :][..., None, :]).sum(-1)

    return _walked(state, q.shape[-2], step, arrays[2])


def _plain_ssm(state: mx.array, *arrays: mx.array) -> list[mx.array]:
    x, dt, a, b, c, d = (wide(y) for y in arrays)

    def step(s: mx.array, t: int) -> tuple[mx.array, mx.array]:
        by, value = dt[..., t, :][..., None], x[..., t, :]
        s = s * mx.exp(by * a) + (by * value[..., None]) * b[..., t, :][..., None, :]
        return s, (s * c[..., t, :][..., None, :]).sum(-1) + d * value

    return _walked(state, x.shape[-2], step, arrays[0])


# -- launches -------------------------------------------------------------------------------------
def _choices(columns: int) -> list[tuple[str, int]]:
    """How many columns a lane has: all where it is alone, else a power of two; and of lanes."""
    width = lanes()
    per = MOST if width == 1 else 1 << (-(-columns // width) - 1).bit_length()
    return [("PER", per), ("LANES", width)]


def _forwards(text: Text, like: int) -> Run:
    """The launch; its output is like that array."""

    def run(*arrays: mx.array) -> list[mx.array]:
        state, out = arrays[0], arrays[like]
        *lead, rows, columns = state.shape
        spans = -(-out.shape[-2] // SPAN)
        shapes = [out.shape, state.shape, (*lead, spans, rows, columns)]
        kinds = [out.dtype, mx.float32, mx.float32]
        grid, group = by_rows(prod(lead) * rows)
        return text(arrays, shapes, kinds, grid, group, _choices(columns))

    return run


def _pulling(name: str, text: Text, plain: Run, count: int, shared: int | None) -> ByHand:
    """The op of the primals, what was kept, and the cotangents: the gradients of the first `count`.

    That of array `shared`, which all states share, is one for each state.
    """

    def run(*arrays: mx.array) -> list[mx.array]:
        (*lead, rows, columns), steps = arrays[0].shape, arrays[-2].shape[-2]
        shapes = [a.shape for a in arrays[:count]]
        if shared is not None:
            shapes[shared] = arrays[0].shape
        shapes.append((*lead, min(SPAN, steps), rows, columns))
        width, many = lanes(), prod(lead)
        parts = min(PARTS, rows) if width > 1 else 1
        grid, group = (width * many, parts, 1), (width, parts, 1)
        return text(arrays, shapes, [mx.float32] * len(shapes), grid, group, _choices(columns))

    def by_ops(*arrays: mx.array) -> list[mx.array]:
        *primals, _, g, last = arrays
        if shared is not None:
            primals[shared] = mx.broadcast_to(primals[shared], primals[0].shape)
        found = mx.vjp(lambda *moved: plain(*moved)[:2], primals, [g, last])[1][:count]
        *lead, rows, columns = primals[0].shape
        again = mx.zeros((*lead, min(SPAN, g.shape[-2]), rows, columns))
        return [*map(wide, found), again]

    def pull(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
        *own, kept, g, last = primals

        def of(*moved: mx.array) -> list[mx.array]:
            return by_ops(*moved[:-2], kept, *moved[-2:])[:count]

        *moved, dg, dlast = mx.vjp(of, [*own, g, last], list(given[:count]))[1]
        return [*moved, None, dg, dlast]

    return ByHand(name, run, by_ops, pull, rows=shared is None)


_delta_back = _pulling("gated_delta_back", _DELTA_BACK, _plain_delta, 6, None)
_ssm_back = _pulling("ssm_back", _SSM_BACK, _plain_ssm, 6, 3)


def _pull_delta(primals: Arrays, given: Arrays, outputs: Arrays) -> Sequence[mx.array | None]:
    if not primals[0].size:
        return [None] * 6
    return _delta_back(*primals, outputs[2], given[0], given[1])[:6]


def _pull_ssm(primals: Arrays, given: Arrays, outputs: Arrays) -> Sequence[mx.array | None]:
    if not primals[0].size:
        return [None] * 7
    found: list[mx.array | None] = list(_ssm_back(*primals, outputs[2], given[0], given[1])[:6])
    each, skipped = found[3], wide(primals[1]) * wide(given[0])
    assert each is not None
    found[3] = each.reshape(-1, *each.shape[-2:]).sum(0)
    return [*found, skipped.reshape(-1, skipped.shape[-1]).sum(0)]


delta = ByHand("gated_delta_scan", _forwards(_DELTA, 3), _plain_delta, _pull_delta, rows=True)
ssm = ByHand("ssm_scan", _forwards(_SSM, 1), _plain_ssm, _pull_ssm)
