"""The cache of compiled kernels under every fault: it falls back or builds again, never fails."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from handwritten import kernel

from zmlx.device import cache as cache_module
from zmlx.device import host, native_module, toolchain
from zmlx.device.base import Device
from zmlx.device.cache import KernelCache
from zmlx.device.host import HostDevice
from zmlx.errors import DeviceError
from zmlx.msl.kernel import KernelSource

DOUBLE = kernel("double", "2.0f * x0", ["float32"], ["float32"])


@pytest.fixture
def folder(host_device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache directory of its own, in which nothing is cached; the native module is loaded."""
    directory = tmp_path / "kernels"
    monkeypatch.setenv("ZMLX_CACHE_DIR", str(directory))
    yield directory


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The libraries that the compiler is asked for, as they are."""
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


def works(on: HostDevice, source: KernelSource = DOUBLE) -> bool:
    return on.build([source])[0]([mx.array([1.0, 2.5])])[0].tolist() == [2.0, 5.0]


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_second_process_compiles_nothing(folder: Path, compilations: list[Path]) -> None:
    assert works(device()) and works(device())
    assert len(compilations) == 1
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(folder.glob("build-*"))


def test_many_kernels_take_one_compilation(folder: Path, compilations: list[Path]) -> None:
    sources = [kernel(f"k{i}", f"x0 + {i}.0f", ["float32"], ["float32"]) for i in range(5)]
    sources.append(kernel("exact", "x0 + 5.0f", ["float32"], ["float32"], exact=True))
    launchers = device().build(sources)
    assert [f([mx.array([1.0])])[0].item() for f in launchers] == [1, 2, 3, 4, 5, 6]
    assert len(compilations) == 1
    assert device().build([sources[3]])[0]([mx.array([1.0])])[0].item() == 4
    assert len(compilations) == 1


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_damaged_library_is_built_again(
    folder: Path, compilations: list[Path], damage: str
) -> None:
    assert works(device())
    library = only(folder, "lib_*.so")
    content = library.read_bytes()
    middle = len(content) // 2
    library.unlink()  # a loaded library must not change under the process
    if damage != "remove":
        library.write_bytes(
            {
                "truncate": content[:middle],
                "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "empty": b"",
            }[damage]
        )
    assert works(device())
    assert len(compilations) == 2
    assert library.read_bytes() == content


@pytest.mark.parametrize("text", ["", "lib_0.so", "lib_0.so abc\n", "../evil.so 00", "\xff\x00"])
def test_damaged_entry_is_built_again(folder: Path, compilations: list[Path], text: str) -> None:
    assert works(device())
    only(folder, "*.entry").write_bytes(text.encode("latin-1"))
    assert works(device())
    assert len(compilations) == 2


def test_left_over_work_of_a_crash_is_ignored_and_removed(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    old, young = folder / "build-old", folder / "build-young"
    for left in (old, young):
        left.mkdir()
        (left / "kernels.so").write_bytes(b"half a library")
    draft = folder / "x.entry.1.draft"
    draft.write_text("half an entry")
    for path in (old, draft):
        os.utime(path, (0, 0))
    assert works(device())
    assert not old.exists() and not draft.exists()
    assert young.exists()  # another process may be at work there


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_directory_open_to_others_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    fresh = device()
    with pytest.warns(RuntimeWarning, match="others may write to it"):
        assert works(fresh)
    assert not list(folder.iterdir())
    assert stat.S_IMODE(fresh.cache.directory().stat().st_mode) == 0o700


def test_directory_of_another_user_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert works(device())
    assert not list(folder.iterdir())


def test_file_in_place_of_the_directory(folder: Path) -> None:
    folder.write_text("not a directory")
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert works(device())


def test_read_only_directory_warns_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A superuser may write anywhere, so the system's refusal is played."""
    import tempfile

    original = tempfile.TemporaryDirectory

    def refusing(*args: str | None, **options: str) -> object:
        if options.get("dir") and Path(options["dir"]) == folder:
            raise PermissionError(13, "Permission denied", str(folder))
        return original(*args, **options)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refusing)
    fresh = device()
    with pytest.warns(RuntimeWarning, match="Permission denied") as caught:
        assert works(fresh)
        assert works(fresh, kernel("twice", "x0 + x0", ["float32"], ["float32"]))
    assert len(caught) == 1


def test_full_disk_falls_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the compiler, then the final move finds no room."""
    original = os.replace

    def full(source: object, target: object) -> None:
        if str(target).startswith(str(folder)):
            raise OSError(28, "No space left on device")
        original(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert works(device())


def test_no_room_anywhere_is_an_error_of_the_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with (
        pytest.warns(RuntimeWarning, match="No space left"),
        pytest.raises(DeviceError, match="kept nowhere.*No space left"),
    ):
        device().build([DOUBLE])


def test_compiler_that_does_not_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    monkeypatch.setenv("ZMLX_CXX", str(broken))
    with pytest.raises(DeviceError, match="cannot be run"):
        device().build([DOUBLE])


def test_compiler_that_finds_the_disk_full(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *"{folder}"*) echo "fatal error: No space left on device" >&2; '
        'exit 1;; esac\nexec c++ "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("ZMLX_CXX", str(compiler))
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert works(device())


def test_changed_compiler_or_mlx_or_cpu_compiles_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[Path]
) -> None:
    assert works(device())
    other = tmp_path / "other-c++"
    other.write_text('#!/bin/sh\nexec c++ "$@"\n')
    other.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("ZMLX_CXX", str(other))
        assert works(device())
        assert len(compilations) == 2
        os.utime(other, (1, 1))  # as an update of the compiler would
        assert works(device())
        assert len(compilations) == 3
    keys = {host._key(DOUBLE)}
    with monkeypatch.context() as patch:
        patch.setattr(mx, "__version__", "0.0.0")
        keys.add(host._key(DOUBLE))
    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "cpu_features", lambda: "sse2")
        keys.add(host._key(DOUBLE))
    assert len(keys) == 3
    assert works(device()) and len(compilations) == 3


def test_two_processes_at_once(folder: Path) -> None:
    """Both start with an empty directory and build the same and different kernels."""
    script = textwrap.dedent(
        """
        import sys, mlx.core as mx
        from handwritten import kernel
        from zmlx.device.base import device_named
        mx.set_default_device(mx.cpu)
        device = device_named("host")
        device._native = None
        for i in [0, 1, 2] if sys.argv[1] == "0" else [2, 1, 0]:
            k = kernel(f"k{i}", f"x0 + {i}.0f", ["float32"], ["float32"])
            assert device.build([k])[0]([mx.array([1.0])])[0].item() == 1 + i
        """
    )
    # The native module is there already, so that the processes meet at the kernels.
    folder.mkdir(mode=0o700)
    built = native_module._loaded[native_module._key()].__file__
    KernelCache()._keep(folder, [native_module._key()], _copy(Path(built), folder / "native.tmp"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(i % 2)], env=environment, stderr=subprocess.PIPE
        )
        for i in range(4)
    ]
    for process in running:
        _, words = process.communicate(timeout=120)
        assert process.returncode == 0, words.decode()
    assert len(list(folder.glob("*.entry"))) == 4


def _copy(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes())
    return target


def test_entry_appears_whole_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[Path]
) -> None:
    """A process that dies between library and entry leaves a library that nobody trusts."""

    class Died(BaseException):
        pass

    def die(path: Path, text: str) -> None:
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(cache_module, "_write", die)
        device().build([DOUBLE])
    assert not list(folder.glob("*.entry")) and list(folder.glob("lib_*.so"))
    assert works(device()) and len(compilations) == 2


def test_a_compile_error_is_no_fault_of_the_cache(folder: Path) -> None:
    broken = kernel("broken", "no_such_function(x0)", ["float32"], ["float32"])
    with pytest.raises(DeviceError, match="no_such_function"):
        device().build([broken])
    assert not list(folder.glob("*.entry"))
    assert works(device())


@pytest.mark.smoke
def test_statistics_count_kernels_and_bytes(folder: Path) -> None:
    fresh = device()
    assert fresh.cache.statistics() == (0, 0)
    assert works(fresh)
    size, count = fresh.cache.statistics()
    assert count == 1 and size > only(folder, "lib_*.so").stat().st_size
