"""Text: an explanation for the terminal, in rich's tables.

Comes in: an Explanation. Goes out: things that rich prints. zmlx.fuse.explain calls it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import sympy as sp
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from zmlx.fuse.explain import Explanation, RegionReport

WIDTH = 100
MSL_LINES = 40  # of a kernel's text; the whole is in `.msl` and on the page
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
COUNTED = (
    "Plain MLX runs each elementwise op as a kernel that reads its operands and writes its result. "
    "Calls that are not elementwise cost the same either way and are not counted."
)


def formula(expression: sp.Basic) -> str:
    """An expression in one line, without the zeros that sympy appends to numbers."""
    return str(sp.sstr(expression, full_prec=False))


def bytes_text(count: int) -> str:
    """A number of bytes as people read it."""
    power = min(max(count.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    size = count / 1024**power
    number = f"{size:.3g}" if size < 1000 else f"{size:.0f}"
    return f"{number} {UNITS[power]}"


def ops_text(ops: tuple[str, ...]) -> str:
    """The ops in order; repeats as "multiply x3"."""
    runs: list[list[Any]] = []
    for op in ops:
        if runs and runs[-1][0] == op:
            runs[-1][1] += 1
        else:
            runs.append([op, 1])
    return " ".join(op if count == 1 else f"{op} x{count}" for op, count in runs)


def facts(explanation: Explanation) -> dict[str, str]:
    """The numbers at the top, in words."""
    e = explanation
    return {
        "regions": f"{len(e.regions)} ({sum(len(r.ops) for r in e.regions)} elementwise ops)",
        "kernels": f"{e.kernels_before} as plain MLX, {e.kernels_after} fused",
        "bytes moved": f"{bytes_text(e.bytes_before)} as plain MLX, "
        f"{bytes_text(e.bytes_after)} fused{ratio(e)}",
        "run by MLX": plural(len(e.unfused), "call"),
        "numerics": e.numerics,
    }


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def ratio(explanation: Explanation) -> str:
    """How many times fewer bytes move, in brackets."""
    before, after = explanation.bytes_before, explanation.bytes_after
    return f" ({before / after:.1f} times fewer)" if 0 < after < before else ""


def static_facts(explanation: Explanation) -> list[str]:
    """What binds the trace to this call's arguments, one sentence each."""
    e = explanation
    found = []
    if e.shape_reads:
        found.append(f"Reads a size, so holds for these sizes only: {', '.join(e.shape_reads)}")
    if e.static_numbers:
        numbers = ", ".join(f"number {i}" for i in e.static_numbers)
        found.append(f"Reads the value, so is traced anew for each value of: {numbers}")
    return found


def plain(explanation: Explanation) -> str:
    """The explanation as text without colours."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(explanation)
    return capture.get()


def parts(explanation: Explanation) -> Iterator[RenderableType]:
    """What rich prints for an explanation, from top to bottom."""
    table = Table(title=Text(f"zmlx.explain: {explanation.name}"), show_header=False)
    for name, fact in facts(explanation).items():
        table.add_row(name, Text(fact))
    table.caption = COUNTED
    yield table
    for region in explanation.regions:
        yield _region(region)
    if explanation.unfused:
        yield _unfused(explanation)
    if explanation.captures:
        yield _captures(explanation)
    for sentence in static_facts(explanation):
        yield Text(sentence)
    if not explanation.regions:
        yield Text("Nothing here is fused.")


def _region(region: RegionReport) -> Panel:
    ends = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for way, ports in (("reads", region.inputs), ("writes", region.outputs)):
        for port in ports:
            ends.add_row(way, port.name, Text(str(port.value)), Text(port.source))
    blocks: list[RenderableType] = [
        Text(f"{plural(len(region.ops), 'op')}: {ops_text(region.ops)}"),
        ends,
        Text("\nformula", style="bold"),
        _equations(region.formula_lines),
    ]
    if region.vjp:
        lines = {f"d/d{n}" if n in region.vjp else n: v for n, v in region.vjp_lines.items()}
        cotangents = "g0 is the cotangent of out0" + (", …" if len(region.outputs) > 1 else "")
        head = f"\nderivative ({plural(len(region.vjp_kernels), 'kernel')}; {cotangents})"
        blocks += [Text(head, style="bold"), _equations(lines)]
    blocks += [Text("\nkernel", style="bold"), _kernel(region)]
    return Panel(Group(*blocks), title=region.name, title_align="left")


def _equations(values: Mapping[str, sp.Expr]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    for name, value in values.items():
        table.add_row(Text(name), Text(f"= {formula(value)}"))
    return table


def _kernel(region: RegionReport) -> RenderableType:
    """What the kernel does for one element; its loops are the same for all."""
    if not region.kernel:
        return Text("none: the outputs differ in shape here, MLX runs the ops one by one")
    element = region.msl[region.msl.find("// One element") :].partition("// Body of kernel")[0]
    lines = element.splitlines()
    shown = "\n".join([*lines[:MSL_LINES], *(["// …"] if len(lines) > MSL_LINES else [])])
    code = Syntax(shown, "cpp", word_wrap=True, background_color="default")
    count = len(region.msl.splitlines())
    return Group(
        code, Text(f"all {count} lines: `.msl` of this region, or the page that `.save` writes")
    )


def _unfused(explanation: Explanation) -> RenderableType:
    table = Table()
    for column in ("call", "why", "line", "result"):
        table.add_column(column, overflow="fold")
    for item in explanation.unfused:
        cells = (item.label, item.reason, item.loc, ", ".join(map(str, item.results)))
        table.add_row(*map(Text, cells))
    return Group(Text("run by MLX", style="bold"), table)


def _captures(explanation: Explanation) -> RenderableType:
    table = Table()
    table.add_column("array")
    table.add_column("line", overflow="fold")
    for capture in explanation.captures:
        table.add_row(Text(str(capture.value)), Text(capture.loc))
    head = "captured arrays: reached through a closure, fixed when the function was traced"
    return Group(Text(head, style="bold"), table)
