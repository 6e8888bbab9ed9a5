"""Buffers: what NumPy, memoryview and other readers of memory get of a traced array.

Comes in: the class of traced arrays, which has a method `__buffer__`. Goes out: the class, whose
memory is what that method gives. Python calls it from 3.12 on; for older versions the slot that
mx.array left to the class is filled here. zmlx.trace.proxy calls it once.

A view that C code may write would write at the trace only, and nothing would tell.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any

import mlx.core as mx

_AS_BUFFER = 24 + 17 * 8  # where tp_as_buffer stands in a type of CPython before 3.12, in bytes
_kept: list[Any] = []  # the function that a slot refers to


def follow(cls: type) -> None:
    """Let readers of `cls`'s memory get what its `__buffer__(flags)` returns."""
    if sys.version_info >= (3, 12) or sys.implementation.name != "cpython":
        return
    if struct.calcsize("P") != 8:
        return
    slot, inherited = _slot(cls), _slot(mx.array)
    if not slot or not inherited or slot == inherited or _at(slot) != _at(inherited):
        return  # not laid out as expected
    get = ctypes.pythonapi.PyObject_GetBuffer
    get.argtypes, get.restype = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int], ctypes.c_int
    form = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int)

    def getbuffer(array: Any, view: int, flags: int) -> int:
        try:
            return int(get(array.__buffer__(flags), view, flags))
        except Exception:  # none can pass C's frames: the reader says that nothing came
            return -1

    own = form(getbuffer)
    _kept.append(own)
    ctypes.c_void_p.from_address(slot).value = ctypes.cast(own, ctypes.c_void_p).value
    ctypes.c_void_p.from_address(slot + 8).value = None  # the memoryview releases itself


def _slot(cls: type) -> int | None:
    return _at(id(cls) + _AS_BUFFER)


def _at(address: int) -> int | None:
    return ctypes.c_void_p.from_address(address).value
