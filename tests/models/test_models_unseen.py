"""Helpers of mlx-lm that are called where the tracer cannot see it, beside plain MLX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
from fuse_cases import array, close
from hidden import hide
from mlx_lm.models.activations import precise_swiglu, swiglu, swiglu_oai
from mlx_lm.models.rope_utils import initialize_rope

import zmlx

call = hide(type(mx.compile(abs)).__call__)  # of a compiled function, past its wrapper
x, gate = array(0, 1, 2, 4, 8), array(1, 1, 2, 4, 8)


def activations(x, gate):
    half = x.astype(mx.bfloat16)
    return {
        "swiglu": call(swiglu, gate, x) * 2,
        "precise": call(precise_swiglu, half, gate, x) + half,
        "oai": call(swiglu_oai, gate, x) * 2,
    }


REPORT = """
import sys
sys.path[:0] = {folders!r}
import zmlx
from test_models_unseen import activations, gate, x
report = zmlx.explain(zmlx.fuse(activations), x, gate)
assert report.exported and report.regions
assert not any("plain MLX" in item.reason for item in report.unfused)
"""


def test_compiled_activations_are_read():
    """In a process of its own: MLX may have fused such a function into one primitive before."""
    tests = Path(__file__).parents[1]
    folders = [str(tests / name) for name in ("models", "fuse", "trace")]
    subprocess.run([sys.executable, "-c", REPORT.format(folders=folders)], check=True)


def test_compiled_activations():
    fn = activations

    def total(f):
        return lambda *given: sum(r.astype(mx.float32).sum() for r in f(*given).values())

    fused = zmlx.fuse(fn)
    close(fused(x, gate), fn(x, gate))
    close(*[mx.grad(total(f), (0, 1))(x, gate) for f in (fused, fn)])


def test_rope():
    rope = initialize_rope(8, 10000.0, False)
    turn = hide(mx.fast.rope)

    def fn(x):
        return turn(x, 8, traditional=False, base=1e4, scale=1.0, offset=2) + rope(x, offset=2)

    fused = zmlx.fuse(fn)
    close(fused(x), fn(x))
    close(*[mx.grad(lambda x, f=f: f(x).square().sum())(x) for f in (fused, fn)])
    assert zmlx.explain(fused, x).exported
