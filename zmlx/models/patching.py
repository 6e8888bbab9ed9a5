"""Patching: which modules of a model get a patched class, and how they lose it again.

Comes in: a model of mlx.nn. Goes out: the same model, patched or plain, and a PatchReport.
`zmlx.patch` and `zmlx.unpatch`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import mlx.nn as nn

from zmlx.errors import ValidationError
from zmlx.fuse.api import NUMERICS, FusedFunction
from zmlx.models.deciding import decide, signature_of
from zmlx.models.part import Options, part_of, patched_class, swap
from zmlx.models.report import PatchReport, Place
from zmlx.models.validating import validate as validated

_LOOPS = "holds the layers: its loop, masks and caches stay in Python"
_MLX = "a layer of MLX's: fused by what is around it"
_NO_CALL = "has no __call__ of its own"


def patch(
    model: nn.Module, *, measure: bool = True, validate: Any = None, numerics: str = "fp32"
) -> PatchReport:
    """Fuse the layers of a model where that pays; `unpatch` gives the plain model back.

    Only this object changes, in place: its modules get subclasses of their classes, by which
    calls run fused. Parameters, their names, and all else that the modules hold stay as they are.
    Patching again, with other options say, is allowed.

    Args:
        model: an mlx.nn.Module, of mlx-lm, mlx-vlm or your own.
        measure: measure each kind of calls (module, shapes of weights, dtype, class of sizes; with
            a cache, with a gradient) when it is first met, once a device: what is no faster fused
            runs as plain MLX. What was found is kept beside the compiled kernels. False fuses all
            that can be.
        validate: arguments of a call, as `zmlx.validate` takes them: the patched model is compared
            with the plain one at once.
        numerics: "fp32" or "mlx", as in `zmlx.fuse`.

    Returns:
        A PatchReport: what was replaced, what not, and why. It follows the model while it runs.

    Raises:
        TypeError: `model` is no mlx.nn.Module.
        ValidationError: the patched model computes something else; the model is plain again.
    """
    _check(model, numerics)
    options = _options(model, bool(measure), numerics)
    unpatch(model)
    places = _swapped(model, options)
    report = PatchReport(type(model).__name__, options, places)
    if validate is not None:
        try:
            report.validation = validated(model, validate)
        except ValidationError:
            unpatch(model)
            raise
    return report


def unpatch(model: nn.Module) -> nn.Module:
    """Give every patched module its own class back; returns the model. Weights are not touched."""
    if not isinstance(model, nn.Module):
        raise TypeError(_NO_MODULE.format("unpatch", type(model).__name__))
    for module in model.modules():
        part = part_of(module)
        if part is not None:
            swap(module, part.plain_class)
    return model


_NO_MODULE = (
    "[zmlx.{}] model is a {}; wanted an mlx.nn.Module. A function is fused by zmlx.fuse(function)."
)


def _check(model: Any, numerics: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(_NO_MODULE.format("patch", type(model).__name__))
    if numerics not in NUMERICS:
        raise ValueError(f"[zmlx.patch] numerics is {numerics!r}; wanted one of {NUMERICS}.")


def _options(model: nn.Module, measure: bool, numerics: str) -> Options:
    """Those of an earlier patch of the model, where they are the same."""
    for module in model.modules():
        part = part_of(module)
        if part and (part.options.measure, part.options.numerics) == (measure, numerics):
            return part.options
    return Options(measure, numerics, os.urandom(8).hex())


def _swapped(model: nn.Module, options: Options) -> list[Place]:
    found: dict[Any, Place] = {}
    for path, module in walked(model):
        part, why = None, _why_not(module)
        plain = type(module)
        if not why:
            try:
                swap(module, patched_class(plain, options, signature_of(module), decide))
                part = part_of(module)
            except TypeError as error:
                why = f"its class cannot be extended: {error}"
        place = found.setdefault((plain, part, why), Place(plain.__name__, part, why))
        place.paths.append(path)
    return list(found.values())


def walked(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its path, outer ones first, each once."""
    seen: set[int] = set()

    def below(path: str, value: Any) -> Iterator[tuple[str, nn.Module]]:
        if isinstance(value, nn.Module):
            if id(value) in seen:
                return
            seen.add(id(value))
            yield path, value
            for name, item in value.children().items():
                yield from below(f"{path}.{name}" if path else name, item)
        elif isinstance(value, dict):
            for name, item in value.items():
                yield from below(f"{path}.{name}", item)
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                yield from below(f"{path}.{i}", item)

    yield from below("", model)


def _why_not(module: nn.Module) -> str:
    """Why a module keeps its class; "" where it does not."""
    cls: Any = type(module)
    if isinstance(cls.__dict__.get("__call__"), FusedFunction):
        return "is fused already"
    if not callable(module):
        return _NO_CALL
    own = not (cls.__module__ or "").startswith("mlx.nn")
    if not _below(module) and (not own or hasattr(module, "to_quantized")):
        return _MLX
    return _LOOPS if _holds_layers(module) else ""


def _below(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if m is not module]


def loops(model: nn.Module) -> list[nn.Module]:
    """The modules that hold a list of layers themselves; the model, where none does."""
    return [m for m in model.modules() if _holds_layers(m, below=False)] or [model]


def _holds_layers(module: nn.Module, below: bool = True) -> bool:
    """Whether there is a list of modules that have modules, in it or `below` it."""
    return any(
        isinstance(item, nn.Module) and _below(item)
        for inner in (module.modules() if below else [module])
        for value in inner.children().values()
        if isinstance(value, (list, tuple, dict)) and not isinstance(value, nn.Module)
        for item in (value.values() if isinstance(value, dict) else value)
    )
