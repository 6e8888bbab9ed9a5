"""Complaints: what the compiler says of a helper's kernel, told by the user's own texts and lines.

Comes in: a kernel, and the texts that its user wrote, under the names that `#line` gives them.
Goes out: the kernel; where it does not compile, its error shows the lines at fault and leaves out
what ZMLX put around them. zmlx.helpers.written and zmlx.helpers.nary call it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import mlx.core as mx

from zmlx.errors import CompilerError, DeviceError
from zmlx.fuse.runtime import Run
from zmlx.msl import DEFAULT_HEADER

# Where a message begins: `expr:2:3: ` of C++ compilers, `expr(2): ` of NVIDIA's. The latter goes on
# in lines further to the right, and adds the line as ZMLX wrote it, over a caret.
_PLACE = re.compile(
    r"(?P<text>[\w.]+)(?::(?P<line>\d+):(?P<column>\d+)|\((?P<row>\d+)\)): (?!note )"
)
_ECHO = re.compile(r"^  .*\n *\^$\n?", re.MULTILINE)
_MORE = re.compile(r"\n {10,}(?=\S)")


def counted(text: str, argument: str) -> str:
    """`text` on lines of its own, which the compiler's messages count as the user does."""
    end = "\n\n" if text.rstrip().endswith("\\") else "\n"  # it would join the next line
    return f'#line 1 "{argument}"\n{text}{end}#line 1 "after_{argument}"\n'


def stored(place: str, text: str, argument: str) -> str:
    """The statement that stores the value of `text` in the element `place`."""
    return f'#line 1 "value_of_{argument}"\n  {place} = (O)(\n{counted(text, argument)}  );\n'


def complaining(run: Run, texts: Mapping[str, str]) -> Run:
    """`run`, whose errors show the lines of `texts` (argument -> text) that are named in them."""
    own = {argument: _own(text) for argument, text in texts.items() if text}

    def shown(arrays: Sequence[mx.array]) -> list[mx.array]:
        try:
            return run(arrays)
        except DeviceError as error:
            message = _told(str(error), own)
            if message is None or isinstance(error, CompilerError):
                raise
            raise DeviceError(message) from None

    return shown


def _own(text: str) -> str:
    """What the user wrote, of a header that begins with the default one."""
    return text.partition(DEFAULT_HEADER)[2] if DEFAULT_HEADER in text else text


def _told(message: str, texts: Mapping[str, str]) -> str | None:
    """The message without ZMLX's text, with the user's lines; None where it names none of them."""
    head, *lines = _MORE.sub(" ", _ECHO.sub("", message)).splitlines()
    told, found = [head], False
    for line in lines:
        place = _PLACE.match(line)
        if place is None:
            continue  # the texts of the kernel, a count of the errors
        told.append(line)
        column = int(place["column"]) if place["column"] else None
        shown = _shown(place["text"], int(place["line"] or place["row"]), column, texts)
        found = found or bool(shown)
        told += shown
    return "\n".join(told) if found else None


def _shown(place: str, line: int, column: int | None, texts: Mapping[str, str]) -> list[str]:
    """The line at fault, with a caret at the column, or a hint where it stands behind the text."""
    behind = place.removeprefix("after_")
    if place != behind and behind in texts:
        return [f"  Is a bracket, a brace or a comment left open in {behind}?"]
    if place.endswith(".entry"):  # behind all texts
        return [f"  Is a bracket, a brace or a comment left open in {' or '.join(texts)}?"]
    whole = place.removeprefix("value_of_")
    if place != whole and whole in texts:
        return [f"  The value of {whole} is none that the output can hold."]
    source = texts.get(place, "").split("\n")
    if place not in texts or line > len(source):
        return []
    caret = [] if column is None else [f"  {' ' * (column - 1)}^"]
    return [f"  {source[line - 1]}", *caret]
