"""Regions of one body over arrays of their own: an optimizer's step, whose launches are shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import mlx.core as mx
import mlx.optimizers as optim
import pytest
from fuse_cases import array, close, equal, program_of
from hypothesis import strategies as st

import zmlx
from zmlx.errors import CheckError
from zmlx.fuse import together
from zmlx.fuse.alike import body_of
from zmlx.fuse.together import Together

pytestmark = pytest.mark.usefixtures("host_device")

SHAPES = [(8, 16), (16,), (16, 4), (4,), (3, 5, 7), (1,), (2, 1), ()]
OPTIMIZERS = {
    "AdamW": lambda: optim.AdamW(learning_rate=1e-2, weight_decay=0.1),
    "Adam, corrected": lambda: optim.Adam(learning_rate=1e-2, bias_correction=True),
    "SGD": lambda: optim.SGD(learning_rate=1e-2, momentum=0.9, nesterov=True),
    "Lion": lambda: optim.Lion(learning_rate=1e-3),
    "RMSprop": lambda: optim.RMSprop(learning_rate=1e-3),
}


@pytest.fixture(autouse=True)
def from_two_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few regions take the way of many."""
    monkeypatch.setattr(together, "HOST_FEWEST", 2)


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launches of a CPU: the sanitizer watches those of a GPU."""
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)


@pytest.fixture(params=["primitive", "kernel"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The launches of a CPU, and a GPU's kernel, here run by the CPU."""
    monkeypatch.setattr(together, "alone", lambda: request.param == "primitive")
    if request.param == "primitive":
        monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    return str(request.param)


def tree(seed: int, dtype: mx.Dtype = mx.float32, shapes: Any = SHAPES) -> dict[str, mx.array]:
    return {f"w{i}": array(seed + i, *shape).astype(dtype) for i, shape in enumerate(shapes)}


def trained(
    make: Callable[[], optim.Optimizer], wrap: Callable[..., Any], dtype: mx.Dtype = mx.float32
) -> Any:
    """Parameters and state after a few steps."""
    params, optimizer = tree(0, dtype), make()
    optimizer.init(params)
    state = [optimizer.state]
    step = wrap(lambda p, g: optimizer.apply_gradients(g, p), inputs=state, outputs=state)
    for i in range(4):
        params = step(params, tree(100 * i, dtype))
        mx.eval(params, optimizer.state)
    kept = {k: v for k, v in optimizer.state.items() if k in params}
    return [params, *kept.values()]


def plain(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
    return function


def joins(function: Any, *arguments: Any) -> list[list[int]]:
    """How many regions each step of several alike launches together."""
    program = program_of(function, *arguments)
    found = []
    for step in program.together:
        wanted = {n: i for i, n in enumerate(program.plan.graph.inputs)}
        leaves = [leaf for a in arguments for leaf in (a.values() if type(a) is dict else [a])]
        arrays = [leaves[wanted[n]] for n in step.ends.inputs]
        found.append([len(part) for part in step.launches(arrays)])
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_of_optimizers(name: str, way: str) -> None:
    close(trained(OPTIMIZERS[name], zmlx.fuse), trained(OPTIMIZERS[name], plain), rtol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_halves_bit_by_bit(dtype: mx.Dtype, way: str) -> None:
    from functools import partial

    exact = partial(zmlx.fuse, numerics="mlx")
    make = OPTIMIZERS["SGD"]
    equal(trained(make, exact, dtype), trained(make, plain, dtype))


def test_the_bodies_of_a_step_are_one() -> None:
    params, optimizer = tree(0), OPTIMIZERS["AdamW"]()
    optimizer.init(params)
    state = [optimizer.state]
    step = zmlx.fuse(
        lambda p, g: optimizer.apply_gradients(g, p), inputs=state, outputs=state
    )
    step(params, tree(1))
    plan = step.entry(params, tree(1)).program.plan
    (group,) = plan.alike
    assert len(group) == len(SHAPES) - 1  # a number joins what all share
    assert len({body_of(region) for region in group}) == 1
    places = [plan.steps.index(region) for region in group]
    assert places == list(range(places[0], places[0] + len(group)))


def scaled(x: mx.array, by: Any = 3.0) -> mx.array:
    return mx.tanh(x * by) + x


CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], list[int]]] = {
    "two trees": (lambda a, b: [scaled(a), scaled(b)], ((4, 8), (5,)), [2]),
    "other numbers": (lambda a, b: [scaled(a), scaled(b, 2.0)], ((4, 8), (5,)), []),
    "one waits": (lambda a, b: [scaled(scaled(a).sum() + b), scaled(a)], ((4, 8), (5,)), []),
    "one after another": (
        lambda a, b: [scaled(a @ a.T), scaled(b @ b.T), scaled(a[:3])], ((4, 8), (5, 2)), [3],
    ),
    "broadcast alike": (
        lambda a, b: [scaled(a * a[:, :1]), scaled(b * b[:, :1])], ((4, 8), (5, 3)), [2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_alike(name: str, way: str) -> None:
    function, shapes, sizes = CASES[name]
    arrays = [array(i, *shape) for i, shape in enumerate(shapes)]
    assert [len(group) for group in program_of(function, *arrays).plan.alike] == sizes
    close(zmlx.fuse(function)(*arrays), function(*arrays))


def every(params: Any, rate: Any) -> Any:
    return {k: v - rate * mx.exp(-v * v) for k, v in params.items()}


def test_large_launches_stay_apart(unwatched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    params = tree(0, shapes=[(10,)] * 6 + [(400_000,)])
    assert joins(every, params, mx.array(0.1)) == [[1, 4, 2]]
    monkeypatch.setattr(together, "alone", lambda: False)
    assert joins(every, params, mx.array(0.1)) == [[7]]  # 15 buffers of 31
    many = tree(0, shapes=[(10,)] * 40)
    assert joins(every, many, mx.array(0.1)) == [[14, 14, 12]]


def test_few_regions_have_no_step_of_their_own_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    assert not program_of(every, tree(0, shapes=[(4,)] * 3), mx.array(0.1)).together
    assert program_of(every, tree(0, shapes=[(4,)] * 4), mx.array(0.1)).together


def test_no_size_makes_a_kernel(way: str) -> None:
    fused = zmlx.fuse(every)
    for n in range(2, 20):
        params = tree(n, shapes=[(n,), (n + 1, 2), (2 * n,)])
        close(fused(params, mx.array(0.1)), every(params, mx.array(0.1)))
    assert fused.cache_info().misses == 1
    (step,) = program_of(fused, params, mx.array(0.1)).together
    assert len(step._launchers) == (1 if way == "kernel" else 0)
    assert len(step._runs) == (18 if way == "kernel" else 1)  # a CPU's primitive takes all sizes


@pytest.mark.parametrize("rate", [0.25, mx.array(0.25), mx.array([0.25])])
def test_layouts_and_numbers(rate: Any, way: str) -> None:
    wide = array(0, 6, 8)
    params = {
        "turned": wide.T, "cut": wide[::2, 1:], "one": array(1, 1, 1), "same": wide, "again": wide,
        "repeated": mx.broadcast_to(array(2, 1, 4), (3, 4)), "none": mx.zeros((0, 3)),
    }  # fmt: skip
    close(zmlx.fuse(every)(params, rate), every(params, rate))


def test_more_elements_than_a_thread_takes(way: str) -> None:
    params = tree(0, shapes=[(1000, 33), (65_537,), (3,)])
    close(zmlx.fuse(every)(params, mx.array(0.1)), every(params, mx.array(0.1)))


@hypothesis.settings(max_examples=15)
@hypothesis.given(
    st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=9), st.booleans()
)
def test_any_shapes(shapes: list[list[int]], on_gpu: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if on_gpu:
            patch.setattr(together, "alone", lambda: False)
        params = tree(1, shapes=[tuple(shape) for shape in shapes])
        close(EVERY(params, 0.5), every(params, 0.5))


EVERY = zmlx.fuse(every)


# -- transformations ------------------------------------------------------------------------------
def total(fn: Callable[..., Any]) -> Callable[..., mx.array]:
    return lambda params, rate: sum(v.square().sum() for v in fn(params, rate).values())


def test_transformations_go_through_the_regions(way: str, unwatched: None) -> None:
    params, rate, fused = tree(3), mx.array(0.5), zmlx.fuse(every)
    fused(params, rate)
    close(mx.grad(total(fused))(params, rate), mx.grad(total(every))(params, rate))
    close([mx.grad(total(fused), argnums=1)(params, rate)],
          [mx.grad(total(every), argnums=1)(params, rate)])  # fmt: skip
    slope = lambda f: lambda r: mx.grad(total(f), argnums=1)(params, r)  # noqa: E731
    close([mx.grad(slope(fused))(rate)], [mx.grad(slope(every))(rate)], rtol=1e-4)
    rates = mx.array([0.1, 0.2])
    close(mx.vmap(fused, in_axes=(None, 0))(params, rates),
          mx.vmap(every, in_axes=(None, 0))(params, rates))  # fmt: skip
    close(mx.compile(fused)(params, rate), every(params, rate))
    close(mx.compile(fused, shapeless=True)(params, rate), every(params, rate))
    names = list(params)
    listed = lambda f: lambda *given: list(f(dict(zip(names, given)), rate).values())  # noqa: E731,B905
    values = list(params.values())
    close(mx.jvp(listed(fused), values, values)[1], mx.jvp(listed(every), values, values)[1])


def test_a_step_takes_over_the_memory_of_the_last(unwatched: None) -> None:
    n = 1 << 16
    params, grads = ({f"w{i}": array(i + s, n) for i in range(6)} for s in (0, 10))
    optimizer = OPTIMIZERS["AdamW"]()
    optimizer.init(params)
    state = [optimizer.state]
    step = zmlx.fuse(
        lambda p, g: optimizer.apply_gradients(g, p), inputs=state, outputs=state
    )
    mx.eval(params, grads, optimizer.state)
    for _ in range(5):
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        held = mx.get_active_memory()
        params = step(params, grads)
        mx.eval(params, optimizer.state)
    assert mx.get_peak_memory() < held + n  # bytes; one array has 4 n


# -- services -------------------------------------------------------------------------------------
def test_checked(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    params, rate = tree(0, shapes=[(4, 5), (6,)]), mx.array(0.5)
    with zmlx.config(check=True):
        close(zmlx.fuse(every)(params, rate), every(params, rate))
        honest = Together._joined

        def spoilt(self: Any, members: Any, arrays: Any) -> Any:
            made = (self._primitive if way == "primitive" else self._kernel)(members, arrays)
            wrong = lambda given: [r + 1.0 for r in made(given)]  # noqa: E731
            monkeypatch.setattr(Together, "_primitive", lambda *_: wrong)
            monkeypatch.setattr(Together, "_kernel", lambda *_: wrong)
            return honest(self, members, arrays)

        monkeypatch.setattr(Together, "_joined", spoilt)
        with pytest.raises(CheckError, match="every.alike0"):
            zmlx.fuse(every)(params, rate)


def test_sanitized() -> None:
    params, rate = tree(0, shapes=[(4, 5), (300,), (3,)]), mx.array(0.5)
    with zmlx.config(sanitize=True):
        close(zmlx.fuse(every)(params, rate), every(params, rate))


def test_profiled(way: str) -> None:
    params, rate, fused = tree(0, shapes=[(4, 5), (6,), (7,)]), mx.array(0.5), zmlx.fuse(every)
    fused(params, rate)
    with zmlx.profile() as profile:
        mx.eval(fused(params, rate))
    assert [kernel.launches for kernel in profile.kernels] == [1]
