"""Dumped: what ZMLX_DUMP shows of a fused function, as text.

Comes in: traces, plans, kernels, launches. Goes out: the files of zmlx.dump. zmlx.fuse.table opens
a function's folder, zmlx.fuse.program and zmlx.fuse.region write into it what they make, and tell
of their launches. Texts hold no ids and no addresses: the same function gives the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx import dump
from zmlx.device.base import GridLauncher, Launcher, current_name
from zmlx.device.gpu import GpuLauncher
from zmlx.device.texts import cuda_written, metal_written, texts, written_texts
from zmlx.fuse.extract import Region
from zmlx.fuse.plan import Native, Plan
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.runtime import Runtime
from zmlx.fuse.saved import Bill
from zmlx.fuse.walks import walks_of
from zmlx.msl.kernel import Arg, KernelSource
from zmlx.msl.schedule import ends_only
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.switches import DUMP
from zmlx.trace.graph import NUMBERS, Graph, Ref, title
from zmlx.trace.operands import name_of

if TYPE_CHECKING:
    from zmlx.fuse.walked import Made

LAUNCHES = dump.file_name("launches")


def opened(runtime: Runtime, name: str, graph: Graph) -> Runtime:
    """`runtime` for the parts of one trace, which write into a folder where ZMLX_DUMP names one."""
    if not DUMP.text():
        return runtime
    numerics = "mlx" if runtime.exact else "fp32"
    text = f"{name}, numerics {numerics}, planned for {current_name()}\n{graph_text(graph)}"
    made = replace(runtime, folder=dump.Folder.of(name, text))
    with made.making():
        dump.stage("trace", lambda: text)
    return made


def inner(runtime: Runtime, name: str, graph: Graph) -> Runtime:
    """`runtime` for the parts of a derivative, or of a region that takes several kernels."""
    folder = runtime.folder
    if folder is None:
        return runtime
    return replace(runtime, folder=folder.inner(_last(name), graph_text(graph)))


def derivative(
    name: str, region: Graph, derived: Graph, factored: Graph, bill: Bill | None = None
) -> None:
    """A derivative of `region`, before and after factoring; `bill`, of a whole one, in words."""
    if not dump.active():
        return
    part = f"{_last(name)}-{dump.digest(str(region))}"
    told = "" if bill is None else _bill_text(region, bill)
    dump.stage("derived", lambda: graph_text(derived) + told, part)
    dump.stage("factored", partial(graph_text, factored), part)


def _bill_text(forward: Graph, bill: Bill) -> str:
    """What a gradient reads of the forward pass and computes again, with bytes."""
    lines = [f"read of the forward pass, {sum(size for _, size in bill.saved)} bytes:"]
    lines += [f"  {_node(forward, node)}, {size} bytes" for node, size in bill.saved]
    lines += [f"computed again, not kept, {sum(size for _, size in bill.again)} bytes:"]
    lines += [f"  {_node(forward, node)}, {size} bytes" for node, size in bill.again]
    return "\n\n" + "\n".join(lines)


def kernel(name: str, made: KernelSource) -> None:
    """A kernel of the generator, for every device."""
    if dump.active():
        for ending, text in texts(made).items():
            dump.stage("kernel", partial(str, text), f"{_last(name)}.{made.name}", ending)


def schedule(name: str, made: Made) -> None:
    """The walks of a kernel that folds rows, in words, and what each computes as a graph."""
    if not dump.active():
        return
    parts = ["\n".join(walks_of(made).lines)]
    walks = enumerate(made.plan.walks, start=1)
    parts += [f"walk {k} computes\n{walk.part.graph}" for k, walk in walks if walk.part.ops]
    said = "\n\n".join(parts)
    dump.stage("schedule", lambda: said, f"{_last(name)}-{dump.digest(said)}")


def shared(name: str, what: str, steps: Sequence[str]) -> None:
    """Which regions share a kernel or a launch, and how."""
    if dump.active():
        said = "\n".join([what, *steps])
        dump.stage("schedule", lambda: said, f"{_last(name)}-{dump.digest(said)}")


# -- launches -------------------------------------------------------------------------------------
def launching(runtime: Runtime, name: str, made: KernelSource, launch: Launcher) -> Launcher:
    """`launch`, which adds a line for each launch of a new kind."""
    folder, device = runtime.folder, current_name()
    if folder is None:
        return launch

    def run(arrays: Sequence[mx.array]) -> list[mx.array]:
        outputs = launch(arrays)
        if isinstance(launch, GpuLauncher):
            grid, group, template = launch.extent(arrays)
            how = _extent_text(grid, group, template)
        else:
            how = f"{prod(outputs[0].shape)} elements shared by the threads of the CPU"
        line = f"{_last(name)} {made.name} on {device}: {_values(made.inputs, arrays)} -> "
        folder.add(LAUNCHES, f"{line}{_values(made.outputs, outputs)}; {how}")
        return outputs

    return run


def launching_grouped(
    runtime: Runtime,
    name: str,
    made: Sequence[KernelSource],
    launch: Launcher,
    grouped: Callable[[], MetalKernelSpec | None],
) -> Launcher:
    """The same for several kernels of a CPU that one primitive launches; `grouped` gives the one
    kernel that GPUs run in their place, where they do.
    """
    folder = runtime.folder
    if folder is None:
        return launch

    def run(arrays: Sequence[mx.array]) -> list[mx.array]:
        outputs = launch(arrays)
        told, reads, gives = [], 0, 0
        for one in made:
            read, given = reads + len(one.inputs), gives + len(one.outputs)
            into = _values(one.outputs, outputs[gives:given])
            told.append(f"{one.name}: {_values(one.inputs, arrays[reads:read])} -> {into}")
            reads, gives = read, given
        how = f"{_last(name)}, {len(made)} launches by one primitive of the CPU: "
        if folder.add(LAUNCHES, how + "; ".join(told)) and (spec := grouped()) is not None:
            _write(folder, name, spec, {"metal": metal_written(spec), "cu": cuda_written(spec)})
        return outputs

    return run


def launching_written(
    runtime: Runtime,
    name: str,
    spec: MetalKernelSpec,
    launch: GridLauncher,
    grouped: Callable[[], MetalKernelSpec],
) -> GridLauncher:
    """The same for a kernel with a launch of its own, whose texts depend on it.

    Where `spec` is for threads that take turns, `grouped` gives what GPUs run in its place.
    """
    folder, device = runtime.folder, current_name()
    if folder is None:
        return launch

    def run(arrays: Sequence[mx.array], how: Launch) -> list[mx.array]:
        outputs = launch(arrays, how)
        reads = ", ".join(map(_value, spec.input_names, arrays))
        writes = ", ".join(map(_value, spec.output_names, outputs))
        line = f"{_last(name)} {spec.unique_name} on {device}: {reads} -> {writes}; "
        line += _extent_text(how.grid, how.threadgroup, how.template)
        if folder.add(LAUNCHES, line):
            kinds = [name_of(a.dtype) for a in arrays]
            kept = ("cpp",) if device == "host" else ("metal", "cu")
            found = written_texts(spec, kinds, how)
            _write(folder, name, spec, {e: t for e, t in found.items() if e in kept})
            if device == "host":
                other = grouped()
                found = {"metal": metal_written(other), "cu": cuda_written(other)}
                _write(folder, name, other, found)
        return outputs

    return run


def _write(folder: dump.Folder, name: str, made: MetalKernelSpec, texts: dict[str, str]) -> None:
    for ending, text in texts.items():
        part = f"{_last(name)}.{made.unique_name}"
        folder.write(dump.file_name("kernel", part, ending), text)


def _extent_text(grid: object, group: object, template: Sequence[tuple[str, object]]) -> str:
    settings = " ".join(f"{name}={str(v).removeprefix('mlx.core.')}" for name, v in template)
    return f"grid {grid}, threadgroup {group}, {settings}"


def _values(arguments: Sequence[Arg], arrays: Sequence[mx.array]) -> str:
    return ", ".join(map(_value, [a.name for a in arguments], arrays))


def _value(name: str, array: mx.array) -> str:
    return f"{name} {name_of(array.dtype)}{list(array.shape)}"


# -- graphs and plans -----------------------------------------------------------------------------
def graph_text(graph: Graph) -> str:
    """A line a node, then what the calls that MLX runs are given."""
    calls = [_call_text(graph, node) for node in graph if graph.kind(node) == "opaque"]
    return "\n".join([str(graph), *(["", "calls:", *calls] if calls else [])])


def _call_text(graph: Graph, node: int) -> str:
    call, operands = graph[node]["call"], graph.operands(node)
    given = [_argument(a, operands) for a in call.args]
    given += [f"{key}={_argument(a, operands)}" for key, a in call.kwargs.items()]
    return f"%{node} = {call.label}({', '.join(given)})"


def _argument(value: Any, operands: Sequence[int]) -> str:
    """An argument of a call without ids: operands by node, arrays and objects by their types."""
    kind = type(value)
    if kind is Ref:
        return f"%{operands[value.position]}"
    if kind in (list, tuple):
        inside = ", ".join(_argument(item, operands) for item in value)
        return f"[{inside}]" if kind is list else f"({inside}{',' * (len(value) == 1)})"
    if kind is dict:
        return f"{{{', '.join(f'{k!r}: {_argument(v, operands)}' for k, v in value.items())}}}"
    if kind is slice:
        return f"slice({_argument((value.start, value.stop, value.step), operands)[1:-1]})"
    if isinstance(value, mx.array):
        return f"{name_of(value.dtype)}{list(value.shape)}"
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return repr(value)
    if isinstance(value, mx.Dtype):
        return name_of(value)
    return str(getattr(value, "__qualname__", kind.__qualname__))


def plan_text(plan: Plan, calls: Sequence[tuple[str, str]] = ()) -> str:
    """The steps in order, why each is one, and what it reads and writes in the example call.

    `calls` are those of MLX that were written out, with their lines.
    """
    graph, steps = plan.graph, []
    names = iter(f"region{i}" for i in range(len(plan.regions)))
    puts = {r: [j.node for j in joined.joins] for joined in plan.joined for r in joined.regions}
    read = written = 0
    for number, step in enumerate(plan.steps, start=1):
        if isinstance(step, Region):
            reads, writes = step.ends.inputs, step.results
            lines = [f"{next(names)}: one kernel", *_region_lines(graph, step)]
            lines += [f"  writes parts of {_node(graph, n)} in place" for n in puts.get(step, ())]
        else:
            reads, writes = _of_native(graph, step)
            lines = [f"MLX runs {_node(graph, step.node)}: {step.reason}", *_squeeze_line(step)]
        read += sum(_bytes(graph, n) for n in reads)
        written += sum(_bytes(graph, n) for n in writes)
        lines += [f"  reads {_node(graph, n)}, {_bytes(graph, n)} bytes" for n in reads]
        lines += [f"  writes {_node(graph, n)}, {_bytes(graph, n)} bytes" for n in writes]
        steps.append("\n".join([f"{number}. {lines[0]}", *lines[1:]]))
    total = f"in all {read} bytes read and {written} written, outside of calls that run whole"
    out = ", ".join(f"{label} at {loc}" for label, loc in calls)
    ends = [f"written out to join these kernels: {out}"] if calls else []
    return "\n\n".join([*steps, total, *ends, str(graph)])


def _region_lines(graph: Graph, region: Region) -> Iterator[str]:
    why = "elementwise, one iteration space, nothing between them that MLX must run first"
    if region.folds and ends_only(region.graph):
        why = "elementwise, and the kernel folds what it computes, in parts joined after it"
    elif region.folds:
        why = "what it folds over a row is read by what follows: one kernel walks over each row"
    yield f"  why: {why}"
    yield f"  {len(region.nodes)} ops: {', '.join(title(graph[n]) for n in region.nodes)}"
    for node, short in zip(region.ends.outputs, region.squeezes, strict=False):
        if short is not None:
            yield f"  and takes the axes of %{node} away, to %{short}"


def _squeeze_line(step: Native) -> list[str]:
    return [] if step.squeeze is None else [f"  and takes the axes away, to %{step.squeeze}"]


def _of_native(graph: Graph, step: Native) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What it reads and writes: known for ops and reductions; a call may move more or less."""
    if graph.kind(step.node) not in ("op", "reduce"):
        return (), ()
    reads = dict.fromkeys(o for o in graph.operands(step.node) if not _is_number(graph, o))
    return tuple(reads), (step.result,)


def _is_number(graph: Graph, node: int) -> bool:
    return graph.kind(node) in ("const", *NUMBERS)


def _node(graph: Graph, node: int) -> str:
    data = graph[node]
    return f"%{node} ({title(data)} {data['dtype']}{list(data['shape'])})"


def _bytes(graph: Graph, node: int) -> int:
    return prod(graph[node]["shape"]) * dtype_of(graph[node]["dtype"]).size


def _last(name: str) -> str:
    """Of the name of a region or a derivative what its folder does not say: "region0.vjp"."""
    parts = name.split(".")
    return ".".join(parts[-2:] if parts[-1] in ("vjp", "jvp") else parts[-1:])
