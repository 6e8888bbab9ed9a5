"""Loading: `zmlx.load`, and the function that it returns.

Comes in: a file that zmlx.stored.write made. Goes out: Loaded, a callable that plans and runs the
traces in it as a fused function does its own, derivatives included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx import switches
from zmlx.device import signature
from zmlx.device.rules import sizes_to_come
from zmlx.errors import StoredError
from zmlx.fuse.entry import Entry
from zmlx.fuse.program import Program, make_program
from zmlx.fuse.runtime import Runtime
from zmlx.fuse.site import pattern
from zmlx.fuse.told import changes
from zmlx.fuse.tracebacks import shortened
from zmlx.log import logger
from zmlx.stored import archive, machine, signatures
from zmlx.stored.graphs import trace_read
from zmlx.stored.mlxfn import SUFFIX
from zmlx.stored.values import read, structure_read
from zmlx.trace import intercept
from zmlx.trace.exprs import Number, computed
from zmlx.trace.paths import names, path_to
from zmlx.trace.run import Trace
from zmlx.trace.tree import Leaves, NumpyArgument, flatten_call

KERNELS = ("any", "stored", "compile")
_log = logger("zmlx.load")


@dataclass(frozen=True, eq=False)
class Variant:
    """One trace, and the calls that it holds for."""

    key: Any  # structure and signature
    trace: Trace
    arrays: tuple[list[mx.array], list[mx.array]]  # before and behind those of the call
    numbers: tuple[list[Number], list[Number]]
    same: tuple[int, ...] | None  # which arrays are one, see zmlx.fuse.site.pattern
    static: tuple[tuple[int, str], ...]  # numbers that it holds for, by repr
    told: dict[str, str]

    @classmethod
    def of(cls, text: dict[str, Any], arrays: Mapping[str, mx.array]) -> Variant:
        positional, named = text["structure"]
        structure = (
            tuple(map(structure_read, positional)),
            tuple([(key, structure_read(item)) for key, item in named]),
            (),
        )
        before, behind = [[arrays[name] for name in part] for part in text["arrays"]]
        first, last = [list(map(read, part)) for part in text["numbers"]]
        same = text["same"]
        return cls(
            (structure, bytes.fromhex(text["signature"])),
            trace_read(text["trace"], arrays),
            (before, behind),
            (first, last),
            None if same is None else tuple(same),
            tuple([(int(i), value) for i, value in text["static"]]),
            text["told"],
        )

    def placed(
        self, arrays: Sequence[mx.array], numbers: Sequence[Number]
    ) -> tuple[list[mx.array], list[Number]]:
        """What the trace takes: what is stored, and what a call brings."""
        (before, behind), (first, last) = self.arrays, self.numbers
        return [*before, *arrays, *behind], [*first, *numbers, *last]

    def misfit(self, arrays: Sequence[mx.array], numbers: Sequence[Number]) -> str:
        """Why it does not hold for a call of its key, or ""."""
        if len(arrays) > 1 and pattern(arrays) != self.same:
            return "other arguments are one and the same array"
        for i, value in self.static:
            if repr(numbers[i]) != value:
                return f"it holds for the number {value} only"
        for decision in self.trace.decisions:
            try:
                (value,) = computed((decision.expr,))(arrays, numbers)
            except (ArithmeticError, ValueError) as error:
                return str(error)
            if value != decision.value:
                return f"its {decision.loc} read a size or number, {decision.value}: {value} here"
        return ""


class Loaded:
    """A stored function: call it as the function that was exported.

    `machine_code` says why stored machine code is not used, "" where it is.
    """

    def __init__(
        self, text: dict[str, Any], arrays: Mapping[str, mx.array], path: Path, why: str
    ) -> None:
        self.__name__ = self.__qualname__ = str(text["name"])
        self.__doc__ = str(text["doc"]) or type(self).__doc__
        self.__signature__ = signatures.read(text["signature"])
        self.machine_code, self.kernels = why, "any"
        self._path, self._exact, self._group = path, bool(text["exact"]), int(text["group"])
        self._variants: dict[Any, list[Variant]] = {}
        self._entries: dict[Any, Entry] = {}
        for one in text["variants"]:
            variant = Variant.of(one, arrays)
            self._variants.setdefault(variant.key, []).append(variant)

    def variants(self) -> list[Variant]:
        """Every trace in the file."""
        return [variant for found in self._variants.values() for variant in found]

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (str(self._path.absolute()), self.kernels)

    def __repr__(self) -> str:
        return f"<zmlx.load {self.__name__} from {self._path}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._anywhere(args, kwargs)
        except Exception as error:
            raise shortened(error)  # noqa: B904 - the same one

    def _anywhere(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = signatures.bound(self.__signature__, args, kwargs)
        tracer = intercept.current()
        if tracer is None:
            return self._called(args, kwargs)
        if tracer.sees((args, kwargs)):
            call = partial(self._given, list(args), kwargs)
            return tracer.state.run(tracer, self.__name__, call, (), {})
        with intercept.recording(None):
            return self._called(args, kwargs)

    def values(
        self, variant: Variant, arrays: Sequence[mx.array], numbers: Sequence[Number]
    ) -> list[mx.array]:
        """The outputs of a variant's graph."""
        placed, known = variant.placed(arrays, numbers)
        return self._entry(variant, placed).values(placed, known)

    def _given(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        return self._called(tuple(args), kwargs)

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            leaves, structure = flatten_call(args, kwargs)
        except NumpyArgument as error:
            (array,) = error.args
            where = path_to(self, args, kwargs, array)
            raise TypeError(
                f"[zmlx.load] {self.__name__}: {where} is a NumPy array of shape {array.shape}, "
                f"{array.dtype}. Pass mx.array(it)."
            ) from None
        key = structure, signatures.portable(leaves.arrays)
        reasons = []
        for variant in self._variants.get(key, ()):
            arrays, numbers = variant.placed(leaves.arrays, leaves.numbers)
            why = variant.misfit(arrays, numbers)
            if not why:
                return self._entry(variant, arrays).call(arrays, numbers, ())
            reasons.append(why)
        raise StoredError(self._unknown(args, kwargs, leaves, reasons))

    def _unknown(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Leaves, reasons: list[str]
    ) -> str:
        """The words for a call that the file holds no trace for."""
        called = names(self, args, kwargs, leaves.arrays, leaves.numbers)
        now = signatures.told(called, leaves)
        if not reasons:
            held = [changes(variant.told, now) for variant in self.variants()]
            shortest = min(held, key=len)
            reasons = [shortest or "another constant, or other containers"]
        return (
            f"[zmlx.load] {self.__name__} from {self._path} holds no trace for this call: "
            f"{'; '.join(reasons)}. Export it with such arguments too: zmlx.exporter takes an "
            "example of each kind of call."
        )

    def _entry(self, variant: Variant, arrays: Sequence[mx.array]) -> Entry:
        """The variant's program for the switches and the device of the moment."""
        apart = sizes_to_come(arrays)
        key = (id(variant), switches.mode(), str(mx.default_device()), apart)
        entry = self._entries.get(key)
        if entry is None:
            runtime = Runtime(
                self._exact, switches.CHECK.on(), signature.fastest(), make_program,
                switches.mode()[0], apart=apart, group=self._group,
            )  # fmt: skip
            with runtime.making():
                program = Program(variant.trace.graph, runtime, self.__name__)
            entry = self._entries.setdefault(key, Entry(variant.trace, program))
        return entry


def load(path: str | Path, /, *, kernels: str = "any") -> Any:
    """The function that `zmlx.export` wrote to `path`, without tracing it.

    It is called as the function that was exported, has gradients as it has, and may be given other
    sizes, where the exported trace did not read them. A `.mlxfn` file is given to MLX, as
    mx.import_function does.

    Args:
        path: the file. With `kernels="compile"` nothing in it is run as code, so that a file from
            elsewhere does no harm; else its machine code is as trusted as a program, and is used
            only if the file is yours and nobody else may write to it.
        kernels: "any" uses stored machine code where it fits and compiles what is missing;
            "stored" refuses a file whose machine code does not fit; "compile" never uses it.

    Raises:
        StoredError: the file is none of this kind, is damaged, of another format, or for another
            MLX; with `kernels="stored"`, its machine code does not fit, and the message says why.
    """
    if kernels not in KERNELS:
        raise ValueError(f"[zmlx.load] kernels is {kernels!r}; wanted one of {', '.join(KERNELS)}.")
    path = Path(path)
    if path.suffix == SUFFIX:
        return mx.import_function(str(path))
    found = archive.read(path)
    why = 'kernels="compile" asks for none' if kernels == "compile" else ""
    why = why or machine.offered(found, path)
    if why and kernels == "stored":
        machine.refuse(path, why)
    if why:
        _log.info("%s: its machine code is not used: %s", path, why)
    try:
        made = Loaded(found.function, found.arrays, path, why)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StoredError(f"[zmlx.load] {path} holds no function: {error!r}.") from error
    made.kernels = kernels
    return made


def _again(path: str, kernels: str) -> Any:
    """What a pickle or a copy of a loaded function calls."""
    return load(path, kernels=kernels)
