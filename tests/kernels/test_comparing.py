"""The list of kernels that two revisions differ in: what is told, and which revisions are read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import __main__ as command
from tests.kernels.comparing import Record, differences, report


def record(**cases: list[str]) -> Record:
    """Kernels of two texts each, which are named after the words given."""
    made = Record()
    for case, words in cases.items():
        for word in words:
            made.add(case, {"metal": f"float a;\n{word};\nfloat b;\n", "cpp": f"// {word}\n"})
    return made


def kinds(before: Record, after: Record) -> list[tuple[str, list[str]]]:
    return [(d.kind, d.cases) for d in differences(before, after)]


def test_equal_records_do_not_differ() -> None:
    one, other = (record(a=["x", "y"], b=["y"]) for _ in range(2))
    assert differences(one, other) == []
    assert report([], one, other) == "2 kernels: 0 added, 0 gone, 0 changed"


@pytest.mark.smoke
def test_what_is_added_gone_and_changed_is_told_once_with_its_cases() -> None:
    before = record(a=["x", "y", "z"], b=["y"], c=["old"])
    after = record(a=["x", "yy", "z"], b=["yy"], d=["new", "x"])
    assert kinds(before, after) == [
        ("changed", ["a", "b"]),
        ("gone", ["c"]),
        ("added", ["d"]),
        ("added", ["d"]),  # x is not new, but in this case it is
    ]


def test_of_several_kernels_of_a_case_those_that_stay_are_left_out_and_the_rest_paired() -> None:
    found = differences(record(a=["x", "p", "q"]), record(a=["pp", "x", "qq", "r"]))
    texts = [[side and side["cpp"] for side in (d.before, d.after)] for d in found]
    assert texts == [["// p\n", "// pp\n"], ["// q\n", "// qq\n"], [None, "// r\n"]]


def test_the_report_shows_a_unified_diff_of_each_device() -> None:
    before, after = record(a=["x"], b=["x"]), record(a=["y"], b=["y"], c=["w"])
    after.failed["d"] = "ValueError: no"
    assert report(differences(before, after), before, after).splitlines() == [
        "== changed: a; b",
        *("--- before.metal", "+++ after.metal", "@@ -1,3 +1,3 @@"),
        *(" float a;", "-x;", "+y;", " float b;"),
        *("--- before.cpp", "+++ after.cpp", "@@ -1 +1 @@", "-// x", "+// y"),
        "",
        "== added: c",
        *("--- before.metal", "+++ after.metal", "@@ -0,0 +1,3 @@"),
        *("+float a;", "+w;", "+float b;"),
        "",
        "failed after: d: ValueError: no",
        "2 kernels: 1 added, 0 gone, 1 changed",
    ]


def test_a_record_on_disk_is_the_same(tmp_path: Path) -> None:
    made = record(a=["x", "y"], b=["y"])
    made.write(tmp_path / "record.json")
    assert Record.read(tmp_path / "record.json") == made


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits, in which the one kernel is "old" and "new"; it is "edited" since."""
    root = tmp_path / "repository"
    root.mkdir()
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "--quiet", "-b", "main"], check=True)
    for word in ("old", "new"):
        (root / "kernel").write_text(word)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", word], check=True)
    (root / "kernel").write_text("edited")
    monkeypatch.setattr(command, "ROOT", root)
    monkeypatch.setattr(
        command, "recorded", lambda tree, path, only: record(a=[(tree / "kernel").read_text()])
    )
    return root


@pytest.mark.parametrize(("revision", "word"), [("main", "new"), ("main~1", "old")])
def test_the_work_tree_is_compared_with_the_revision_asked_for(
    revision: str, word: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.listed(revision, None, "") == 0
    told = capsys.readouterr().out
    assert f"-{word};\n+edited;" in told and "0 added, 0 gone, 1 changed" in told
    trees = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True
    )
    assert len(trees.stdout.splitlines()) == 1
    assert (repository / "kernel").read_text() == "edited"


def test_an_unknown_revision_is_named(repository: Path) -> None:
    with pytest.raises(SystemExit, match="'elsewhere' is no revision. Give a branch or a commit"):
        command.listed("elsewhere", None, "")


def test_the_corpus_makes_the_same_kernels_in_every_run(tmp_path: Path) -> None:
    """A few cases, for both kinds of device, without a compiler."""
    root, found = Path(command.__file__).parents[2], []
    environment = {**os.environ, "PYTHONPATH": str(root), "ZMLX_CXX": "no-such-compiler"}
    for run in ("first", "second"):
        out = tmp_path / f"{run}.json"
        asked = ["--only", "users/layer norm", "--out", str(out)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.kernels", *asked],
            cwd=root, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(Record.read(out))
    assert found[0] == found[1] and not found[0].failed
    host, gpu = (found[0].cases[f"users/layer norm by hand ({side})"] for side in command.SIDES)
    assert len(host) >= 2 and len(gpu) >= 2  # forward and backward
    assert all(set(t) == {"metal", "cu", "cpp"} for t in found[0].kernels.values())
