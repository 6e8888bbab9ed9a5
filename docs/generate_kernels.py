"""Writes docs/KERNELS.md from the catalog and its table: `python docs/generate_kernels.py`.

A test compares the page with `page()`, so that the two cannot part.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from zmlx import kernels
from zmlx.catalog.page import signature
from zmlx.catalog.rows import ROWS, Row

PAGE = Path(__file__).with_name("KERNELS.md")
INTRODUCTION = """\
# The catalog: kernels by name

`zmlx.kernels` holds {count} functions in {modules} modules, one for each domain. They run on every
device, are differentiable, pass `mx.vmap` and `mx.compile`, and may be called inside `@zmlx.fuse`.
This page is written from the functions and their table by `python docs/generate_kernels.py`;
`python -m zmlx catalog WORDS` searches the same in a terminal, and shows kernels as Metal.

```python
import mlx.core as mx
from zmlx.kernels import norms, softmax, transformer

x = mx.random.normal((4, 512)).astype(mx.bfloat16)
residual, weight = mx.random.normal((4, 512)).astype(mx.bfloat16), mx.ones((512,))
normed, h = transformer.rmsnorm_residual(x, residual, weight)
y = softmax.softmax_lastdim(transformer.dropout(normed, p=0.1, seed=7))
dx, dw = mx.grad(lambda x, w: norms.rmsnorm(x, w).sum(), argnums=(0, 1))(x, weight)
```

What holds for all of them:

- Types are float32, float16 and bfloat16; results have the type of the first array, or that of
  `compute_dtype` where a function says so. All arithmetic is float32, rounded once at the end.
- The last axis is the row. Leading axes are kept; no rows give none. Strided arrays may come in.
- `threadgroup` (a power of two up to 1024) bounds the threads of a group on a GPU; 256, the
  default, leaves the launch to the sizes. Results depend on it in their rounding only. Inside an
  `@zmlx.fuse` function it says nothing, as the call joins what stands around it.
- Numbers such as `eps`, `p`, `k` and `seed`, and all sizes, reach the kernel at run time: new
  values need no new kernel.
- The same call gives the same bits in every run: nothing adds by atomics.
- Which elements a mask drops depends on the seed and on an element's number in the array, on
  nothing else: every dropout function, type, launch and device agrees. `seed` may be an integer
  array of one element; under `mx.vmap` each example has the mask that it has alone.
- A wrong argument is a `ValueError` (`TypeError` for what is no array) that names the function,
  the argument, what came and what was wanted.
- Where no kernel can run, they are MLX's ops, after one warning.
- `zmlx.autotune(f, *args)` finds how many rows a group takes best; no bit of a result changes.

Most functions check their arguments and call a fused function of a few MLX ops: all that holds of
`@zmlx.fuse` holds there, derivatives of any order, one kernel for a norm and one for its gradient,
joining what stands around a call. What is no such formula (attention in tiles, top-k, prefix sums,
gather and scatter, images, bits, four-bit products) is Metal text beside its function, the same on
every device, with rules for gradients, tangents and maps.

To add a function, write it in its module and a row in `zmlx/catalog/rows`.
"""


def page() -> str:
    parts = [INTRODUCTION.format(count=len(ROWS), modules=len(kernels.__all__))]
    for module in kernels.__all__:
        found = getattr(kernels, module)
        parts.append(f"\n## {module}\n\n{inspect.cleandoc(found.__doc__ or '')}\n")
        parts += [section(ROWS[f"{module}.{name}"]) for name in found.__all__]
    return "".join(parts)


def section(row: Row) -> str:
    shapes = "; ".join(f"`{a.name}` ({', '.join(a.axes)})" for a in row.arrays)
    moved = ", ".join(f"`{row.arrays[i].name}`" for i in row.differentiable) or "nothing"
    lines = [
        f"### {row.name.partition('.')[2]}\n",
        f"```\n{signature(row)}\n```\n",
        f"`{row.formula}`\n",
        f"Takes {shapes}. Differentiable in {moved}." + (f" {row.source}." if row.source else ""),
    ]
    return "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
