"""What no file holds, and files that are none: refused, with the line and the reason."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import zmlx
from tests.near import normal
from zmlx.errors import StoredError
from zmlx.stored import archive, calls, machine
from zmlx.trace import intercept
from zmlx.trace.reach import FUNCTION


@dataclass
class Point:
    x: mx.array


def python_inside(x: mx.array) -> mx.array:
    y = mx.vmap(lambda row: row.sum())(x)
    return y * 2


NORM = nn.BatchNorm(3)
KERNEL = zmlx.metal.kernel(
    name="twice", input_names=["x"], output_names=["y"],
    source="y[thread_position_in_grid.x] = 2 * x[thread_position_in_grid.x];",
)  # fmt: skip


def by_hand(x: mx.array) -> mx.array:
    made = KERNEL(x, output_shapes=[x.shape], output_dtypes=[x.dtype], grid=(x.size, 1, 1))
    return made[0] + 1


@pytest.mark.parametrize(
    ("f", "args", "words"),
    [
        (python_inside, (mx.ones((2, 3)),), r"test_refused.py:30: python_inside cannot be stored"),
        (by_hand, (mx.ones(3),), r"test_refused.py:\d+: by_hand cannot be stored"),
        (lambda x: Point(x * 2), (mx.ones(3),), r"returns a Point.*Return arrays and numbers"),
        (lambda p: p.x * 2, (Point(mx.ones(3)),), r"takes a Point as an argument"),
        (NORM, (mx.ones((2, 3)),), r"writes into objects.*call .eval\(\)"),
    ],
)
def test_what_no_file_holds_is_named(
    f: Callable[..., Any], args: Any, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.zmlx"
    with pytest.raises(StoredError, match=words):
        zmlx.export(f, path, *args)
    assert not path.exists() and not list(tmp_path.iterdir())


def test_an_exporter_wants_an_example(tmp_path: Path) -> None:
    with (
        pytest.raises(StoredError, match="call the exporter once"),
        zmlx.exporter(mx.exp, tmp_path / "f"),
    ):
        pass


def twice(x: mx.array) -> mx.array:
    return mx.sin(x) * 2 + x


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with zmlx.exporter(twice, tmp_path / "f.zmlx", machine_code=False) as write:
        write(normal(3))
    return tmp_path / "f.zmlx"


def changed(path: Path, **manifest: Any) -> None:
    """The same file with other words in its manifest, hashes and all."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    held = {**json.loads(members[archive.MANIFEST]), **manifest}
    members[archive.MANIFEST] = archive._json(held)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
        file.comment = archive._sha256(members[archive.MANIFEST]).encode()


def test_other_versions_are_refused(path: Path) -> None:
    changed(path, mlx="0.1.2")
    with pytest.raises(StoredError, match=r"was written for MLX 0\.1\.2, and this is MLX"):
        zmlx.load(path)
    changed(path, mlx=mx.__version__, format=99)
    with pytest.raises(StoredError, match="has format 99, and this ZMLX reads format 1"):
        zmlx.load(path)


def test_damage_is_seen(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(StoredError, match="damaged"):
            zmlx.load(path)
    path.write_bytes(whole)
    function = archive.read(path).function
    function["name"] = "another"
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
        comment = file.comment
    members[archive.FUNCTION] = archive._json(function)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
        file.comment = comment
    with pytest.raises(StoredError, match=r"is damaged: function\.json is not what was written"):
        zmlx.load(path)
    with pytest.raises(FileNotFoundError):
        zmlx.load(tmp_path / "nowhere")


@pytest.mark.parametrize("seed", range(4))
def test_any_other_byte_is_seen_or_does_no_harm(path: Path, seed: int) -> None:
    whole, x = path.read_bytes(), normal(3)
    wanted = twice(x).tolist()
    for place in range(seed * 7, len(whole), 61):
        other = bytes([whole[place] ^ (1 << seed * 2)])
        path.write_bytes(whole[:place] + other + whole[place + 1 :])
        try:
            loaded = zmlx.load(path)
        except StoredError:
            continue
        assert mx.allclose(loaded(x), mx.array(wanted)), place


def forged(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    held = archive.read(path)
    change(held.function["variants"][0])
    archive.write(path, held)


def test_a_file_can_call_nothing_but_arithmetic(path: Path) -> None:
    def call(name: list[Any], args: list[Any]) -> Callable[[dict[str, Any]], None]:
        def change(variant: dict[str, Any]) -> None:
            node = {
                "kind": "opaque", "shape": [3], "dtype": "float32", "loc": "", "operands": [0],
                "pure": False,
                "call": {"fn": name, "args": ["tuple", *args], "kwargs": ["dict"], "label": "",
                         "outputs": 0, "defined": False},
            }  # fmt: skip
            variant["trace"]["nodes"].append(node)

        return change

    for name in ("load", "save", "export_function", "os.system", "__import__", "random.seed"):
        held = path.read_bytes()
        forged(path, call(["mlx", name], ["/etc/passwd"]))
        with pytest.raises(StoredError, match="no function that a stored function may call"):
            zmlx.load(path)
        path.write_bytes(held)
    for name in (["method", "__class__"], ["own", "eval"], ["property", "__dict__"], ["x", "y"]):
        held = path.read_bytes()
        forged(path, call(name, []))
        with pytest.raises(StoredError, match="no function that a stored function may call"):
            zmlx.load(path)
        path.write_bytes(held)


def test_a_graph_that_is_none_is_refused(path: Path) -> None:
    def change(variant: dict[str, Any]) -> None:
        variant["trace"]["outputs"] = [99]

    forged(path, change)
    with pytest.raises(StoredError, match="the file's graph is none"):
        zmlx.load(path)


def test_every_function_of_mlx_is_allowed_or_denied() -> None:
    allowed = calls.functions()
    for prefix, module in intercept.MODULES.items():
        for name, value in vars(module).items():
            if type(value) is FUNCTION and not name.startswith("_"):
                full = prefix + name
                known = full in allowed or full in calls.DENIED or name in intercept._PASS
                assert known, full
    effects = ("save", "load", "export", "import", "stream", "memory", "set_", "seed", "file")
    assert not [name for name in allowed if any(word in name for word in effects)]


def test_kernels_is_one_of_three(path: Path) -> None:
    with pytest.raises(ValueError, match="wanted one of any, stored, compile"):
        zmlx.load(path, kernels="none")
    with pytest.raises(StoredError, match="is not used: it holds no machine code"):
        zmlx.load(path, kernels="stored")
    assert zmlx.load(path).machine_code == "it holds no machine code"


def test_machine_code_of_another_machine_is_told() -> None:
    here = machine._here()
    assert machine._misfit(here) == ""
    cases = [
        ({"system": "plan9"}, "it is for the system plan9"),
        ({"architecture": "vax"}, "it is for the kind of CPU vax"),
        ({"features": [*here["features"], "avx9000"]}, "this CPU has no avx9000"),
        ({"libc": "glibc 99.1"}, "it needs glibc 99.1"),
        ({"native": {**here["native"], "python": "2.7"}}, r"another Python \(2.7\)"),
    ]
    for difference, words in cases:
        assert words.replace("\\", "") in machine._misfit({**here, **difference})


def test_numpy_is_refused_as_by_the_function(path: Path) -> None:
    import numpy as np

    with pytest.raises(TypeError, match=r"twice: x is a NumPy array of shape \(3,\)"):
        zmlx.load(path)(np.ones(3))
