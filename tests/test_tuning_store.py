"""The file of tuned settings: threads, processes, and files that are no such file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import pytest

from zmlx.device.tuning import FILE, TuningStore, kernel_key, size_class


def store(folder: Path) -> TuningStore:
    return TuningStore(lambda: folder)


def test_what_is_kept_is_found_by_device_kernel_and_size(tmp_path: Path) -> None:
    mine = store(tmp_path)
    assert mine.find("gpu", "k") == {}
    mine.keep("gpu", "k", 11, (8, 256))
    mine.keep("gpu", "k", 12, (4, 128))
    mine.keep("gpu", "other", 11, (1, 64))
    mine.keep("gpu", "k", 12, (2, 512))
    for reader in (mine, store(tmp_path)):
        assert reader.find("gpu", "k") == {11: (8, 256), 12: (2, 512)}
        assert reader.find("gpu", "other") == {11: (1, 64)}
        assert reader.find("cpu", "k") == {}


def test_what_another_one_keeps_is_seen(tmp_path: Path) -> None:
    mine, theirs = store(tmp_path), store(tmp_path)
    mine.keep("gpu", "k", 1, (1, 64))
    theirs.keep("gpu", "k", 2, (2, 64))
    assert mine.find("gpu", "k") == {1: (1, 64), 2: (2, 64)}


BAD = {
    "no JSON": "{",
    "a list": "[]",
    "no kernels": '{"gpu": 3}',
    "no sizes": '{"gpu": {"k": [1]}}',
    "no numbers": '{"gpu": {"k": {"11": ["8", 256]}}}',
    "booleans": '{"gpu": {"k": {"11": [true]}}}',
    "zero": '{"gpu": {"k": {"11": [0, 256]}}}',
    "no size": '{"gpu": {"k": {"big": [8, 256]}}}',
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_file_that_is_none_counts_as_empty_after_one_warning(
    tmp_path: Path, content: str | bytes
) -> None:
    path = tmp_path / FILE
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    mine = store(tmp_path)
    with pytest.warns(RuntimeWarning, match="cannot be read and count as none") as seen:
        assert mine.find("gpu", "k") == {}
        assert mine.find("gpu", "k") == {}
    assert len(seen) == 1
    mine.keep("gpu", "k", 11, (8, 256))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store(tmp_path).find("gpu", "k") == {11: (8, 256)}


def test_a_folder_that_cannot_be_written_warns_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    mine = store(tmp_path / "file")
    with pytest.warns(RuntimeWarning, match="cannot be kept") as seen:
        mine.keep("gpu", "k", 11, (8, 256))
        mine.keep("gpu", "k", 11, (8, 256))
    assert len(seen) == 1


def test_threads_lose_nothing(tmp_path: Path) -> None:
    mine = store(tmp_path)
    threads = [
        threading.Thread(target=mine.keep, args=("gpu", f"k{i}", 1, (1, 64))) for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store(tmp_path).find("gpu", f"k{i}") for i in range(16))


def test_processes_lose_nothing_and_leave_no_drafts(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from zmlx.device.tuning import TuningStore
        store = TuningStore(lambda: Path(sys.argv[1]))
        for i in range(20):
            store.keep("gpu", f"{sys.argv[2]}.{i}", 1, (i + 1, 64))
        """
    )
    processes = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code, str(tmp_path), who])
        for who in ("a", "b", "c")
    ]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    kept = json.loads((tmp_path / FILE).read_text())["gpu"]
    assert kept == {f"{who}.{i}": {"1": [i + 1, 64]} for who in "abc" for i in range(20)}
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".draft")]


def test_keys_tell_kernels_templates_and_sizes_apart() -> None:
    keys = [kernel_key("k", d, t) for d in ("1", "2") for t in ((), (("T", 1),), (("T", "1"),))]
    assert len(set(keys)) == 6 and all(key.startswith("k ") for key in keys)
    assert size_class(1024) == size_class(2047) != size_class(2048)
