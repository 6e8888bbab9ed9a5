"""Element: the MSL function that computes all outputs of a region for one element.

Comes in: a region and its array and scalar inputs that the kernel reads. Goes out: a line of text
per op, the function's parameters, the helpers called. Values are held in float32 for every float
type; with exact=True each is rounded to its own type as soon as it is computed.
"""

from __future__ import annotations

import re

from zmlx import dtypes
from zmlx.dtypes import rounded
from zmlx.errors import EmitError
from zmlx.msl.helpers import helper_text
from zmlx.msl.literal import literal
from zmlx.msl.space import Space
from zmlx.ops.spec import OPERANDS, OpSpec
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph

_SHOWN = 12  # ops named in the comment above the function

# Metal's compiler makes fma of a product and a sum; plain MLX, op by op, cannot.
_NO_CONTRACTION = "#pragma METAL fp contract(off)\n"


class Element:
    """The function `zmlx_region(x0, …, p0, …, y0, …)`: arrays' values, scalars, outputs.

    `stored`: outputs go to memory as they are, and nowhere else.
    """

    def __init__(
        self, region: Graph, space: Space, exact: bool, name: str = "zmlx_region",
        stored: bool = True,
    ) -> None:  # fmt: skip
        self.region, self.exact, self.name = region, exact, name
        live = _live(region)
        nodes = [n for n in region if n in live and region.kind(n) == "op"]
        self.ops: tuple[str, ...] = tuple(region[n]["op"] for n in nodes)
        self._names: dict[int, str] = {}
        self._casts: dict[tuple[str, str, str], str] = {}
        self._helpers: dict[str, None] = {}
        self._lines: list[str] = []
        self._parameters: list[str] = []
        self._temporaries = 0
        for i, node in enumerate(space.arrays):
            if space.read[i]:
                self._argument(node, f"x{i}")
        for i, node in enumerate(space.scalars):
            self._argument(node, f"p{i}")
            if exact and region[node]["dtype"] in dtypes.HALVES and node in live:
                self._names[node] = self._cast(f"p{i}", "float32", region[node]["dtype"])
        for node in nodes:
            if stored and rounds_as_stored(region, node):
                self._names[node] = self._value(region.operands(node)[0], "float32")
            else:
                self._names[node] = self._operation(node)
        for i, node in enumerate(region.outputs):
            self._parameters.append(f"thread {dtypes.value_type(region[node]['dtype'])}& y{i}")
            self._lines.append(f"y{i} = {self._value(node, region[node]['dtype'])};")

    def text(self, *others: Element) -> str:
        """Helpers and function, with those of `others`, which are all exact or all not."""
        elements = (self, *others)
        return (
            (_NO_CONTRACTION if self.exact else "")
            + helper_text(dict.fromkeys(h for e in elements for h in e._helpers))
            + "".join(e._function() for e in elements)
        )

    def _function(self) -> str:
        shown = ", ".join(self.ops[:_SHOWN]) + (", ..." if len(self.ops) > _SHOWN else "")
        count = f"{len(self.ops)} op{'s' if len(self.ops) > 1 else ''}"
        what = f"{count}: {shown}" if self.ops else "a copy"
        lines = "".join(f"  {line}\n" for line in self._lines)
        return (
            f"// One element: {what}.\n"
            + f"inline void {self.name}({', '.join(self._parameters)}) {{\n{lines}}}\n"
        )

    def _argument(self, node: int, name: str) -> None:
        self._names[node] = name
        self._parameters.append(f"{dtypes.value_type(self.region[node]['dtype'])} {name}")

    # -- values -----------------------------------------------------------------------------------
    def _value(self, node: int, target: str) -> str:
        """A name or literal that holds `node`'s value as the value type of `target`."""
        data = self.region[node]
        if data["kind"] != "const":
            return self._cast(self._names[node], data["dtype"], target)
        value, source = data["value"], data["dtype"]
        if dtypes.is_float(target) and (dtypes.is_float(source) or abs(value) <= 2**24):
            for dtype in (source, target) if self.exact else ():
                value = rounded(value, dtype) if dtypes.is_float(dtype) else value
            return literal(value, target)
        return self._cast(literal(value, source), source, target)

    def _cast(self, value: str, source: str, target: str) -> str:
        """`value` of type `source` as one of type `target`; a conversion has its own temporary."""
        have, want = dtypes.value_type(source), dtypes.value_type(target)
        rounds = self.exact and want == "float" and source != target and target != "float32"
        if have == want and not rounds:
            return value
        key = (value, have, target if rounds else want)
        if key not in self._casts:
            text = self._conversion(value, have, want)
            text = self._rounded(text, target) if rounds else text
            self._casts[key] = self._temporary(want, text)
        return self._casts[key]

    def _conversion(self, value: str, have: str, want: str) -> str:
        if have == want:
            return value
        if want == "bool":
            return f"{value} != {have}(0)"
        if (have, want) == ("bool", "float"):  # no float(value): GCC vectorises none
            return f"{value} ? 1.0f : 0.0f"
        if have == "float":
            self._helpers["to_integer"] = None
            return f"zmlx_to_integer<{want}>({value})"
        return f"{want}({value})"

    def _rounded(self, text: str, dtype: str) -> str:
        """`text` (a float) rounded to the half type `dtype`."""
        self._helpers["round"] = None
        return f"zmlx_round<{dtypes.msl_type(dtype)}>({text})"

    def _temporary(self, kind: str, text: str) -> str:
        name = f"t{self._temporaries}"
        self._temporaries += 1
        self._lines.append(f"const {kind} {name} = {text};")
        return name

    # -- ops --------------------------------------------------------------------------------------
    def _operation(self, node: int) -> str:
        """The name of the value of the op `node`, after the lines that compute it."""
        data = self.region[node]
        spec, at, dtype = OPS[data["op"]], data["at"], data["dtype"]
        kinds = [at] * spec.arity
        if spec.operands == "select":
            kinds[0] = "bool"
        values = [
            self._value(o, kind) for o, kind in zip(self.region.operands(node), kinds, strict=True)
        ]
        have, want = dtypes.value_type(at), dtypes.value_type(dtype)
        if spec.result == "param" and have == want and dtype not in dtypes.HALVES:
            return values[0]
        to_integer = have == "float" and dtypes.is_integer(dtype)
        if spec.result == "param" and (to_integer or (have, want) == ("bool", "float")):
            return self._cast(values[0], at, dtype)
        template = self._expression(spec, node)
        if data["op"] == "tanh" and not self.exact and _beside_one(self.region, node):
            template = "zmlx_tanh_beside_one({x})"
            self._helpers["tanh_beside_one"] = None
        self._use(spec, template)
        text = template.format(
            **dict(zip(OPERANDS, values, strict=False)),
            T=have, M=dtypes.msl_type(at), R=dtypes.msl_type(dtype),
        )  # fmt: skip
        if text in values:
            return text
        if spec.result == "param" and dtype in dtypes.HALVES:
            text = f"float({text})"
        elif self.exact and dtype in dtypes.HALVES:
            text = self._rounded(text, dtype)
        return self._temporary(want, text)

    def _expression(self, spec: OpSpec, node: int) -> str:
        """The row's text for the op `node`, with its holes."""
        at = self.region[node]["at"]
        if dtypes.is_float(at):
            if self.exact and spec.msl_exact is not None:
                return spec.msl_exact
            last = self.region[self.region.operands(node)[-1]]
            if not self.exact and last["kind"] == "const":
                for constant, text in spec.msl_const:
                    if last["value"] == constant:
                        return text
        general = _typed(spec, at)
        if general is None:
            raise EmitError(
                f"[zmlx.emit] {spec.name} has no MSL form for {at} (node {node}, "
                f"{self.region[node]['loc'] or 'no source line'}). Run it as an MLX op."
            )
        return general

    def _use(self, spec: OpSpec, template: str) -> None:
        for name in (*spec.helpers, *spec.exact_helpers):
            if re.search(rf"\bzmlx_{name}\b", template):
                self._helpers[name] = None


def rounds_as_stored(region: Graph, node: int) -> bool:
    """Whether `node` only rounds what is stored, as storing it does by itself."""
    data = region[node]
    if data["kind"] != "op" or data["op"] != "astype" or region.users(node):
        return False
    constant = region.kind(region.operands(node)[0]) == "const"
    return data["dtype"] in dtypes.HALVES and dtypes.is_float(data["at"]) and not constant


def _beside_one(region: Graph, node: int) -> bool:
    """Whether a value counts only as far as 1 + value does: all that reads it adds a constant of
    some size, maybe after squaring it. A small value then need not be right to its last digit.
    """
    squares = [u for u in region.users(node) if _squares(region, u)]
    others = [u for u in region.users(node) if u not in squares]
    return (
        node not in region.outputs
        and all(_adds_constant(region, u) for u in others)
        and all(_only_added(region, u) for u in squares)
    )


def _only_added(region: Graph, node: int) -> bool:
    users = region.users(node)
    return node not in region.outputs and all(_adds_constant(region, u) for u in users)


def _adds_constant(region: Graph, node: int) -> bool:
    operands = [region[o] for o in region.operands(node)]
    return region[node].get("op") in ("add", "subtract") and any(
        o["kind"] == "const" and abs(o["value"]) >= 0.5 for o in operands
    )


def _squares(region: Graph, node: int) -> bool:
    op = region[node].get("op")
    return op == "square" or (op == "multiply" and len(set(region.operands(node))) == 1)


def _typed(spec: OpSpec, at: str) -> str | None:
    """The row's general text for operands of type `at`; "" in a row means: as the wider kind."""
    integer = spec.msl if spec.msl_int == "" else spec.msl_int
    if dtypes.is_float(at):
        return spec.msl
    if at != "bool":
        return integer
    return integer if spec.msl_bool == "" else spec.msl_bool


def _live(region: Graph) -> set[int]:
    """The nodes that the outputs depend on."""
    live = set(region.outputs)
    for node in reversed(range(len(region))):
        if node in live:
            live.update(region.operands(node))
    return live
