"""Text: an explanation for the terminal, in rich's tables.

Comes in: an Explanation. Goes out: things that rich prints. zmlx.fuse.explain calls it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import sympy as sp
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from zmlx.fuse.reports import alike, ops_text, short_ops

if TYPE_CHECKING:
    from zmlx.fuse.explain import Explanation, RegionReport, Unfused
    from zmlx.fuse.inside import Inside

WIDTH = 100
MSL_LINES = 40  # of a kernel's text; the whole is in `.msl` and on the page
MOST_SHARED = 6  # names of regions
MOST_REGIONS, MOST_SHOWN = 8, 120  # regions, ops of which a report prints all
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
COUNTED = (
    "Plain MLX runs each elementwise op as a kernel that reads its operands and writes its result, "
    "and reductions and calls that join regions here. Other calls cost the same either way and are "
    "not counted."
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


def facts(explanation: Explanation) -> dict[str, str]:
    """The numbers at the top, in words."""
    e = explanation
    now = "as it runs here" if e.no_kernels else "fused"
    found = {
        "regions": f"{len(e.regions)} ({sum(len(r.ops) for r in e.regions)} elementwise ops)",
        "kernels": f"{e.kernels_before} as plain MLX, {e.kernels_after} {now}",
        "bytes moved": f"{bytes_text(e.bytes_before)} as plain MLX, "
        f"{bytes_text(e.bytes_after)} {now}{ratio(e)}{', outside of calls' if insides(e) else ''}",
        "run by MLX": plural(len(e.unfused), "call"),
        "numerics": e.numerics,
    }
    if e.rounds:
        found["measured"] = f"each step by itself, here and now; median of {e.rounds}"
    if inner := insides(e):
        launches = sum(len(i.launches) for i in inner)
        moved = bytes_text(sum(i.bytes for i in inner))
        found["inside calls"] = f"{plural(launches, 'fused kernel')}, moving {moved} of their own"
    return {**found, "no kernel runs": e.no_kernels} if e.no_kernels else found


def ms_text(ms: float | None) -> str:
    """A measured time; nothing where none was measured."""
    return "" if ms is None else f"{ms:.3g} ms"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def ratio(explanation: Explanation) -> str:
    """How many times fewer bytes move, in brackets."""
    before, after = explanation.bytes_before, explanation.bytes_after
    return f" ({before / after:.1f} times fewer)" if 0 < after < before else ""


def static_facts(explanation: Explanation) -> list[str]:
    """What was made of calls, and what binds the trace to these arguments, one sentence each."""
    e = explanation
    found = [f"{e.exported}. It holds for the sizes of this call"] if e.exported else []
    found += [f"Replaced, pattern {p.name} at {p.loc}: {p.by}" for p in e.fired]
    found += [f"Nearly pattern {p.name} at {p.loc}, but {p.why}" for p in e.nearly]
    if e.written:
        found.append(f"Written out, to share these kernels: {', '.join(e.written)}")
    if e.shape_reads:
        reads = "; ".join(e.shape_reads)
        found.append(f"Sizes or ints steer Python, so it holds only where {reads}")
    if e.static_numbers:
        numbers = ", ".join(map(e.names.number, e.static_numbers))
        found.append(f"Reads the value, so is traced anew for each value of: {numbers}")
    if e.frozen:
        values = ", ".join(f"{f.name} = {f.value}" for f in e.frozen)
        found.append(
            f"Read by name and fixed when traced; pass as arguments what changes: {values}"
        )
    return found


def plain(explanation: Explanation, full: bool = False) -> str:
    """The explanation as text without colours."""
    console = Console(
        file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False,
        force_jupyter=False,  # else a notebook shows it, empty
    )  # fmt: skip
    with console.capture() as capture:
        console.print(Group(*parts(explanation, full)))
    return capture.get()


def is_large(explanation: Explanation) -> bool:
    """Whether the whole report is more than people read: it is summed up then."""
    regions = explanation.regions
    return len(regions) > MOST_REGIONS or sum(len(r.ops) for r in regions) > MOST_SHOWN


def parts(explanation: Explanation, full: bool = False) -> Iterator[RenderableType]:
    """What rich prints for an explanation, from top to bottom."""
    table = Table(title=Text(f"zmlx.explain: {explanation.name}"), show_header=False)
    for name, fact in facts(explanation).items():
        table.add_row(name, Text(fact))
    table.caption = COUNTED
    yield table
    summed_up = not full and is_large(explanation)
    if summed_up:
        yield _summary(explanation)
    else:
        yield from map(_region, explanation.regions)
    if explanation.unfused:
        yield _unfused(explanation, summed_up)
    for item in explanation.unfused:
        if item.inside is not None:
            yield _inside(item, item.inside)
    if explanation.captures:
        yield _captures(explanation)
    if explanation.saved:
        yield Text(saved_text(explanation)) if summed_up else _saved(explanation)
    for sentence in static_facts(explanation):
        yield Text(sentence)
    if not explanation.regions and not any(i.launches or i.unseen for i in insides(explanation)):
        yield Text("Nothing here is fused.")
    if summed_up:
        yield Text("This is a summary: .text(full=True) prints all, .save('report.html') draws it.")


def _summary(explanation: Explanation) -> Table:
    """A row for each region."""
    table = Table()
    for column in (
        "region",
        "ops",
        "which",
        "line",
        "bytes",
        "kernels of its gradient",
        *_time(explanation),
    ):
        table.add_column(column, overflow="fold", no_wrap=column == "region")
    for r, *more in alike(explanation.regions):
        name = f"{r.name}, +{len(more)} alike" if more else r.name
        row = (name, str(len(r.ops)), short_ops(r.ops), r.line, bytes_text(r.bytes))
        spent = [_together([r, *more])] if explanation.rounds else []
        table.add_row(*map(Text, (*row, str(len(r.vjp_kernels)), *spent)))
    return table


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
    if region.again:
        blocks.append(Text(again_text(region)))
    if region.walks is not None:
        blocks += [Text("\nwalks", style="bold"), *map(Text, region.walks.lines)]
    blocks += [Text("\nkernel", style="bold"), _kernel(region)]
    if region.shares:
        blocks.append(Text(shares_text(region)))
    title = region.name if region.ms is None else f"{region.name}, {ms_text(region.ms)}"
    return Panel(Group(*blocks), title=title, title_align="left")


def again_text(region: RegionReport) -> str:
    """What the derivative computes once more."""
    return f"computed again, not kept: {ops_text(region.again)}"


def shares_text(region: RegionReport) -> str:
    """With which others the region is launched."""
    shown = ", ".join(region.shares[:MOST_SHARED])
    more = len(region.shares) - MOST_SHARED
    return f"launched together with {shown}" + (f" and {more} more" if more > 0 else "")


def saved_text(explanation: Explanation) -> str:
    """What gradients keep in memory, in a sentence."""
    extra = [s for s in explanation.saved if not s.anyway]
    if not extra:
        return "Nothing stays in memory for a gradient that is not there without one."
    size = bytes_text(sum(s.value.bytes for s in extra))
    return f"{size} stay in memory for a gradient that would go without one."


def _equations(values: Mapping[str, sp.Expr]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    for name, value in values.items():
        table.add_row(Text(name), Text(f"= {formula(value)}"))
    return table


def parts_text(region: RegionReport) -> str:
    """What runs for a region that no single kernel holds."""
    names = [part.kernel or "one of MLX's" for part in region.parts]
    return f"{len(names)}, as one alone is none or slower for these shapes: {', '.join(names)}"


def _kernel(region: RegionReport) -> RenderableType:
    """What the kernel does for one element; its loops are the same for all."""
    if region.parts:
        return Text(parts_text(region))
    if not region.kernel:
        return Text("none for these shapes: MLX runs the ops one by one")
    element = region.msl[region.msl.find("// One element") :].partition("// Body of kernel")[0]
    lines = element.splitlines()
    shown = "\n".join([*lines[:MSL_LINES], *(["// …"] if len(lines) > MSL_LINES else [])])
    code = Syntax(shown, "cpp", word_wrap=True, background_color="default")
    count = len(region.msl.splitlines())
    return Group(
        code, Text(f"all {count} lines: `.msl` of this region, or the page that `.save` writes")
    )


def _unfused(explanation: Explanation, summed_up: bool) -> RenderableType:
    table = Table()
    for column in ("call", "why", "line", "result", *_time(explanation)):
        table.add_column(column, overflow="fold")
    groups: dict[tuple[str, ...], list[Unfused]] = {}
    for i, item in enumerate(explanation.unfused):
        key = (item.label, item.reason) if summed_up else (str(i),)
        groups.setdefault(key, []).append(item)
    for same in groups.values():
        first = same[0]
        label = first.label if len(same) == 1 else f"{first.label} x{len(same)}"
        places = list(dict.fromkeys(item.loc for item in same))
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        cells = (label, first.reason, places[0] + more, ", ".join(map(str, first.results)))
        spent = [_together(same)] if explanation.rounds else []
        table.add_row(*map(Text, (*cells, *spent)))
    return Group(Text("run by MLX", style="bold"), table)


def _time(explanation: Explanation) -> list[str]:
    return ["time"] if explanation.rounds else []


def _together(items: Sequence[RegionReport] | Sequence[Unfused]) -> str:
    return ms_text(sum(item.ms or 0.0 for item in items))


def insides(explanation: Explanation) -> list[Inside]:
    """What runs inside the calls that run Python."""
    return [item.inside for item in explanation.unfused if item.inside is not None]


def inside_facts(inside: Inside) -> list[str]:
    """What runs inside one call beside its fused kernels, one sentence each."""
    fused = plural(len(inside.launches), "fused kernel")
    plain = "" if inside.plain is None else f"; as plain MLX {inside.plain}"
    found = [
        f"elementwise kernels: {inside.kernels}, of them {fused} that move "
        f"{bytes_text(inside.bytes)}{plain}"
    ]
    if inside.unseen:
        found.append(f"fused kernels in graphs that mx.compile keeps: {inside.unseen}")
    if inside.elementwise:
        found.append(f"elementwise kernels of MLX's own: {_counts(inside.elementwise)}")
    if inside.others:
        found.append(f"what else MLX runs: {_counts(inside.others)}")
    return found


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} x{n}" if n > 1 else name for name, n in counts.items())


def _inside(item: Unfused, inside: Inside) -> RenderableType:
    table = Table()
    for column in ("region", "ops", "reads", "writes", "bytes"):
        table.add_column(column, overflow="fold")
    for launch in inside.launches:
        ends = (", ".join(map(str, values)) for values in (launch.reads, launch.writes))
        row = (launch.function or launch.kernel, short_ops(launch.ops), *ends)
        table.add_row(*map(Text, (*row, bytes_text(launch.bytes))))
    place = f"{item.label} at {item.loc}" if item.loc else item.label
    rows: list[RenderableType] = [Text(f"inside {place}", style="bold")]
    rows += [table] if inside.launches else []
    return Group(*rows, *map(Text, inside_facts(inside)))


def _saved(explanation: Explanation) -> RenderableType:
    table = Table()
    for column in ("read by gradients", "array", "why it is there"):
        table.add_column(column, overflow="fold")
    for saved in explanation.saved:
        table.add_row(*map(Text, (saved.source, str(saved.value), saved.why)))
    head = "what gradients read of the forward pass"
    return Group(Text(head, style="bold"), table, Text(saved_text(explanation)))


def _captures(explanation: Explanation) -> RenderableType:
    table = Table()
    for column in ("name", "array", "line"):
        table.add_column(column, overflow="fold")
    for capture in explanation.captures:
        table.add_row(Text(capture.name), Text(str(capture.value)), Text(capture.loc))
    head = "captured arrays: reached through a closure, fixed when the function was traced"
    return Group(Text(head, style="bold"), table)
