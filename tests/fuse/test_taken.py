"""Gradients that a fused function takes: their graph is spliced into its own."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from fuse_cases import array, close, kernels, natives_of

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")

x, t = array(1, 6, 65, scale=2.0), mx.array([0, 64, 3, 3, 17, 1])
weights = {"w": array(2, 65), "b": [array(3, 65)]}


def entropy(x, t):
    return nn.losses.cross_entropy(x, t, reduction="mean")


def step(x, t):
    loss, gradient = mx.value_and_grad(entropy)(x * 2, t)
    return loss, x - 0.1 * gradient


def model(p, x, scale=1.0):
    h = mx.tanh(x * p["w"] + p["b"][0]) * scale
    return mx.mean(h * h), {"h": h}


def trees(p, x):
    (loss, aux), (dp, dx) = mx.value_and_grad(model, argnums=(0, 1))(p, x, 2.0)
    return loss, aux["h"], dp["w"] + p["w"], dp["b"][0], dx


def by_name(p, x):
    found = mx.grad(lambda **given: model(given["p"], given["x"])[0], argnums=[], argnames="p")
    return found(p=p, x=x)[1]["p"]


def second(p, x):
    inner = lambda y: (mx.grad(lambda z: mx.sum(mx.sin(z) * z))(y) ** 2).sum()  # noqa: E731
    return mx.grad(inner)(x)


FORMS = {
    "step": (step, (x, t)),
    "trees": (trees, (weights, x)),
    "by_name": (by_name, (weights, x)),
    "second": (second, (weights, x)),
    "value_and_grad": (mx.value_and_grad(entropy), (x, t)),
    "grad of fused": (mx.grad(zmlx.fuse(entropy)), (x, t)),
}


@pytest.mark.parametrize("name", FORMS)
def test_values(name):
    function, arguments = FORMS[name]
    fused = zmlx.fuse(function)
    want = function(*arguments)
    for _ in range(3):
        close(fused(*arguments), want, 1e-4, 1e-5)


def test_no_gradient_goes_through_what_stands_beside_the_loss():
    def fn(x):
        with_parts = lambda y: ((y * y).sum(), y * 3, {"k": [y, (y * y).sum()]})  # noqa: E731
        (loss, scaled, parts), gradient = mx.value_and_grad(with_parts)(x)
        return loss * 2 + (scaled * gradient).sum() + parts["k"][0].sum() + parts["k"][1] * 5

    fused = zmlx.fuse(fn)
    assert "[value_and_grad]" not in natives_of(fn, x)
    close(fused(x), fn(x), 1e-4, 1e-5)
    close(mx.grad(fused)(x), mx.grad(fn)(x), 1e-4, 1e-5)
    close(mx.jvp(fused, [x], [x])[1][0], mx.jvp(fn, [x], [x])[1][0], 1e-4, 1e-5)


def test_a_loss_its_gradient_and_the_step_are_one_kernel():
    fused = zmlx.fuse(step)
    for _ in range(2):
        rows = [name for name in kernels(*fused(x, t)) if "rows" in name]
        assert len(rows) == 1
    assert "[value_and_grad]" not in natives_of(step, x, t)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves(dtype):
    half = x.astype(getattr(mx, dtype))
    loss, after = zmlx.fuse(step)(half, t)
    want = step(half.astype(mx.float32), t)
    assert loss.dtype == after.dtype == half.dtype
    close([loss.astype(mx.float32), after.astype(mx.float32)], want, 2e-2, 2e-2)


def test_other_transformations():
    fused = zmlx.fuse(step)

    def forms(f):
        yield mx.vmap(lambda x: f(x, t))(mx.stack([x, x * 0.5]))
        yield mx.grad(lambda x: (f(x, t)[1] ** 2).sum() + f(x, t)[0])(x)
        yield mx.jvp(lambda x: f(x, t)[1], [x], [x])[1]
        yield mx.compile(f)(x, t)

    for mine, theirs in zip(forms(fused), forms(step), strict=True):
        close(mine, theirs, 2e-4, 2e-5)


def test_new_sizes():
    fused = zmlx.fuse(step)
    for rows, classes in ((6, 65), (2, 40), (1, 9)):
        given = array(4, rows, classes), mx.zeros((rows,), mx.int32)
        close(fused(*given), step(*given))


def test_what_is_not_finite():
    rows = np.array(x)
    rows[1, 3], rows[2, 4], rows[3] = np.nan, np.inf, -np.inf
    close(zmlx.fuse(step)(mx.array(rows), t), step(mx.array(rows), t))


def test_exact_numerics_keep_the_call():
    fused = zmlx.fuse(step, numerics="mlx")
    got, want = fused(x, t), step(x, t)
    assert all(mx.array_equal(a, b).item() for a, b in zip(got, want, strict=True))


# -- calls of MLX's inside ------------------------------------------------------------------------
points, w, b, c = [array(*s, scale=0.4) for s in ((5, 7, 6), (6, 6, 5), (7, 5), (8, 5, 6))]
image, kernel = array(9, 2, 5, 5, 3), array(10, 4, 3, 3, 3)
heads = array(11, 1, 2, 9, 4)
scale = mx.array(3.0)


def net(p, w, b, c):
    return mx.tanh(p @ w + b) @ c


def residual(p, w, b, c):
    """First and second derivatives beside the value, as a physics-informed loss has them."""
    slope = mx.grad(lambda q: net(q, w, b, c)[:, 0].sum())
    bend = mx.grad(lambda q: slope(q)[:, 1].sum())(p)
    return (slope(p) + net(p, w, b, c) * bend).square().mean()


def trained(p, w, b, c):
    loss, (dw, db, dc) = mx.value_and_grad(residual, argnums=(1, 2, 3))(p, w, b, c)
    return loss, w - 0.1 * dw, b - 0.1 * db, c - 0.1 * dc


def written(p, w, b, c):
    def inner(q):
        q[0] = 2.0
        q *= 3
        return (mx.sin(q) @ w).sum()

    return mx.grad(inner)(p), p


def added(p, w, b, c):
    return mx.grad(lambda p, w, b: mx.addmm(b, mx.sin(p), w).square().sum(), (0, 1, 2))(p, w, b)


def weighed(p, w, b, c):
    inner = lambda b, p: mx.addmm(b, p, w, alpha=0.5, beta=2.0).square().sum()  # noqa: E731
    return mx.grad(inner, (0, 1))(b, p)


def batches(p, w, b, c):
    inner = lambda x, y, z: (mx.sin(x) @ y @ z).square().sum()  # noqa: E731
    return mx.grad(inner, (0, 1, 2))(mx.stack([p, p * 2])[:, None], mx.stack([w] * 3) * b, c)


def vectors(p, w, b, c):
    return mx.grad(lambda v, w: mx.exp(v @ w * 0.1).sum() + (w @ b).sum(), (0, 1))(p[0], w)


def mixes(p, w, b, c):
    inner = lambda x, w: (mx.sin(x) @ w).square().sum()  # noqa: E731
    return mx.grad(inner, (0, 1))(p.astype(mx.float16), w)


def convolved(p, w, b, c):
    inner = lambda x, k: mx.conv2d(mx.sin(x), k, padding=1).square().sum()  # noqa: E731
    first = mx.grad(inner, (0, 1))(image * b[0], kernel)
    second = mx.grad(lambda k: mx.grad(inner)(image * b[0], k).square().sum())(kernel)
    return first, second


def attended(p, w, b, c):
    def inner(q, k):
        return mx.fast.scaled_dot_product_attention(q, k, heads, scale=0.5).square().sum()

    return mx.grad(inner, (0, 1))(heads * b[0], heads)


def cut(p, w, b, c):
    def inner(q):
        first, rest = mx.split(mx.sin(q), [2], axis=1)
        rows = q[mx.array([1, 1, 3])] * q[1 : q.shape[0] - 3] * mx.cumsum(q, axis=1)[:3]
        return (first.sum() * rest).sum() + mx.sort(rows, axis=1)[0].sum()

    return mx.grad(inner)(p)


def stopped(p, w, b, c):
    return mx.grad(lambda q: (mx.stop_gradient(q @ w) * mx.sin(q).sum()).sum())(p)


def unused(p, w, b, c):
    return mx.grad(lambda q, y: (q @ w).sum(), argnums=(0, 1))(p, b * 2)


def captured(p, w, b, c):
    return mx.grad(lambda q: ((q * scale) @ w).sum() ** 2)(p * p)


def with_itself(p, w, b, c):
    return mx.grad(lambda q: (q * p + p @ p.T @ q).sum())(p)


def pulled(p, w, b, c):
    return mx.vjp(lambda p, w: (mx.tanh(p @ w), p, p * 2), (p, w), (b * mx.ones((7, 5)), p, -p))


def pushed(p, w, b, c):
    def inner(p, w):
        return mx.softmax(mx.tanh(p @ w), axis=-1), p.sum(), mx.array(2.0), p

    return mx.jvp(inner, [p, w], [p * p, mx.sin(w)])


def pushed_and_pulled(p, w, b, c):
    inner = lambda q: mx.jvp(lambda r: net(r, w, b, c), [q], [p])[1][0]  # noqa: E731
    return mx.grad(lambda q: inner(q).square().sum())(p)


CALLS = [
    residual, trained, written, added, weighed, batches, vectors, mixes, convolved, attended, cut,
    stopped, unused, captured, with_itself, pulled, pushed, pushed_and_pulled,
]  # fmt: skip


@pytest.mark.parametrize("function", CALLS)
def test_calls_inside(function):
    fused, given = zmlx.fuse(function), (points, w, b, c)
    want, bound = function(*given), 2e-3 if function is mixes else 1e-4
    for _ in range(3):
        close(fused(*given), want, bound, bound / 10)
    inside = natives_of(fused, *given)
    assert not {"[grad]", "[value_and_grad]", "[vjp]", "[jvp]", "[_gc_func]"} & {*inside}


@pytest.mark.parametrize("function", [residual, trained])
def test_calls_inside_in_double_precision(function):
    with mx.stream(mx.cpu):
        wide = [mx.array(a, mx.float64) for a in (points, w, b, c)]
        want = [a.astype(mx.float32) for a in _flat(function(*wide))]
        mx.eval(want)
    close(_flat(zmlx.fuse(function)(points, w, b, c)), want, 2e-4, 2e-5)


def _flat(tree):
    return [tree] if isinstance(tree, mx.array) else list(tree)


@pytest.mark.parametrize("function", [residual, pushed_and_pulled, convolved])
def test_transformations_around_calls(function):
    def total(p, w):
        found = _flat(function(p, w, b, c))
        return mx.sin(found[0][0] if isinstance(found[0], tuple) else found[0]).sum()

    fused = zmlx.fuse(total)

    def forms(f):
        yield mx.grad(f, (0, 1))(points, w)
        yield mx.grad(lambda p: mx.grad(f, 1)(p, w).square().sum())(points)
        if function is not convolved:  # MLX has no jvp of it
            yield mx.jvp(lambda p: f(p, w), [points], [points * points])[1]
        yield mx.vmap(f)(mx.stack([points, points * 0.5]), mx.stack([w, w * 2]))
        yield mx.compile(f)(points, w)

    for mine, theirs in zip(forms(fused), forms(total), strict=True):
        close(mine, theirs, 5e-4, 5e-5)


def test_new_sizes_of_calls():
    fused = zmlx.fuse(trained)
    for rows, width in ((7, 5), (2, 3), (31, 17), (7, 5)):
        given = array(1, rows, 6), array(2, 6, width), array(3, width), array(4, width, 6)
        close(fused(*given), trained(*given), 1e-4, 1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_calls_of_halves(dtype):
    half = [a.astype(getattr(mx, dtype)) for a in (points, w, b, c)]
    got = zmlx.fuse(trained)(*half)
    assert {a.dtype for a in got} == {half[0].dtype}
    want = trained(*[a.astype(mx.float32) for a in half])
    close([a.astype(mx.float32) for a in got], want, 3e-2, 3e-2)


def test_products_of_one_network_are_made_once():
    """The network and its slopes are written three times over."""
    fused = zmlx.fuse(residual)
    assert natives_of(fused, points, w, b, c).count("[matmul]") <= 8
    assert "[matmul_vjp]" not in natives_of(fused, points, w, b, c)


def test_a_training_step_of_a_module():
    def make():
        mx.random.seed(0)
        model = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 5))
        adam = optim.AdamW(1e-2)
        adam.init(model.trainable_parameters())
        mx.eval(model.parameters())
        return model, adam

    def stepper(model, adam):
        found = nn.value_and_grad(model, lambda m, x, t: entropy(m(x), t))

        def step(x, t):
            loss, gradient = found(model, x, t)
            adam.update(model, gradient)
            return loss

        return step

    (mine, mine_adam), (theirs, theirs_adam) = make(), make()
    state = [mine.state, mine_adam.state]
    fused = zmlx.fuse(stepper(mine, mine_adam), inputs=state, outputs=state)
    plain, classes = stepper(theirs, theirs_adam), mx.array([0, 4, 3, 3, 1, 1, 2])
    for _ in range(3):
        close(fused(points, classes), plain(points, classes), 1e-4, 1e-5)
    close(mine.parameters(), theirs.parameters(), 1e-3, 1e-4)
    assert "[value_and_grad]" not in natives_of(fused, points, classes)


def test_a_module_that_nobody_names():
    model = nn.Linear(6, 5)
    found = nn.value_and_grad(model, lambda x: mx.sin(model(x)).sum())
    fused = zmlx.fuse(lambda x: found(x * 2))
    for _ in range(2):
        close(fused(points), found(points * 2), 1e-4, 1e-5)
    assert type(model.weight) is mx.array


def test_a_loss_that_draws():
    def step(x, key):
        keep = mx.random.bernoulli(0.5, x.shape, key=key)
        return mx.value_and_grad(lambda y: mx.where(keep, y @ y.T @ y, 0).sum())(x)

    key = mx.random.key(3)
    close(zmlx.fuse(step)(points, key), step(points, key))

    def seeded(x):
        return mx.grad(lambda y: (nn.Dropout(0.5)(y) @ w).sum())(x)

    fused = zmlx.fuse(seeded)
    for seed in (0, 1):
        mx.random.seed(seed)
        want = seeded(points)
        mx.random.seed(seed)
        close(fused(points), want)


# -- what stays a call ----------------------------------------------------------------------------
@mx.custom_function
def odd(x):
    return mx.sin(x)


@odd.vjp
def odd_vjp(x, g, out):
    return g * 7


@mx.custom_function
def straight(x):
    return mx.round(x)


@straight.jvp
def straight_jvp(primals, tangents):
    return tangents[0] * 5


def customs_pushed(x, t):
    return mx.jvp(lambda y: straight(y) * 2, [x], [x])


def mapped(x, t):
    return mx.grad(lambda y: mx.vmap(lambda row: mx.tanh(row) * x[0])(y).sum())(x)


def customs(x, t):
    return mx.grad(lambda y: (odd(y) * scale).sum())(x)


def twice(x, t):
    return mx.vjp(lambda y: [mx.sin(y)] * 2, [x], [x, x * 2])


def complexes(x, t):
    return mx.grad(lambda y: mx.abs(mx.fft.fft(y)).sum())(x)


def counted(x, t):
    seen = []
    gradient = mx.grad(lambda y: seen.append(y.shape) or (y * len(seen)).sum())
    return gradient(x), gradient(x)


@pytest.mark.parametrize("function", [mapped, customs, customs_pushed, twice, complexes, counted])
def test_what_cannot_be_spliced_is_called(function):
    close(zmlx.fuse(function)(x, t), function(x, t), 1e-4, 1e-5)


def test_errors_are_those_of_mlx():
    for function in (
        lambda x: mx.grad(lambda y: y * 2)(x),
        lambda x: mx.grad(lambda y: "text")(x),
        lambda x: mx.grad(lambda y: y.sum(), argnums=1)(x),
        lambda x: mx.grad(lambda y, z: y.sum(), argnums=1)(x, "text"),
    ):
        with pytest.raises(ValueError) as want:
            function(x)
        with pytest.raises(ValueError) as got:
            zmlx.fuse(function)(x)
        assert str(got.value) == str(want.value)


@pytest.mark.filterwarnings("ignore:.*run as MLX ops")
def test_without_a_compiler(monkeypatch):
    """Then nothing tells which results of a call depend on which arrays."""
    monkeypatch.setenv("ZMLX_DEVICE", "replay")
    for fn in (convolved, attended, cut):
        given = (points, w, b, c)
        close(zmlx.fuse(fn)(*given), fn(*given), 1e-4, 1e-5)
