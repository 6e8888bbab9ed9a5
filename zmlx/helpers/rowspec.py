"""RowSpec: a row-wise op as expressions of Metal Shading Language, and what they may name.

Comes in: the texts of zmlx.rowwise.map_reduce. Goes out: a RowSpec that has been checked, which
zmlx.helpers.rowsteps makes a function of; or an error that names the op and the argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from zmlx.errors import DeriveError
from zmlx.expr import Names, Source, Unparsed, parse_all
from zmlx.helpers.spec import OpSpec, defined_by, readable_functions
from zmlx.msl import DEFAULT_HEADER

WHERE = "rowwise"
# What expressions may not have as the name of an input: their own names, and the text's.
LENGTHS = ("d", "D")  # of a row; an input may be called D
TAKEN = frozenset({"x", "a", "b", "d", "acc1", "acc2", "s1", "s2", "T", "O"})
_IDENTIFIER = r"[A-Za-z_]\w*"


@dataclass(frozen=True)
class Fold:
    """One reduction over a row: its result, where it starts, what an element adds, how two join."""

    number: int  # of the pass, from 1
    init: str
    update: str
    join: str  # of `a` and `b`; associative and commutative

    @property
    def result(self) -> str:
        return f"s{self.number}"

    @property
    def accumulator(self) -> str:
        return f"acc{self.number}"

    def argument(self, what: str) -> str:
        """What a user calls one of its expressions."""
        return f"pass{self.number}_{what}"

    @property
    def used(self) -> bool:
        """False where no element changes the accumulator: the result is the init."""
        return self.update.strip() != self.accumulator


@dataclass(frozen=True)
class RowSpec:
    """All that decides what the op computes. The first input, `x` too, is the rows."""

    name: str
    d: int  # the length of a row
    folds: tuple[Fold, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    writes: tuple[str, ...]
    compute: str = "float32"  # the type T
    header: str = ""
    row_outputs: tuple[str, ...] = ()  # those of `outputs` that have one number a row
    folding: int = field(default=256, compare=False)  # threads of a fold that runs as its text

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"[zmlx.{WHERE}] {self.name!r}: {what}.")

    def refusal(self, why: str) -> DeriveError:
        return DeriveError(
            f"[zmlx.{WHERE}] {self.name!r} has no gradient: {why}. Write both passes as acc + f, "
            "acc * f, max(acc, f) or min(acc, f), in what zmlx can read."
        )

    @property
    def row_writes(self) -> tuple[bool, ...]:
        """For each output whether it has one number a row."""
        return tuple([name in self.row_outputs for name in self.outputs])

    @cached_property
    def own_header(self) -> str:
        """The header without the default one, which is there anyway."""
        return "" if self.header == DEFAULT_HEADER else self.header

    @cached_property
    def scope(self) -> Names:
        """What all expressions may say beside their names."""
        own = self.own_header
        return Names(header=defined_by(own), functions=readable_functions(own))

    def names(self, before: int) -> tuple[str, ...]:
        """What an expression may name after so many passes; the first is the rows."""
        values = dict.fromkeys(("x", *self.inputs, *LENGTHS))
        return (*values, *[fold.result for fold in self.folds[:before]])

    def step(self, text: str, argument: str, before: int, row: bool = False) -> OpSpec:
        """An expression as an elementwise op over `x` and the other values that it names.

        For one number a `row`, a result of a fold stands in the place of `x`.
        """
        used = words(text)
        first, aliases = "x", ((self.inputs[0], "x"),) if self.inputs[0] != "x" else ()
        if row:
            first, aliases = next(f.result for f in self.folds if f.used), ()
        others = [n for n in self.names(before) if n in used and n not in (first, self.inputs[0])]
        names = (first, *[n for n in others if n != "x"])
        return OpSpec(
            name=self.name, names=names, buffers=tuple([f"zmlx_in_{n}" for n in names]),
            expr=text, compute=self.compute, header=self.own_header, aliases=aliases,
            expr_name=argument,
        )  # fmt: skip

    def check(self) -> None:
        """ValueError for names, sizes and texts that no op has, with the column in a text."""
        self._check_names()
        if len(self.writes) != len(self.outputs):
            raise self.wrong(
                f"{len(self.writes)} expressions to write for the outputs {self.outputs}; "
                "give one for each"
            )
        self._check_row_outputs()
        texts = [text for text, _, _ in self._expressions()]
        if any(not isinstance(text, str) or not text.strip() for text in texts):
            raise self.wrong(f"an expression is empty among {texts}")
        for text, names, what in self._expressions():
            source = Source(text, f"{what} of {self.name!r}")
            try:
                parse_all([source], dict.fromkeys(names, "float32"), self.scope)
            except Unparsed:  # right C, perhaps: it runs as the text it is
                continue

    def _check_row_outputs(self) -> None:
        """An output with one number a row is made of results of folds."""
        unknown = [name for name in self.row_outputs if name not in self.outputs]
        if unknown:
            raise self.wrong(f"row_outputs has {unknown[0]!r}, which is no output {self.outputs}")
        if self.row_outputs and not any(fold.used for fold in self.folds):
            raise self.wrong("row_outputs wants a number for each row, but no pass folds one")
        for text, name in zip(self.writes, self.outputs, strict=True):
            elements = [n for n in ("x", self.inputs[0]) if n in words(text)]
            if name in self.row_outputs and elements:
                raise self.wrong(
                    f"write_expr of {name!r} names {elements[0]}, of which a row has many, but "
                    "row_outputs wants one number a row; fold it in a pass"
                )

    def _check_names(self) -> None:
        if not isinstance(self.d, int) or self.d < 1:
            raise self.wrong(f"d is {self.d!r}; give the length of the last axis, from 1 on")
        if not self.inputs or not self.outputs:
            raise self.wrong("it has no input or no output; name one of each")
        names = [*self.inputs, *self.outputs]
        for name in (self.name, *names):
            if not isinstance(name, str) or not re.fullmatch(_IDENTIFIER, name):
                raise self.wrong(f"{name!r} is no identifier")
        for name in names[1:] if names[0] == "x" else names:
            if name in TAKEN or name.startswith(("kk_", "zmlx_")):
                raise self.wrong(f"the name {name!r} is taken; choose another")
        if len(set(names)) < len(names):
            raise self.wrong(f"a name occurs twice in {names}")

    def _expressions(self) -> Iterator[tuple[str, Sequence[str], str]]:
        """Each expression with the names that it may use, and what a user calls it."""
        for k, fold in enumerate(self.folds):
            yield fold.init, (), fold.argument("init")
            yield fold.update, (*self.names(k), fold.accumulator), fold.argument("update")
            yield fold.join, ("a", "b"), fold.argument("reduce_op")
        for text in self.writes:
            yield text, self.names(len(self.folds)), "write_expr"


def words(text: str) -> frozenset[str]:
    """The identifiers in `text`."""
    return frozenset(re.findall(_IDENTIFIER, text))
