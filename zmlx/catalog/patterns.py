"""Patterns of the catalog: what is looked for in traced graphs, and what takes its place.

Loaded by zmlx.fuse.patterns when a graph is first looked at. One entry a pattern: its spellings,
its conditions, its replacement, the devices on which it fires with the reason, and the test that
compares it with plain MLX. Ratios are CPU time on two cores, against the same function fused
without the pattern, both in one process by turns: `python -m benchmarks.patterns`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from zmlx import kernels
from zmlx.catalog import attention_spelled as attention
from zmlx.catalog.loss import in_chunks
from zmlx.device.base import current_name
from zmlx.fuse.matched import Match
from zmlx.fuse.patterns import pattern
from zmlx.fuse.spellings import FLOATS, WHOLE
from zmlx.trace.calls import made_of_mlx

MANY_LOGITS = 2**24  # that are worth not to be held
FEW_ON_GPUS = 32  # rows for which MLX's kernel reads packed weights
FEW = 8  # rows that the kernel for packed weights takes at a time
HALVES = ("float16", "bfloat16")

Spelled = Callable[..., mx.array]


# -- attention ------------------------------------------------------------------------------------
_PAYS = {
    "cpu": "tiles, from 8192 scores and 8 rows on: 4 to 5 times as fast, gradients 2 to 3 times",
    "metal": "MLX's own kernel, which holds no scores (not measured)",
    "cuda": "MLX's own kernel, which holds no scores (not measured)",
}
_IN_TILES = "attention in tiles on a CPU, `mx.fast.scaled_dot_product_attention` on a GPU"
_WITH_CAP = {  # MLX has no kernel that caps
    "cpu": "tiles, from 8192 scores and 8 rows on: 4 times as fast, gradients 2 to 3 times",
}
_ATTENTION: dict[str, Any] = {
    "numbers": attention.NUMBERS, "inline": False, "proof": "tests/patterns/test_attention.py",
}  # fmt: skip
_HEADS = {"q": "*LD", "k": "*SD", "v": "*SD", "mask": "~*LS"}


_WAYS: list[tuple[str, str, tuple[Spelled, Spelled, Spelled], Spelled, dict[str, Any]]] = [
    *[
        (name, need, (weights, attention.scores, attention.product), attention.attention,
         {"arrays": _HEADS, "leads": (1, 2), "floats": floats, "root": ("matmul", 2)})
        for name, weights, need, floats in (
            ("attention", attention.called, "softmax", FLOATS),
            ("attention, softmax in float32", attention.called_wide, "softmax", HALVES),
            ("attention, softmax written out", attention.written, "exp", FLOATS),
        )
    ],
    *[
        (name, "softmax", (attention.called, to, values), by,
         {"arrays": {**dict(zip("qkv", axes, strict=True)), "mask": f"~{axes[0][:-2]}LS"},
          "leads": (0,), "root": (out, len(axes[0]))})
        for name, to, values, by, out, axes in (
            ("attention, keys turned at once", attention.turned_scores, attention.product,
             attention.of_turned_keys, "matmul", ("BHLD", "BSHD", "BHSD")),
            ("attention, heads in groups", attention.scores, attention.product,
             attention.of_groups, "matmul", ("BGRLD", "BG1SD", "BG1SD")),
            ("attention by einsum", attention.einsum_scores, attention.einsum_values,
             attention.attention, "einsum", ("BHLD", "BHSD", "BHSD")),
            ("attention by einsum, places first", attention.einsum_places,
             attention.einsum_to_places, attention.of_places, "einsum", ("BLHD", "BSHD", "BSHD")),
        )
    ],
]  # fmt: skip
_WAYS[-1][4]["arrays"]["mask"] = "~BHLS"
for _cap, (_name, _need, (_weights, _to, _out), _by, _how) in product((False, True), _WAYS):
    for _booleans in (False, True):
        _masks = ("where",) if _booleans else ("", "added")
        pattern(
            _name + ", where" * _booleans + ", scores with a cap" * _cap,
            *attention.spellings(_weights, _to, _out, _masks, _cap), by=_by,
            types=({"mask": "bool"},) if _booleans else ({},), where=attention.is_low,
            needs=(_how["root"][0], _need, *["where"] * _booleans, *["tanh"] * _cap),
            least=(_how["arrays"]["mask"].lstrip("~"), attention.FEWEST_SCORES),
            devices=_WITH_CAP if _cap else _PAYS,
            doc="attention in tiles" if _cap else _IN_TILES, **_how, **_ATTENTION,
        )  # fmt: skip

_TILES = "from 8192 scores and 8 rows on: 5 to 10 times as fast; else as it is"
_FAST = "fast.scaled_dot_product_attention"
for _name, _types, _spellings, _by in (
    ("MLX's attention", ({},), [attention.fast, attention.fast_masked], attention.attention),
    ("MLX's attention, booleans for a mask", ({"mask": "bool"},), [attention.fast_masked],
     attention.attention),
    ("MLX's attention, causal", ({},), [attention.fast_causal], attention.causal_attention),
):  # fmt: skip
    pattern(
        _name, *_spellings, by=_by, types=_types, sizes={"H": 904, "G": 226}, needs=(_FAST,),
        root=(_FAST, 4),
        arrays={"q": "BHLD", "k": "BGSD", "v": "BGSD", "mask": "~BHLS"}, leads=(0,),
        devices={"cpu": _TILES}, doc="attention in tiles on a CPU", **_ATTENTION,
    )  # fmt: skip


# -- rotary embedding -----------------------------------------------------------------------------
def _half(x: mx.array) -> tuple[mx.array, mx.array]:
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _rope_half(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    a, b = _half(x)
    return x * cos + mx.concatenate([-b, a], axis=-1) * sin


def _rope_split(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    a, b = mx.split(x, 2, axis=-1)
    return x * cos + mx.concatenate([-b, a], axis=-1) * sin


def _full(found: Match) -> str:
    """Why tables cannot be cut in halves as rows are."""
    last = found.shape("x")[-1:]
    cut = [n for n in ("cos", "sin") if found.shape(n)[-1:] != last]
    return f"{cut[0]} of shape {found.shape(cut[0])}: its last axis is not that of x" if cut else ""


def _rope(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Each half from both halves: nothing is turned first."""
    (a, b), (c0, c1), (s0, s1) = (mx.split(v, 2, axis=-1) for v in (x, cos, sin))
    return mx.concatenate([a * c0 - b * s0, b * c1 + a * s1], axis=-1)


def _neighbours(x: mx.array) -> mx.array:
    return mx.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)


def _neighbours_joined(x: mx.array) -> mx.array:
    pairs = [-x[..., 1::2][..., None], x[..., ::2][..., None]]
    return mx.concatenate(pairs, axis=-1).reshape(x.shape)


def _rope_pairs(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Each of two neighbours from both: nothing is turned first."""
    a, b, c0, c1, s0, s1 = (v[..., first::2] for v in (x, cos, sin) for first in (0, 1))
    return mx.flatten(mx.stack([a * c0 - b * s0, b * c1 + a * s1], axis=-1), -2)


_TABLES: tuple[dict[str, str], ...] = ({}, {"cos": "float32", "sin": "float32"})
pattern(
    "rope, a half turned", _rope_half, _rope_split, by=_rope,
    arrays={"x": "*SD", "cos": "~*SD", "sin": "~*SD"}, types=_TABLES,
    devices={
        "cpu": "one kernel in place of two and a concatenation: 1.3 to 1.5 times as fast",
        "metal": "one kernel in place of two and a concatenation (not measured)",
        "cuda": "one kernel in place of two and a concatenation (not measured)",
    },
    where=_full, even="D", needs=("concatenate", "negative"), leads=(0, 1, 2), root=("add", 2),
    doc="both halves from both halves, in one kernel", proof="tests/patterns/test_rope.py",
)  # fmt: skip


pattern(
    "rope, neighbours turned",
    lambda x, cos, sin: x * cos + _neighbours(x) * sin,
    lambda x, cos, sin: x * cos + _neighbours_joined(x) * sin,
    by=_rope_pairs, arrays={"x": "*SD", "cos": "~*SD", "sin": "~*SD"}, types=_TABLES,
    devices=dict.fromkeys(
        ("metal", "cuda"),
        "one kernel and two copies in place of two and two, two thirds of the bytes (counted, not "
        "measured)",
    ),
    where=_full, even="D", needs=("getitem", "negative"), leads=(0, 1, 2), root=("add", 2),
    doc="both neighbours from both, in one kernel", proof="tests/patterns/test_rope.py",
)  # fmt: skip


# -- losses ---------------------------------------------------------------------------------------
@made_of_mlx
def _linear_cross_entropy(x: mx.array, weight: mx.array, targets: mx.array) -> mx.array:
    """A negative target counts from the end, as in plain MLX, and one out of range is taken in."""
    return _wide_linear_cross_entropy(x, weight, targets).astype(x.dtype)


@made_of_mlx
def _wide_linear_cross_entropy(x: mx.array, weight: mx.array, targets: mx.array) -> mx.array:
    classes = weight.shape[0]
    places = mx.clip(mx.where(targets < 0, targets + classes, targets), 0, classes - 1)
    return in_chunks(x, weight, places)


def _many(found: Match) -> str:
    logits = math.prod(found.shape("targets")) * found.shape("weight")[0]
    return "" if logits >= MANY_LOGITS else f"{logits} logits: from {MANY_LOGITS} on it pays"


for _name, _loss, _by, _kinds in (
    (
        "a linear layer and cross-entropy",
        lambda x, weight, targets: nn.losses.cross_entropy(x @ weight.T, targets),
        _linear_cross_entropy, FLOATS,
    ),
    (
        "a linear layer and cross-entropy in float32",
        lambda x, weight, targets: nn.losses.cross_entropy(
            (x @ weight.T).astype(mx.float32), targets
        ),
        _wide_linear_cross_entropy, HALVES,
    ),
):  # fmt: skip
    pattern(
        _name, _loss, by=_by, arrays={"x": "*D", "weight": "VD", "targets": "*"},
        types=({"targets": WHOLE},), floats=_kinds, where=_many,
        needs=("matmul",), leads=(1, 2),
        devices={},  # memory for time: 0.8 times as fast where only x has a gradient
        inline=False, doc="`zmlx.kernels.loss.linear_cross_entropy`, chunk by chunk",
        proof="tests/patterns/test_losses.py",
    )  # fmt: skip


# -- experts --------------------------------------------------------------------------------------
def _combined(y: mx.array, w: mx.array) -> mx.array:
    """Products and a sum, one kernel with what stands beside them."""
    return mx.sum(y * w[..., None], axis=-2)


for _name, _need, _faster, _sums in (
    ("outputs of experts, combined by einsum", "einsum", "4 to 12 times as fast", [
        lambda y, w: mx.einsum("nkd,nk->nd" if y.ndim == 3 else "blkd,blk->bld", y, w),
        lambda y, w: mx.einsum("nk,nkd->nd" if y.ndim == 3 else "blk,blkd->bld", w, y),
    ]),
    ("outputs of experts, combined by a product", "matmul", "1.5 to 6 times as fast", [
        lambda y, w: (w[..., None, :] @ y).squeeze(-2),
    ]),
):  # fmt: skip
    pattern(
        _name, *_sums, by=_combined, arrays={"y": "*KD", "w": "*K"},
        needs=(_need,), leads=(1, 2), root=("einsum" if _need == "einsum" else "place", 1),
        devices={
            "cpu": f"one kernel: {_faster}",
            "metal": "one kernel in place of a product of small matrices (not measured)",
            "cuda": "one kernel in place of a product of small matrices (not measured)",
        },
        doc="products and a sum in one kernel, with what stands beside them",
        proof="tests/patterns/test_sums.py",
    )  # fmt: skip


# -- cumulative sums ------------------------------------------------------------------------------
def _ones(x: mx.array, axis: int) -> mx.array:
    return mx.ones((x.shape[axis], x.shape[axis]), x.dtype)


def _cumulative(x: mx.array, axis: int, back: bool, inclusive: bool = True) -> mx.array:
    """In float32: MLX rounds every sum to the type that it is given."""
    wide = x.astype(mx.float32)
    return mx.cumsum(wide, axis, reverse=back, inclusive=inclusive).astype(x.dtype)


for _name, _half_of, _axis, _back, _spelled in (
    ("sums up to each column", "triu", -1, False, lambda x: x @ mx.triu(_ones(x, -1))),
    ("sums up to each row", "tril", -2, False, lambda x: mx.tril(_ones(x, -2)) @ x),
    ("sums from each column on", "tril", -1, True, lambda x: x @ mx.tril(_ones(x, -1))),
    ("sums from each row on", "triu", -2, True, lambda x: mx.triu(_ones(x, -2)) @ x),
):
    pattern(
        _name, _spelled, by=partial(_cumulative, axis=_axis, back=_back),
        arrays={"x": "*SD"}, needs=("matmul", _half_of), leads=(0, 1, 2), root=("matmul", 2),
        devices={
            "cpu": "n sums in place of n**2: 17 to 28 times as fast for rows of 512",
            "metal": "n sums in place of n**2 (not measured)",
            "cuda": "n sums in place of n**2 (not measured)",
        },
        doc="`mx.cumsum`", proof="tests/patterns/test_sums.py",
    )  # fmt: skip


def _halves(back: bool, inclusive: bool) -> Spelled:
    return lambda x: mx.cumsum(x, -1, reverse=back, inclusive=inclusive)


for _back, _inclusive in product((False, True), (True, False)):
    pattern(
        "cumulative sums of halves" + ", from the end" * _back + ", exclusive" * (not _inclusive),
        _halves(_back, _inclusive),
        by=partial(_cumulative, axis=-1, back=_back, inclusive=_inclusive),
        arrays={"x": "*SD"}, floats=HALVES, needs=("cumsum",), root=("cumsum", 2),
        least=("*SD", 512),
        devices={
            "cpu": "sums in float32, from 512 numbers on: 2 to 5 times as fast for bfloat16, 3 to "
            "10 for float16",
        },
        doc="`mx.cumsum` in float32", proof="tests/patterns/test_sums.py",
    )  # fmt: skip


# -- packed weights -------------------------------------------------------------------------------
def _packed(group: int) -> tuple[Spelled, Spelled]:
    """The product with weights of four bits, and what computes it."""

    def spelled(x: mx.array, w: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
        return x @ mx.dequantize(w, scales, biases, group, 4).swapaxes(-1, -2)

    @made_of_mlx
    def packed(x: mx.array, w: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
        rows, host = x.size // max(x.shape[-1], 1), current_name() == "host"
        if rows > (FEW if host else FEW_ON_GPUS) or not w.size:
            return x @ mx.dequantize(w, scales, biases, group, 4).T
        if not host:
            return mx.quantized_matmul(x, w, scales, biases, True, group, 4)
        return kernels.linear.int4_matmul(x, w, scales, biases, group_size=group)

    return spelled, packed


for _group in (32, 64, 128):
    _spelled, _by = _packed(_group)
    pattern(
        f"unpacked and multiplied, groups of {_group}", _spelled, by=_by,
        arrays={"x": "*SK", "w": "NP", "scales": "NG", "biases": "NG"}, types=({"w": "uint32"},),
        sizes={"K": 202 * _group, "G": 202, "P": 202 * _group // 8},
        needs=("dequantize", "matmul"), root=("matmul", 2), inline=False,
        devices={
            "cpu": "up to 8 rows: 1.4 to 3 times as fast, as weights are read packed",
            "metal": "up to 32 rows: MLX's own kernel, which reads weights packed (not measured)",
            "cuda": "up to 32 rows: MLX's own kernel, which reads weights packed (not measured)",
        },
        doc="`zmlx.kernels.linear.int4_matmul` on a CPU, `mx.quantized_matmul` on a GPU",
        proof="tests/patterns/test_packed.py",
    )  # fmt: skip


# -- recurrent states -----------------------------------------------------------------------------
def _delta(
    s: mx.array, q: mx.array, k: mx.array, v: mx.array, decay: mx.array, beta: mx.array
) -> tuple[mx.array, mx.array]:
    faded = s * decay[..., None, None]
    missing = (v - mx.sum(faded * k[..., None, :], axis=-1)) * beta[..., None]
    after = faded + missing[..., None] * k[..., None, :]
    return mx.sum(after * q[..., None, :], axis=-1), after


def _delta_by_products(
    s: mx.array, q: mx.array, k: mx.array, v: mx.array, decay: mx.array, beta: mx.array
) -> tuple[mx.array, mx.array]:
    faded = s * decay[..., None, None]
    missing = (v - (faded @ k[..., None]).squeeze(-1)) * beta[..., None]
    after = faded + missing[..., None] * k[..., None, :]
    return (after @ q[..., None]).squeeze(-1), after


def _ssm(
    s: mx.array, x: mx.array, dt: mx.array, a: mx.array, b: mx.array, c: mx.array, d: mx.array
) -> tuple[mx.array, mx.array]:
    after = s * mx.exp(dt[..., None] * a) + (dt * x)[..., None] * b[..., None, :]
    return mx.sum(after * c[..., None, :], axis=-1) + d * x, after


def _ssm_by_products(
    s: mx.array, x: mx.array, dt: mx.array, a: mx.array, b: mx.array, c: mx.array, d: mx.array
) -> tuple[mx.array, mx.array]:
    after = s * mx.exp(dt[..., None] * a) + (dt * x)[..., None] * b[..., None, :]
    return (after @ c[..., None]).squeeze(-1) + d * x, after


_STEP = {
    "cpu": "sums in the kernel that makes the state: 1.4 to 3 times as fast",
    "metal": "sums in the kernel that makes the state (not measured)",
    "cuda": "sums in the kernel that makes the state (not measured)",
}
pattern(
    "a step of a gated delta rule", _delta_by_products, by=_delta,
    arrays={"s": "*VK", "q": "*K", "k": "*K", "v": "*V", "decay": "*", "beta": "*"},
    needs=("matmul", "multiply", "subtract", "add"), leads=(0, 1, 2), devices=_STEP,
    doc="products and sums in one kernel", proof="tests/patterns/test_steps.py",
)  # fmt: skip
pattern(
    "a step of a selective scan", _ssm_by_products, by=_ssm,
    arrays={"s": "*DN", "x": "*D", "dt": "*D", "a": "DN", "b": "*N", "c": "*N", "d": "D"},
    needs=("matmul", "exp", "multiply", "add"), leads=(0, 1, 2), devices=_STEP,
    doc="products and sums in one kernel", proof="tests/patterns/test_steps.py",
)  # fmt: skip
