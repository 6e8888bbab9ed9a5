"""Validating: a patched model beside the plain one, before anyone trusts it. `zmlx.validate`.

Comes in: a patched model and the arguments of a call. Goes out: a Validation: how far results,
gradients and greedy tokens are from plain MLX's in float32, beside plain MLX's own distance. What
is too far is an error that names the module where the two part (zmlx.models.locating).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from zmlx.errors import ValidationError
from zmlx.models.distance import apart
from zmlx.models.greedy import generates, greedy, parted
from zmlx.models.locating import first_apart
from zmlx.models.part import part_of, swap
from zmlx.models.standing import like, summed
from zmlx.trace.calls import keeping_random_state
from zmlx.trace.kinds import refill

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

NEAR = 1e-5  # in float32: of the largest value, forward
NEAR_GRADIENT = 1e-4
MORE = 2.0  # times plain MLX's own error, in the model's type


@dataclass(frozen=True)
class Compared:
    """One comparison; errors are shares of the largest value of the float32 model's array."""

    what: str  # "results", "gradients" or "greedy tokens"
    dtype: str
    error: float  # of the patched model
    plain: float  # of plain MLX in the same type
    allowed: float
    where: str = ""  # the array that is farthest off
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


@dataclass
class Validation:
    """All comparisons of one model. It passed where `passed` is true."""

    model: str
    compared: list[Compared] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(c.passed for c in self.compared)

    def as_dict(self) -> dict[str, Any]:
        rows = [{**vars(c), "passed": c.passed} for c in self.compared]
        return {"model": self.model, "passed": self.passed, "compared": rows}

    def table(self) -> Table:
        from rich.table import Table

        table = Table(title=f"zmlx.validate: {self.model}")
        for column in ("what", "type", "patched", "plain MLX", "allowed", "", "farthest off"):
            table.add_column(column, overflow="fold")
        for c in self.compared:
            numbers = (f"{c.error:.2g}", f"{c.plain:.2g}", f"{c.allowed:.2g}")
            said = "passed" if c.passed else "FAILED"
            table.add_row(c.what, c.dtype, *numbers, said, c.note or c.where)
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table()


def validate(model: nn.Module, inputs: Any, *, tokens: int = 8) -> Validation:
    """Compare a patched model with the plain one: results, gradients, greedy tokens.

    In float32 and in the model's own type; the reference is the plain model in float32, with the
    same weights. Weights and random state are afterwards what they were.

    Args:
        model: a model that `zmlx.patch` has patched.
        inputs: an array, a tuple of arguments or a dict of keyword arguments of a call. Gradients
            are those of the sum of all results, each weighted by a random number, for what is
            trainable.
        tokens: how many greedy tokens are compared, where integers go in and logits come out.

    Returns:
        A Validation, which prints as a table.

    Raises:
        TypeError, ValueError: `model` is no module, or nothing in it is patched.
        ValidationError: a comparison failed; the message names the module where the two part.
    """
    _check(model)
    with kept(model):
        return _validated(model, _Runs(model, inputs, tokens))


def _validated(model: nn.Module, run: _Runs) -> Validation:
    validation, own = Validation(type(model).__name__), _type_of(model)
    with in_float32(model):
        exact = run.plain()
        validation.compared += _all(run.patched(), exact, exact, "float32")
        if not validation.passed:
            raise _failed(model, run, validation)
    if own != "float32":
        rows = _all(run.patched(), run.plain(), exact, own)
        validation.compared += rows
        if not validation.passed:
            raise _failed(model, run, validation)
    return validation


class _Runs:
    """A model's call, gradient and greedy tokens, with and without the patch."""

    def __init__(self, model: nn.Module, inputs: Any, tokens: int) -> None:
        self.model, self.tokens = model, tokens
        self.args: tuple[Any, ...] = inputs if isinstance(inputs, tuple) else (inputs,)
        self.kwargs: dict[str, Any] = {}
        if isinstance(inputs, dict):
            self.args, self.kwargs = (), inputs

    def call(self) -> Any:
        return self.model(*self.args, **self.kwargs)

    def plain(self) -> dict[str, Any]:
        with plainly(self.model):
            return self.patched()

    def patched(self) -> dict[str, Any]:
        with kept(self.model):
            found = {"results": self._drawn(self.call), "gradients": self._drawn(self._gradients)}
        if self.tokens > 0 and generates(self.args, found["results"]):
            found["greedy tokens"] = greedy(self.model, self.args[0], self.tokens)
        return found

    def _drawn(self, call: Callable[[], Any]) -> Any:
        """With the same random numbers each time."""
        with keeping_random_state():
            found = dict(tree_flatten({"": call()}))
            mx.eval(found)
        return found

    def _gradients(self) -> Any:
        def loss(model: nn.Module) -> mx.array:
            given = model(*self.args, **self.kwargs)
            results = [leaf for _, leaf in tree_flatten([given]) if isinstance(leaf, mx.array)]
            floats = [r.astype(mx.float32) for r in results if mx.issubdtype(r.dtype, mx.floating)]
            return summed(r * like(r, seed) for seed, r in enumerate(floats))

        if not tree_flatten(self.model.trainable_parameters()):
            return {}
        return nn.value_and_grad(self.model, loss)(self.model)[1]


def _all(got: Any, plain: Any, exact: Any, dtype: str) -> list[Compared]:
    """The rows of one type."""
    rows = []
    for what, near in (("results", NEAR), ("gradients", NEAR_GRADIENT)):
        if not exact[what]:
            note = "nothing is trainable" if what == "gradients" else "no arrays come out"
            rows.append(Compared(what, dtype, 0.0, 0.0, near, note=note))
            continue
        (error, where), (own, _) = apart(got[what], exact[what]), apart(plain[what], exact[what])
        allowed = near if dtype == "float32" else MORE * own + near
        rows.append(Compared(what, dtype, error, own, allowed, where))
    if "greedy tokens" in exact:
        allowed = NEAR if dtype == "float32" else 2 * rows[0].allowed
        error, note = parted(got["greedy tokens"], plain["greedy tokens"])
        rows.append(Compared("greedy tokens", dtype, error, 0.0, allowed, note=note))
    return rows


def _check(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"[zmlx.validate] model is a {type(model).__name__}; wanted an mlx.nn.Module that "
            "zmlx.patch has patched."
        )
    if not any(part_of(m) for m in model.modules()):
        raise ValueError(
            f"[zmlx.validate] nothing in this {type(model).__name__} is patched. Call "
            "zmlx.patch(model) first, or zmlx.patch(model, validate=inputs)."
        )


def _failed(model: nn.Module, run: _Runs, validation: Validation) -> ValidationError:
    worst = next(c for c in validation.compared if not c.passed)
    tokens = worst.what == "greedy tokens"
    call = (lambda: greedy(model, run.args[0], run.tokens)) if tokens else run.call
    place = first_apart(model, call, worst.allowed, worst.what == "gradients")
    told = f"farthest off: {worst.where}" if worst.where else worst.note
    at = f" ({told})" if told else ""
    where = f"the two part first in {place}" if place else "no single module parts from plain MLX"
    return ValidationError(
        f"[zmlx.validate] {validation.model}, {worst.what} in {worst.dtype}: the patched model is "
        f"{worst.error:.2g} off, plain MLX {worst.plain:.2g}, allowed {worst.allowed:.2g}{at}; "
        f"{where}. Run the plain model: zmlx.unpatch(model).",
        validation,
    )


# -- the model, for a while -----------------------------------------------------------------------
def _type_of(model: nn.Module) -> str:
    floats = [a.dtype for _, a in tree_flatten(model.parameters()) if hasattr(a, "dtype")]
    halves = [d for d in floats if d in (mx.float16, mx.bfloat16)]
    return str((halves or [mx.float32])[0]).removeprefix("mlx.core.")


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Within the block the model is not patched."""
    found = [(m, type(m), part) for m in model.modules() if (part := part_of(m)) is not None]
    for module, _, part in found:
        swap(module, part.plain_class)
    try:
        yield
    finally:
        for module, cls, _ in found:
            swap(module, cls)


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """After the block every module holds what it held: weights, running statistics, counters."""
    held = [(m, dict(m), dict(vars(m))) for m in model.modules()]
    try:
        yield
    finally:
        for module, items, attributes in held:
            refill(module, items)
            refill(vars(module), attributes)


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Within the block half-precision weights are float32, with the same values."""
    with kept(model):
        model.set_dtype(mx.float32)
        yield
