"""Random Python programs over nested state, called several times: fused as in plain Python.

Every call returns and leaves behind what plain Python does, or is refused with words; then all is
as it was before the call.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from programs import NAMES, Program, arguments, programs, told

import zmlx
from zmlx.errors import TraceError


def _result(function: Any, held: dict[str, Any]) -> Any:
    """What a call returns, or the kind of error that Python raises in it."""
    try:
        return function(*held.values())
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        if isinstance(error, TraceError) or str(error).startswith("[zmlx"):
            raise
        return type(error)


def _after(result: Any, held: dict[str, Any]) -> Any:
    """By value; a list or dict that is an argument comes back as a new one."""
    return told(result), told(list(held.values()))


def _between(line: str, held: dict[str, Any]) -> None:
    names = {**NAMES, **held}
    exec(line, names)
    held.update({name: names[name] for name in held})


def runs(program: Program) -> bool:
    """Compare all calls of a program; False where one was refused."""
    plain, fused = program.function(), zmlx.fuse(program.function())
    mine, theirs = arguments(), arguments()
    for line in ("pass", *program.between, "pass"):
        _between(line, mine)
        _between(line, theirs)
        before = _after(None, mine)
        wanted = _result(plain, theirs)
        try:
            found = _result(fused, mine)
        except (TraceError, TypeError) as error:
            assert str(error).startswith("[zmlx"), error
            assert _after(None, mine) == before, "refused, but not as it was"
            return False
        if isinstance(wanted, type):  # what the call has written before it failed is not compared
            assert found is wanted
            return True
        assert _after(found, mine) == _after(wanted, theirs)
    return True


_SETTINGS = settings(suppress_health_check=list(HealthCheck))


@_SETTINGS
@given(programs())
def test_programs(program: Program) -> None:
    runs(program)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(10))
@settings(_SETTINGS, max_examples=1000)
@given(program=programs(most=20))
def test_long_programs(block: int, program: Program) -> None:
    runs(program)
