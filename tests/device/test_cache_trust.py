"""What others may have planted in a cache folder is never loaded; what does not load is rebuilt."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from handwritten import kernel

from zmlx.device import cache as cache_module
from zmlx.device import host, native_module, owned, programs, toolchain
from zmlx.device.base import Device
from zmlx.device.host import HostDevice
from zmlx.errors import CompilerError
from zmlx.msl.spec import Launch, MetalKernelSpec

DOUBLE = kernel("double", "2.0f * x0", ["float32"], ["float32"])
WRITTEN = MetalKernelSpec(
    "written", ("x",), ("out",), "uint i = thread_position_in_grid.x; out[i] = 2 * x[i];", ""
)


@pytest.fixture
def folder(host_device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "kernels"
    monkeypatch.setenv("ZMLX_CACHE_DIR", str(directory))
    monkeypatch.setattr(toolchain, "_broken", {})
    yield directory


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []
    original = toolchain.compile_shared

    def counted(sources: object, output: Path, *rest: object) -> None:
        made.append(output)
        original(sources, output, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(toolchain, "compile_shared", counted)
    return made


def device() -> HostDevice:
    """A fresh host device, as in a new process, but for the native module."""
    fresh = HostDevice()
    fresh._native = native_module._loaded[native_module._key()]
    return fresh


def works(on: HostDevice) -> bool:
    return on.build([DOUBLE])[0]([mx.array([1.0, 2.5])])[0].tolist() == [2.0, 5.0]


def works_written(on: HostDevice) -> bool:
    x = mx.array([1.0, 2.5])
    launch = Launch((2, 1, 1), (1, 1, 1), ((2,),), ("float32",), (), None)
    return on.grid_launcher(WRITTEN)([x], launch)[0].tolist() == [2.0, 5.0]


def planted(path: Path, how: str, aside: Path) -> None:
    """Something at `path` that is not to be trusted, with the same content where it has one."""
    content = path.read_bytes()
    path.unlink()
    if how == "fifo":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "link":
        aside.write_bytes(content)
        path.symlink_to(aside)
    else:
        path.write_bytes(content)
        path.chmod(0o666 if how == "open to all" else 0o620)


def lies_there(path: Path) -> bool:
    """Whether this user's own, private, regular file."""
    return owned.problem_of(os.lstat(path)) is None


@pytest.mark.parametrize("how", ["fifo", "link", "open to all", "open to the group"])
@pytest.mark.parametrize("pattern", ["lib_*.so", "*.entry"])
def test_what_is_no_private_file_of_the_user_is_built_again(
    folder: Path, compilations: list[Path], pattern: str, how: str, tmp_path: Path
) -> None:
    assert works(device())
    (path,) = folder.glob(pattern)
    planted(path, how, tmp_path / "aside")
    assert works(device())
    assert len(compilations) == 2 and lies_there(path)
    assert works(device()) and len(compilations) == 2


@pytest.mark.parametrize("pattern", ["lib_*.so", "*.entry"])
def test_files_of_another_user_are_built_again(
    folder: Path, compilations: list[Path], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their owner is played: only a superuser may give files away."""
    assert works(device())
    (path,) = folder.glob(pattern)
    theirs = path.stat().st_ino
    held = path.open("rb")  # or a file made later might get the number of this one
    original = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = original(descriptor)
        if status.st_ino != theirs:
            return status
        fields = list(status[:10])
        fields[4] = os.getuid() + 1
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", fstat)
    assert works(device())
    assert len(compilations) == 2 and path.stat().st_ino != theirs
    assert works(device()) and len(compilations) == 2
    held.close()


@pytest.mark.parametrize("how", ["fifo", "link"])
def test_a_lock_that_was_planted_is_removed(folder: Path, how: str, tmp_path: Path) -> None:
    """A link would have the lock empty the file that it names."""
    folder.mkdir(mode=0o700)
    precious = tmp_path / "precious"
    precious.write_text("not to be emptied")
    for digit in "0123456789abcdef":
        lock = folder / f"{digit}.lock"
        os.mkfifo(lock) if how == "fifo" else lock.symlink_to(precious)
    assert works(device())
    assert precious.read_text() == "not to be emptied"


def test_a_lock_that_is_never_given_back_does_not_stop_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    folder.mkdir(mode=0o700)
    held = FileLock(folder / f"{host._key(DOUBLE)[:1]}.lock")
    with held:
        monkeypatch.setattr(cache_module.toolchain, "patience", lambda: 0.2)
        monkeypatch.setattr(toolchain, "compile_shared", _patiently(toolchain.compile_shared))
        assert works(device())


def _patiently(original: object) -> object:
    def compiled(*arguments: object) -> None:
        toolchain.patience = lambda: 100.0
        original(*arguments)  # type: ignore[operator]

    return compiled


def test_a_link_of_another_user_to_the_folder_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    folder.symlink_to(real)
    assert cache_module._problem(folder) is None
    status = list(os.lstat(folder)[:10])
    status[4] = os.getuid() + 1
    monkeypatch.setattr(Path, "lstat", lambda self: os.stat_result(status))
    assert "another user" in (cache_module._problem(folder) or "")


def test_the_advice_is_to_empty_the_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    fresh = device()
    with pytest.warns(RuntimeWarning, match="empty it, then chmod 700"):
        assert works(fresh)
    assert any("is not used: others may write" in line for line in fresh.report().cache_faults)


def test_the_report_names_what_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    assert works(device()) and device().report().cache_faults == ()
    (library,), (entry,) = folder.glob("lib_*.so"), folder.glob("*.entry")
    planted(library, "open to all", tmp_path)
    planted(entry, "fifo", tmp_path)
    faults = device().report().cache_faults
    assert sorted(faults) == sorted(
        [
            f"{library} can be written by others; rm {library}",
            f"{entry} is no regular file; rm {entry}",
        ]
    )


def spoil(folder: Path, content: bytes) -> None:
    """As if the compiler had written `content`: entries and digests fit it."""
    for entry in folder.glob("*.entry"):
        library = folder / entry.read_text().split()[0]
        library.unlink(missing_ok=True)
        digest = hashlib.sha256(content).hexdigest()
        junk = folder / cache_module._library_name(digest, ".so")
        junk.write_bytes(content)
        junk.chmod(0o600)
        entry.write_text(f"{junk.name} {digest}\n")


@pytest.mark.parametrize("content", [b"", b"junk", b"\x7fELF\x02\x01\x01" + bytes(9)])
@pytest.mark.parametrize("use", [works, works_written])
def test_a_library_that_does_not_load_is_rebuilt_once(
    folder: Path, compilations: list[Path], content: bytes, use: object
) -> None:
    assert use(device())  # type: ignore[operator]
    spoil(folder, content)
    assert use(device()) and len(compilations) == 2  # type: ignore[operator]
    assert use(device()) and len(compilations) == 2  # type: ignore[operator]
    assert len(list(folder.glob("lib_*.so"))) == 1


def test_a_native_module_that_does_not_load_is_rebuilt_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Path(native_module._loaded[native_module._key()].__file__).read_bytes()
    builds: list[Path] = []

    def build(place: Path) -> Path:
        builds.append(place)
        (place / "native.so").write_bytes(good if len(builds) == 2 else b"junk")
        return place / "native.so"

    monkeypatch.setattr(native_module, "_loaded", {})
    monkeypatch.setattr(native_module, "_build", build)
    monkeypatch.setattr(native_module, "_import", _plays_import)
    fresh = HostDevice()
    with pytest.raises(CompilerError, match="native module that does not load: file too short"):
        native_module.load(fresh.cache)
    assert not list(folder.glob("lib_*.so"))  # junk is not kept
    monkeypatch.setattr(toolchain, "_broken", {})
    assert native_module.load(fresh.cache) == good
    monkeypatch.setattr(native_module, "_loaded", {})
    spoil(folder, b"junk")
    with pytest.raises(CompilerError, match="does not load"):
        native_module.load(HostDevice().cache)
    assert len(builds) == 3 and not list(folder.glob("lib_*.so"))


def _plays_import(path: Path) -> bytes:
    """nanobind's types can be made once in a process only."""
    content = path.read_bytes()
    if content == b"junk":
        raise ImportError("file too short")
    return content


@pytest.mark.parametrize("way", ["script", "script by path", "launcher", "link to the launcher"])
def test_the_key_changes_with_the_compiler_behind_a_launcher(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, front = tmp_path / "bin" / "g++-99", tmp_path / "front"
    for path in (real, front / "ccache", front / "c++"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x7fELF program")
        path.chmod(0o755)
    if way.startswith("script"):
        name = real if way.endswith("path") else real.name
        (front / "c++").write_text(f'#!/bin/sh\nexec {name} "$@"\n')
    asked = {"launcher": "ccache g++-99"}.get(way, "c++")
    if way.startswith("link"):
        (front / "c++").unlink()
        (front / "c++").symlink_to("ccache")
        (real.parent / "c++").symlink_to(real.name)
    monkeypatch.setenv("ZMLX_CXX", asked)
    monkeypatch.setenv("PATH", f"{front}:{real.parent}")
    before = host._key(DOUBLE)
    assert before == host._key(DOUBLE)
    os.utime(real, (1, 1))  # as an update of the compiler would
    assert before != host._key(DOUBLE)


def test_a_script_is_read_no_further_than_it_is_text(tmp_path: Path) -> None:
    binary = tmp_path / "c++"
    binary.write_bytes(b"\x7fELF /usr/bin/g++")
    assert programs.behind(str(binary), (), str(tmp_path)) == ()
