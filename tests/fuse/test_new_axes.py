"""New axes under mx.vmap: MLX maps mx.expand_dims of several axes wrongly along another axis than
the first, whether a function calls it or ZMLX does.
"""

import mlx.core as mx
import pytest
from fuse_cases import array, close

import zmlx

FUNCTIONS = {
    "called": lambda x: mx.exp(mx.expand_dims(mx.sin(x), (0, 2))) * 2,
    "of a call": lambda x: mx.exp(mx.expand_dims(x @ mx.ones((x.shape[-1], 3)), (-1, 0))) * 2,
    "kept": lambda x: mx.sum(mx.exp(x), axis=(0, 1)) * (x[0, 0] + 1) + mx.max(x, axis=(0, 1)),
    "gradient": mx.grad(lambda x: (mx.logsumexp(x, axis=(0, 1)) * x.sum()).sum()),
    "picked": lambda x: mx.exp(mx.take_along_axis(x, mx.argmax(x, axis=-1, keepdims=True), -1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_mapped_along_every_axis(name):
    plain, fused = FUNCTIONS[name], zmlx.fuse(FUNCTIONS[name])
    x = array(1, 3, 4, 5)
    for axis in range(3):
        want = mx.stack([plain(mx.take(x, k, axis=axis)) for k in range(x.shape[axis])])
        for _ in range(2):
            close(mx.vmap(fused, in_axes=axis)(x), want, 1e-4)


def test_of_given_axes_alone():
    from zmlx.fuse.splits import expand_dims

    x = array(2, 3, 4)
    for axes in (0, -1, (0,), (0, 1), (1, 3), (-1, 0), [0, 2, 4]):
        assert expand_dims(x, axes).shape == mx.expand_dims(x, axes).shape
    for wrong in ((0, 0), (0, 9)):
        with pytest.raises((ValueError, IndexError), match="expand_dims"):
            expand_dims(x, wrong)
