"""What is asked of a kernel, checked: its parts when it is made, its launch when it is called.

Comes in: arguments of users. Goes out: plain tuples; or a ValueError that names the kernel, the
argument, what came and what to give. zmlx.metal.kernels calls these.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.grid_text import ATTRIBUTES
from zmlx.msl.spec import MATH_MODES, MAX_THREADS, Extent, MetalKernelSpec
from zmlx.msl.words import KEYWORDS
from zmlx.trace.operands import name_of

INT32_MAX = 2**31 - 1
IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
_NUMBERS = (bool, int, float)


def wrong(name: str, argument: str, came: str, wanted: str) -> ValueError:
    return ValueError(f"[zmlx.metal] kernel {name!r}: {argument} is {came}; give {wanted}.")


# -- its parts ------------------------------------------------------------------------------------
def names(kernel: str, argument: str, given: Any) -> tuple[str, ...]:
    """The names of inputs or outputs as a tuple."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(
            f"[zmlx.metal] kernel {kernel!r}: {argument} is {given!r}; give a list of names."
        )
    return tuple(given)


def math_mode(kernel: str, options: Any) -> str:
    """`compile_options` of mx.fast.metal_kernel: {"math_mode": "safe", "relaxed" or "fast"}."""
    if options is None:
        return "safe"
    if not isinstance(options, Mapping) or set(options) - {"math_mode"}:
        wanted = 'a dict such as {"math_mode": "safe"}'
        raise wrong(kernel, "compile_options", repr(options), wanted)
    mode = options.get("math_mode", "safe")
    if mode not in MATH_MODES:
        raise wrong(kernel, "math_mode", repr(mode), f"one of {', '.join(MATH_MODES)}")
    return str(mode)


def check_spec(spec: MetalKernelSpec) -> None:
    """ValueError for names and texts of which no kernel can be made."""

    def bad(problem: str) -> ValueError:
        return ValueError(f"[zmlx.metal] kernel {spec.name!r}: {problem}.")

    arrays = [*spec.input_names, *spec.output_names]
    for name in (spec.name, *arrays):
        if not isinstance(name, str) or not re.fullmatch(IDENTIFIER, name):
            raise bad(f"{name!r} is no identifier")
    for name in arrays:
        if name in KEYWORDS or name in ATTRIBUTES:
            raise bad(f"{name!r} is a word of Metal's own, so no array can have it as a name")
    if len(set(arrays)) < len(arrays):
        raise bad(f"a name occurs twice in {arrays}")
    for name in spec.input_names:
        for described in (f"{name}_shape", f"{name}_strides", f"{name}_ndim"):
            if described in arrays:
                raise bad(f"{described!r} is what MLX calls a part of {name!r}; rename one")
    if not spec.output_names:
        raise bad("it has no output; name one")
    for argument, text in (("source", spec.source), ("header", spec.header)):
        if not isinstance(text, str):
            raise bad(f"{argument} is a {type(text).__name__}; give a str")
    if not spec.source.strip():
        raise bad("it has an empty source")


# -- its launch -----------------------------------------------------------------------------------
def inputs(spec: MetalKernelSpec, given: Sequence[Any]) -> list[mx.array]:
    """The inputs as arrays, Python's numbers as MLX takes them: rank 0, of MLX's default types."""
    if len(given) != len(spec.input_names):
        wanted = f"{len(spec.input_names)}: {spec.input_names}"
        raise wrong(spec.name, "inputs", f"{len(given)} arrays", wanted)
    arrays = []
    for name, value in zip(spec.input_names, given, strict=True):
        array = value if isinstance(value, mx.array) else _number(spec, name, value)
        if not dtypes.has_msl(name_of(array.dtype)):
            raise wrong(spec.name, name, name_of(array.dtype), "a type that Metal has")
        arrays.append(array)
    return arrays


def _number(spec: MetalKernelSpec, name: str, value: Any) -> mx.array:
    """A number as an array of rank 0; of a NumPy number the type stays."""
    numpy = hasattr(value, "dtype") and getattr(value, "shape", None) == ()
    if not isinstance(value, _NUMBERS) and not numpy:
        came = type(value).__name__
        raise TypeError(str(wrong(spec.name, name, came, "an mx.array or a number")))
    return mx.array(value)


def outputs(
    spec: MetalKernelSpec,
    arrays: Sequence[mx.array],
    shapes: Sequence[Sequence[int]] | None,
    kinds: Sequence[mx.Dtype] | None,
) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Shapes and types of all outputs, those of the first input where they are left out."""
    count = len(spec.output_names)
    if not arrays and (shapes is None or kinds is None):
        wanted = "both, since the kernel has no input to copy them from"
        raise wrong(spec.name, "output_shapes and output_dtypes", "None", wanted)
    shapes = [arrays[0].shape] * count if shapes is None else shapes
    kinds = [arrays[0].dtype] * count if kinds is None else kinds
    for name, given in (("output_shapes", shapes), ("output_dtypes", kinds)):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise wrong(spec.name, name, repr(given), "a list with an entry for each output")
        if len(given) != count:
            wanted = f"{count}, one for each output"
            raise wrong(spec.name, name, f"{len(given)} entries", wanted)
    for kind in kinds:
        if not isinstance(kind, mx.Dtype) or not dtypes.has_msl(name_of(kind)):
            raise wrong(spec.name, "output_dtypes", repr(kind), "types that Metal has")
    sizes = []
    for shape in shapes:
        whole = whole_numbers(shape)
        if whole is None or any(n < 0 for n in whole):
            raise wrong(spec.name, "output_shapes", repr(shape), "sizes from 0 on")
        sizes.append(whole)
    return tuple(sizes), tuple(name_of(kind) for kind in kinds)


def grid(spec: MetalKernelSpec, given: Sequence[int]) -> Extent:
    """The grid in threads."""
    return _extent(spec, "grid", given, INT32_MAX)


def threadgroup(spec: MetalKernelSpec, given: Sequence[int]) -> Extent:
    """The threads of a group."""
    extent = _extent(spec, "threadgroup", given, MAX_THREADS)
    if prod(extent) > MAX_THREADS:
        raise wrong(spec.name, "threadgroup", repr(extent), f"at most {MAX_THREADS} threads in all")
    return extent


def _extent(spec: MetalKernelSpec, name: str, given: Sequence[int], most: int) -> Extent:
    sizes = whole_numbers(given)
    if sizes is None or len(sizes) != 3 or not all(1 <= n <= most for n in sizes):
        raise wrong(spec.name, name, repr(given), f"three whole numbers from 1 to {most}")
    return sizes[0], sizes[1], sizes[2]


def template(
    spec: MetalKernelSpec, pairs: Sequence[tuple[str, Any]]
) -> tuple[tuple[str, int | str], ...]:
    """Names of the template with ints, bools or names of types."""
    found: dict[str, int | str] = {}
    taken = {*KEYWORDS, *ATTRIBUTES, *spec.input_names, *spec.output_names}
    for pair in pairs:
        name, value = pair if isinstance(pair, Sequence) and len(pair) == 2 else (pair, None)
        if not isinstance(name, str) or not re.fullmatch(IDENTIFIER, name):
            raise wrong(spec.name, "template", repr(pair), "pairs of a name and a value")
        if name in taken or name in found:
            raise wrong(spec.name, "template", f"{name!r}, which is taken", "another name")
        found[name] = _constant(spec, name, value)
    return tuple(found.items())


def _constant(spec: MetalKernelSpec, name: str, value: Any) -> int | str:
    if isinstance(value, mx.Dtype) and dtypes.has_msl(name_of(value)):
        return name_of(value)
    if type(value).__name__ in ("bool_", "bool"):  # NumPy's has no __index__
        return bool(value)
    try:
        number = operator.index(value)
    except TypeError:
        number = INT32_MAX + 1
    if -INT32_MAX - 1 <= number <= INT32_MAX:
        return number
    raise wrong(spec.name, f"template {name}", repr(value), "an int of 32 bits, a bool or a dtype")


def whole_numbers(given: Any) -> tuple[int, ...] | None:
    """`given` as whole numbers, of NumPy too; None where it is none."""
    try:
        return tuple([operator.index(n) for n in given])
    except TypeError:
        return None
