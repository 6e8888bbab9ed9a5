"""What every test shares: a private kernel cache, hypothesis profiles, the host device, counts.

The cache folder and hypothesis's own files live in one temporary folder per test run, shared by all
worker processes, so that a run neither leans on nor litters the user's files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # GPUs' products in float32, as references have them

import hypothesis
import mlx.core as mx
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from zmlx.device import stock, toolchain
from zmlx.device.base import Device, device_for_current_stream, device_named
from zmlx.device.rules import lazily
from zmlx.metal_check import unavailable
from zmlx.trace import passes

passes.always = True  # each pass is looked through, in every test
SMOKE = "@pytest.mark.smoke"
SCRATCH = "ZMLX_TEST_SCRATCH"  # set by the first process of a run, inherited by its workers
KEPT = "ZMLX_TEST_KERNELS"  # a kernel cache to keep from run to run, while you work

hypothesis.settings.register_profile(
    "default", max_examples=40, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile(
    "exhaustive", max_examples=10_000, deadline=None, database=None, print_blob=True
)
hypothesis.settings.register_profile(
    "sample", max_examples=1_000, deadline=None, derandomize=True, database=None, print_blob=True
)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[SCRATCH] = tempfile.mkdtemp(prefix="zmlx-tests-")
    kernels = os.path.join(os.environ[SCRATCH], "kernels")
    os.environ["ZMLX_CACHE_DIR"] = os.environ.get(KEPT, kernels)
    set_hypothesis_home_dir(os.path.join(os.environ[SCRATCH], "hypothesis"))
    exhaustive = "exhaustive" in config.option.markexpr and "not" not in config.option.markexpr
    tier = "sample" if config.getoption("one_in") > 1 else "exhaustive"
    hypothesis.settings.load_profile(tier if exhaustive else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = "with -m exhaustive: a sample, one test of each file in so many, the same ones"
    parser.addoption("--one-in", type=int, default=1, metavar="N", help=help_)


@pytest.hookimpl(trylast=True)  # after `-m` has chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    one_in = config.getoption("one_in")
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    kept: set[pytest.Item] = set()
    for tests in files.values():
        # By a hash of the name: every n-th as written would be one dtype of each parametrization.
        tests.sort(key=lambda item: zlib.crc32(item.name.encode()))
        kept.update(tests[::one_in])
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m smoke` reads the files with smoke tests alone: most of its minute would be the others."""
    is_file = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    asked = config.option.markexpr == "smoke" and is_file
    return True if asked and SMOKE not in collection_path.read_text("utf-8") else None


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(SCRATCH), ignore_errors=True)


@pytest.fixture
def on_cpu() -> Iterator[None]:
    """Tests about the host device, or about what only the CPU has, on a machine with a GPU."""
    with mx.stream(mx.cpu):
        yield


@pytest.fixture(autouse=True)
def _lazily(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests that look at lazy results see them also where little kernels would have run."""
    looks = {"kernels", "primitives", "ops_of"} & vars(request.module).keys()
    with lazily() if looks else nullcontext():
        yield


@pytest.fixture(autouse=True)
def _no_stock() -> Iterator[None]:
    """No test finds the machine code that another one loaded with a stored function."""
    yield
    stock.withdraw()


@pytest.fixture
def host_device(on_cpu: None) -> Device:
    """The CPU device that runs kernels; where it must exist, its absence fails the test."""
    return _required(device_named("host"))


@pytest.fixture
def default_device() -> Device:
    """The device of MLX's default stream: the host, or the GPU of this machine."""
    return _required(device_for_current_stream())


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without optimisation the compiler takes a fifth of the time; the text is the same."""
    flags = toolchain.kernel_flags()
    quick = tuple("-O0" if flag == "-O3" else flag for flag in flags)
    monkeypatch.setattr(toolchain, "kernel_flags", lambda: quick)


@pytest.fixture(scope="session")
def metal_check() -> None:
    """What asks Metal's front end needs libclang: CI fails without, others say what is missing."""
    problem = unavailable()
    if problem is not None and in_ci():
        pytest.fail(f"the Metal check is required here and cannot run: it {problem}")
    if problem is not None:
        pytest.skip(f"the Metal check {problem}")


def _required(device: Device) -> Device:
    reason = device.unavailable()
    if reason is not None and host_required():
        pytest.fail(f"the {device.name} device is required here and cannot run: {reason}")
    if reason is not None:
        pytest.skip(reason)
    return device


def host_required() -> bool:
    """ZMLX_REQUIRE_HOST=1 or 0 decides; unset, CI does."""
    asked = os.environ.get("ZMLX_REQUIRE_HOST")
    return in_ci() if asked is None else _yes(asked)


def in_ci() -> bool:
    return _yes(os.environ.get("CI", ""))


def _yes(text: str) -> bool:
    return text.lower() in ("1", "true")


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """`tally("generated graphs", n)`: counts that the end of the run adds up and prints."""
    return lambda what, count: record_property(f"tally:{what}", count)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    totals: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, count in report.user_properties:
            if report.when == "call" and name.startswith("tally:"):
                totals[name.removeprefix("tally:")] += int(count)
    for what, count in sorted(totals.items()):
        terminalreporter.write_line(f"checked {count} {what}")
