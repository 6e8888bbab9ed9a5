"""Matching: whether a part of a graph is what a spelling of a pattern says.

Comes in: a Subject (a simplified graph with the forms of its calls) and a Spelling. Goes out: a
Match, which says what stands for each array and number, or a Miss with how far it went and why not
further. zmlx.fuse.patterns calls it.

The walk starts at a node that may be the spelling's root and follows operands, both orders where an
op takes its operands in either. networkx's DiGraphMatcher knows no order of operands, no wildcards
that stand for whatever lies behind them, and takes a hundred times as long; a candidate here is
refused at the first node that differs. Sizes are compared by the example: those that a slice cuts
by are Equals, which hold at every call or are decided (zmlx.fuse.patterns).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from zmlx import dtypes
from zmlx.fuse.forms import Term, is_place
from zmlx.fuse.matched import Equal, Match, Miss, State, Subject
from zmlx.fuse.spellings import WHOLE, Spelling
from zmlx.trace.exprs import evaluate
from zmlx.trace.graph import NUMBERS, title

_EITHER = (
    "add", "multiply", "maximum", "minimum", "equal", "not_equal", "logical_and", "logical_or",
    "bitwise_and", "bitwise_or", "bitwise_xor", "logaddexp",
)  # fmt: skip
_INTEGERS = tuple(n for n in dtypes.ALL if n.startswith(("int", "uint")))
Pairs = list[tuple[int, int]]


def match(subject: Subject, spelling: Spelling, root: int, tell: bool = False) -> Match | Miss:
    """What of `subject` ends at `root` as `spelling` says.

    With `tell`, what is made of the same ops is a Miss that found all of them.
    """
    if not tell and not _may_end(subject, spelling, root):
        return Miss(0, "")
    return _Walk(subject, spelling, tell).run(root)


def _may_end(subject: Subject, spelling: Spelling, root: int) -> bool:
    """Whether the type of `root` and the ops that it reads are those of the spelling's end."""
    end, there = spelling.graph[spelling.root], subject.graph[root]
    kind = end["dtype"] in (there["dtype"], "int32")  # which stands for any integers
    if not kind or len(end["shape"]) != len(there["shape"]):
        return False
    form = subject.forms.get(root)
    reads = subject.graph.operands(root) if form is None else form.arrays
    wanted, found = spelling.last, [subject.titles[node] for node in reads]
    if len(wanted) != len(found):
        return False
    turned = end.get("op") in _EITHER and _named(wanted, found[::-1])
    return turned or _named(wanted, found)


def _named(wanted: Sequence[Any], found: Sequence[Any]) -> bool:
    return all(name in (None, other) for name, other in zip(wanted, found, strict=True))


class _Walk:
    """One comparison; keeps the furthest that any order of operands went."""

    def __init__(self, subject: Subject, spelling: Spelling, tell: bool) -> None:
        self.subject, self.spelling, self.tell = subject, spelling, tell
        self.best, self._far = Miss(0, ""), (0, 0)
        wild = enumerate(spelling.arrays)
        self.wild = {spelling.graph.inputs[i]: name for i, name in wild}

    def run(self, root: int) -> Match | Miss:
        end = self.spelling.graph[self.spelling.root]
        if len(end["shape"]) != len(self.subject.graph[root]["shape"]):
            return Miss(0, "")  # another number of leading axes
        state = self._solve([(self.spelling.root, root)], State())
        if state is None:
            return self.best
        if state.notes:
            return Miss(self.spelling.working, state.notes[0], len(state.notes))
        return Match(self.subject, self.spelling, state)

    def _solve(self, pending: Pairs, state: State) -> State | None:
        spelled = self.spelling.graph
        while pending:
            p, u = pending.pop()
            if p in state.nodes:
                if state.nodes[p] != u and not self._same_number(p, u, state):
                    self._miss(state, u, "it is another value than where it stands before")
                    return None
                continue
            why = self._other(p, u) or self._differs(p, u, state)
            if why:
                if not self.tell or self._other(p, u) or not self._goes_on(p, u):
                    self._miss(state, u, why)
                    return None
                state.notes += (self._told(u, why),)
            state.nodes[p] = u
            mine, there = self._operands(p, u)
            if spelled.kind(p) == "op" and spelled[p]["op"] in _EITHER and self._open(mine, there):
                turned = list(zip(mine, there[::-1], strict=True))
                found = self._solve([*pending, *turned], state.copy())
                if found is not None:
                    return found
            pending = [*pending, *zip(mine, there, strict=True)]
        why = "" if state.notes else self._ends(state)
        if why:
            self._miss(state, max(state.nodes.values()), why)
        return None if why else state

    def _goes_on(self, p: int, u: int) -> bool:
        """Whether a node that differs has the operands of `p` all the same."""
        mine, there = self._operands(p, u)
        return len(mine) == len(there)

    def _open(self, mine: Sequence[int], there: Sequence[int]) -> bool:
        """Whether the operands, turned, may fit: both name the same ops, where they are ops."""
        named, titles = self.spelling.titles, self.subject.titles
        turned = zip(mine, there[::-1], strict=True)
        return mine[0] != mine[1] and all(named[p] in (None, titles[u]) for p, u in turned)

    def _miss(self, state: State, node: int, why: str) -> None:
        named = self.spelling.titles
        found = sum(named[p] is not None for p in state.nodes)
        if (far := (found, len(state.nodes))) > self._far:
            self._far = far
            self.best = Miss(found, state.notes[0] if state.notes else self._told(node, why))

    def _told(self, node: int, why: str) -> str:
        data = self.subject.graph[node]
        return f"{title(data)} at {data['loc']}: {why}" if data["loc"] else f"{title(data)}: {why}"

    # -- one node ---------------------------------------------------------------------------------
    def _other(self, p: int, u: int) -> str:
        """Why `u` is no op such as the node `p` of the spelling; "" where it is."""
        mine, there = self.spelling.graph[p], self.subject.graph[u]
        if mine["kind"] in (*NUMBERS, "const"):
            number = there["kind"] in (*NUMBERS, "const")
            return "" if number else "it is an array, wanted a number"
        if there["kind"] in (*NUMBERS, "const"):
            return "it is a number"
        same = mine["kind"] == there["kind"] and self.spelling.titles[p] == self.subject.titles[u]
        return "" if p in self.wild or same else f"wanted {title(mine)}"

    def _differs(self, p: int, u: int, state: State) -> str:
        """Why `u`, an op of that name, cannot stand for the node `p`; "" where it can."""
        mine, there = self.spelling.graph[p], self.subject.graph[u]
        if mine["kind"] in NUMBERS or mine["kind"] == "const":
            return self._number(("node", p), ("node", u), u, state)
        if p not in self.wild:
            for key in ("op", "axes", "index"):
                if mine.get(key) != there.get(key):
                    return f"{key} {there.get(key)}, wanted {mine.get(key)}"
        why = self._dtype(mine["dtype"], there["dtype"], p, state) or self._shape(p, u, state)
        if why or mine["kind"] != "opaque":
            return why
        return self._call(p, u, state)

    def _dtype(self, mine: str, there: str, p: int, state: State) -> str:
        wanted = mine
        if mine == "int32":
            wanted = state.kinds.setdefault(mine, there if there in _INTEGERS else mine)
        if p in self.wild and self.spelling.types[self.wild[p]] == WHOLE and there in _INTEGERS:
            return "" if wanted == there else f"{there}, wanted {wanted}"
        return "" if wanted == there else f"of type {there}, wanted {wanted}"

    def _shape(self, p: int, u: int, state: State) -> str:
        mine, there = self.spelling.graph[p]["shape"], self.subject.graph[u]["shape"]
        if p in self.wild and self.spelling.spreads(self.wild[p]):
            return "" if len(there) <= len(mine) else f"of shape {there}: too many axes"
        if len(mine) != len(there):
            return f"of rank {len(there)}, wanted {len(mine)}"
        for a, b in zip(mine, there, strict=True):
            if (a == 1) > (b == 1) or state.sizes.setdefault(a, b) != b:
                return f"of shape {there}: an axis of {b}, wanted {state.sizes.get(a, 1)}"
        return ""

    def _call(self, p: int, u: int, state: State) -> str:
        mine, there = self.spelling.forms[p], self.subject.forms[u]
        if mine is None or there is None:
            return "a call that is not known"
        if mine.fixed != there.fixed:
            return f"called with {_told(there.fixed)}, wanted {_told(mine.fixed)}"
        if (len(mine.arrays), len(mine.terms)) != (len(there.arrays), len(there.terms)):
            return "called with other arguments"
        pairs = zip(mine.terms, there.terms, strict=True)
        return next((w for a, b in pairs if (w := self._number(a, b, u, state))), "")

    def _number(self, mine: Term, there: Term, u: int, state: State) -> str:
        """Why a number is not the one that is wanted; Equals are settled at the end."""
        if there[0] == "node" and self.subject.graph.kind(there[1]) not in (*NUMBERS, "const"):
            return "it is an array, wanted a number"
        if mine[0] == "node" and self._position(mine[1]) is not None:
            place = self._position(mine[1])
            assert place is not None
            before = state.numbers.setdefault(place, there)
            same = before == there or self._value(before) == self._value(there)
            return "" if same else f"{self._value(there)}, wanted {self._value(before)} as before"
        if mine[0] == "value" and mine == there:
            return ""
        data = self.spelling.graph[mine[1]] if mine[0] == "node" else {"kind": "const"}
        if data["kind"] == "const":
            wanted = data["value"] if mine[0] == "node" else mine[1]
            value = self._value(there)
            if there[0] == "node" and self.subject.graph.kind(there[1]) != "const":
                state.equals += (Equal(("value", wanted), there, u),)
            return "" if wanted == value and value is not None else f"{value}, wanted {wanted}"
        state.equals += (Equal(mine, there, u),)
        return ""

    def _position(self, p: int) -> int | None:
        """Which number of the spelling a node is; None for those that it computes."""
        data = self.spelling.graph[p]
        plain = data["kind"] == "scalar" and data["expr"][0] == "arg"
        return data["expr"][1] if plain else None

    def _value(self, term: Term) -> Any:
        return term[1] if term[0] == "value" else self.subject.number(term[1])

    def _same_number(self, p: int, u: int, state: State) -> bool:
        numbers = (*NUMBERS, "const")
        graph = self.subject.graph
        if graph.kind(u) not in numbers or graph.kind(state.nodes[p]) not in numbers:
            return False
        return bool(self.subject.number(u) == self.subject.number(state.nodes[p]))

    def _operands(self, p: int, u: int) -> tuple[Sequence[int], Sequence[int]]:
        if p in self.wild or self.spelling.graph.kind(p) in (*NUMBERS, "const"):
            return (), ()
        mine, there = self.spelling.forms.get(p), self.subject.forms.get(u)
        if mine is not None and there is not None:
            return mine.arrays, there.arrays
        return self.spelling.graph.operands(p), self.subject.graph.operands(u)

    # -- the whole --------------------------------------------------------------------------------
    def _ends(self, state: State) -> str:
        """Why a part that looks as the spelling does is none after all."""
        if len(state.nodes) < len([n for n in self._reached()]):
            return "not all of it is there"
        return (
            next((w for e in state.equals if (w := self._unequal(e, state))), "")
            or next((w for p, name in self.wild.items() if (w := self._spread(p, name, state))), "")
            or self._used(state)
        )

    def _reached(self) -> Iterator[int]:
        graph = self.spelling.graph
        return (n for n in graph if graph.kind(n) not in (*NUMBERS, "const") and self._known(n))

    def _known(self, p: int) -> bool:
        return p in self.wild or self.spelling.titles[p] is not None

    def _unequal(self, equal: Equal, state: State) -> str:
        wanted, there = wanted_value(self, equal.wanted, state), self._value(equal.there)
        if equal.there == ("value", None):
            return f"no end is given, wanted {wanted}"
        return "" if wanted == there else f"cut at {there}, wanted {wanted}"

    def _spread(self, p: int, name: str, state: State) -> str:
        if not self.spelling.spreads(name):
            return ""
        there = self.subject.graph[state.nodes[p]]["shape"]
        full = [state.sizes.get(n, n) for n in self.spelling.graph[p]["shape"]]
        fits = all(n in (1, full[d - len(there)]) for d, n in enumerate(there))
        return "" if fits else f"{name} of shape {there} does not broadcast to {tuple(full)}"

    def _used(self, state: State) -> str:
        graph = self.subject.graph
        inner = {u for p, u in state.nodes.items() if self.spelling.titles[p] is not None}
        ends = {state.nodes[p] for p in self.spelling.graph.outputs}
        for node in sorted(inner - ends):
            if is_place(self.subject.forms.get(node)):
                continue
            others = [n for n in graph.users(node) if n not in inner]
            if others or node in graph.outputs:
                where = graph[others[0]]["loc"] if others else ""
                what = title(graph[node])
                return f"the {what} inside is used elsewhere{f', at {where}' if where else ''}"
        return ""


def wanted_value(walk: _Walk, term: Term, state: State) -> Any:
    """What a number that the spelling computes is for the example."""
    if term[0] == "value":
        return term[1]
    data = walk.spelling.graph[term[1]]
    if data["kind"] == "const":
        return data["value"]
    numbers = {i: walk._value(t) for i, t in state.numbers.items()}
    if data["kind"] == "scalar":
        inputs = walk.spelling.graph.inputs
        nodes = [state.nodes.get(n) for n in inputs]
    else:
        nodes = [state.nodes.get(o) for o in data["operands"]]
    shapes = [SimpleNamespace(**walk.subject.graph[n]) if n is not None else None for n in nodes]
    return evaluate(data["expr"], numbers, shapes)  # type: ignore[arg-type]


def _told(fixed: Any) -> str:
    """Fixed arguments in words."""
    if type(fixed) is tuple:
        head = {"named": "", "row": ""}.get(str(fixed[0]) if fixed else "")
        return ", ".join(t for f in (fixed if head is None else fixed[1:]) if (t := _told(f)))
    return "" if fixed in ("array", "number") else str(fixed)
