"""The catalog's kernels before Metal's front end, and a machine without a compiler.

tests/metal has one row length of each function in the default run; here are the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import mlx.core as mx
import pytest
from on_metal import mac

from tests.catalog.cases import CASES, KINDS, PULLED, Case
from zmlx.metal_check import check_text

EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def launched(case: Case, shape: tuple[int, ...], kind: mx.Dtype) -> None:
    """The value, the gradients and theirs, as a transformation asks for them."""
    arrays = case.arrays(shape, kind)
    outputs = case.run(*arrays)
    if case.name in PULLED:
        mx.vjp(case.run, arrays, outputs)


@pytest.mark.exhaustive
@EACH
def test_metal_takes_the_text(case: Case, metal_check: None) -> None:
    """Short rows, rows of whole packs and rows with a rest; one row without leading axes."""
    with mac() as device:
        for kind in KINDS.values():
            for shape in ((3, 2), (2, 3, 36), (64,)):
                launched(case, shape, kind)
        texts = device.texts()
    assert len(texts) >= 3
    for text in texts:
        assert check_text(text) == []


SCRIPT = """
import mlx.core as mx
from zmlx.kernels import norms, softmax, transformer

mx.set_default_device(mx.cpu)
x, w = mx.random.normal((3, 40)), mx.random.normal((40,))
found = [softmax.softmax_lastdim(x), norms.rmsnorm(x, w), transformer.swiglu(x)]
a, b = mx.split(x, 2, -1)
wanted = [mx.softmax(x, -1), mx.fast.rms_norm(x, w, 1e-6), a * mx.sigmoid(a) * b]
dropped = transformer.rms_norm_dropout(x, w, 0.3, 5)
wanted.append(transformer.dropout(wanted[1], 0.3, 5))
found.append(dropped)
found += mx.grad(lambda x, w: transformer.fused_add_rmsnorm(x, x, w).square().sum(), (0, 1))(x, w)
wanted += mx.grad(lambda x, w: mx.fast.rms_norm(x + x, w, 1e-6).square().sum(), (0, 1))(x, w)
found.append(mx.vmap(norms.layer_norm_no_weight)(x))
wanted.append(mx.fast.layer_norm(x, None, None, 1e-5))
for ours, theirs in zip(found, wanted, strict=True):
    assert mx.allclose(ours, theirs, 1e-5, 1e-5).item()
print((dropped == 0).astype(mx.int32).reshape(-1).tolist())
"""


def run_script(tmp_path: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    names = {k: v for k, v in os.environ.items() if not k.startswith("ZMLX_")}
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", SCRIPT],
        env={**names, "ZMLX_CACHE_DIR": str(tmp_path), **environment},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


def test_without_a_compiler_mlx_computes_after_one_warning(tmp_path: Any, host_device: Any) -> None:
    """Values, gradients and masks are the same: the script asserts the first two."""
    bare = run_script(tmp_path, ZMLX_CXX="no-such-compiler")
    assert bare.stderr.count("RuntimeWarning") == 1 and "no-such-compiler" in bare.stderr
    usual = run_script(os.environ["ZMLX_CACHE_DIR"])
    assert usual.stderr == "" and usual.stdout.strip() == bare.stdout.strip()
