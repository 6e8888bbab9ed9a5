"""Everything that MLX runs itself: each name of mlx.core and its submodules, methods of arrays."""

from __future__ import annotations

import inspect

import mlx.core as mx
import mlx.nn as nn
import pytest
from tracing import SPD, A, B, I, V, kinds, run, same, traced

from zmlx.ops import names
from zmlx.ops.reductions import REDUCTIONS
from zmlx.ops.table import OPS
from zmlx.trace import intercept

cpu = {"stream": mx.cpu}

CORE = {
    "all": lambda: mx.all(A > 0, axis=1),
    "allclose": lambda: mx.allclose(A, B),
    "any": lambda: mx.any(A > 0),
    "argmax": lambda: mx.argmax(A, axis=0),
    "argmin": lambda: mx.argmin(A),
    "array_equal": lambda: mx.array_equal(A, B),
    "count_nonzero": lambda: mx.count_nonzero(A > 0),
    "cummax": lambda: mx.cummax(A, axis=0),
    "cummin": lambda: mx.cummin(A, axis=1),
    "cumprod": lambda: mx.cumprod(A, axis=0),
    "cumsum": lambda: mx.cumsum(A, axis=0, reverse=True),
    "cumulative_sum": lambda: mx.cumulative_sum(A, axis=0),
    "cumulative_prod": lambda: mx.cumulative_prod(A, axis=0),
    "logcumsumexp": lambda: mx.logcumsumexp(A, axis=1),
    "logsumexp": lambda: mx.logsumexp(A, axis=1),
    "max": lambda: mx.max(A, axis=1),
    "mean": lambda: mx.mean(A, axis=0, keepdims=True),
    "median": lambda: mx.median(A, axis=0),
    "min": lambda: mx.min(A),
    "prod": lambda: mx.prod(A, axis=1),
    "minmax": lambda: mx.minmax(A, axis=0),
    "softmax": lambda: mx.softmax(A, axis=-1),
    "std": lambda: mx.std(A, axis=0),
    "sum": lambda: mx.sum(A, axis=(0, 1)),
    "var": lambda: mx.var(A, axis=0, ddof=1),
    "vecdot": lambda: mx.vecdot(A, B),
    "addmm": lambda: mx.addmm(V, A, B, alpha=0.5, beta=2.0),
    "conv1d": lambda: mx.conv1d(A[None], B[None]),
    "conv2d": lambda: mx.conv2d(A[None, :, :, None], B[None, :2, :2, None]),
    "conv3d": lambda: mx.conv3d(A[None, None, :, :, None], B[None, None, :2, :2, None]),
    "conv_general": lambda: mx.conv_general(A[None], B[None], stride=1),
    "conv_transpose1d": lambda: mx.conv_transpose1d(A[None], B[None]),
    "conv_transpose2d": lambda: mx.conv_transpose2d(A[None, :, :, None], B[None, :2, :2, None]),
    "conv_transpose3d": lambda: mx.conv_transpose3d(
        A[None, None, :, :, None], B[None, None, :2, :2, None]
    ),
    "convolve": lambda: mx.convolve(V, V),
    "einsum": lambda: mx.einsum("ij,kj->ik", A, B),
    "gather_mm": lambda: mx.gather_mm(A[None], B[None], rhs_indices=mx.array([0, 0])),
    "block_masked_mm": lambda: mx.block_masked_mm(
        mx.tile(A, (8, 8)), mx.tile(B, (8, 8)), block_size=32
    ),
    "segmented_mm": lambda: mx.segmented_mm(A, B, mx.array([[0, 2], [2, 4]])),
    "hadamard_transform": lambda: mx.hadamard_transform(A),
    "inner": lambda: mx.inner(A, B),
    "kron": lambda: mx.kron(A, B),
    "matmul": lambda: mx.matmul(A, B),
    "outer": lambda: mx.outer(V, V),
    "quantized_matmul": lambda: mx.quantized_matmul(
        mx.tile(A, (1, 8)), *mx.quantize(mx.tile(B, (8, 8)), 32, 4), True, 32, 4
    ),
    "dequantize": lambda: mx.dequantize(*mx.quantize(mx.tile(A, (8, 16)), 32, 4), 32, 4),
    "quantize": lambda: mx.quantize(mx.tile(A, (8, 16)), 32, 4),
    "tensordot": lambda: mx.tensordot(A, B, 1),
    "trace": lambda: mx.trace(A),
    "as_strided": lambda: mx.as_strided(A, (2, 2), (4, 1), 1),
    "atleast_1d": lambda: mx.atleast_1d(V),
    "atleast_2d": lambda: mx.atleast_2d(V, A),
    "atleast_3d": lambda: mx.atleast_3d(V),
    "broadcast_arrays": lambda: mx.broadcast_arrays(V, A),
    "broadcast_to": lambda: mx.broadcast_to(V, (2, 4)),
    "concat": lambda: mx.concat([A, B]),
    "concatenate": lambda: mx.concatenate([A, B], axis=1),
    "contiguous": lambda: mx.contiguous(A.T),
    "diag": lambda: mx.diag(V, 1),
    "diagonal": lambda: mx.diagonal(A),
    "diff": lambda: mx.diff(A),
    "expand_dims": lambda: mx.expand_dims(V, 1),
    "flatten": lambda: mx.flatten(A),
    "flip": lambda: mx.flip(A, 0),
    "matrix_transpose": lambda: mx.matrix_transpose(A),
    "moveaxis": lambda: mx.moveaxis(A, 0, 1),
    "pad": lambda: mx.pad(A, 1, constant_values=2.0),
    "permute_dims": lambda: mx.permute_dims(A, (1, 0)),
    "put_along_axis": lambda: mx.put_along_axis(A, I[None], B[:1], axis=0),
    "repeat": lambda: mx.repeat(A, 2, axis=0),
    "reshape": lambda: mx.reshape(A, (2, -1)),
    "roll": lambda: mx.roll(A, 1),
    "slice": lambda: mx.slice(A, I[:1], (0,), (2, 4)),
    "slice_update": lambda: mx.slice_update(A, B[:2], I[1:2], (0,)),
    "split": lambda: mx.split(A, 2, axis=1),
    "squeeze": lambda: mx.squeeze(A[None]),
    "stack": lambda: mx.stack([A, B]),
    "swapaxes": lambda: mx.swapaxes(A, 0, 1),
    "take": lambda: mx.take(A, I, axis=1),
    "take_along_axis": lambda: mx.take_along_axis(A, I[None], axis=0),
    "tile": lambda: mx.tile(V, 2),
    "transpose": lambda: mx.transpose(A),
    "tri": lambda: mx.tri(4) * A,
    "tril": lambda: mx.tril(A),
    "triu": lambda: mx.triu(A, 1),
    "unflatten": lambda: mx.unflatten(V, 0, (2, 2)),
    "unstack": lambda: mx.unstack(A),
    "view": lambda: mx.view(A, mx.int32),
    "argpartition": lambda: mx.argpartition(V, 0),
    "argsort": lambda: mx.argsort(A),
    "partition": lambda: mx.partition(V, 0),
    "searchsorted": lambda: mx.searchsorted(mx.sort(V), A),
    "sort": lambda: mx.sort(A, axis=0),
    "topk": lambda: mx.topk(V, 1),
    "arange": lambda: mx.arange(4) + V,
    "asarray": lambda: mx.asarray(V) * 2,
    "empty_like": lambda: mx.empty_like(A) * 0,
    "full": lambda: mx.full((2, 4), V),
    "full_like": lambda: mx.full_like(A, V),
    "linspace": lambda: mx.linspace(0, 1, 4) * V,
    "meshgrid": lambda: mx.meshgrid(V, V),
    "conj": lambda: mx.conj(A),
    "conjugate": lambda: mx.conjugate(A),
    "real": lambda: mx.real(A),
    "imag": lambda: mx.imag(A.astype(mx.complex64)),
    "divmod": lambda: mx.divmod(A, B),
    "to_fp8": lambda: mx.to_fp8(A),
    "from_fp8": lambda: mx.from_fp8(mx.to_fp8(A)),
    "unique": lambda: mx.unique(I, 4),
    "matrix_norm": lambda: mx.matrix_norm(A, -1),
    "depends": lambda: mx.depends([A], [B]),
    "vjp": lambda: mx.vjp(lambda a: a * a, [A], [B]),
    "jvp": lambda: mx.jvp(lambda a: a * a, [A], [B]),
}
# Names that take no arrays, and those that this machine's CPU cannot run.
UNTRIED = set(
    ("array", "bartlett", "blackman", "empty", "eye", "from_dlpack", "hamming", "hanning")
    + ("identity", "ones", "zeros", "gather_qmm", "gather_qqmm", "qqmm")
)
SUB = {
    "fast.layer_norm": lambda: mx.fast.layer_norm(A, V, V, 1e-5),
    "fast.rms_norm": lambda: mx.fast.rms_norm(A, V, 1e-5),
    "fast.rope": lambda: mx.fast.rope(
        A[None], 4, traditional=False, base=10000.0, scale=1.0, offset=0
    ),
    "fast.scaled_dot_product_attention": lambda: mx.fast.scaled_dot_product_attention(
        A[None, None], B[None, None], A[None, None], scale=0.5
    ),
    "linalg.inv": lambda: mx.linalg.inv(SPD, **cpu),
    "linalg.cholesky": lambda: mx.linalg.cholesky(SPD, **cpu),
    "linalg.norm": lambda: mx.linalg.norm(A),
    "linalg.qr": lambda: mx.linalg.qr(A, **cpu),
    "linalg.svd": lambda: mx.linalg.svd(A, **cpu)[1],
    "linalg.eigh": lambda: mx.linalg.eigvalsh(SPD, **cpu),
    "linalg.solve": lambda: mx.linalg.solve(SPD, V, **cpu),
    "linalg.cross": lambda: mx.linalg.cross(A[:, :3], B[:, :3]),
    "distributed.all_sum": lambda: mx.distributed.all_sum(A, **cpu),
    "fft.fft": lambda: mx.fft.fft(A),
    "fft.irfft": lambda: mx.fft.irfft(mx.fft.rfft(A)),
    "fft.fftshift": lambda: mx.fft.fftshift(A),
}
INPUTS = {"A": A, "B": B, "V": V, "I": I, "SPD": SPD}


def lifted(case):
    """The case as a function of its arrays: its globals are replaced while it runs."""
    used = [n for n in inspect.unwrap(case).__code__.co_names if n in INPUTS]
    used += [n for c in case.__code__.co_consts if inspect.iscode(c) for n in c.co_names
             if n in INPUTS]  # fmt: skip

    def fn(*arrays):
        globals().update(zip(used, arrays, strict=True))
        try:
            return case()
        finally:
            globals().update(INPUTS)

    return fn, [INPUTS[n] for n in used]


@pytest.mark.parametrize("name", {**CORE, **SUB})
def test_calls_replay(name):
    case = {**CORE, **SUB}[name]
    fn, arrays = lifted(case)
    found = traced(fn, *arrays)
    makes_arrays = name in ("arange", "linspace", "tri", "gather_mm", "segmented_mm")
    makes_arrays |= name == "empty_like"  # MLX's other name of zeros_like, a row
    assert any(k.startswith("[") for k in kinds(found.graph)) or makes_arrays
    assert not any(found.graph.kind(n) == "array" for n in found.graph) or makes_arrays
    same(run(fn, *arrays), case())


def test_every_opaque_name_of_core_is_tried():
    listed = {
        n for group, text in names.OPAQUE.items() if group != "submodules" for n in text.split()
    }
    listed = {n for n in listed if hasattr(mx, n)} | set(REDUCTIONS)
    assert listed - UNTRIED == set(CORE) - {"depends", "vjp", "jvp"}


METHODS = {
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "all": lambda x: x.all(axis=0),
    "any": lambda x: x.any(),
    "argmax": lambda x: x.argmax(axis=1),
    "argmin": lambda x: x.argmin(),
    "conj": lambda x: x.conj(),
    "cummax": lambda x: x.cummax(0),
    "cummin": lambda x: x.cummin(0),
    "cumprod": lambda x: x.cumprod(0),
    "cumsum": lambda x: x.cumsum(0),
    "diag": lambda x: x.diag(),
    "diagonal": lambda x: x.diagonal(),
    "flatten": lambda x: x.flatten(),
    "logcumsumexp": lambda x: x.logcumsumexp(0),
    "logsumexp": lambda x: x.logsumexp(axis=1),
    "max": lambda x: x.max(),
    "mean": lambda x: x.mean(0),
    "min": lambda x: x.min(1),
    "moveaxis": lambda x: x.moveaxis(0, 1),
    "prod": lambda x: x.prod(0),
    "reshape": lambda x: x.reshape(2, 8),
    "split": lambda x: x.split(2)[1],
    "squeeze": lambda x: x[None].squeeze(),
    "std": lambda x: x.std(),
    "sum": lambda x: x.sum(axis=-1),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "transpose": lambda x: x.transpose(1, 0),
    "var": lambda x: x.var(axis=0),
    "view": lambda x: x.view(mx.uint32),
}
NO_ARRAY = {"at", "dtype", "item", "itemsize", "nbytes", "ndim", "shape", "size", "tolist"}


@pytest.mark.parametrize("name", METHODS)
def test_methods_replay(name):
    same(run(METHODS[name], A), METHODS[name](A))


def test_every_method_of_array_is_tried():
    rows = [name for spec in OPS.values() for name in spec.methods] + ["round"]
    public = {n for n in dir(mx.array) if not n.startswith("_")}
    assert public - NO_ARRAY - set(rows) == set(METHODS)


def test_activations_that_are_not_elementwise():
    for fn in (nn.glu, nn.softmax, nn.log_softmax, nn.softmin):
        same(run(lambda x: fn(x * 2) + 1, A), fn(A * 2) + 1)  # noqa: B023


def test_numbers_that_do_not_fit_are_left_to_mlx():
    flags = mx.array([True, False])
    same(run(lambda x: x + 2**40, flags), flags + 2**40)


def test_modules_that_mlx_names_are_all_intercepted():
    """A new function of MLX is either wrapped or on the list of those that pass."""
    with intercept.recording(None):
        for prefix, module in intercept.MODULES.items():
            for name, value in vars(module).items():
                if callable(value) and not isinstance(value, type) and not name.startswith("_"):
                    wrapped = hasattr(value, "__zmlx_original__")
                    assert wrapped != (name in intercept._PASS), prefix + name
