"""Sums of derivatives that a region's kernel adds up: against float64, over shapes and types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import array, close, kernels, numpy, primitives, program_of

import zmlx
from tests.metal.on_metal import mac
from zmlx import switches
from zmlx.device.base import GridLauncher
from zmlx.errors import CheckError
from zmlx.fuse import region, walked
from zmlx.fuse.plan import plan
from zmlx.fuse.simplify import simplify
from zmlx.fuse.walked import Walked
from zmlx.metal_check import check_text
from zmlx.msl import geometry
from zmlx.msl.spec import Launch

pytestmark = pytest.mark.usefixtures("default_device")

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# Rounding of an input or a result, and of a term, in units of 1.
UNITS = {mx.float32: 2.0**-22, mx.float16: 2.0**-9, mx.bfloat16: 2.0**-6}


def gated(x, row, column):
    return mx.sigmoid(x + row) * column


CASES: dict[str, tuple[Callable, tuple[tuple[int, ...], ...]]] = {
    "x + row": (lambda x, r: mx.tanh(x + r), ((33, 17), (17,))),
    "x * column": (lambda x, c: mx.sin(x * c), ((33, 17), (33, 1))),
    "row and column": (gated, ((37, 130), (130,), (37, 1))),
    "one row": (gated, ((1, 9), (9,), (1, 1))),
    "one column": (gated, ((9, 1), (1,), (9, 1))),
    "one element": (gated, ((1, 1), (1,), (1, 1))),
    "all summed": (lambda x, s: mx.exp(x * s) * s, ((21, 19), ())),
    "all of one dimension summed": (lambda x, s: mx.exp(x * s), ((1003,), (1,))),
    "(B, S, D) + (D,)": (lambda x, r: mx.sin(x + r), ((3, 5, 17), (17,))),
    "(B, S, D) * (B, 1, D)": (lambda x, g: mx.sin(x * g), ((3, 5, 17), (3, 1, 17))),
    "(B, S, D) * (B, 1, 1)": (lambda x, g: mx.sin(x * g), ((3, 5, 17), (3, 1, 1))),
    "(B, S, D) * (B, S, 1)": (lambda x, g: mx.sin(x * g), ((3, 5, 17), (3, 5, 1))),
    "(B, S, D) * (S, D)": (lambda x, g: mx.sin(x * g), ((3, 5, 17), (5, 17))),
    "(B, S, D) * (S, 1)": (lambda x, g: mx.sin(x * g), ((3, 5, 17), (5, 1))),
    "(B, 1, D) + (S, 1)": (lambda x, g: mx.sin(x * g), ((3, 1, 17), (5, 1))),
    "several": (
        lambda x, r, c, s: mx.sigmoid(x * r + c) * s + r * c,
        ((2, 9, 40), (40,), (2, 9, 1), ()),
    ),
    "bias and gate": (
        lambda x, r, g: (x + r) * mx.sigmoid(g * x), ((2, 9, 40), (40,), (2, 1, 40)),
    ),
    "two rows": (lambda x, r, q: mx.sin(x + r) * mx.cos(x - q), ((12, 35), (35,), (35,))),
    "four dimensions": (
        lambda x, r, c: mx.sin(x * r) + c, ((2, 3, 4, 5), (4, 5), (2, 3, 1, 1)),
    ),
    "large rows": (gated, ((3, 5000), (5000,), (3, 1))),
    "many rows": (gated, ((5000, 12), (12,), (5000, 1))),
    "wide and long": (gated, ((300, 1100), (1100,), (300, 1))),
}  # fmt: skip
SPLITS = [n for n in CASES if n != "one element"]  # which broadcasts nothing


def inputs(shapes: Sequence[tuple[int, ...]], dtype: mx.Dtype = mx.float32) -> list[mx.array]:
    return [array(i, *shape, dtype=dtype, scale=0.8) for i, shape in enumerate(shapes)]


def pulled(function: Callable, arrays: Sequence[mx.array]) -> list[mx.array]:
    shape = function(*arrays).shape
    weight = array(99, *shape, dtype=function(*arrays).dtype)
    return mx.vjp(function, list(arrays), [weight])[1]


def exact(function: Callable, arrays: Sequence[mx.array]) -> list[np.ndarray]:
    """The same in float64, by MLX on the CPU."""
    kind = function(*arrays).dtype
    with mx.stream(mx.cpu):
        wide = [a.astype(mx.float64) for a in arrays]
        weight = array(99, *function(*arrays).shape, dtype=kind).astype(mx.float64)
        found = mx.vjp(function, wide, [weight])[1]
        mx.eval(found)
        return [np.array(f) for f in found]


def compare(got: Sequence[mx.array], want: Sequence[np.ndarray], arrays: Sequence[mx.array]):
    for g, w, a in zip(got, want, arrays, strict=True):
        assert g.dtype == a.dtype and g.shape == a.shape == w.shape
        # Errors of terms add up like a random walk.
        terms = max(1, *[x.size for x in arrays]) / max(1, w.size)
        unit, scale = UNITS[a.dtype], max(1.0, np.abs(w).max(initial=0.0)) * terms**0.5
        np.testing.assert_allclose(numpy(g).astype(np.float64), w, rtol=4 * unit, atol=unit * scale)


LAUNCHES: list[Launch] = []  # of kernels with sums, in the test that runs


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = walked.Walked._launcher

    def watched(self: Walked, *given: Any) -> GridLauncher:
        launcher = real(self, *given)

        def launched(arrays: Sequence[mx.array], launch: Launch) -> Any:
            LAUNCHES.append(launch)
            return launcher(arrays, launch)

        return launched

    LAUNCHES.clear()
    monkeypatch.setattr(walked.Walked, "_launcher", watched)


def absorbs(gradients: Sequence[mx.array]) -> bool:
    """Whether one kernel makes all gradients, which nothing else made since this was asked last."""
    launches = len(LAUNCHES)
    LAUNCHES.clear()
    return len(kernels(*gradients)) == 1 and launches == 1


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, dtype: mx.Dtype) -> None:
    function, shapes = CASES[name]
    arrays = inputs(shapes, dtype)
    got = pulled(zmlx.fuse(function), arrays)
    assert absorbs(got) == (name in SPLITS)
    compare(got, exact(function, arrays), arrays)


@pytest.mark.parametrize("rows", [0, 1, 2, 31, 64, 65, 129])
@pytest.mark.parametrize("columns", [0, 1, 3, 4, 15, 16, 127, 128, 129, 513, 1025])
def test_sizes(rows: int, columns: int) -> None:
    arrays = inputs(((rows, columns), (columns,), (rows, 1)))
    compare(pulled(zmlx.fuse(gated), arrays), exact(gated, arrays), arrays)


LAYOUTS: dict[str, Callable[[mx.array], mx.array]] = {
    "transposed": lambda x: mx.contiguous(x.T).T,
    "every second column": lambda x: mx.concatenate([x, x], 1)[:, ::2][:, : x.shape[1]],
    "backwards": lambda x: x[::-1, ::-1],
    "a slice": lambda x: mx.pad(x, ((1, 2), (3, 1)))[1:-2, 3:-1],
    "one row for all": lambda x: mx.broadcast_to(x[:1], x.shape),
    "one column for all": lambda x: mx.broadcast_to(x[:, :1], x.shape),
    "one element for all": lambda x: mx.broadcast_to(x[:1, :1], x.shape),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, dtype: mx.Dtype) -> None:
    x, row, column = inputs(((38, 150), (150,), (38, 1)), dtype)
    arrays = [LAYOUTS[layout](x), row, column]
    compare(pulled(zmlx.fuse(gated), arrays), exact(gated, arrays), arrays)


@pytest.mark.smoke
def test_a_broadcast_cotangent() -> None:
    arrays = inputs(((38, 150), (150,), (38, 1)))
    got = mx.grad(lambda *a: zmlx.fuse(gated)(*a).sum(), argnums=(0, 1, 2))(*arrays)
    close(got, mx.grad(lambda *a: gated(*a).sum(), argnums=(0, 1, 2))(*arrays), 1e-5, 1e-6)


def test_more_outer_indices_than_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "MAX_GROUPS", 2)
    function, shapes = CASES["(B, S, D) * (B, 1, D)"]
    arrays = inputs(shapes)
    compare(pulled(zmlx.fuse(function), arrays), exact(function, arrays), arrays)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.skipif(switches.SANITIZE.on(), reason="the sanitizer watches what a GPU would run")
def test_a_cpu_leaves_many_narrow_rows_to_mlx() -> None:
    many, few = 1 + walked.LITTLE // (walked.NARROW_DEAR - 1), 33
    for rows, columns in ((many, walked.NARROW_DEAR - 1), (many, walked.NARROW_DEAR), (few, 2)):
        arrays = inputs(((rows, columns), (columns,), (rows, 1)))
        got = pulled(zmlx.fuse(gated), arrays)
        assert absorbs(got) == (rows == few or columns == walked.NARROW_DEAR)
        compare(got, exact(gated, arrays), arrays)


# -- transformations ------------------------------------------------------------------------------
def loss(function: Callable) -> Callable[..., mx.array]:
    return lambda *arrays: (function(*arrays) ** 2).sum()


TRANSFORMED = ("row and column", "several", "(B, S, D) * (B, 1, D)", "wide and long")


@pytest.mark.parametrize("name", TRANSFORMED)
def test_second_order(name: str) -> None:
    function, shapes = CASES[name]
    arrays = inputs(shapes)
    numbers = list(range(len(arrays)))

    def second(f: Callable) -> list[mx.array]:
        def inner(*a: mx.array) -> mx.array:
            found = mx.grad(loss(f), argnums=numbers)(*a)
            return sum((g * g).sum() for g in found)

        return mx.grad(inner, argnums=numbers)(*arrays)

    close(second(zmlx.fuse(function)), second(function), 2e-4, 2e-5)


@pytest.mark.parametrize("name", TRANSFORMED)
def test_tangents_of_gradients(name: str) -> None:
    function, shapes = CASES[name]
    arrays = inputs(shapes)
    ways = [array(7 + i, *a.shape) for i, a in enumerate(arrays)]

    def pushed(f: Callable) -> Any:
        gradient = mx.grad(loss(f), argnums=list(range(len(arrays))))
        return mx.jvp(lambda *a: list(gradient(*a)), arrays, ways)

    close(pushed(zmlx.fuse(function)), pushed(function), 2e-4, 2e-5)


@pytest.mark.parametrize(
    "axes", [(0, None, None), (0, 0, None), (0, 0, 0), (None, 0, 0), (2, 1, 0)]
)
def test_vmap_of_gradients(axes: tuple[int | None, ...]) -> None:
    shapes = ((37, 13), (13,), (37, 1))
    arrays = []
    for i, (shape, axis) in enumerate(zip(shapes, axes, strict=True)):
        full = shape if axis is None else (*shape[:axis], 4, *shape[axis:])
        arrays.append(array(i, *full))

    def mapped(f: Callable) -> Any:
        gradient = mx.grad(loss(f), argnums=(0, 1, 2))
        return mx.vmap(gradient, in_axes=axes)(*arrays)

    close(mapped(zmlx.fuse(gated)), mapped(gated), 1e-4, 1e-5)


def test_gradients_through_vmap() -> None:
    x, row, column = inputs(((4, 37, 13), (13,), (37, 1)))

    def mapped(f: Callable) -> Any:
        function = mx.vmap(f, in_axes=(0, None, None))
        return mx.grad(loss(function), argnums=(0, 1, 2))(x, row, column)

    close(mapped(zmlx.fuse(gated)), mapped(gated), 1e-4, 1e-5)


def test_unused_outputs_do_not_spoil() -> None:
    """The gradient by x alone, whose own derivative is finite where that of the sum is not."""
    arrays = [mx.array([[0.0, 1.0], [4.0, 9.0]]), mx.array([1.0, 2.0])]
    function = lambda x, r: mx.sqrt(x) * 0 + x * x * r  # noqa: E731
    second = lambda f: mx.grad(  # noqa: E731
        lambda r: mx.grad(loss(f), argnums=(0, 1))(arrays[0], r)[1].sum()
    )(arrays[1])
    close(second(zmlx.fuse(function)), second(function))


def test_compile() -> None:
    arrays = inputs(((37, 130), (130,), (37, 1)))
    gradient = lambda f: mx.grad(loss(f), argnums=(0, 1, 2))  # noqa: E731
    compiled = mx.compile(gradient(zmlx.fuse(gated)))
    for rows in (37, 5, 1, 37):
        some = [arrays[0][:rows], arrays[1], arrays[2][:rows]]
        close(compiled(*some), gradient(gated)(*some), 1e-4, 1e-5)


@pytest.mark.usefixtures("on_cpu")  # MLX's own custom kernels on GPUs have their shapes built in
def test_compile_shapeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # a watched launch keeps its shapes
    gradient = lambda f: mx.grad(loss(f), argnums=(0, 1, 2))  # noqa: E731
    compiled = mx.compile(gradient(zmlx.fuse(gated)), shapeless=True)
    for rows, columns in ((37, 13), (5, 13), (100, 40), (37, 13)):
        arrays = inputs(((rows, columns), (columns,), (rows, 1)))
        close(compiled(*arrays), gradient(gated)(*arrays), 1e-4, 1e-5)


# -- plans ----------------------------------------------------------------------------------------
def derived(function: Callable, *arrays: mx.array) -> Any:
    """The plan of the gradients of a function of one region."""
    (own,) = program_of(function, *arrays).functions
    special = own.specialized([a.shape if a.ndim else () for a in arrays])
    return plan(simplify(special.vjp.graph), 10)


def test_reductions_go_to_the_region_whose_values_they_fold() -> None:
    def folds(x, row):
        y = mx.exp(x) * row
        return y, y.sum(axis=0), x.sum(axis=0)

    x, row = inputs(((6, 8), (8,)))
    program = program_of(folds, x, row)
    (region,) = program.plan.regions
    assert len(region.results) == 2 and region.squeezes[0] is None and region.squeezes[1]
    assert [n.reason for n in program.plan.natives] == ["not elementwise"]  # that of an input
    (region,) = derived(gated, *inputs(((6, 8), (8,), (6, 1)))).regions
    ends = [region.graph[n].get("axes") for n in region.graph.outputs]
    assert ends == [None, (1,), (0,)]


def test_a_lone_op_is_worth_a_kernel_that_sums() -> None:
    arrays = inputs(((33, 70), (70,)), mx.bfloat16)
    found = derived(lambda x, r: (x + r) * 2.0, *arrays)
    assert len(found.regions) == 1 and found.regions[0].folds


def test_numerics_mlx_absorbs_nothing() -> None:
    arrays = inputs(((37, 130), (130,), (37, 1)))
    got = pulled(zmlx.fuse(gated, numerics="mlx"), arrays)
    assert not absorbs(got) and len(kernels(*got)) == 1
    compare(got, exact(gated, arrays), arrays)


def test_explanations_show_the_sums() -> None:
    arrays = inputs(((37, 130), (130,), (37, 1)))
    (region,) = zmlx.explain(gated, *arrays).regions
    assert len(region.vjp_kernels) == 1 and "rows" in region.vjp_kernels[0]
    assert "sum1[" in region.vjp_msl and "zmlx_walk0" in region.vjp_msl


def test_profiles_count_the_launches() -> None:
    arrays = inputs(((37, 130), (130,), (37, 1)))
    fused = zmlx.fuse(gated)
    with zmlx.profile(show=False) as profile:
        for _ in range(3):
            mx.eval(pulled(fused, arrays))
    launches = {r.name: r.launches for r in profile.kernels if r.name.startswith("zmlx_rows")}
    assert list(launches.values()) == [3]


# -- checking -------------------------------------------------------------------------------------
@pytest.mark.usefixtures("on_cpu")
def test_checking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_CHECK", "1")
    arrays = inputs(((37, 130), (130,), (37, 1)), mx.float32)
    got = pulled(zmlx.fuse(gated), arrays)
    compare(got, exact(gated, arrays), arrays)
    real = walked.Made.finished
    monkeypatch.setattr(
        walked.Made, "finished", lambda self, raw: [g * 1.01 for g in real(self, raw)]
    )
    with pytest.raises(CheckError, match="part"):
        mx.eval(pulled(zmlx.fuse(gated), arrays))


SANITIZED = ("row and column", "several", "(B, S, D) * (B, 1, 1)", "bias and gate", "x + row")


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", SANITIZED)
def test_the_sanitizer_finds_nothing(
    name: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU runs it, and as a CPU does."""
    monkeypatch.setenv("ZMLX_SANITIZE", "1")
    monkeypatch.setattr(walked, "alone", lambda: alone)
    function, shapes = CASES[name]
    for dtype in FLOATS:
        arrays = inputs(shapes, dtype)
        got = pulled(zmlx.fuse(function), arrays)
        assert absorbs(got)
        compare(got, exact(function, arrays), arrays)


@pytest.mark.usefixtures("on_cpu", "host_device", "metal_check")
def test_metal_accepts_the_text() -> None:
    with mac() as device:
        for function, shapes in CASES.values():
            for dtype in FLOATS:
                pulled(zmlx.fuse(function), inputs(shapes, dtype))
        texts = device.texts()
    assert sum("kk_near_sum_float(" in text for text in texts) > len(CASES)
    found = [diagnostic for text in texts for diagnostic in check_text(text)]
    assert not found, "\n".join(map(str, found))


@pytest.mark.usefixtures("on_cpu")
def test_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_DEVICE", "replay")
    monkeypatch.setattr(region, "run_as_ops", lambda problem: None)
    arrays = inputs(((37, 130), (130,), (37, 1)))
    got = pulled(zmlx.fuse(gated), arrays)
    assert kernels(*got) == [] and primitives(*got)
    compare(got, exact(gated, arrays), arrays)


def test_a_function_of_other_sizes_takes_the_same_kernel() -> None:
    arrays = inputs(((37, 130), (130,), (37, 1)))
    (region,) = derived(gated, *arrays).regions
    (own,) = program_of(gated, *arrays).functions
    function = type(own)(region.graph, own.runtime, "again")
    shapes = [region.graph[n]["shape"] for n in region.graph.inputs]
    first = function.walked(shapes).spec
    assert first is not None
    other = [tuple(n if n == 1 else 50 + n for n in s) for s in shapes]
    assert first == function.walked(other).spec
