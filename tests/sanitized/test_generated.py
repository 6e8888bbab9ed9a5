"""Regions of generated functions under the sanitizer: values, gradients, tangents, maps.

tests/fuse/test_property.py says what a function is compared with, and how near it must come.
"""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import mlx.core as mx
import pytest
from fuse_cases import equal
from generated import BROADCAST, float_function, inputs, int_function, int_inputs, together
from hypothesis import strategies as st
from test_property import Batch, check

import zmlx
from tests.sanitized.watching import Watch, watched_run
from zmlx import dtypes

pytestmark = watched_run

Tally = Callable[[str, int], None]
EXAMPLES = 3
# A fixture serves all examples: each asks for launches since the last one.
few = hypothesis.settings(
    max_examples=EXAMPLES,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**31)


@few
@hypothesis.given(seed=seeds)
def test_floats(watch: Watch, tally: Tally, seed: int) -> None:
    compared = check(Batch(seed, 5))
    watch.ran(4)  # the value, and a kernel at least for each transformation
    tally("generated functions under the sanitizer", compared)


@few
@hypothesis.given(seed=seeds)
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_types(watch: Watch, dtype: mx.Dtype, seed: int) -> None:
    plain = together([float_function(seed + i) for i in range(5)])
    arrays = inputs(seed, BROADCAST, dtype)
    equal(zmlx.fuse(plain, numerics="mlx")(*arrays), plain(*arrays))
    watch.ran()


@few
@hypothesis.given(seed=seeds, kinds=st.tuples(*[st.sampled_from((*dtypes.INTEGERS, "bool"))] * 3))
def test_whole_numbers(watch: Watch, seed: int, kinds: tuple[str, str, str]) -> None:
    plain = together([int_function(seed + i) for i in range(5)])
    arrays = int_inputs(seed, kinds)
    equal(zmlx.fuse(plain, numerics="mlx")(*arrays), plain(*arrays))
    watch.ran()
