"""What the native module puts around kernels: rules for transformations, launches done again."""

from __future__ import annotations

import mlx.core as mx
import pytest
from handwritten import kernel

from zmlx.device.base import Launcher
from zmlx.device.host import HostDevice
from zmlx.device.rules import Rules, differentiable, differentiable_ops, native_or_none

X = mx.array([[0.5, -1.0, 2.0]])


class Tripled(Rules):
    """Rules of 3*x + y; `asked` keeps what was wanted."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def vjp(self, primals, cotangents, argnums, outputs):  # type: ignore[no-untyped-def]
        self.asked.append(tuple(argnums))
        return [cotangents[0] * (3.0, 1.0)[i] for i in argnums]

    def jvp(self, primals, tangents, argnums):  # type: ignore[no-untyped-def]
        return [sum(t * (3.0, 1.0)[i] for t, i in zip(tangents, argnums, strict=True))]

    def vmap(self, inputs, axes):  # type: ignore[no-untyped-def]
        first = [mx.moveaxis(x, a, 0) if a >= 0 else x for x, a in zip(inputs, axes, strict=True)]
        return [3 * first[0] + first[1]]


def or_zeros(launch: Launcher) -> Launcher:
    """As a GPU does it: an empty output is no launch."""
    return lambda xs: launch(xs) if xs[0].size else [mx.zeros(xs[0].shape)]


def native_way(device: HostDevice, rules: Rules) -> Launcher:
    floats = ["float32", "float32"]
    source = kernel("tripled", "3.0f * x0 + x1", floats, floats[:1], ranks=[2, 2])
    return differentiable(or_zeros(device.build([source])[0]), rules)


def mlx_way(device: HostDevice, rules: Rules) -> Launcher:
    return differentiable_ops(or_zeros(lambda xs: [xs[0] * 3 + xs[1]]), rules)


class OnStream(Tripled):
    """Notes the stream that was current when a rule was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[mx.Stream] = []

    def vjp(self, *arguments):  # type: ignore[no-untyped-def]
        self.streams.append(mx.default_stream(mx.default_device()))
        return super().vjp(*arguments)


def test_a_rule_runs_on_the_stream_of_its_kernel(host_device: HostDevice) -> None:
    rules, before, other = OnStream(), mx.default_stream(mx.cpu), mx.new_stream(mx.cpu)
    run = native_way(host_device, rules)

    def loss(x: mx.array) -> mx.array:
        with mx.stream(other):
            return run([x, X])[0].sum()

    assert mx.grad(loss)(X).tolist() == [[3.0] * 3]
    assert rules.streams == [other] and mx.default_stream(mx.cpu) == before


@pytest.mark.parametrize("way", [native_way, mlx_way])
def test_every_transformation_asks_the_rules(way, host_device: HostDevice) -> None:
    run = way(host_device, Tripled())
    assert mx.array_equal(run([X, X])[0], 4 * X)
    gradients = mx.grad(lambda x, y: run([x, y])[0].sum(), argnums=(0, 1))(X, X)
    assert [g.tolist() for g in gradients] == [[[3.0] * 3], [[1.0] * 3]]
    (tangent,) = mx.jvp(lambda x: run([x, X])[0], [X], [mx.ones_like(X)])[1]
    assert tangent.tolist() == [[3.0] * 3]
    batched = mx.vmap(lambda x: run([x, X])[0])(mx.stack([X, 2 * X]))
    assert mx.array_equal(batched, mx.stack([4 * X, 7 * X]))


def test_only_wanted_gradients_are_asked_for(host_device: HostDevice) -> None:
    rules = Tripled()
    run = native_way(host_device, rules)
    mx.grad(lambda y: run([X, y])[0].sum())(X)
    assert rules.asked == [(1,)]


@pytest.mark.parametrize("way", [native_way, mlx_way])
def test_zeros_that_no_kernel_made_have_no_rules(way, host_device: HostDevice) -> None:
    """A GPU launches nothing for an empty output."""
    run, empty = way(host_device, Tripled()), mx.ones((0, 3))
    assert run([empty, empty])[0].shape == (0, 3)
    gradient = mx.grad(lambda x: run([x, empty])[0].sum())(empty)
    assert gradient.shape == (0, 3)


def test_a_launch_is_done_again_for_the_same_shapes(host_device: HostDevice) -> None:
    repeat = host_device.native.Repeater()
    x, y = mx.array([1.0, 2.0]), mx.array([3.0, 5.0])
    assert repeat([x, y]) is None
    repeat.learn([x, y], [mx.subtract(x, y)])
    assert repeat([y, x])[0].tolist() == [2.0, 3.0]
    assert repeat([x]) is None and repeat([mx.ones(3), mx.ones(3)]) is None
    assert repeat([mx.ones((2, 1)), mx.ones((1, 2))]) is None
    with mx.stream(mx.new_stream(mx.cpu)):
        assert repeat([x, y]) is None


def test_several_outputs_are_done_again(host_device: HostDevice) -> None:
    repeat = host_device.native.Repeater()
    x, y = mx.array([7.0, 9.0]), mx.array([2.0, 4.0])
    repeat.learn([x, y], mx.divmod(x, y))
    quotient, rest = repeat([y + 3, y])
    assert quotient.tolist() == [2.0, 1.0] and rest.tolist() == [1.0, 3.0]


def test_what_a_launch_adds_behind_its_inputs_is_read_again(host_device: HostDevice) -> None:
    """As CUDA's launches add the grid."""
    repeat, rules = host_device.native.Repeater(), Tripled()
    x, y = mx.array([1.0, 2.0]), mx.array([3.0, 5.0])
    repeat.learn([x], [mx.subtract(x, y)])
    assert repeat([y])[0].tolist() == [0.0, 0.0]
    assert repeat([x], rules)[0].tolist() == [-2.0, -3.0]
    assert repeat([mx.array([4.0, 5.0])])[0].tolist() == [1.0, 0.0]


def test_a_launch_that_computes_its_inputs_is_not_learnt(host_device: HostDevice) -> None:
    repeat, x = host_device.native.Repeater(), mx.array([1.0, 2.0])
    repeat.learn([x], [mx.subtract(x, x * 2)])
    repeat.learn([x, x], [mx.exp(x)])
    assert repeat([x]) is None and repeat([x, x]) is None


def test_a_repeated_launch_carries_rules(host_device: HostDevice) -> None:
    """At once, without bare results first, and for inputs of rank 0 as for those of rank 1."""
    repeat, rules = host_device.native.Repeater(), Tripled()
    x, y = mx.array([1.0, 2.0]), mx.array(5.0)
    repeat.learn([x, y], [mx.subtract(x, y.reshape(1))])

    def launched(x: mx.array) -> mx.array:
        found = repeat([x, y], rules)
        assert found is not None
        return found[0]

    assert launched(x).tolist() == [-4.0, -3.0]
    assert mx.grad(lambda x: launched(x).sum())(x).tolist() == [3.0, 3.0]
    assert rules.asked == [(0,)]
    assert mx.grad(lambda x: repeat([x, y])[0].sum())(x).tolist() == [1.0, 1.0]  # MLX's own


def test_an_empty_launch_is_not_learnt(host_device: HostDevice) -> None:
    repeat, empty = host_device.native.Repeater(), mx.ones((0, 3))
    repeat.learn([empty], [mx.zeros((0, 3))])
    assert repeat([empty]) is None


def test_rules_go_to_the_outputs_of_one_kernel(host_device: HostDevice) -> None:
    """What MLX makes of them is another computation, with other inputs."""
    x = mx.ones(3)
    with pytest.raises(ValueError, match="outputs of one kernel"):
        native_or_none().ruled([mx.exp(x), mx.sin(x)], object())
