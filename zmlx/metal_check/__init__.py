"""Checks the text that MLX hands to Apple's compiler, on a machine without one.

Comes in: a KernelSource and arrays to launch it with, or a whole Metal text. Goes out: diagnostics,
none for a text that Metal should take. docs/metal.md says what that proves; tests and the command
line call it, a fused function never does. Needs libclang (`pip install libclang`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx.metal_check.front_end import FRONT_END, Diagnostic, unavailable
from zmlx.metal_check.rules import tree_rules, written_rules
from zmlx.metal_check.source import examples, launched_texts, metal_text
from zmlx.msl.kernel import KernelSource

__all__ = ["Diagnostic", "check", "check_function", "check_text", "metal_text", "unavailable"]


def check(kernel: KernelSource, *arrays: Any) -> list[Diagnostic]:
    """What is wrong with `kernel` as MLX would compile it for `arrays`.

    An entry of `arrays` is an mx.array or a shape. Without arrays the kernel is checked twice: for
    inputs of few elements, which Metal gets as `constant`, and for larger ones, `device`.
    """
    if arrays:
        return check_text(metal_text(kernel, arrays))
    found = [d for some in examples(kernel) for d in check_text(metal_text(kernel, some))]
    return list(dict.fromkeys(found))


def check_function(
    function: Callable[[Sequence[mx.array]], Any], arrays: Sequence[mx.array]
) -> list[Diagnostic]:
    """What is wrong with the Metal kernels that function(arrays) launches, of whatever origin."""
    return [d for text in launched_texts(function, arrays) for d in check_text(text)]


def check_text(text: str) -> list[Diagnostic]:
    """What is wrong with a Metal text that stands behind MLX's own headers, in order of lines."""
    tree, found = FRONT_END.parse(text, tree_rules)
    found = [*found, *tree, *written_rules(text)]
    return sorted(dict.fromkeys(found), key=lambda d: (d.line, d.column))
