"""What `python -m zmlx catalog` prints: functions whose row has the words, or one of them whole.

Comes in: words. Goes out: text. zmlx.cli calls it, docs/generate_kernels.py takes the signature.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from zmlx.cache import GLOBAL_KERNEL_CACHE
from zmlx.catalog.rows import ROWS, Row
from zmlx.device import watch
from zmlx.device.texts import metal_written
from zmlx.fuse.api import fuse


def found(words: Sequence[str]) -> list[Row]:
    """Rows that have all the words in name, formula, source or docstring; all for no words."""
    wanted = [word.lower() for word in words]
    exact = [row for name, row in ROWS.items() if wanted in ([name], name.split(".")[1:])]
    return exact or [r for r in ROWS.values() if all(w in _said(r) for w in wanted)]


def listed(rows: Sequence[Row]) -> str:
    """A line for each: name and formula."""
    width = max((len(row.name) for row in rows), default=0)
    return "\n".join(f"{row.name:<{width}}  {row.formula}" for row in rows)


def shown(row: Row) -> str:
    """All of one: signature, formula, docstring, an example, its kernels."""
    moved = ", ".join(row.arrays[i].name for i in row.differentiable) or "nothing"
    parts = [
        signature(row),
        f"computes      {row.formula}",
        f"gradients of  {moved}",
        f"source        {row.source or 'its formula'}",
        f"fuses         {_fuses(row)}",
        "",
        inspect.getdoc(row.function) or "",
        "",
        "example",
        _example(row),
        "",
        "as Metal",
        _metal(row),
    ]
    return "\n".join(parts)


def signature(row: Row) -> str:
    """As it is called, types as they are written."""
    quoted = str(inspect.signature(row.function))
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", quoted).replace("mlx.core.", "mx.")
    line = f"{row.name}{text}"
    if len(line) <= 96:
        return line
    inside, _, result = text[1:].rpartition(") -> ")
    return f"{row.name}(\n    " + ",\n    ".join(_arguments(inside)) + f",\n) -> {result}"


def _arguments(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _said(row: Row) -> str:
    doc = inspect.getdoc(row.function) or ""
    return f"{row.name} {row.formula} {row.source} {doc}".lower()


def _example(row: Row) -> str:
    lines, names = ["import mlx.core as mx", f"from zmlx.kernels import {row.module}", ""], []
    for array, value in zip(row.arrays, row.drawn(), strict=True):
        names.append(array.name)
        kind = str(value.dtype).removeprefix("mlx.core.")
        drawn = f"mx.random.normal({value.shape})"
        lines.append(f"{array.name} = " + (
            drawn if array.floats else f"mx.ones({value.shape}, mx.{kind})"))  # fmt: skip
    called = row.name
    if row.factory is not None:
        called += f"({_keywords(row.factory)})"
    more = _keywords(row.options)
    lines.append(f"y = {called}({', '.join([*names, *([more] if more else [])])})")
    return "\n".join(f"  {line}" for line in lines)


def _keywords(options: Any) -> str:
    said = {name: str(v).replace("mlx.core.", "mx.") for name, v in options.items()}
    return ", ".join(f"{name}={value}" for name, value in said.items())


def _fuses(row: Row) -> str:
    """The ops of its fused regions, and its calls of kernels by hand."""
    report = fuse(row.run).explain(*row.drawn())
    ops = sorted({op for region in report.regions for op in region.ops})
    count = len(report.regions)
    return f"{', '.join(ops)} in {count} kernel{'s' * (count != 1)}" if ops else "by hand"


def _metal(row: Row) -> str:
    """The texts that its call launches, as Metal: fused regions', and those by hand."""
    texts = [region.msl for region in fuse(row.run).explain(*row.drawn()).regions]
    names: list[str] = []
    watcher = _Names(names)
    watch.start(watcher)
    try:
        mx.eval(row.run(*row.drawn()))
    finally:
        watch.stop(watcher)
    kept = {key.name: key for key in GLOBAL_KERNEL_CACHE.keys()}  # noqa: SIM118 - no dict
    for name in dict.fromkeys(n for n in names if n in kept):
        texts.append(metal_written(GLOBAL_KERNEL_CACHE.get(kept[name]).spec))
    return "\n".join(texts) or "  an op of MLX's own"


class _Names:
    """Notes the names of kernels that are launched."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def launched(self, event: watch.Event) -> None:
        if not event.fused:
            self._names.append(event.name)
