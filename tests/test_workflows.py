"""The workflows are valid YAML of GitHub's shape, and run commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from benchmarks.__main__ import app

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_STEP = {"name", "uses", "with", "run", "env", "if", "id", "shell"}
_JOB = {"runs-on", "timeout-minutes", "strategy", "steps", "env", "name", "needs", "if"}
_TOP = {"name", "on", "permissions", "concurrency", "jobs", "defaults", "env"}


def loaded(path: Path) -> dict[Any, Any]:
    """A workflow; YAML 1.1 reads the key `on` as true."""
    content = yaml.safe_load(path.read_text("utf-8"))
    content["on"] = content.pop(True)
    return dict(content)


@pytest.mark.smoke
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_githubs_shape(path: Path) -> None:
    workflow = loaded(path)
    assert workflow.keys() <= _TOP and workflow["on"]
    for job in workflow["jobs"].values():
        assert job.keys() <= _JOB and job["timeout-minutes"] <= 360
        for step in job["steps"]:
            assert step.keys() <= _STEP
            assert ("uses" in step) != ("run" in step), step
            assert "@" in step.get("uses", "@"), "an action names its version"


def test_the_expressions_name_inputs_that_there_are() -> None:
    for path in WORKFLOWS:
        text, given = path.read_text("utf-8"), loaded(path)["on"]
        dispatch = (given.get("workflow_dispatch") or {}) if isinstance(given, dict) else {}
        for name in re.findall(r"\binputs\.(\w+)", text):
            assert name in dispatch["inputs"], f"{path.name}: {name}"


def test_a_click_runs_all_on_an_apple_gpu() -> None:
    workflow = loaded(ROOT / ".github" / "workflows" / "macos.yml")
    assert list(workflow["on"]) == ["workflow_dispatch"]
    (job,) = workflow["jobs"].values()
    runs = " ".join(step.get("run", "") for step in job["steps"])
    for command in ("python -m pytest", "-m exhaustive", "python -m benchmarks --device gpu"):
        assert command in runs
    last = job["steps"][-1]
    assert "upload-artifact" in last["uses"] and "always()" in last["if"]


def test_the_benchmarks_take_the_options_that_are_given() -> None:
    workflow = loaded(ROOT / ".github" / "workflows" / "macos.yml")
    (job,) = workflow["jobs"].values()
    text = next(s["run"] for s in job["steps"] if "-m benchmarks" in s.get("run", ""))
    line = re.sub(r"\$\{\{.*?\}\}", "--quick", text).partition("2>&1")[0].replace("\\\n", " ")
    words = shlex.split(line)
    command = typer.main.get_command(app)
    given = command.make_context("benchmarks", words[words.index("benchmarks") + 1 :]).params
    assert given["device"].value == "gpu" and given["quick"]
    assert str(given["out"]).endswith("benchmarks")
