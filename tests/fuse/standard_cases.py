"""Objects of Python's standard library: how each is made, read and changed."""

from __future__ import annotations

import array
import collections
import configparser
import csv
import ctypes
import datetime
import decimal
import fractions
import io
import itertools
import logging
import mmap
import pathlib
import queue
import random
import re
import string
import threading
import time
import types
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Case:
    make: Callable[[], Any]
    read: Callable[[Any], Any]  # a number that the function computes with
    change: Callable[[Any], Any]  # in place; or gives another object
    refused: bool = False  # with words, every time
    shared: bool = True  # equal objects share a trace


class Owner:
    """What weak references refer to."""

    def __init__(self) -> None:
        self.rate = 2.0


_OWNER = Owner()
_LOG = "zmlx test of standard objects"


def _mapped() -> mmap.mmap:
    made = mmap.mmap(-1, 4)
    made[:] = b"\x01\x02\x03\x04"
    return made


def _parser() -> configparser.ConfigParser:
    made = configparser.ConfigParser()
    made.read_string("[a]\nrate = 2.0\n")
    return made


class _Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_double),)


def _changed_item(held: Any) -> None:
    held[0] = 3


def _set(name: str, value: Any) -> Callable[[Any], None]:
    return lambda held: setattr(held, name, value)


CASES = {
    "Event": Case(
        threading.Event, lambda o: 2.0 if o.is_set() else 3.0, lambda o: o.set(), shared=False
    ),
    "Event.set": Case(threading.Event, lambda o: o.set() or 2.0, lambda o: None, refused=True),
    "Lock": Case(
        threading.Lock,
        lambda o: o.__enter__() + 1.0 - (o.__exit__() or 0),
        lambda o: None,
        shared=False,
    ),
    "Semaphore": Case(
        lambda: threading.Semaphore(2),
        lambda o: o._value,
        lambda o: o.acquire(blocking=False) and None,
        shared=False,
    ),
    "Logger": Case(
        lambda: logging.getLogger(_LOG),
        lambda o: float(o.level + 1),
        lambda o: o.setLevel(o.level + 10),
    ),
    "Template": Case(
        lambda: string.Template("a"),
        lambda o: len(o.template),
        _set("template", "ab"),
        shared=False,
    ),
    "ConfigParser": Case(
        _parser, lambda o: float(o["a"]["rate"]), lambda o: o["a"].update(rate="3.0"), shared=False
    ),
    "decimal.Context": Case(
        lambda: decimal.Context(prec=3), lambda o: o.prec, _set("prec", 5), shared=False
    ),
    "StringIO": Case(
        lambda: io.StringIO("2"),
        lambda o: float(o.getvalue()),
        lambda o: o.write("3"),
        refused=True,
    ),
    "BytesIO": Case(
        lambda: io.BytesIO(b"2"), lambda o: float(o.read()), lambda o: o.seek(0), refused=True
    ),
    "Random": Case(
        lambda: random.Random(0), lambda o: o.random(), lambda o: o.random(), refused=True
    ),
    "numpy.Generator": Case(
        lambda: np.random.default_rng(0), lambda o: o.random(), lambda o: o.random(), refused=True
    ),
    "RandomState": Case(
        lambda: np.random.RandomState(0), lambda o: o.rand(), lambda o: o.rand(), refused=True
    ),
    "Queue": Case(queue.Queue, lambda o: 1.0 + o.qsize(), lambda o: o.put(1), refused=True),
    "SimpleQueue": Case(
        queue.SimpleQueue, lambda o: 1.0 + o.qsize(), lambda o: o.put(1), refused=True
    ),
    "count": Case(lambda: itertools.count(1), next, next, refused=True),
    "cycle": Case(lambda: itertools.cycle([1, 2]), next, next, refused=True),
    "csv.reader": Case(
        lambda: csv.reader(["1"] * 9),
        lambda o: float(next(o)[0]),
        lambda o: next(o) and None,
        refused=True,
    ),
    "Pattern": Case(
        lambda: re.compile("a+"), lambda o: len(o.pattern), lambda o: re.compile("b+aa")
    ),
    "Path": Case(lambda: pathlib.Path("a/b"), lambda o: len(o.parts), lambda o: o / "c"),
    "date": Case(lambda: datetime.date(2020, 1, 2), lambda o: o.day, lambda o: o.replace(day=3)),
    "datetime": Case(
        lambda: datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
        lambda o: o.hour + 1.0,
        lambda o: o.astimezone(datetime.timezone(datetime.timedelta(hours=5))),
    ),
    "timedelta": Case(lambda: datetime.timedelta(1), lambda o: o.total_seconds(), lambda o: o * 2),
    "Decimal": Case(lambda: decimal.Decimal("2.0"), float, lambda o: decimal.Decimal("2.50")),
    "Fraction": Case(lambda: fractions.Fraction(1, 2), float, lambda o: o * 3),
    "UUID": Case(lambda: uuid.UUID(int=3), lambda o: o.int, lambda o: uuid.UUID(int=4)),
    "struct_time": Case(lambda: time.gmtime(0), lambda o: o.tm_year, lambda o: time.gmtime(10**9)),
    "Counter": Case(lambda: collections.Counter("aab"), lambda o: o["a"], lambda o: o.update("aa")),
    "ChainMap": Case(
        lambda: collections.ChainMap({"a": 2.0}, {"b": 3.0}),
        lambda o: o["a"] * o["b"],
        lambda o: o.update(b=5.0),
    ),
    "UserDict": Case(
        lambda: collections.UserDict(a=2.0), lambda o: o["a"], lambda o: o.update(a=5.0)
    ),
    "UserList": Case(lambda: collections.UserList([2.0]), lambda o: o[0], _changed_item),
    "deque": Case(lambda: collections.deque([2.0]), lambda o: o[0], _changed_item),
    "OrderedDict.values": Case(
        lambda: collections.OrderedDict(a=2.0).values(),
        lambda o: next(iter(o)),
        lambda o: collections.OrderedDict(a=3.0).values(),
    ),
    "MappingProxy": Case(
        lambda: types.MappingProxyType({"a": 2.0}),
        lambda o: o["a"],
        lambda o: types.MappingProxyType({"a": 3.0}),
    ),
    "SimpleNamespace": Case(lambda: types.SimpleNamespace(a=2.0), lambda o: o.a, _set("a", 3.0)),
    "array": Case(
        lambda: array.array("i", [0, 1]),
        lambda o: o[1],
        lambda o: array.array("f", o.tobytes() and [0, 3]),
    ),
    "array of another type": Case(
        lambda: array.array("i", [1]),
        lambda o: len(o.typecode) * (2.0 if o.typecode == "i" else 3.0),
        lambda o: array.array("f", o.tobytes()),
    ),
    "bytearray": Case(lambda: bytearray(b"\x02"), lambda o: o[0], _changed_item),
    "memoryview": Case(lambda: memoryview(bytearray(b"\x02")), lambda o: o[0], _changed_item),
    "mmap": Case(_mapped, lambda o: o[0], _changed_item),
    "ctypes": Case(lambda: ctypes.c_double(2.0), lambda o: o.value, _set("value", 3.0)),
    "Structure": Case(lambda: _Point(2.0), lambda o: o.x, _set("x", 3.0)),
    "range": Case(lambda: range(0, 4, 2), lambda o: o.stop, lambda o: range(0, 3, 2)),
    "slice": Case(lambda: slice(0, 4, 2), lambda o: o.stop, lambda o: slice(0, 3, 2)),
    "ref": Case(
        lambda: weakref.ref(_OWNER),
        lambda o: o().rate,
        lambda o: setattr(o(), "rate", o().rate + 1),
    ),
    "proxy": Case(
        lambda: weakref.proxy(_OWNER), lambda o: o.rate, lambda o: setattr(o, "rate", o.rate + 1)
    ),
    "WeakMethod": Case(
        lambda: weakref.WeakMethod(_OWNER.__init__),
        lambda o: o().__self__.rate,
        lambda o: setattr(_OWNER, "rate", _OWNER.rate + 1),
    ),
    "WeakKeyDictionary": Case(
        lambda: weakref.WeakKeyDictionary({_OWNER: 2.0}),
        lambda o: o[_OWNER],
        lambda o: o.update({_OWNER: 3.0}),
        shared=False,
    ),
    "WeakValueDictionary": Case(
        lambda: weakref.WeakValueDictionary(a=_OWNER),
        lambda o: o["a"].rate,
        lambda o: setattr(_OWNER, "rate", _OWNER.rate + 1),
        shared=False,
    ),
    "WeakSet": Case(
        lambda: weakref.WeakSet([_OWNER]),
        lambda o: 1.0 + len(o),
        lambda o: o.discard(_OWNER),
        shared=False,
    ),
}
