"""The command `python -m zmlx model`: a model of random weights, plain beside patched.

Comes in: a module and sizes. Goes out: a Comparison: kernels, time and memory of a prompt, of
decoding and of a training step, with the reports of zmlx.patch and zmlx.validate.
zmlx.cli prints it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

import zmlx
from zmlx.device.base import current_name
from zmlx.device.rules import lazily
from zmlx.fuse.page import html
from zmlx.models.deciding import unpatched_copy
from zmlx.models.greedy import cache_of
from zmlx.models.part import PLAIN
from zmlx.models.patching import patch
from zmlx.models.report import PatchReport
from zmlx.models.validating import Validation, validate
from zmlx.tuning import timing

if TYPE_CHECKING:
    from rich.table import Table

ROUNDS = 9
PROMPT = 64  # tokens in the cache when decoding begins
CHECKED = (1, 16)  # rows and tokens that zmlx.validate gets
MIB = 2**20
# Primitives that compute nothing: MLX makes views of them, or keeps order.
_VIEWS = {
    *("Broadcast", "BroadcastAxes", "Reshape", "Transpose", "ExpandDims", "Squeeze", "Slice"),
    *("Split", "Flatten", "Unflatten", "AsStrided", "Depends", "StopGradient", "View", "Load"),
    *("NumberOfElements", "Copy"),
}
_PRIMITIVE = re.compile(r'label ="([^"]*)", shape=rectangle')


@dataclass(frozen=True)
class Measured:
    """One way to run one case."""

    ms: float  # median
    kernels: int
    peak: int  # bytes, weights included


@dataclass(frozen=True)
class Case:
    """A prompt, a decoded token or a training step, run by several ways."""

    name: str
    ways: dict[str, Measured]  # "plain MLX", "patched"; in training "mx.compile" too

    @property
    def times(self) -> float:
        """How many times faster than plain MLX."""
        return self.ways["plain MLX"].ms / self.ways["patched"].ms


@dataclass
class Comparison:
    """All cases of one model."""

    title: str
    device: str
    report: PatchReport
    validation: Validation
    cases: list[Case] = field(default_factory=list)

    def table(self) -> Table:
        from rich.table import Table

        table = Table(title=f"{self.title}, on {self.device}")
        for column in ("", "way", "median", "times", "kernels", "peak memory"):
            table.add_column(column, justify="left" if column in ("", "way") else "right")
        for case in self.cases:
            for number, (way, m) in enumerate(case.ways.items()):
                times = f"{case.ways['plain MLX'].ms / m.ms:.2f} x"
                name = "" if number else case.name
                peak = f"{m.peak / MIB:.0f} MiB"
                table.add_row(name, way, f"{m.ms:.3g} ms", times, str(m.kernels), peak)
        return table

    def save(self, path: Path) -> Path:
        """Write a page that needs nothing but itself."""
        path.write_text(page(self), "utf-8")
        return path


def compared(
    module: str,
    model: nn.Module,
    dtype: mx.Dtype,
    tokens: tuple[int, int],
    train: bool = False,
    rounds: int = ROUNDS,
) -> Comparison:
    """Measure a model, plain and patched, by turns.

    Args:
        module: for the title.
        model: takes tokens (rows, length) and gives logits; it is patched.
        dtype: of its weights from now on.
        tokens: rows and length of a prompt, and of a training batch.
        train: measure a training step (loss and gradients) too.
        rounds: of which medians are taken.
    """
    model.set_dtype(dtype)
    mx.eval(model.parameters())
    vocabulary = _vocabulary(model)
    prompt = mx.random.randint(0, vocabulary, tokens, key=mx.random.key(1))
    plain, report = unpatched_copy(model), patch(model)
    short = mx.random.randint(0, vocabulary, CHECKED, key=mx.random.key(2))
    validation = validate(model, short)
    number = sum(a.size for _, a in tree_flatten(model.parameters()))
    title = f"{module}, {number / 1e6:.1f} million weights, {str(dtype).partition('core.')[2]}"
    found = Comparison(title, current_name(), report, validation)
    models = {"plain MLX": plain, "patched": model}
    name = f"prompt, {tokens[0]} x {tokens[1]} tokens"
    found.cases.append(_case(name, {w: _prompt(m, prompt) for w, m in models.items()}, rounds))
    if cache_of(model) is not None:
        ways = {way: _decoding(m, short[:, :1]) for way, m in models.items()}
        found.cases.append(_case("decoding, one token", ways, rounds))
    if train:
        ways = {way: _step(m, prompt) for way, m in models.items()}
        state = (twin := unpatched_copy(plain)).state
        ways["mx.compile"] = mx.compile(_step(twin, prompt), inputs=state, outputs=state)
        found.cases.append(_case(f"training step, {prompt.size} tokens", ways, rounds))
    return found


def _vocabulary(model: nn.Module) -> int:
    """How many tokens the first embedding knows."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    if not tables:
        raise ValueError(
            f"[zmlx.models] {type(model).__name__} has no nn.Embedding, so it takes no tokens. Use "
            "zmlx.patch(model) and zmlx.validate(model, inputs) in Python."
        )
    return int(tables[-1].weight.shape[0])


def _prompt(model: nn.Module, prompt: mx.array) -> timing.Build:
    return lambda: model(prompt)


def _decoding(model: nn.Module, token: mx.array) -> timing.Build:
    cache: Any = cache_of(model)
    mx.eval(model(mx.repeat(token, PROMPT, axis=1), cache=cache))
    return lambda: model(token, cache=cache)


def _step(model: nn.Module, tokens: mx.array) -> timing.Build:
    def loss(model: Any) -> mx.array:
        logits = model(tokens[:, :-1]).astype(mx.float32)
        return nn.losses.cross_entropy(logits, tokens[:, 1:], reduction="mean")

    gradient = nn.value_and_grad(model, loss)
    return lambda: gradient(model)


def _case(name: str, builds: Mapping[str, timing.Build], rounds: int) -> Case:
    """All ways by turns, after what compiles has compiled."""
    counts, peaks = {}, {}
    for way, build in builds.items():
        mx.eval(build())
        counts[way] = kernels(build)
        mx.clear_cache()
        mx.reset_peak_memory()
        mx.eval(build())
        peaks[way] = mx.get_peak_memory()
    times = timing.medians(builds, rounds, name)
    return Case(name, {way: Measured(times[way], counts[way], peaks[way]) for way in builds})


def kernels(build: Callable[[], Any]) -> int:
    """How many primitives a lazy result waits for that compute something."""
    text = io.StringIO()
    with lazily():
        arrays = [leaf for _, leaf in tree_flatten([build()])]
        mx.export_to_dot(text, *arrays)
    mx.eval(arrays)
    return sum(label not in _VIEWS for label in _PRIMITIVE.findall(text.getvalue()))


def page(comparison: Comparison) -> str:
    """Tables, the reports, and what the kind of layer with most modules runs."""
    here = Path(__file__).parent
    folders = [here / "templates", here.parent / "fuse" / "templates"]
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders, encoding="utf-8"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = templates.get_template("model.html")
    return str(
        template.render(
            comparison=comparison,
            mib=MIB,
            version=zmlx.__version__,
            layers=[
                (place.where, html(explained, whole=False))
                for place, explained in _shown(comparison.report)
            ],
        )
    )


def _shown(report: PatchReport) -> list[tuple[Any, Any]]:
    """Up to two places that run fused, with their explanations."""
    found: list[tuple[Any, Any]] = []
    for place in report.replaced:
        modes = [k.mode for k, d in place.decisions.items() if d.way != PLAIN]
        if modes and len(found) < 2:
            found.append((place, report.explain(place.paths[0], modes[0])))
    return found
