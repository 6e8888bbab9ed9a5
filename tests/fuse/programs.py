"""Random Python programs over nested state: written as source, so that a failure can be read.

A program is a function `f(x, y, s, o)` of two arrays, a dict and an object. It rebinds, writes in
place, makes aliases, loops, branches on numbers, calls helpers, and returns some of what it has.
Numbers stay small whole halves, so that every way to compute them gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from hypothesis import strategies as st

LENGTH = 4


class Node:
    """An object that holds arrays, a number and others like it."""

    def __init__(self, w: mx.array, n: int = 1) -> None:
        self.w, self.n = w, n
        self.kids: list[Node] = []

    def step(self, a: mx.array) -> mx.array:
        self.n += 1
        self.w = mx.minimum(self.w, a)
        return self.w - a


@dataclass
class Box:
    """A dataclass, made by programs."""

    v: mx.array
    more: list[Any] = field(default_factory=list)


def scaled(a: mx.array, by: float = 0.5) -> mx.array:
    """A helper that computes."""
    return mx.floor(a * by)


def bump(o: Node) -> None:
    """A helper that writes an object."""
    o.n += 1
    o.w += 1


def swapped(items: list[Any]) -> None:
    """A helper that writes a list."""
    items[0], items[-1] = items[-1], items[0]


def grown(a: mx.array) -> mx.array:
    """A helper that writes its argument in place."""
    a[1:3] = a[:2]
    a -= 1
    return a


halved = mx.compile(lambda a: mx.floor(a * 0.5))
NAMES = {"mx": mx, "Node": Node, "Box": Box, "scaled": scaled, "bump": bump, "swapped": swapped,
         "grown": grown, "halved": halved}  # fmt: skip

_PLACES = (
    "v0", "v1", "v2", "s['a']", "s['l'][0]", "s['l'][-1]", "s['d']['k']", "o.w", "o.kids[0].w",
    "s['l'][s['n'] % 2]", "b.v",
)  # fmt: skip
_ARRAYS = ("x", "y", *_PLACES)
_NUMBERS = ("2", "s['n']", "o.n", "o.kids[0].n", "len(s['l'])", "len(o.kids)", "x.shape[0]", "0.5")
_VALUES = (
    "{a}", "{a} + {b}", "{a} - {b}", "mx.maximum({a}, {b})", "scaled({a})", "mx.floor({a} * 0.5)",
    "mx.where({a} > {b}, {a}, {b})", "{a}[::-1]", "mx.concatenate([{a}[:2], {b}[2:]])",
    "{a} + {n}", "halved({a})", "o.step({a})", "grown(mx.array({a}))", "mx.zeros(({a}.shape[0],))",
    "mx.array([1.0, 2.0, 3.0, 4.0])", "{a} * 1", "+{a}", "mx.minimum({a}, 50)", "grown({a} * 1)",
)  # fmt: skip
_STATEMENTS = (
    "{p} = {v}", "{p} = {v}", "{p} = {a}", "{a} += {b}", "{a} -= {v}", "{a}[1:3] = {b}[:2]",
    "{a}[0] = {n}", "{a}[{n} % 4] += 1", "s['n'] += 1", "o.n += {n}", "s['n'] = o.n + 1",
    "s['l'].append({v})", "s['l'].insert(0, {a})", "s['l'] = [{a}, {b}]",
    "s['l'][0:1] = [{a}, {b}]",
    "s['d'] = {{'k': {a}, 'm': {b}}}", "s['d']['j'] = {v}", "s['d'].update(k={a})",
    "o.kids.append(Node({a}, 2))", "o.kids.insert(0, Node({v}))", "s['o'] = o", "s['e'] = s['d']",
    "o.kids = o.kids[:]", "o.last = {a}", "bump(o)", "bump(o.kids[0])", "swapped(s['l'])",
    "swapped(o.kids)", "grown({a})", "b = Box({a}, [{b}])", "s['b'] = b", "b.more.append({a})",
    "s['l'] = s['l'][::-1]", "s['l'].reverse()", "m = s['l']", "m = [{a}, m[0]]", "m[0] = {v}",
    "s['l'] = m", "s.setdefault('z', {v})", "s['t'] = ({a}, o, m)", "o.kids[0] = Node({a})",
    "o.n = int({n})", "del s['l'][1:]", "s.pop('t', None)",
)  # fmt: skip
_BLOCKS = (
    "for i in range(2):", "for q in list(s['l']):", "for q in s['l'][:2]:", "if s['n'] % 2:",
    "for q in o.kids[:2]:", "if o.n > 2:", "if 'e' in s:", "for k in sorted(s['d']):", "try:",
    "while s['n'] < 3:",
)  # fmt: skip
_INSIDE = {
    "for q in list(s['l']):": ("{p} = {p} + q", "q += 1", "q[0] = {n}"),
    "for q in s['l'][:2]:": ("{p} = q - {a}", "q -= {a}"),
    "for q in o.kids[:2]:": ("q.n += 1", "{p} = {a} + q.w", "q.w = {v}", "q.w += 1"),
    "for k in sorted(s['d']):": ("s['d'][k] = s['d'][k] + {a}", "{p} = s['d'][k]"),
    "while s['n'] < 3:": ("s['n'] += 1",),
}
_RESULTS = ("{a}", "{v}", "s", "o", "s['l']", "[{a}, {a}]", "({a}, s['n'])", "{{'r': {v}}}", "o.n",
            "b", "m", "(o.kids, {v})")  # fmt: skip
_BETWEEN = (
    "s['n'] = 5", "s['a'] = mx.array([1.0, 2.0, 0.0, 3.0])", "o.w = y", "o.n = 7", "s['a'] = x",
    "s['l'].append(x)", "o.kids.append(Node(x))", "s['l'][0] = s['a']", "x += 1", "s['a'][0] = 3",
    "o.w[1] = 2", "s['d'] = {'k': y}", "s['l'] = [y, y]", "o.kids[0].w = o.w", "pass", "pass",
    "o.kids[0] = o", "y = x",
)  # fmt: skip


@dataclass(frozen=True)
class Program:
    """The source of a function, and what happens to its arguments between calls."""

    source: str
    between: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([self.source, *[f"# then: {line}" for line in self.between]])

    def function(self) -> Any:
        """The function, made anew."""
        made = dict(NAMES)
        exec(self.source, made)
        return made["f"]


@st.composite
def programs(draw: Any, most: int = 8) -> Program:
    """Programs of up to `most` statements or blocks, and what happens between their calls."""

    def filled(text: str) -> str:
        return text.format(
            a=draw(st.sampled_from(_ARRAYS)), b=draw(st.sampled_from(_ARRAYS)),
            p=draw(st.sampled_from(_PLACES)), n=draw(st.sampled_from(_NUMBERS)),
            v=draw(st.sampled_from(_VALUES)).format(
                a=draw(st.sampled_from(_ARRAYS)), b=draw(st.sampled_from(_ARRAYS)),
                n=draw(st.sampled_from(_NUMBERS)),
            ),
        )  # fmt: skip

    def lines() -> Iterator[str]:
        for _ in range(draw(st.integers(1, most))):
            if draw(st.integers(0, 3)):
                yield filled(draw(st.sampled_from(_STATEMENTS)))
                continue
            head = draw(st.sampled_from(_BLOCKS))
            yield head
            for _ in range(draw(st.integers(1, 2))):
                inner = _INSIDE.get(head, _STATEMENTS)
                choice = inner if draw(st.booleans()) else _STATEMENTS
                yield "    " + filled(draw(st.sampled_from(choice)))
            if head == "while s['n'] < 3:":
                yield "    s['n'] += 1"
            if head == "try:":
                yield from ("    raise KeyError", "except KeyError:", "    s['n'] += 1")

    start = ["v0, v1, v2 = x + y, mx.floor(y * 0.5), x", "b, m = Box(v0), [x, y]"]
    body = [*start, *lines(), f"return {filled(draw(st.sampled_from(_RESULTS)))}"]
    source = "def f(x, y, s, o):\n" + "".join([f"    {line}\n" for line in body])
    count = draw(st.integers(1, 3))
    return Program(source, tuple([draw(st.sampled_from(_BETWEEN)) for _ in range(count)]))


def arguments() -> dict[str, Any]:
    """What a program is called with, made anew; some of it stands in two places."""
    x, y, c = mx.array([1.0, 5.0, 2.0, 0.0]), mx.array([3.0, 1.0, 0.0, 2.0]), mx.array([2.0] * 4)
    o = Node(mx.array([0.0, 1.0, 2.0, 3.0]))
    o.kids = [Node(mx.array([4.0, 0.0, 1.0, 1.0])), Node(c)]
    s = {"a": mx.array([1.0] * 4), "l": [mx.array([0.0, 2.0, 0.0, 1.0]), c], "n": 1, "d": {"k": c}}
    return {"x": x, "y": y, "s": s, "o": o}


def told(tree: Any, seen: dict[int, int] | None = None) -> Any:
    """A tree by value, and by which of its objects and containers are one."""
    seen = {} if seen is None else seen
    if isinstance(tree, mx.array):
        return ("array", str(tree.dtype), tree.tolist())
    if not isinstance(tree, (list, dict, tuple, Node, Box)):
        return (type(tree).__name__, tree)
    if not isinstance(tree, tuple):
        if id(tree) in seen:
            return ("again", seen[id(tree)])
        seen[id(tree)] = len(seen)
    held = vars(tree) if isinstance(tree, (Node, Box)) else tree
    pairs = held.items() if isinstance(held, dict) else enumerate(held)
    return (type(tree).__name__, [(key, told(value, seen)) for key, value in pairs])
