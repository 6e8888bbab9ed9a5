"""Graph: a traced function, a region or a derivative, as data over a networkx DiGraph.

Node ids are ints that grow in creation order, which is always a topological order.

Attributes of every node:
  kind      one of the kinds below
  operands  tuple of the ids that feed it, in order; repeats are allowed
  shape     tuple of ints seen when tracing (sizes are an example, only ones and ranks are meant)
  dtype     MLX name of the result, e.g. "bfloat16"; for Python numbers the type they adopt
  loc       "file.py:12" of the user's line, or ""

Further attributes, by kind, and nothing else:
  "input"   an array that the caller passes: `index`, its position in Graph.inputs; in a region also
            `places`, True where each element is the place where it stands (zmlx.fuse.places)
  "scalar"  a Python number that the caller passes, a run-time argument of kernels: `index`
            likewise; `expr` says how it is computed from the caller's numbers (see
            zmlx.trace.exprs), None in a graph whose caller computes it
  "size"    a Python number computed at call time from the sizes of its operands: `expr` says how,
            by operand position (operands that are numbers are its "arg"s)
  "const"   a Python number fixed in the text: `value`
  "array"   an array captured when the trace was made: `value`
  "op"      an elementwise op of the table: `op` names its row, `at` the type that the operands are
            converted to before it computes
  "reduce"  a fold of some axes of its one operand, an array: `op` names a row of
            zmlx.ops.reductions; `axes`, a sorted tuple of at least one axis, none negative. They
            stay, with size one
  "count"   a Python number, how many elements of its one operand, an array, a fold of `axes` joins
  "opaque"  anything else, run by MLX: `call`, an OpaqueCall; `pure`, False where it must run once a
            call even if nobody uses the result (random draws). Shape and dtype are those of its
            one output, () and "float32" where the call has several
  "item"    one output of an opaque node with several: `index`, its position among them

Edge attribute: `positions`, the operand positions at which the source feeds the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zmlx import dtypes
from zmlx.errors import PlanError
from zmlx.ops.reductions import REDUCTIONS
from zmlx.ops.table import OPS
from zmlx.trace.exprs import leaves

Scalar = bool | int | float | complex
NUMBERS = ("scalar", "size", "count")  # kinds whose values are Python numbers, known at call time

COMMON = ("kind", "operands", "shape", "dtype", "loc")
KINDS: dict[str, tuple[str, ...]] = {
    "input": ("index",),
    "scalar": ("index", "expr"),
    "size": ("expr",),
    "const": ("value",),
    "array": ("value",),
    "op": ("op", "at"),
    "reduce": ("op", "axes"),
    "count": ("axes",),
    "opaque": ("call", "pure"),
    "item": ("index",),
}
OPTIONAL: dict[str, tuple[str, ...]] = {"input": ("places",)}


@dataclass(frozen=True)
class Ref:
    """Stands in an OpaqueCall's arguments for the value of operand number `position`."""

    position: int


@dataclass(frozen=True, eq=False)
class OpaqueCall:
    """A call that MLX runs: `fn(*args, **kwargs)` with each Ref replaced by an operand's value.

    Refs stand anywhere in nested lists, tuples, dicts and slices of `args` and `kwargs`. The value
    of an operand of one of the kinds NUMBERS is a Python number. `fn` enters the stream it must run
    on by itself.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    label: str = ""  # how reports call it, e.g. "matmul"
    outputs: int = 0  # 0: one array; n > 0: a flat sequence of n arrays, read through "item" nodes
    definition: Callable[..., Any] | None = None  # the same in ops: see zmlx.ops.definitions


class Graph:
    """A directed acyclic graph of array values with named inputs and outputs."""

    def __init__(self) -> None:
        import networkx  # slow to load, and `import zmlx` reaches this module

        self.nx = networkx.DiGraph()
        self.inputs: list[int] = []  # ids of "input" and "scalar" nodes, by index
        self.outputs: list[int] = []

    # -- building ---------------------------------------------------------------------------------
    def add(
        self,
        kind: str,
        operands: Sequence[int] = (),
        *,
        shape: tuple[int, ...] = (),
        dtype: str = "float32",
        loc: str = "",
        **attributes: Any,
    ) -> int:
        """Append a node fed by `operands` (ids, in order; repeats allowed) and return its id."""
        node = self.nx.number_of_nodes()
        if any(not 0 <= o < node for o in operands):
            raise PlanError(f"[zmlx.trace] node {node} uses an unknown operand: {list(operands)}")
        self.nx.add_node(
            node,
            kind=kind,
            operands=tuple(operands),
            shape=tuple(shape),
            dtype=dtype,
            loc=loc,
            **attributes,
        )
        for position, operand in enumerate(operands):
            if self.nx.has_edge(operand, node):
                self.nx.edges[operand, node]["positions"] += (position,)
            else:
                self.nx.add_edge(operand, node, positions=(position,))
        if kind in ("input", "scalar"):
            self.nx.nodes[node]["index"] = len(self.inputs)
            self.inputs.append(node)
        if kind == "scalar":
            self.nx.nodes[node].setdefault("expr", None)
        return node

    # -- reading ----------------------------------------------------------------------------------
    def __getitem__(self, node: int) -> dict[str, Any]:
        return self.nx.nodes[node]

    def __len__(self) -> int:
        return self.nx.number_of_nodes()

    def __iter__(self) -> Iterator[int]:
        """All ids in topological order."""
        return iter(range(len(self)))

    def operands(self, node: int) -> tuple[int, ...]:
        return self.nx.nodes[node]["operands"]

    def users(self, node: int) -> list[int]:
        return sorted(self.nx.successors(node))

    def kind(self, node: int) -> str:
        return self.nx.nodes[node]["kind"]

    def attributes(self, node: int) -> dict[str, Any]:
        """What `add` takes, beside kind and operands, to make a node like this one."""
        data = dict(self.nx.nodes[node])
        kind = data.pop("kind")
        del data["operands"]
        if kind in ("input", "scalar"):  # `add` counts them
            del data["index"]
        return data

    def __str__(self) -> str:
        """One line a node, as `%2 = add(%0, %1)  float32[4, 3]  file.py:7`, then the outputs."""
        lines = [_line(self, node) for node in self]
        return "\n".join([*lines, "return " + ", ".join(f"%{n}" for n in self.outputs)])

    def verify(self) -> None:
        """Raise PlanError, naming the node, where the graph breaks the schema above."""
        verify(self)


def _line(graph: Graph, node: int) -> str:
    data = graph[node]
    kind = data["kind"]
    inside = [f"%{o}" for o in data["operands"]]
    inside += [str(data[k]) for k in ("index", "value") if k in data and kind != "array"]
    inside += ["places"] if data.get("places") else []
    inside += [f"axes={data['axes']}"] if "axes" in data else []
    if kind == "op" and data["at"] != data["dtype"]:
        inside.append(f"at={data['at']}")
    text = f"%{node} = {title(data)}({', '.join(inside)})  {data['dtype']}{list(data['shape'])}"
    return f"{text}  {data['loc']}" if data["loc"] else text


def title(data: dict[str, Any]) -> str:
    """What reports call a node of these attributes: its row, its call's label, else its kind."""
    kind: str = data["kind"]
    if kind == "opaque":
        return data["call"].label or "call"
    return data["op"] if kind in ("op", "reduce") else kind


def verify(graph: Graph) -> None:
    """The body of Graph.verify."""
    for node in graph:
        problem = _problem(graph, node)
        if problem:
            raise PlanError(f"[zmlx.trace] node {node} {dict(graph[node])}: {problem}")
    indexed = [n for n in graph if graph.kind(n) in ("input", "scalar")]
    if graph.inputs != indexed:
        raise PlanError(f"[zmlx.trace] inputs are {graph.inputs}, but nodes say {indexed}")
    if any(output not in graph.nx for output in graph.outputs):
        raise PlanError(f"[zmlx.trace] outputs {graph.outputs} name nodes that are not there")


def _problem(graph: Graph, node: int) -> str:
    data = graph[node]
    kind = data.get("kind")
    if kind not in KINDS:
        return f"unknown kind {kind!r}"
    if {*data}.difference(OPTIONAL.get(kind, ())) != {*COMMON, *KINDS[kind]}:
        return f"attributes of a node of kind {kind!r} are {sorted({*COMMON, *KINDS[kind]})}"
    if data["dtype"] not in dtypes.ALL or any(type(size) is not int for size in data["shape"]):
        return "dtype or shape is not one"
    return _edge_problem(graph, node) or _RULES.get(kind, _leaf)(graph, data)


def _edge_problem(graph: Graph, node: int) -> str:
    operands = graph.operands(node)
    if any(not 0 <= o < node for o in operands):
        return "an operand does not precede it"
    want = {o: tuple(i for i, x in enumerate(operands) if x == o) for o in operands}
    have = {o: graph.nx.edges[o, node].get("positions") for o in graph.nx.predecessors(node)}
    return "" if want == have else f"operands {operands} against edges {have}"


def _leaf(graph: Graph, data: dict[str, Any]) -> str:
    if data["operands"]:
        return "takes no operands"
    known = data["kind"] not in ("input", "scalar") or data["index"] < len(graph.inputs)
    return "" if known else "index beyond the inputs"


def _op(graph: Graph, data: dict[str, Any]) -> str:
    spec = OPS.get(data["op"])
    if spec is None or spec.arity != len(data["operands"]) or data["at"] not in dtypes.ALL:
        return "no row of that name, arity and type"
    rank = len(data["shape"])
    result = [1] * rank
    for shape in [graph[o]["shape"] for o in data["operands"]]:
        for i, size in enumerate(shape, start=rank - len(shape)):
            if i < 0 or (size != 1 and result[i] not in (1, size)):
                return "operands do not broadcast to its shape"
            result[i] = result[i] if size == 1 else size
    return "" if tuple(result) == data["shape"] else f"operands broadcast to {tuple(result)}"


def _reduce(graph: Graph, data: dict[str, Any]) -> str:
    problem = _axes(graph, data)
    if problem:
        return problem
    row, axes = REDUCTIONS.get(data["op"]), data["axes"]
    source = graph[data["operands"][0]]
    if row is None or row.dtype(source["dtype"]) != data["dtype"]:
        return "no reduction of that name and type"
    if row.index and len(axes) not in (1, len(source["shape"])):
        return "an index over several axes, but not all"
    kept = folded_shape(source["shape"], axes)
    return "" if data["shape"] == kept else f"its operand folds to {kept}"


def _count(graph: Graph, data: dict[str, Any]) -> str:
    known = data["shape"] == () and data["dtype"] == "float32"
    return _axes(graph, data) or ("" if known else "a count is a number of float32")


def _axes(graph: Graph, data: dict[str, Any]) -> str:
    axes = data["axes"]
    if len(data["operands"]) != 1 or graph.kind(data["operands"][0]) in (*NUMBERS, "const"):
        return "takes one array"
    rank = len(graph[data["operands"][0]]["shape"])
    whole = type(axes) is tuple and all(type(a) is int and 0 <= a < rank for a in axes)
    if not whole or not axes or list(axes) != sorted(set(axes)):
        return f"axes of an operand of rank {rank} are none of it, or not in order"
    return ""


def _opaque(graph: Graph, data: dict[str, Any]) -> str:
    call = data["call"]
    if not isinstance(call, OpaqueCall) or type(data["pure"]) is not bool:
        return "call or pure is not one"
    found = sorted(_refs((call.args, call.kwargs)))
    return "" if found == list(range(len(data["operands"]))) else f"Refs {found} against operands"


def _size(graph: Graph, data: dict[str, Any]) -> str:
    places = {leaf[1] for leaf in leaves(data["expr"])}
    return "" if places == set(range(len(data["operands"]))) else f"reads operands {places}"


def _item(graph: Graph, data: dict[str, Any]) -> str:
    sources = [graph[o] for o in data["operands"] if graph.kind(o) == "opaque"]
    fits = [0 <= data["index"] < source["call"].outputs for source in sources]
    return "" if fits == [True] else "is no output of an opaque node"


def _refs(tree: Any) -> Iterator[int]:
    if isinstance(tree, Ref):
        yield tree.position
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _refs(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _refs(item)
    elif isinstance(tree, slice):
        yield from _refs((tree.start, tree.stop, tree.step))


_RULES: dict[str, Callable[[Graph, dict[str, Any]], str]] = {
    "op": _op,
    "reduce": _reduce,
    "count": _count,
    "opaque": _opaque,
    "item": _item,
    "size": _size,
}


def broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The common shape of operands; a size of one gives way to any other (zero included)."""
    rank = max(map(len, shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for d, size in enumerate(shape, rank - len(shape)):
            result[d] = size if result[d] == 1 else result[d]
    return tuple(result)


def folded_shape(shape: tuple[int, ...], axes: Sequence[int]) -> tuple[int, ...]:
    """The shape of a fold of `axes`, which stay with size one."""
    return tuple([1 if d in axes else size for d, size in enumerate(shape)])
