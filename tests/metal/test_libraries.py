"""Kernels of libraries as a Mac would compile them: none is refused, and none is left out."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import mlx_lm
import pytest
from on_metal import mac

from tests.dropin import audio_cases, lm_cases, vlm_cases
from tests.dropin.libraries import as_on_a_mac, mlx_audio, mlx_vlm
from zmlx import metal
from zmlx.metal_check import check_text

pytestmark = pytest.mark.usefixtures("host_device")  # whose blank kernel stands in for launches


@pytest.mark.parametrize("name", lm_cases.CASES)
def test_a_kernel_of_mlx_lm_is_metal(name: str) -> None:
    with mac() as device, as_on_a_mac("mlx_lm") as load:
        lm_cases.CASES[name](load)
        taken(device.texts())


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", vlm_cases.CASES)
def test_a_kernel_of_mlx_vlm_is_metal(name: str) -> None:
    with mac(small=False) as device, as_on_a_mac("mlx_vlm"):  # some texts want `device` memory
        vlm_cases.CASES[name](mlx_vlm())
        taken(device.texts())


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", audio_cases.CASES)
def test_a_kernel_of_mlx_audio_is_metal(name: str) -> None:
    with mac(small=False) as device, as_on_a_mac("mlx_audio"):  # as in mlx-vlm
        audio_cases.CASES[name](mlx_audio())
        taken(device.texts())


def taken(texts: list[str]) -> None:
    assert texts
    errors = [d for text in texts for d in check_text(text) if d.severity != "warning"]
    assert not errors, "\n".join(map(str, errors))


def test_no_kernel_of_mlx_lm_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    launched: set[str] = set()
    kernel, run = metal.dropin.kernel, metal.MetalKernel.run

    def making(*args: Any, **kwargs: Any) -> metal.MetalKernel:
        found = kernel(*args, **kwargs)
        made.append(found.spec.name)
        return found

    def running(self: metal.MetalKernel, *args: Any) -> Any:
        launched.add(self.spec.name)
        return run(self, *args)

    monkeypatch.setattr(metal.dropin, "kernel", making)
    monkeypatch.setattr(metal.MetalKernel, "run", running)
    with mac(), as_on_a_mac("mlx_lm") as load:
        for case in lm_cases.CASES.values():
            case(load)
    assert launched == set(made)
    files = Path(str(mlx_lm.__file__)).parent.rglob("*.py")
    assert len(set(made)) >= sum(map(asked, files)) > 0


def asked(path: Path) -> int:
    """How often a file asks for mx.fast.metal_kernel."""
    text = path.read_text("utf-8")
    if "metal_kernel" not in text:
        return 0
    nodes = ast.walk(ast.parse(text))
    return sum(isinstance(n, ast.Attribute) and n.attr == "metal_kernel" for n in nodes)


def test_every_header_of_metal_that_the_host_has_is_there() -> None:
    package = Path(str(metal.__file__)).parents[1]
    host = {path.name for path in (package / "device" / "headers" / "metal").iterdir()}
    assert host and host <= {path.name for path in (package / "metal_check" / "headers").iterdir()}
