"""Regions: which elementwise ops of a graph go into one kernel.

Comes in: a simplified graph. Goes out: groups of op nodes, each legal as one kernel. zmlx.fuse.plan
turns them into steps.

An op's stage is the number of calls run by MLX, reductions among them, that its value must wait
for. Ops of one stage and one iteration space (symbolic shape) can always share a kernel: a path
from one through a call back to another would raise the stage. What is used in one place only moves
to the stage of its use, also into larger iteration spaces, where it is computed again for every
element.

What depends on no input (an arange, and what is computed from it) is ready before everything else:
it has stages of its own, below zero, so that waiting for it splits no region. It is not computed
again in a larger space, as it costs least where it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zmlx import dtypes
from zmlx.fuse.extract import ends, extract
from zmlx.fuse.shapes import Shape, symbolic_shapes
from zmlx.msl.space import MAX_BUFFERS, buffer_slots
from zmlx.trace.graph import NUMBERS, Graph

# Kinds that run as a step of their own.
STEPS = ("op", "reduce", "count", "opaque", "item", "size")
Home = tuple[int, Shape]  # (stage, iteration space)


def unfusable(graph: Graph, node: int) -> str | None:
    """Why op `node` cannot be part of a kernel; None when it can."""
    data = graph[node]
    kinds = [data["dtype"], data["at"], *(graph[o]["dtype"] for o in graph.operands(node))]
    alien = [kind for kind in kinds if not dtypes.has_msl(kind)]
    return f"{alien[0]} does not exist in MSL" if alien else None


def regions(graph: Graph) -> list[list[int]]:
    """Groups of op nodes in topological order; every op that can be fused is in exactly one."""
    shapes = symbolic_shapes(graph)
    homes = _homes(graph, shapes)
    groups: dict[Home, list[int]] = {}
    for node in _depth_first(graph, homes):
        groups.setdefault(homes[node], []).append(node)
    outputs = set(graph.outputs)
    found: list[list[int]] = []
    for group in groups.values():
        found += [group] if fits(graph, group, outputs) else _split(graph, group, shapes, outputs)
    return found


# -- stages and homes -----------------------------------------------------------------------------
def _homes(graph: Graph, shapes: dict[int, Shape]) -> dict[int, Home]:
    fused = _fusable(graph)
    earliest = _earliest(graph, fused)
    outputs = set(graph.outputs)
    homes: dict[int, Home] = {}
    for node in reversed(range(len(graph))):
        if node in fused:
            home = _home(graph, node, homes, earliest, shapes[node], node in outputs)
            stays = earliest[node] < 0 and home[1] != shapes[node]
            homes[node] = (earliest[node], shapes[node]) if stays else home
    return homes


def _home(
    graph: Graph,
    node: int,
    homes: dict[int, Home],
    earliest: dict[int, int],
    shape: Shape,
    returned: bool,
) -> Home:
    users = graph.users(node)
    used_by = {homes[u] for u in users if u in homes}
    stored = returned or len(used_by) != 1 or any(u not in homes for u in users)
    if not stored:
        return next(iter(used_by))
    latest = min((homes[u][0] if u in homes else earliest[u] for u in users), default=None)
    joined = [h for h in used_by if h[1] == shape and latest is not None and h[0] <= latest]
    return min(joined, default=(earliest[node], shape))


def _fusable(graph: Graph) -> set[int]:
    """Ops that MSL has and that depend on an array (an op on numbers alone has no size)."""
    sized = {n for n in graph if graph.kind(n) not in ("const", *NUMBERS, "op")}
    fused: set[int] = set()
    for node in graph:
        if graph.kind(node) != "op":
            continue
        if any(o in sized for o in graph.operands(node)):
            sized.add(node)
            if unfusable(graph, node) is None:
                fused.add(node)
    return fused


def _earliest(graph: Graph, fused: set[int]) -> dict[int, int]:
    """For each node the first stage in which it can run; effects keep their order."""
    stages: dict[int, int] = {}
    fixed = _fixed(graph)
    effects = 0
    for node in graph:
        effect = not graph[node].get("pure", True)
        waits = effects if effect else 0
        for operand in graph.operands(node):
            if operand in fixed and node not in fixed:
                continue
            called = operand not in fused and graph.kind(operand) in STEPS
            waits = max(waits, stages[operand] + (called and node in fused))
        stages[node] = waits
        effects = max(effects, waits) if effect else effects
    first = 1 + max((stages[node] for node in fixed), default=0)
    return {n: stage - first if n in fixed else stage for n, stage in stages.items()}


def _fixed(graph: Graph) -> set[int]:
    """Calls and ops that depend on no array of the caller's, and have no effect."""
    fixed: set[int] = set()
    for node in graph:
        given = ("const", "array", "scalar")
        operands = [o for o in graph.operands(node) if graph.kind(o) not in given]
        varies = graph.kind(node) in ("input", *given)
        if not varies and graph[node].get("pure", True) and fixed.issuperset(operands):
            fixed.add(node)
    return fixed


def _depth_first(graph: Graph, nodes: Iterable[int]) -> list[int]:
    """`nodes` in topological order, operands right before their use: few values live at a time."""
    wanted, order, done = set(nodes), [], set()
    sinks = [n for n in sorted(wanted) if not any(u in wanted for u in graph.nx.successors(n))]
    for root in sinks:
        stack = [root]
        while stack:
            node = stack[-1]
            waiting = [o for o in graph.operands(node) if o in wanted and o not in done]
            if node in done or not waiting:
                stack.pop()
                if node not in done:
                    done.add(node)
                    order.append(node)
            else:
                stack.extend(reversed(waiting))
    return order


# -- the limit of buffers -------------------------------------------------------------------------
def _split(
    graph: Graph, group: list[int], shapes: dict[int, Shape], outputs: set[int]
) -> list[list[int]]:
    """`group` cut into parts that a kernel has the buffers for, each over one shape.

    What was to be computed again in a larger space gets a kernel of its own, so that every value
    that passes from part to part has the shape of its part.
    """
    parts: list[list[int]] = []
    by_shape: dict[Shape, list[int]] = {}
    for node in group:
        by_shape.setdefault(shapes[node], []).append(node)
    for nodes in by_shape.values():
        while nodes:
            length = _longest(graph, nodes, outputs)
            parts.append(nodes[:length])
            nodes = nodes[length:]
    return parts


def _longest(graph: Graph, nodes: list[int], outputs: set[int]) -> int:
    """How many of `nodes`, from the first on, fit into one kernel."""
    lengths = reversed(_plausible(graph, nodes, outputs))
    return next((n for n in lengths if fits(graph, nodes[:n], outputs)), 1)


def _plausible(graph: Graph, nodes: list[int], outputs: set[int]) -> list[int]:
    """The lengths for which the arguments and one array of strides an input are not too many."""
    lengths: list[int] = []
    outside: dict[int, int] = {}  # by node: how many of its users are still to come
    read: set[int] = set()
    buffers = results = 0
    for length, node in enumerate(nodes, start=1):
        for operand in graph.nx.predecessors(node):
            if operand in outside:
                outside[operand] -= 1
                results -= outside[operand] == 0 and operand not in outputs
            elif operand not in read and graph.kind(operand) != "const":
                read.add(operand)
                buffers += 1 + any(size != 1 for size in graph[operand]["shape"])
        outside[node] = len(graph.nx.adj[node])
        results += outside[node] > 0 or node in outputs
        if buffers + results <= MAX_BUFFERS:
            lengths.append(length)
    return lengths


def fits(graph: Graph, nodes: Sequence[int], outputs: set[int]) -> bool:
    """Whether Metal has the buffers for a kernel over `nodes`."""
    found = ends(graph, nodes, outputs)
    # An input brings its strides along, and maybe its sizes.
    most = 3 * len(found.inputs) + len(found.scalars) + len(found.outputs)
    return most <= MAX_BUFFERS or buffer_slots(extract(graph, nodes).graph) <= MAX_BUFFERS
