"""Each use that the list of Metal's language holds, with each compiler."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.language import listed

ROOT = Path(__file__).parents[2]


@cache
def generator() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "generate_language.py"))


def words(refused: listed.Refusals) -> str:
    some = listed.uses()
    return "\n".join(f"{some[n].text if n >= 0 else n}: {said}" for n, said in refused.items())


def known(refused: listed.Refusals) -> None:
    """Few are missing, and why is said of each."""
    some = listed.uses()
    assert all(n >= 0 for n in refused), words(refused)
    assert len(refused) <= generator()["MOST"], words(refused)
    for n in refused:
        assert generator()["reason"](some[n])


@pytest.mark.smoke
def test_the_list_is_as_long_as_the_specification() -> None:
    some = listed.uses()
    assert len(some) > 1600 and len(some) == len({(use.section, use.text) for use in some})


@pytest.mark.usefixtures("metal_check", "host_device", "nvrtc")
def test_the_page_is_generated() -> None:
    some = listed.uses()
    refused = generator()["asked"](some)
    for one in refused:
        known(one)
    assert (ROOT / "docs" / "metal_language.md").read_text() == generator()["page"](some, refused)


@pytest.mark.parametrize(("sanitize", "exact"), [(True, False), (False, True)])
@pytest.mark.exhaustive
@pytest.mark.usefixtures("host_device")
def test_watched_and_exact_kernels_know_the_same(
    tmp_path: Path, sanitize: bool, exact: bool
) -> None:
    some = listed.uses()
    plain = listed.refused_by_host(some, tmp_path)
    assert (
        listed.refused_by_host(some, tmp_path, sanitize=sanitize, exact=exact).keys()
        == plain.keys()
    )
