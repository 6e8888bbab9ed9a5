"""Page: an explanation as HTML that needs nothing but itself.

Comes in: an Explanation. Goes out: a page, or the part of it that a notebook shows, from
templates/explain.html. zmlx.fuse.explain calls it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import sympy as sp

from zmlx.fuse.drawing import HEIGHT, draw, draw_walks, hues, overview
from zmlx.fuse.mathml import mathml, symbol
from zmlx.fuse.reports import alike, ops_text, short_ops
from zmlx.fuse.text import (
    again_text,
    bytes_text,
    formula,
    inside_facts,
    insides,
    ms_text,
    parts_text,
    ratio,
    saved_text,
    shares_text,
    static_facts,
)

if TYPE_CHECKING:
    from zmlx.fuse.explain import Explanation, RegionReport


def html(explanation: Explanation, whole: bool = True) -> str:
    """The page, or with `whole=False` its content alone."""
    colours, drawing = hues(explanation.regions), draw(explanation)
    return str(
        _templates()
        .get_template("explain.html")
        .render(
            report=explanation,
            whole=whole,
            drawing=drawing,
            overview=overview(explanation, drawing),
            box_height=HEIGHT,
            regions=[_regions(same, colours[same[0].name]) for same in alike(explanation.regions)],
            before=bytes_text(explanation.bytes_before),
            after=bytes_text(explanation.bytes_after),
            ratio=ratio(explanation),
            static_facts=static_facts(explanation),
            saved=saved_text(explanation),
            inside_facts=inside_facts,
            short_ops=short_ops,
            bytes_text=bytes_text,
            ms_text=ms_text,
            report_parts=lambda region: parts_text(region) if region.parts else "",
            any_inside=bool(insides(explanation)),
            fused_inside=any(i.launches or i.unseen for i in insides(explanation)),
        )
    )


def svg(explanation: Explanation) -> str:
    """The graph alone, as a picture."""
    module: Any = _templates().get_template("drawing.svg").module
    return str(module.whole(draw(explanation), HEIGHT)).strip() + "\n"


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8")
    return jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _regions(same: Sequence[RegionReport], hue: int) -> dict[str, Any]:
    """What the template shows of regions that run one kernel, beside the first one's fields."""
    region, *more = same
    names = region.name + (f" and {len(more)} more like it" if more else "")
    return {
        "report": region,
        "names": names,
        "more": more,
        "hue": hue,
        "ops": ops_text(region.ops),
        "moved": bytes_text(region.bytes),
        "formulas": _lines(region.formula_lines, ()),
        "derivatives": _lines(region.vjp_lines, region.vjp),
        "walks": draw_walks(region, hue),
        "again": again_text(region) if region.again else "",
        "shares": shares_text(region) if region.shares else "",
        "seeds": [f"g{i} of {port.name}" for i, port in enumerate(region.outputs)],
    }


def _lines(
    values: Mapping[str, sp.Expr], gradients: Container[str]
) -> list[tuple[str, str, str, str]]:
    """For each value its name and itself, as MathML and as text."""
    return [
        (symbol(n, n in gradients), f"d/d{n}" if n in gradients else n, mathml(v), formula(v))
        for n, v in values.items()
    ]
