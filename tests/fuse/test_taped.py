"""Programs that native code makes again: what they may depend on, and what they may not."""

from __future__ import annotations

import gc
import threading
import weakref

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from zmlx.device.rules import native_or_none
from zmlx.fuse.program import Program

pytestmark = pytest.mark.usefixtures("host_device")
CALLS = 4  # a tape is made by the second call of a shape


def steps(x: mx.array, w: mx.array) -> mx.array:
    """Several steps: two products that MLX runs, and what stands between them."""
    hidden = mx.tanh(x @ w) * 0.5
    return mx.exp(-(hidden @ w)) + 1


def arrays(n: int = 4, seed: int = 0) -> tuple[mx.array, mx.array]:
    keys = mx.random.split(mx.random.key(seed))
    return mx.random.normal((n, 8), key=keys[0]), mx.random.normal((8, 8), key=keys[1]) * 0.3


def close(found, wanted) -> None:
    np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=2e-6, atol=2e-6)


@pytest.fixture
def played(monkeypatch):
    """How often a program's own steps ran: a tape runs none."""
    ran: list[str] = []
    stepped = Program._results

    def counted(self, inputs):
        ran.append("steps")
        return stepped(self, inputs)

    monkeypatch.setattr(Program, "_results", counted)
    return ran


def test_the_steps_run_no_more_once_a_shape_is_known(played):
    fused = zmlx.fuse(steps)
    for seed in range(CALLS):
        given = arrays(seed=seed)
        close(fused(*given), steps(*given))
    assert len(played) == 2  # the first call, and the one that made the tape
    for n in (3, 5, 3, 5, 3, 5):
        close(fused(*arrays(n)), steps(*arrays(n)))
    assert len(played) == 6


def test_without_the_native_module_the_steps_run(played, monkeypatch):
    monkeypatch.setattr("zmlx.fuse.taped.native_or_none", lambda: None)
    fused = zmlx.fuse(steps)
    for _ in range(CALLS):
        close(fused(*arrays()), steps(*arrays()))
    assert len(played) == CALLS


def test_named_state_is_read_and_written_at_every_call():
    state, plain = {"w": mx.eye(8)}, {"w": mx.eye(8)}

    def step(held):
        def update(x, w):
            held["w"] = held["w"] * 0.5 + mx.tanh(w @ held["w"])
            return mx.exp(x @ held["w"])

        return update

    fused = zmlx.fuse(step(state), inputs=state, outputs=state)
    for seed in range(CALLS):
        close(fused(*arrays(seed=seed)), step(plain)(*arrays(seed=seed)))
        close(state["w"], plain["w"])
    state["w"] = plain["w"] = mx.ones((8, 8))
    close(fused(*arrays()), step(plain)(*arrays()))


def test_random_numbers_are_drawn_at_every_call():
    fused = zmlx.fuse(lambda x, w: mx.exp(x @ w) + mx.random.normal(x.shape))
    found = [fused(*arrays()) for _ in range(CALLS)]
    for i, one in enumerate(found):
        assert not any(mx.array_equal(one, other).item() for other in found[:i])


def test_random_numbers_of_a_key_that_is_passed():
    def noisy(x, w, key):
        return mx.exp(x @ w) + mx.random.normal(x.shape, key=key)

    fused = zmlx.fuse(noisy)
    for seed in (0, 0, 0, 1, 2, 2):
        close(fused(*arrays(), mx.random.key(seed)), noisy(*arrays(), mx.random.key(seed)))


def test_python_inside_runs_at_every_call():
    drawn = iter(range(100))

    @mx.custom_function
    def count(x):
        return x + next(drawn)

    fused = zmlx.fuse(lambda x, w: mx.exp(count(x @ w) * 0) + mx.tanh(x @ w))
    for _ in range(CALLS):
        mx.eval(fused(*arrays()))
    assert next(drawn) >= CALLS


@pytest.mark.parametrize("numbers", [(0.5, 0.25, 0.5, 0.5, -1.0, 0.25), (1, 2, 1, 1, 3, 2)])
def test_numbers(numbers):
    def scaled(x, w, s):
        return mx.tanh(x @ w) * s + mx.exp(-(x @ w) * s)

    fused = zmlx.fuse(scaled)
    for number in numbers:
        close(fused(*arrays(), number), scaled(*arrays(), number))


def test_each_call_hands_out_arrays_of_its_own():
    def several(x, w):
        y = mx.tanh(x @ w)
        return y, y, mx.exp(y @ w), x

    fused = zmlx.fuse(several)
    x, w = arrays()
    for _ in range(CALLS):
        found = fused(x, w)
        for one in found:
            one[0] = 100.0
    for one, wanted in zip(fused(x, w), several(x, w), strict=True):
        close(one, wanted)


def test_gradients_of_any_order_jvp_and_vmap():
    fused = zmlx.fuse(steps)
    x, w = arrays()

    def loss(f):
        return lambda x, w: (f(x, w) ** 2).sum()

    def second(f):
        return mx.grad(lambda x, w: (mx.grad(loss(f))(x, w) ** 2).sum(), argnums=(0, 1))

    xs = mx.stack([x, x + 1])
    for _ in range(CALLS):
        for one, other in zip(
            mx.grad(loss(fused), (0, 1))(x, w), mx.grad(loss(steps), (0, 1))(x, w), strict=True
        ):
            np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-4, atol=1e-4)
        for one, other in zip(second(fused)(x, w), second(steps)(x, w), strict=True):
            np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-3, atol=1e-2)
        (found,), (wanted,) = [mx.jvp(f, [x, w], [w[:4], w])[1] for f in (fused, steps)]
        np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-4, atol=1e-4)
        close(mx.vmap(fused, (0, None))(xs, w), mx.vmap(steps, (0, None))(xs, w))
        close(fused(x, w), steps(x, w))


def test_views_serve_again_after_a_mapped_call():
    """mx.vmap changes the primitives of views that it goes through."""

    def views(x, w):
        h = (mx.sin(x) * x).reshape(2, 2, 8)
        return mx.tanh(h @ w).transpose(1, 0, 2) @ w + mx.broadcast_to(w[0] * 2, (2, 2, 8))

    fused, (x, w) = zmlx.fuse(views), arrays()
    loss = lambda f: mx.grad(lambda x: f(x, w).sum())  # noqa: E731
    for _ in range(CALLS):
        for form in (lambda f: mx.vmap(lambda x: f(x, w)), lambda f: mx.vmap(loss(f))):
            close(form(fused)(mx.stack([x, x + 1])), form(views)(mx.stack([x, x + 1])))
        close(loss(fused)(x), loss(views)(x))
        close(fused(x, w), views(x, w))


def test_compiled_and_compiled_for_any_size():
    fused = zmlx.fuse(steps)
    x, w = arrays()
    for shapeless in (False, True):
        compiled = mx.compile(fused, shapeless=shapeless)
        for n in (4, 4, 4, 6, 6, 6):
            close(compiled(x[:1] * n, w), steps(x[:1] * n, w))
            close(fused(*arrays(n)), steps(*arrays(n)))


def test_threads_and_streams():
    fused = zmlx.fuse(steps)
    x, w = arrays()
    wanted = steps(x, w)
    mx.eval(x, w, wanted)
    found: list[mx.array] = []

    def work() -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(CALLS):
                one = fused(x, w)
                mx.eval(one)
                found.append(one)

    for _ in range(CALLS):
        close(fused(x, w), wanted)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 * CALLS
    for one in found:
        close(one, wanted)


def test_switches_hold_at_every_call(played):
    fused = zmlx.fuse(steps)
    for _ in range(CALLS):
        close(fused(*arrays()), steps(*arrays()))
    before = len(played)
    with zmlx.config(check=True):
        for _ in range(CALLS):
            close(fused(*arrays()), steps(*arrays()))
    assert len(played) == before + CALLS  # its own steps are what is checked


def test_nothing_is_kept_alive():
    def used() -> weakref.ref:
        fused = zmlx.fuse(steps)
        for _ in range(CALLS):
            mx.eval(mx.grad(lambda x, w: fused(x, w).sum(), (0, 1))(*arrays()))
        return weakref.ref(fused)

    gone = used()
    gc.collect()
    fresh = zmlx.fuse(steps)  # the next call drops what primitives let go
    for _ in range(CALLS):
        mx.eval(fresh(*arrays()))
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("n", [0, 1, 7])
def test_sizes(n):
    fused = zmlx.fuse(steps)
    for _ in range(CALLS):
        close(fused(*arrays(n)), steps(*arrays(n)))


def test_stand_ins_have_no_values():
    native = native_or_none()
    tapes = native.Tapes()
    x = mx.ones((3,))
    assert tapes([x]) is None
    assert tapes.stand_ins([x]) is None
    (stand_in,) = tapes.stand_ins([x])
    with pytest.raises(RuntimeError, match="without a primitive"):
        mx.eval(stand_in + 1)
    assert tapes.stand_ins([x]) is None  # tried once only
    tapes.learn([x], [stand_in], [mx.exp(stand_in) + 2])
    for value in (0.0, 1.0):
        (found,) = tapes([mx.full((3,), value)])
        close(found, [np.exp(value) + 2] * 3)
    assert tapes([mx.ones((4,))]) is None
    assert tapes([mx.ones((3,), mx.float16)]) is None
