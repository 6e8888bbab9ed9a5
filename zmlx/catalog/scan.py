"""Prefix sums over the last axis, and recurrent states: step by step, or whole sequences.

Of a prefix sum, a simdgroup takes a row, some elements a lane, and carries the sum on in float32; a
core of a CPU takes a row alone.
Everything is differentiable, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx

from zmlx.catalog.by_hand import ROW, ByHand, Text, by_rows, known_lanes
from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, wide
from zmlx.catalog.recurrent import MOST, delta, ssm
from zmlx.fuse.by_size import alone
from zmlx.registry import forgets

__all__ = [
    "cumsum_grad",
    "cumsum_lastdim",
    "gated_delta_scan",
    "gated_delta_step",
    "ssm_scan",
    "ssm_step",
]

MODULE = "scan"
Arrays = Sequence[mx.array]

_CUMSUM = Text("cumsum", "x backward", "out", f"const ulong row = {ROW};" + """
const uint lane = thread_index_in_simdgroup, width = LANES;
const ulong d = x_shape[x_ndim - 1];
const bool turned = backward[0] != 0;
float carry = 0.0f;
constexpr uint each = 4;
for (ulong first = 0; first < d; first += each * width) {
  float part[each];
  float sum = 0.0f;
  for (uint j = 0; j < each; ++j) {
    const ulong i = first + each * lane + j;
    const ulong at = turned ? d - 1 - i : i;
    sum += i < d ? float(x[row * d + at]) : 0.0f;
    part[j] = sum;
  }
  const float before = carry + simd_prefix_exclusive_sum(sum);
  for (uint j = 0; j < each; ++j) {
    const ulong i = first + each * lane + j;
    const ulong at = turned ? d - 1 - i : i;
    if (i < d) out[row * d + at] = O(before + part[j]);
  }
  carry = simd_broadcast(before + sum, ushort(width - 1));
}
""")  # fmt: skip
# A sum waits for the one before it: two rows at a time, so that a core waits half as long.
_CUMSUM_ALONE = Text("cumsum_alone", "x", "out", """
const ulong d = x_shape[x_ndim - 1];
ulong rows = 1;
for (int axis = 0; axis + 1 < x_ndim; ++axis) rows *= x_shape[axis];
const ulong first = 2 * ulong(thread_position_in_grid.x);
const ulong one = first * d, other = min(first + 1, rows - 1) * d;
float sum = 0.0f, sum2 = 0.0f;
for (ulong i = 0; i < d; ++i) {
  const ulong at = TURNED ? d - 1 - i : i;
  sum += float(x[one + at]);
  sum2 += float(x[other + at]);
  out[one + at] = O(sum);
  out[other + at] = O(sum2);   // the last row of an odd number once more
}
""")  # fmt: skip


@lru_cache(maxsize=2)
def _scanned(backward: bool) -> ByHand:
    flag = mx.array([int(backward)], mx.uint32)

    def run(x: mx.array) -> list[mx.array]:
        rows, alike = x.size // x.shape[-1], ([x.shape], [x.dtype])
        if alone():
            pairs = by_rows(-(-rows // 2))
            return _CUMSUM_ALONE([x], *alike, *pairs, [("TURNED", int(backward))])
        return _CUMSUM([x, flag], *alike, *by_rows(rows), known_lanes())

    def plain(x: mx.array) -> list[mx.array]:
        return [mx.cumsum(wide(x), -1, reverse=backward).astype(x.dtype)]

    def pull(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array]:
        return _scanned(not backward)(given[0])

    return ByHand("cumsum_grad" if backward else "cumsum_lastdim", run, plain, pull, rows=True)


forgets(_scanned.cache_clear)


def cumsum_lastdim(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """y_i = x_0 + ... + x_i over the last axis.

    Args:
        x: (..., D), D >= 1; float32, float16 or bfloat16. A number (rank 0) is its own sum.
        threadgroup: a power of two up to 1024; a simdgroup takes a row whatever it is.
        compute_dtype: accepted for the contract; sums are float32.

    Returns:
        x's shape and dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    return _sums("cumsum_lastdim", "x", x, threadgroup, compute_dtype, False)


def cumsum_grad(
    cotan: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """The gradient of cumsum_lastdim: dx_i = cotan_i + ... + cotan_(D-1); otherwise as it."""
    return _sums("cumsum_grad", "cotan", cotan, threadgroup, compute_dtype, True)


def _sums(
    name: str, argument: str, x: mx.array, threadgroup: int, compute: object, backward: bool
) -> mx.array:
    call = Call(MODULE, name)
    call.threads(threadgroup, compute)
    if call.array(argument, x).ndim == 0:
        return x
    return _scanned(backward)(call.rows(argument, x))[0]


# -- steps of recurrent states --------------------------------------------------------------------
@fused
def _delta(
    state: mx.array, q: mx.array, k: mx.array, v: mx.array, decay: mx.array, beta: mx.array
) -> tuple[mx.array, mx.array]:
    s, key = wide(state) * wide(decay)[..., None, None], wide(k)[..., None, :]
    missing = (wide(v) - mx.sum(s * key, -1)) * wide(beta)[..., None]
    after = s + missing[..., None] * key
    out = mx.sum(after * wide(q)[..., None, :], -1)
    return out.astype(v.dtype), after.astype(state.dtype)


@fused
def _ssm(
    state: mx.array, x: mx.array, dt: mx.array, a: mx.array, b: mx.array, c: mx.array, d: mx.array
) -> tuple[mx.array, mx.array]:
    step, v = wide(dt)[..., None], wide(x)
    taken = (step * v[..., None]) * wide(b)[..., None, :]
    after = wide(state) * mx.exp(step * wide(a)) + taken
    out = mx.sum(after * wide(c)[..., None, :], -1) + wide(d) * v
    return out.astype(x.dtype), after.astype(state.dtype)


def gated_delta_step(
    state: mx.array, q: mx.array, k: mx.array, v: mx.array, decay: mx.array, beta: mx.array
) -> tuple[mx.array, mx.array]:
    """One token of a gated delta rule (arXiv:2412.06464).

    The state fades, S = decay * state, then what it lacks of v at the key is written,
    S' = S + beta * (v - S k) k^T; the output is S' q.

    Args:
        state: (..., V, K); float32, float16 or bfloat16.
        q, k: (..., K).
        v: (..., V).
        decay, beta: (...).

    Returns:
        (output (..., V) of v's dtype, S' of the state's dtype), differentiable in everything.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "gated_delta_step")
    state = call.rows("state", state)
    if state.ndim < 2:
        raise call.wrong("state", f"of shape {state.shape}", "axes (..., V, K)")
    *lead, values, keys = state.shape
    q, k = call.shaped("q", q, (*lead, keys)), call.shaped("k", k, (*lead, keys))
    v = call.shaped("v", v, (*lead, values))
    decay, beta = call.shaped("decay", decay, lead), call.shaped("beta", beta, lead)
    found: tuple[mx.array, mx.array] = _delta(state, q, k, v, decay, beta)
    return found


def ssm_step(
    state: mx.array,
    x: mx.array,
    dt: mx.array,
    a: mx.array,
    b: mx.array,
    c: mx.array,
    d: mx.array,
) -> tuple[mx.array, mx.array]:
    """One token of Mamba's selective scan (arXiv:2312.00752).

    state' = exp(dt a) * state + dt b x, and the output is the sum of c * state' plus d x.

    Args:
        state: (..., D, N); float32, float16 or bfloat16.
        x, dt: (..., D).
        a: (D, N), negative where the state should fade.
        b, c: (..., N).
        d: (D,).

    Returns:
        (output (..., D) of x's dtype, state' of the state's dtype); otherwise as gated_delta_step.
    """
    call = Call(MODULE, "ssm_step")
    state = call.rows("state", state)
    if state.ndim < 2:
        raise call.wrong("state", f"of shape {state.shape}", "axes (..., D, N)")
    *lead, width, states = state.shape
    x, dt = call.shaped("x", x, (*lead, width)), call.shaped("dt", dt, (*lead, width))
    a = call.shaped("a", a, (width, states))
    b, c = call.shaped("b", b, (*lead, states)), call.shaped("c", c, (*lead, states))
    found: tuple[mx.array, mx.array] = _ssm(state, x, dt, a, b, c, call.shaped("d", d, (width,)))
    return found


def gated_delta_scan(
    state: mx.array, q: mx.array, k: mx.array, v: mx.array, decay: mx.array, beta: mx.array
) -> tuple[mx.array, mx.array]:
    """gated_delta_step for T tokens, one after the other, in one kernel; backward is one as well.

    Memory for gradients is the state's, T/32 + 32 times; sums have a fixed order. Tangents and
    second derivatives take ops for each token.

    Args:
        state: (..., V, K), K <= 256; float32, float16 or bfloat16.
        q, k: (..., T, K), T >= 1.
        v: (..., T, V).
        decay, beta: (..., T).

    Returns:
        (outputs (..., T, V) of v's dtype, the last state, of the state's); float32 in between.
        Differentiable in everything; otherwise as gated_delta_step.
    """
    call = Call(MODULE, "gated_delta_scan")
    state, lead, values, keys = _state(call, state, "(..., V, K)")
    steps = _steps(call, "q", q, lead)
    q, k = call.shaped("q", q, (*lead, steps, keys)), call.shaped("k", k, (*lead, steps, keys))
    v = call.shaped("v", v, (*lead, steps, values))
    decay = call.shaped("decay", decay, (*lead, steps))
    out, last, _ = delta(state, q, k, v, decay, call.shaped("beta", beta, (*lead, steps)))
    return out, last.astype(state.dtype)


def ssm_scan(
    state: mx.array,
    x: mx.array,
    dt: mx.array,
    a: mx.array,
    b: mx.array,
    c: mx.array,
    d: mx.array,
) -> tuple[mx.array, mx.array]:
    """ssm_step for T tokens, one after the other, in one kernel; backward is one as well.

    Args:
        state: (..., D, N), N <= 256.
        x, dt: (..., T, D), T >= 1.
        a: (D, N).
        b, c: (..., T, N).
        d: (D,).

    Returns:
        (outputs (..., T, D) of x's dtype, the last state, of the state's); otherwise as
        gated_delta_scan.
    """
    call = Call(MODULE, "ssm_scan")
    state, lead, width, states = _state(call, state, "(..., D, N)")
    steps = _steps(call, "x", x, lead)
    x, dt = call.shaped("x", x, (*lead, steps, width)), call.shaped("dt", dt, (*lead, steps, width))
    a = call.shaped("a", a, (width, states))
    b, c = call.shaped("b", b, (*lead, steps, states)), call.shaped("c", c, (*lead, steps, states))
    out, last, _ = ssm(state, x, dt, a, b, c, call.shaped("d", d, (width,)))
    return out, last.astype(state.dtype)


def _state(call: Call, state: mx.array, axes: str) -> tuple[mx.array, list[int], int, int]:
    found = call.known(call.rows("state", state))
    if found.ndim < 2 or not found.shape[-2] or found.shape[-1] > MOST:
        wanted = f"axes {axes}, of {MOST} columns at most"
        raise call.wrong("state", f"of shape {found.shape}", wanted)
    *lead, rows, columns = found.shape
    return found, lead, rows, columns


def _steps(call: Call, name: str, x: mx.array, lead: list[int]) -> int:
    found = call.rows(name, x)
    if found.ndim != len(lead) + 2 or not found.shape[-2]:
        wanted = f"axes {(*lead, 'T')} and a row, T >= 1"
        raise call.wrong(name, f"of shape {found.shape}", wanted)
    return int(found.shape[-2])
