"""Every switch of ZMLX: its environment variable, its default, what it takes and means.

Comes in: the environment, and what `zmlx.config` sets in a scope. Goes out: the text of a switch as
it stands now, and keys for what is made under it. These names stand here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

Types = tuple[type[Any], ...]
Given = Callable[[Any], "str | None"]  # a value of these types as text; None where it is none


@dataclass(frozen=True)
class Switch:
    """One environment variable, which `zmlx.config` calls by `keyword`."""

    name: str
    default: str
    meaning: str
    types: Types  # of what `zmlx.config` takes
    takes: str  # the same in words
    given: Given

    @property
    def keyword(self) -> str:
        return self.name.removeprefix("ZMLX_").lower()

    def text(self) -> str:
        """Its text here and now: a scope's, else the environment's, else the default."""
        found = self.scoped()
        return os.environ.get(self.name, self.default) if found is None else found

    def scoped(self) -> str | None:
        """What the scopes around set it to; None where none does."""
        scope = _current.get()
        return None if scope is None else scope.texts.get(self.name)

    def on(self) -> bool:
        return self.text().strip().lower() not in ("", "0", "false", "off", "no")


# -- what a switch takes: types, in words, and as text --------------------------------------------
def _one_of(*texts: str) -> tuple[Types, str, Given]:
    words = ", ".join(f'"{text}"' for text in texts[:-1]) + f' or "{texts[-1]}"'
    return (str,), words, lambda value: value if value in texts else None


def _path(value: Any) -> str | None:
    text = os.fspath(value)
    return text if isinstance(text, str) and "\0" not in text else None


def _flag(value: bool) -> str:
    return "1" if value else "0"


def _seconds(value: float) -> str | None:
    return repr(value) if 0 < value < float("inf") else None


def _count(value: int) -> str | None:
    return str(value) if value >= 1 else None


_FLAG: tuple[Types, str, Given] = ((bool,), "True or False", _flag)
_FOLDER: tuple[Types, str, Given] = ((str, os.PathLike), "a path", _path)

FUSE = Switch("ZMLX_FUSE", "1", "0 turns fusion off everywhere: functions run as plain MLX", *_FLAG)
CHECK = Switch(
    "ZMLX_CHECK",
    "0",
    "1 also runs each region as MLX ops and raises where the two part, and looks through the graph "
    "after each pass",
    *_FLAG,
)
LOG = Switch(
    "ZMLX_LOG",
    "",
    "level of the 'zmlx' logger on stderr: info (retraces, compiles), debug (kernels too)",
    *_one_of("", "warning", "info", "debug"),
)
DEVICE = Switch(
    "ZMLX_DEVICE",
    "",
    "host or replay: forces the way kernels run on the CPU",
    *_one_of("", "host", "replay"),
)
CACHE = Switch(
    "ZMLX_CACHE_DIR",
    "",
    "directory of compiled kernels; default: the user's cache directory",
    *_FOLDER,
)
COMPILER = Switch(
    "ZMLX_CXX",
    "",
    "C++ compiler of the host device; default: $CXX, c++, g++, clang++",
    *((str,), "a command", _path),
)
PATIENCE = Switch(
    "ZMLX_CXX_TIMEOUT",
    "300",
    "seconds that a run of the C++ compiler may take; then it is stopped and MLX ops run instead",
    *((int, float), "a number above 0", _seconds),
)
THREADS = Switch(
    "ZMLX_THREADS",
    "",
    "threads of the host device; default: all cores this process may use",
    *((int,), "an int of 1 or more", _count),
)
SANITIZE = Switch(
    "ZMLX_SANITIZE",
    "0",
    "1 watches every access of every kernel on the CPU and raises where one breaks Metal's rules",
    *_FLAG,
)
PATTERNS = Switch(
    "ZMLX_PATTERNS",
    "1",
    "0 has no pattern replaced: what a function says is computed as it says it (docs/patterns.md)",
    *_FLAG,
)
TRACEBACK = Switch(
    "ZMLX_TRACEBACK",
    "0",
    "1 keeps ZMLX's own frames in the tracebacks of errors that fused functions raise",
    *_FLAG,
)
DUMP = Switch(
    "ZMLX_DUMP",
    "",
    "folder in which each fused function leaves a file for each stage; default: none is written",
    *_FOLDER,
)

SWITCHES = (
    *(FUSE, CHECK, LOG, DEVICE, CACHE, COMPILER, PATIENCE, THREADS, SANITIZE, PATTERNS),
    *(TRACEBACK, DUMP),
)
_BY_KEYWORD = {switch.keyword: switch for switch in SWITCHES}


# -- scopes ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scope:
    """The blocks of `zmlx.config` that are open, outermost first, and what they set together."""

    blocks: tuple[config, ...]
    texts: dict[str, str] = field(init=False)
    raw: dict[Any, Any] = field(init=False)  # as the environment holds them; a default as unset

    def __post_init__(self) -> None:
        texts = {name: text for block in self.blocks for name, text in block.texts.items()}
        defaults = {switch.name: switch.default for switch in SWITCHES}
        raw = {_raw(n): None if t == defaults[n] else _raw(t) for n, t in texts.items()}
        object.__setattr__(self, "texts", texts)
        object.__setattr__(self, "raw", raw)


_current: ContextVar[Scope | None] = ContextVar("zmlx.config", default=None)


class config:  # noqa: N801 - users call it like a function
    """`with zmlx.config(check=True, log="debug"):` sets switches within the block.

    Keywords are the names of the environment variables in docs/env.md without ZMLX_, in lower case:
    fuse, check, log, device, cache_dir, cxx, cxx_timeout, threads, sanitize, patterns, dump. Blocks
    nest, the inner one wins; what none of them sets, the environment does. A block holds for the
    thread, or the asyncio task, that entered it; a new thread starts from the environment. Nothing
    that was made under one setting is used under another. One object may be entered again, and
    shared.

    Raises:
        TypeError: no switch has that name, or the value is of the wrong type.
        ValueError: the switch has no such value.
    """

    def __init__(self, **switches: Any) -> None:
        self.texts = {s.name: text for s, text in map(_given, switches, switches.values())}

    def __enter__(self) -> config:
        scope = _current.get()
        _current.set(Scope((*(scope.blocks if scope else ()), self)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        scope = _current.get()
        blocks = list(scope.blocks if scope else ())
        if self in blocks:  # the innermost of its own: blocks of generators end in any order
            del blocks[len(blocks) - 1 - blocks[::-1].index(self)]
        _current.set(Scope(tuple(blocks)) if blocks else None)

    def __repr__(self) -> str:
        set_to = {s.keyword: self.texts[s.name] for s in SWITCHES if s.name in self.texts}
        return f"zmlx.config({', '.join(f'{k}={text!r}' for k, text in set_to.items())})"


def _given(keyword: str, value: Any) -> tuple[Switch, str]:
    switch = _BY_KEYWORD.get(keyword)
    if switch is None:
        raise TypeError(
            f"[zmlx.config] no switch is called {keyword!r}. Give one of "
            f"{', '.join(_BY_KEYWORD)} (see docs/env.md)."
        )
    right = isinstance(value, switch.types) and (type(value) is not bool or bool in switch.types)
    text = switch.given(value) if right else None
    if text is None:
        raise (ValueError if right else TypeError)(
            f"[zmlx.config] {keyword} ({switch.name}) is {value!r}; give {switch.takes}."
        )
    return switch, text


def held() -> config:
    """A block in which what `mode` tells apart stands as it does here and now."""
    block = config()
    block.texts = {switch.name: switch.text() for switch in _DECIDE}
    return block


# -- keys -----------------------------------------------------------------------------------------
# The mapping under os.environ, where there is one: a name costs 0.05 us there instead of 0.8, and
# every call of a fused function asks for several.
_RAW: Any = getattr(os.environ, "_data", os.environ)


def _raw(name: str) -> Any:
    return os.fsencode(name) if isinstance(next(iter(_RAW), b""), bytes) else name


_DECIDE = (FUSE, CHECK, DEVICE, SANITIZE, THREADS, DUMP, PATTERNS)  # how a fused function runs
_MODE = tuple(_raw(s.name) for s in _DECIDE)
_HOST = tuple(_raw(s.name) for s in (SANITIZE, THREADS))
_COMPILER = tuple(_raw(name) for name in (COMPILER.name, "CXX", "PATH"))

watched = False  # whether launches are told to anyone: set by zmlx.device.watch


# What both ask is bound to parameters: a name of the module costs more at each call.
def mode(
    scope: Any = _current.get,
    get: Any = _RAW.get,
    a: Any = _MODE[0],
    b: Any = _MODE[1],
    c: Any = _MODE[2],
    d: Any = _MODE[3],
    e: Any = _MODE[4],
    f: Any = _MODE[5],
    g: Any = _MODE[6],
) -> tuple[Any, ...]:
    """What decides how a fused function runs: a dictionary key.

    Whether launches are watched, then the raw texts of the switches.
    """
    if scope() is not None:
        return watched, *_scoped(_MODE)
    return watched, get(a), get(b), get(c), get(d), get(e), get(f), get(g)


def host() -> tuple[Any, ...]:
    """What decides how a kernel written by hand runs on the CPU: a dictionary key."""
    return _scoped(_HOST)


def compiler() -> tuple[Any, ...]:
    """What decides which C++ compiler is used, as raw texts: a dictionary key."""
    return _scoped(_COMPILER)


def _scoped(keys: Sequence[Any]) -> tuple[Any, ...]:
    found, get = _current.get(), _RAW.get
    if found is None:
        return tuple([get(key) for key in keys])
    raw = found.raw
    return tuple([raw[key] if key in raw else get(key) for key in keys])
