"""Values of every function of the catalog against float64: sizes, types, layouts, odd numbers."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.catalog import exact
from tests.catalog.cases import ATOL, CASES, KINDS, RTOL, SIZES, Case, close, drawn, listed, wide
from zmlx.catalog import norms, softmax, transformer
from zmlx.device.base import Device

pytestmark = pytest.mark.usefixtures("default_device")
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SOME = [CASES[name] for name in ("softmax_lastdim", "layernorm_residual", "bias_geglu", "dropout")]


def check(case: Case, shape: tuple[int, ...], name: str) -> None:
    arrays = case.arrays(shape, KINDS[name], sum(shape))
    for found, wanted in zip(case.run(*arrays), case.exact(arrays), strict=True):
        close(found, wanted, name, what=f"{case.name} {shape} {name}")


@EACH
def test_sizes(case: Case) -> None:
    for d in SIZES:
        for lead in ((1,), (3,), (100,), (2, 3)):
            check(case, (*lead, d), "float32")
    for d in (1, 33, 1000):
        check(case, (d,), "float32")


@EACH
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_types(case: Case, name: str) -> None:
    for d in (33, 1000):
        for lead in ((3,), (2, 3)):
            check(case, (*lead, d), name)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", SOME, ids=[case.name for case in SOME])
def test_half_types_in_short_rows(case: Case, name: str) -> None:
    for shape in [(1,), (3, 7), (100, 2)]:
        check(case, shape, name)


@pytest.mark.exhaustive
@EACH
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_types_in_all_sizes(case: Case, name: str) -> None:
    for d in (*SIZES, 15, 16, 17, 31, 257):
        for lead in ((), (1,), (3,), (100,), (2, 3)):
            check(case, (*lead, d), name)


@EACH
def test_no_rows(case: Case) -> None:
    for name, kind in KINDS.items():
        for shape in ((0, 40), (2, 0, 40)):
            for found, wanted in zip(
                case.run(*case.arrays(shape, kind)),
                case.exact(case.arrays(shape, kind)),
                strict=True,
            ):
                assert found.shape == wanted.shape == shape, name
                assert found.dtype == kind


@EACH
def test_layouts(case: Case) -> None:
    """Transposed, cut, reversed and broadcast arrays read as their copies would.

    Where a row is one number, a gradient is what is left of larger terms: MLX's ops tell how large.
    """
    for change in (
        lambda a: a.transpose(1, 0, 2),
        lambda a: a[::2, 1:4],
        lambda a: a[:, :, ::-1],
        lambda a: a[:, ::-1, ::2],
        lambda a: mx.broadcast_to(a[:1, :, :], (4, 6, a.shape[-1])),
        lambda a: mx.broadcast_to(a[:, :, :1], a.shape),
    ):
        arrays = []
        for i, shape in enumerate(case.shapes((6, 6, 80))):
            base = drawn((6, 6, shape[-1]), seed=i)
            arrays.append(change(base) if len(shape) > 1 else change(base)[0, 0])
        triples = zip(
            case.run(*arrays), case.exact(arrays), listed(case.plain(*arrays)), strict=True
        )
        for found, wanted, op in triples:
            off = np.abs(wide(op) - wanted).max()
            close(found, wanted, "float32", what=case.name, terms=max(1.0, off / ATOL))


@EACH
def test_weights_of_another_type(case: Case) -> None:
    """The result has the type of the first array."""
    for first, other in (("float32", "bfloat16"), ("float16", "float32")):
        if len(case.takes) == 1:
            return
        arrays = case.arrays((3, 40), KINDS[other])
        arrays[0] = arrays[0].astype(KINDS[first])
        for found, wanted in zip(case.run(*arrays), case.exact(arrays), strict=True):
            close(found, wanted, first, what=case.name)


@EACH
def test_as_close_as_plain_formulas(case: Case) -> None:
    """The largest and the mean error, against the same in MLX's float32 ops."""
    arrays = case.arrays((64, 500), mx.float32, 3)
    plain = case.plain(*arrays)
    plain = [plain] if isinstance(plain, mx.array) else plain
    for ours, theirs, wanted in zip(case.run(*arrays), plain, case.exact(arrays), strict=True):
        off, theirs_off = np.abs(wide(ours) - wanted), np.abs(wide(theirs) - wanted)
        unit = np.spacing(np.abs(wanted).astype(np.float32))
        assert off.mean() <= 1.25 * theirs_off.mean() + 0.1 * unit.mean(), case.name
        assert (off / unit.max()).max() <= 2 * (theirs_off / unit.max()).max() + 1, case.name


# -- odd numbers ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", KINDS)
def test_softmax_of_infinite_and_missing_numbers(name: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [
        [0.0, -inf, 1.0],
        [nan, 1.0, 2.0],
        [-inf] * 3,
        [1.0, inf, 0.0],
        [nan] * 3,
        [inf, -inf, 0],
    ]
    for width in (3, 40):
        padded = [[*row, *[0.5] * (width - 3)] for row in rows]
        padded[2] = [-inf] * width
        x = mx.array(padded).astype(KINDS[name])
        found = wide(softmax.softmax_lastdim(x))
        theirs = wide(mx.softmax(x.astype(mx.float32), -1))
        np.testing.assert_array_equal(np.isnan(found), np.isnan(theirs))
        np.testing.assert_allclose(found, theirs, RTOL[name], 1e-6)
        logs = wide(softmax.log_softmax_lastdim(x))
        assert logs[0, 1] == -inf and np.isfinite(logs[0, [0, 2]]).all()
        assert np.isnan(logs[1:]).all()


@EACH
def test_a_bad_number_stays_in_its_row(case: Case) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        arrays = case.arrays((4, 40), mx.float32)
        arrays[0][1, 3] = bad
        with np.errstate(invalid="ignore"):
            wanted = case.exact(arrays)
        for found, right in zip(case.run(*arrays), wanted, strict=True):
            rest = [0, 2, 3]
            np.testing.assert_allclose(wide(found)[rest], right[rest], 3e-6, 3e-6)
            np.testing.assert_array_equal(np.isnan(wide(found)), np.isnan(right), case.name)


@EACH
def test_large_numbers_in_half_types(case: Case) -> None:
    """Squares of 1e4 leave float16, but not the float32 of the sums."""
    for name in ("float16", "bfloat16"):
        arrays = case.arrays((3, 40), KINDS[name])
        if case.name.endswith("glu") or case.name in ("softmax_grad", "log_softmax_grad"):
            arrays[0] = arrays[0] * 30
        else:
            arrays[0] = (arrays[0] * 1e4).astype(KINDS[name])
        with np.errstate(over="ignore"):
            pairs = list(zip(case.run(*arrays), case.exact(arrays), strict=True))
        for found, wanted in pairs:
            scale = max(1.0, np.abs(wanted).max())
            fits = np.abs(wanted) < 6e4
            np.testing.assert_allclose(
                wide(found)[fits], wanted[fits], RTOL[name], 2e-6 * scale, err_msg=case.name
            )


@pytest.mark.smoke
def test_the_largest_numbers() -> None:
    """Softmax takes them; norms give what their float32 formulas give."""
    x = mx.array([[3e38, -3e38, 0.0] + [0.0] * 37, [3e38, 3e38, 3e38] + [-3e38] * 37])
    np.testing.assert_allclose(wide(softmax.softmax_lastdim(x))[0], [1.0] + [0.0] * 39)
    np.testing.assert_allclose(wide(softmax.softmax_lastdim(x))[1], [1 / 3] * 3 + [0.0] * 37, 1e-6)
    for name in ("rms_norm_no_weight", "layer_norm_no_weight"):
        case = CASES[name]
        np.testing.assert_array_equal(wide(case.run(x)[0]), wide(case.plain(x)))
    for name in ("swiglu", "geglu"):
        halves = mx.array([[-3e38, -1e20, -200.0, 3e38, 200.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
        (found,) = CASES[name].run(halves)
        np.testing.assert_allclose(wide(found)[0], [0, 0, 0, 3e38, 200, 0], 1e-6, 1e-30)
        slope = mx.grad(lambda v, name=name: CASES[name].run(v)[0].sum())(halves)
        np.testing.assert_allclose(wide(slope)[0, :6], [0, 0, 0, 1, 1, 0.5], 1e-6, 1e-30)


# -- rows far from zero ---------------------------------------------------------------------------
FAR = [name for name in CASES if "layer" in name and "residual" not in name]


@pytest.mark.parametrize("name", FAR)
def test_rows_far_from_zero(name: str) -> None:
    """Mean 1000, deviation 0.01: as exact as the float32 input, where squares would lose all."""
    case = CASES[name]
    for d in (7, 128, 1000):
        arrays = case.arrays((5, d), mx.float32)
        arrays[0] = 1000 + 0.01 * arrays[0]
        if name == "fused_add_layernorm":
            arrays[1] = mx.zeros_like(arrays[1])
        (found,), (wanted,) = case.run(*arrays), case.exact(arrays)
        np.testing.assert_allclose(wide(found), wanted, 2e-5, 2e-5)


@pytest.mark.parametrize("level", [0.0, 0.1, 3.0, 1e4, 1e8, 3e12])
@pytest.mark.parametrize("d", [1, 33, 1000])
def test_constant_rows(level: float, d: int) -> None:
    """No variance: beta remains, never NaN, and gradients are finite."""
    x, gamma, beta = mx.full((3, d), level), drawn((d,)), drawn((d,), seed=1)
    found = norms.layernorm(x, gamma, beta)
    assert np.isfinite(wide(found)).all()
    np.testing.assert_allclose(wide(found), np.broadcast_to(wide(beta), (3, d)), 1e-3, 0.02)
    dx = mx.grad(lambda v: (norms.layernorm(v, gamma, beta) * beta).sum())(x)
    assert np.isfinite(wide(dx)).all()


@pytest.mark.parametrize("spread", [0.0, 1e-7])
def test_long_rows_far_from_zero_and_all_but_equal(spread: float) -> None:
    """The float32 sums of a million elements leave no digit of the variance: still no NaN."""
    numbers = 12345.67 * (1 + spread * np.random.default_rng(0).integers(-1, 2, size=(3, 1000003)))
    x = mx.array(numbers.astype(np.float32))
    dx = mx.grad(lambda v: (norms.layer_norm_no_weight(v) * mx.arange(v.shape[-1])).sum())(x)
    found = wide(norms.layer_norm_no_weight(x))
    assert np.isfinite(found).all() and np.abs(found).max() < 10 and np.isfinite(wide(dx)).all()


def test_sums_that_overflow_the_half_type() -> None:
    """x + residual is normed before it is rounded: to infinity, here, in the second output."""
    x = mx.full((2, 40), 60000.0, mx.float16)
    normed, total = transformer.rmsnorm_residual(x, x, mx.ones((40,), mx.float16))
    np.testing.assert_allclose(wide(normed), 1.0, 1e-3)
    assert np.isposinf(wide(total)).all()


def test_eps() -> None:
    x, w = 1e-3 * drawn((3, 40)), drawn((40,), seed=1)
    for eps in (0.0, 1e-12, 1e-3, 5, 1e30):
        close(norms.rmsnorm(x, w, eps=eps), exact.rms(wide(x), wide(w), eps), "float32")
        close(
            norms.layernorm(x, w, w, eps=eps),
            exact.layer(wide(x), wide(w), wide(w), eps),
            "float32",
        )


# -- launches -------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 32, 256, 1024])
@pytest.mark.parametrize("name", ["softmax_lastdim", "layernorm_residual", "rms_norm_dropout"])
def test_results_do_not_depend_on_the_threadgroup(
    default_device: Device, name: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU would leave a row to one thread; here it plays a GPU."""
    monkeypatch.setattr(type(default_device), "takes_turns", False)
    case = CASES[name]
    for shape in ((5, 7), (3, 1000)):
        arrays = case.arrays(shape, mx.float32)
        for found, wanted in zip(
            case.run(*arrays, threadgroup=threads), case.exact(arrays), strict=True
        ):
            close(found, wanted, "float32", what=f"{name} {shape} {threads}")


@pytest.mark.exhaustive
@pytest.mark.parametrize("threads", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
@EACH
def test_all_threadgroups(
    default_device: Device, case: Case, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(default_device), "takes_turns", False)
    options = {"threadgroup": threads} if case.threads else {}
    for kind in KINDS:
        for shape in ((1,), (5, 7), (3, 33), (3, 1000)):
            arrays = case.arrays(shape, KINDS[kind])
            for found, wanted in zip(case.run(*arrays, **options), case.exact(arrays), strict=True):
                close(found, wanted, kind, what=f"{case.name} {shape} {threads}")


def test_compute_dtype_changes_nothing() -> None:
    for case in CASES.values():
        arrays = case.arrays((3, 40), mx.float32)
        for kind in KINDS.values():
            for found, wanted in zip(
                case.run(*arrays, compute_dtype=kind), case.run(*arrays), strict=True
            ):
                assert mx.array_equal(found, wanted), case.name
