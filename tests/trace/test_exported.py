"""Functions that a trace cannot see, taken from mx.export_function: every primitive that MLX
reports, beside plain MLX, values and gradients."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np
import pytest
from hidden import HIDDEN
from tracing import SPD, A, B, I, call_of, recorded, replay, same

from zmlx.trace.recipe import Given, rebuild

X = mx.array(np.random.default_rng(2).uniform(0.1, 0.9, size=(4, 6)).astype(np.float32))
Y = mx.array(np.random.default_rng(3).uniform(0.1, 0.9, size=(4, 6)).astype(np.float32))
W = mx.array(np.random.default_rng(4).normal(size=(6,)).astype(np.float32))
IMAGE = mx.array(np.random.default_rng(5).normal(size=(2, 8, 8, 4)).astype(np.float32))
KERNEL = mx.array(np.random.default_rng(6).normal(size=(4, 3, 3, 2)).astype(np.float32))
HEADS = mx.array(np.random.default_rng(7).normal(size=(1, 2, 4, 8)).astype(np.float32))
WIDE = mx.array(np.random.default_rng(8).normal(size=(4, 64)).astype(np.float32))
QUANTIZED = mx.quantize(mx.array(np.random.default_rng(9).normal(size=(32, 64)), mx.float32), 32, 4)
MASK = X > 0.5
INTS = mx.arange(24).reshape(4, 6) - 7
TAKEN = mx.array([2, 0, 3])
ALONG = mx.array([[0, 2], [1, 1], [5, 0], [3, 4]])
KEY = mx.random.key(5)
CPU = {"stream": mx.cpu}

_UNARY = (
    "abs arccos arcsinh arcsin arctan arctanh ceil conj cos cosh erf erfinv exp expm1 floor "
    "log log2 log10 log1p logical_not negative round sigmoid sign sin sinh square sqrt rsqrt "
    "tan tanh real imag isnan isinf isfinite isposinf isneginf reciprocal degrees radians "
    "stop_gradient nan_to_num softmax logsumexp cumsum cumprod cummax cummin sort argsort "
    "flatten transpose sum prod max min all any mean var std argmax argmin tril triu trace "
    "diagonal median zeros_like squeeze "
)
_BINARY = (
    "add subtract multiply divide remainder floor_divide power maximum minimum logaddexp "
    "arctan2 equal not_equal greater greater_equal less less_equal logical_and logical_or "
    "divmod isclose allclose array_equal inner outer "
)
BITS = ["bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"]
CASES = {
    **{name: (lambda F, x, n=name: getattr(F, n)(x), X) for name in _UNARY.split()},
    **{name: (lambda F, x, y, n=name: getattr(F, n)(x, y), X, Y) for name in _BINARY.split()},
    **{name: (lambda F, x, n=name: getattr(F, n)(x, x % 5), abs(INTS)) for name in BITS},
    "arccosh": (lambda F, x: F.arccosh(x + 1), X),
    "equal_nan": (lambda F, x, y: F.array_equal(x, y, equal_nan=True), X, X),
    "where": (lambda F, m, x, y: F.where(m, x, y), MASK, X, W),
    "clip": (lambda F, x: F.clip(x, 0.2, 0.7), X),
    "view": (lambda F, x: F.view(x, mx.int32), X),
    "addmm": (lambda F, c, x, y: F.addmm(c, x, F.transpose(y), 0.5, 2.0), A, X, Y),
    "matmul": (lambda F, x, y: F.matmul(x, y), A, B),
    "einsum": (lambda F, x, y: F.einsum("ij,kj->ik", x, y), X, Y),
    "reshape": (lambda F, x: F.reshape(x, (3, -1)), X),
    "unflatten": (lambda F, x: F.unflatten(x, 1, (2, 3)), X),
    "ones": (lambda F, x: F.squeeze(F.expand_dims(x, (0, 2)), 0), X),
    "broadcast": (lambda F, x: F.broadcast_to(x, (2, 4, 6)), X),
    "concatenate": (lambda F, x, y: F.concatenate([x, y, x], 1), X, Y),
    "stack": (lambda F, x, y: F.stack([x, y], 1), X, Y),
    "split": (lambda F, x: F.split(x, [1, 3], 1), X),
    "roll": (lambda F, x: F.roll(x, 2, 1), X),
    "repeat": (lambda F, x: F.repeat(x, 2, 1), X),
    "tile": (lambda F, x: F.tile(x, (2, 1)), X),
    "moveaxis": (lambda F, x: F.moveaxis(x, 0, 2), IMAGE),
    "pad": (lambda F, x: F.pad(x, ((1, 2), (0, 3)), constant_values=1.5), X),
    "take": (lambda F, x, i: F.take(x, i, 0), X, TAKEN),
    "take 1": (lambda F, x, i: F.take(x, i, 1), X, TAKEN),
    "take all": (lambda F, x, i: F.take(x, i), X, TAKEN),
    "take_along": (lambda F, x, i: F.take_along_axis(x, i, 1), X, ALONG),
    "put_along": (lambda F, x, i: F.put_along_axis(x, i[:, :1], x[:, :1], 1), X, ALONG),
    "slice": (lambda F, x, i: F.slice(x, i[1:2], (0,), (2, 6)), X, TAKEN),
    "slice_update": (lambda F, x, y, i: F.slice_update(x, y[:2], i[1:2], (0,)), X, Y, TAKEN),
    "as_strided": (lambda F, x: F.as_strided(x, (3, 3), (6, 2), 1), X),
    "partition": (lambda F, x: F.partition(x, 2, 1), X),
    "argpartition": (lambda F, x: F.argpartition(x, 2, 1), X),
    "topk": (lambda F, x: F.topk(x, 2, 1), X),
    "softmax axes": (lambda F, x: F.softmax(x, axis=(0, 1), precise=True), X),
    "softmax last": (lambda F, x: F.softmax(x.astype(mx.float16), axis=-1, precise=True), X),
    "logsumexp last": (lambda F, x: F.logsumexp(x, -1, keepdims=True), X),
    "cumsum back": (lambda F, x: F.cumsum(x, 1, reverse=True, inclusive=False), X),
    "searchsorted": (lambda F, x, y: F.searchsorted(F.sort(x), y, side="right"), W, W * 0.5),
    "linspace": (lambda F, x: F.multiply(F.linspace(0, 1, 6), x), X),
    "eye": (lambda F, x: F.multiply(F.eye(6), x), W),
    "depends": (lambda F, x, y: F.depends([x, y], [x]), X, Y),
    "conv": (lambda F, x, w: F.conv2d(x, w, (2, 1), (1, 0), (1, 2), 2), IMAGE, KERNEL),
    "conv back": (
        lambda F, x, w: F.conv_general(x, w, padding=([1, 0], [2, 1]), input_dilation=2, flip=True),
        IMAGE, KERNEL[:, :, :, :1].reshape(1, 3, 3, 4),
    ),
    "fft": (lambda F, x: F.fft.fft(x, axis=0), X),
    "ifftn": (lambda F, x: F.fft.ifftn(x.astype(mx.complex64), axes=(0, 1)), X),
    "rfft2": (lambda F, x: F.fft.rfft2(x), X),
    "irfft": (lambda F, x: F.fft.irfft(x.astype(mx.complex64), n=9), X),
    "qr": (lambda F, x: F.linalg.qr(x, **CPU), A),
    "svd": (lambda F, x: F.linalg.svd(x, **CPU), A),
    "svd values": (lambda F, x: F.linalg.svd(x, compute_uv=False, **CPU), A),
    "inv": (lambda F, x: F.linalg.inv(x, **CPU), SPD),
    "tri_inv": (lambda F, x: F.linalg.tri_inv(F.triu(x), upper=True, **CPU), SPD),
    "cholesky": (lambda F, x: F.linalg.cholesky(x, upper=True, **CPU), SPD),
    "eigh": (lambda F, x: F.linalg.eigh(x, UPLO="U", **CPU), SPD),
    "eigvalsh": (lambda F, x: F.linalg.eigvalsh(x, **CPU), SPD),
    "eig": (lambda F, x: F.linalg.eig(x, **CPU), A),
    "norm": (lambda F, x: F.linalg.norm(x), X),
    "normal": (lambda F, x: F.multiply(F.random.normal((4, 6), key=KEY), x), X),
    "bernoulli": (lambda F, x: F.where(F.random.bernoulli(0.5, (4, 6), key=KEY), x, 0), X),
    "randint": (lambda F, x: F.add(F.random.randint(0, 9, (4, 6), key=KEY), x), X),
    "keys": (lambda F, k: F.random.split(k, 3), KEY),
    "rms_norm": (lambda F, x, w: F.fast.rms_norm(x, w, 1e-5), X, W),
    "layer_norm": (lambda F, x, w: F.fast.layer_norm(x, w, None, 1e-5), X, W),
    "rope": (
        lambda F, x: F.fast.rope(x, 8, traditional=True, base=1e4, scale=1.0, offset=3), HEADS,
    ),
    "attention": (
        lambda F, x: F.fast.scaled_dot_product_attention(x, x, x, scale=0.3, mask="causal"), HEADS,
    ),
    "quantize": (lambda F, x: F.quantize(x, 32, 4), WIDE),
    "quantized_matmul": (lambda F, x, *w: F.quantized_matmul(x, *w, True, 32, 4), WIDE, *QUANTIZED),
    "dequantize": (lambda F, *w: F.dequantize(*w, 32, 4), *QUANTIZED),
    "gather_qmm": (
        lambda F, x, w, *s: F.gather_qmm(
            x[:3, None], *[mx.stack([a, a]) for a in (w, *s)], None, mx.array([0, 1, 1]), True, 32,
            4, sorted_indices=True,
        ), WIDE, *QUANTIZED,
    ),
    "gather_mm": (lambda F, x, w: F.gather_mm(x[:, None], w, None, I), A, IMAGE[0, :, :4]),
    "masked_mm": (
        lambda F, x: F.block_masked_mm(x, F.transpose(x), 32, mx.array([[True]])), WIDE[:, :32],
    ),
    "hadamard": (lambda F, x: F.hadamard_transform(x, 0.5), WIDE),
}  # fmt: skip
# MLX has no gradient of these, or it is of no number.
FLAT = {
    "argmax", "argmin", "argsort", "argpartition", "all", "any", "keys", "searchsorted", "quantize",
    "svd", "svd values", "qr", "eig", "eigh", "eigvalsh", "tri_inv", "cholesky", "view", "cummax",
    "cummin", "dequantize", "equal_nan", "masked_mm", "gather_mm", "fft", "ifftn", "rfft2", "irfft",
    "as_strided", "logical_not", "logical_and", "logical_or", "inv", *BITS,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def on_the_cpu():
    """Where MLX has all of these functions."""
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


FLOWING = [name for name in CASES if name not in FLAT]
SOURCE = {"where": 1}  # which argument a gradient is taken for; else the first


def all_of(F, names):
    """The cases as one function of a list of arguments for each."""

    def function(given):
        return {name: listed(CASES[name][0](F, *given[name])) for name in names}

    return function


def listed(result):
    return list(result) if isinstance(result, (list, tuple)) else [result]


def arguments(names):
    """Each an array of its own: one that is passed twice is one inside."""
    return {name: [mx.array(given) for given in CASES[name][1:]] for name in names}


@cache
def replayed(hidden=True):
    """All cases with hidden functions, recorded and computed by their graph."""
    call = call_of((arguments(CASES),), {})
    found = recorded(all_of(HIDDEN if hidden else mx, CASES), call)
    found.graph.verify()

    def again(given):
        flat = [array for name in CASES for array in given[name]]
        return rebuild(found.result, Given(replay(found.graph, flat), ()))

    return found, again


@cache
def values():
    given = arguments(CASES)
    return replayed()[1](given), all_of(mx, CASES)(given)


@cache
def slopes():
    def of(function):
        def total(sources):
            given = arguments(CASES)
            for name, source in sources.items():
                given[name][SOURCE.get(name, 0)] = source
            results = function(given)
            return sum(r.sum() for name in FLOWING for r in results[name])

        return mx.grad(total)({n: CASES[n][1 + SOURCE.get(n, 0)] for n in FLOWING})

    return of(replayed()[1]), of(all_of(mx, CASES))


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    got, want = values()
    same(got[name], want[name])


@pytest.mark.parametrize("name", FLOWING)
def test_gradients(name):
    got, want = slopes()
    same(got[name], want[name])


def test_where_they_come_from():
    found, _ = replayed()
    assert found.exported.startswith("traced by mx.export_function: ")
    assert "test_exported.py" in found.exported
