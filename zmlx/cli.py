"""The command line: `python -m zmlx COMMAND`, such as doctor, explain, check, catalog or profile.

In: words from the shell. Out: text on the terminal, files where asked for, and an exit status (0
well, 1 a promise broken or nothing can run, 2 wrong usage). Called by `python -m zmlx`.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import zmlx
from zmlx import switches
from zmlx.catalog import page
from zmlx.checking.fault import FORMATS, Format
from zmlx.checking.faults import faults_of
from zmlx.checking.file import read_kernels
from zmlx.checking.launched import Run
from zmlx.demo import run_demo
from zmlx.device.base import DeviceReport, device_for_current_stream
from zmlx.device.cache import KernelCache
from zmlx.errors import ZmlxError
from zmlx.models import built, command
from zmlx.trace import locate

app = typer.Typer(
    help="ZMLX: MLX functions fused, differentiated and run as kernels.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
kernels = typer.Typer(help="The compiled kernels that are kept on disk.", no_args_is_help=True)
app.add_typer(kernels, name="cache")
DTYPES = {
    str(d).removeprefix("mlx.core."): d
    for d in (
        *(mx.float32, mx.float16, mx.bfloat16, mx.float64, mx.complex64, mx.bool_),
        *(mx.int8, mx.int16, mx.int32, mx.int64, mx.uint8, mx.uint16, mx.uint32, mx.uint64),
    )
}


ALIASES = {"float": "float32", "double": "float64", "half": "float16", "int": "int32"}
Target = Annotated[str, typer.Argument(help="The function, as module:function.")]
Shape = Annotated[
    str,
    typer.Option(
        help="Arguments, joined by commas: SIZES or SIZES:DTYPE (1024x4096 is float32; 'scalar' "
        "for a 0-d array), or =NUMBER for a Python number."
    ),
]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print versions and exit.")] = False,
) -> None:
    """ZMLX: MLX functions fused, differentiated and run as kernels."""
    if version:
        typer.echo(versions())
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each way.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and augmentation.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the PNG and the HTML page.")] = Path(
        "zmlx-demo"
    ),
) -> None:
    """Train a digit classifier three ways and compare: plain MLX, mx.compile, @zmlx.fuse."""
    if not run_demo(steps, seed, out, Console()):
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Say which device will run, what was found, and how to get what is missing."""
    console = Console()
    report = device_for_current_stream().report()
    console.print(doctor_table(report))
    for number, missing in enumerate(report.missing, 1):
        console.print(f"missing {number}: {missing}", soft_wrap=True, markup=False)
    for slower in report.slower:
        console.print(f"slower than it could be: {slower}", soft_wrap=True, markup=False)
    for fault in report.cache_faults:
        console.print(f"not trusted in the cache: {fault}", soft_wrap=True, markup=False)
    if not _a_fused_function_runs():
        console.print("A fused function gave a wrong value: nothing here can be trusted to run.")
        raise typer.Exit(1)
    console.print(f"A fused function was called and ran {_way(report)}.")


def doctor_table(report: DeviceReport) -> Table:
    """What was found, a row per fact."""
    table = Table(show_header=False, title="zmlx doctor")
    cache = f"{report.cache_kernels} kernels, {report.cache_bytes / 2**20:.1f} MiB"
    rows = {
        "zmlx": zmlx.__version__,
        "device": report.device,
        "mlx": report.mlx_version,
        "kernels compiled by": report.kernel_compiler,
        "C++ compiler": f"{report.compiler} {report.compiler_version}".strip() or "none",
        "binary interface of mlx": report.abi_found or "not asked",
        "binary interface of the primitive": report.abi_built or "not built yet",
        "kernel cache": f"{report.cache_directory} ({cache})" if report.cache_directory else "none",
    }
    for name, fact in rows.items():
        if not fact:
            continue
        table.add_row(name, Text(fact, overflow="fold"))
    return table


def _way(report: DeviceReport) -> str:
    if not switches.FUSE.on():
        return f"as plain MLX, because {switches.FUSE.name} is {switches.FUSE.text()!r}"
    if report.missing or switches.DEVICE.text() == "replay":
        return "as MLX ops, unfused"
    return f"as a kernel on this device ({report.device})"


def _a_fused_function_runs() -> bool:
    x = mx.array([0.0, 1.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report has said it
        y = zmlx.fuse(lambda x: x * x + 1.0)(x)
    return bool(mx.allclose(y, mx.array([1.0, 2.0, 5.0])).item())


@app.command()
def version() -> None:
    """Print the versions of ZMLX and MLX."""
    typer.echo(versions())


def versions() -> str:
    return f"zmlx {zmlx.__version__}, mlx {mx.__version__}"


@app.command()
def explain(
    target: Target,
    shape: Shape,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "--html", help="Also save the report: .html, .txt, .json, .dot or .svg."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON in place of text.")] = False,
    full: Annotated[bool, typer.Option("--full", help="No summary, however long.")] = False,
) -> None:
    """Show what zmlx.fuse makes of a function called with random arrays."""
    arguments = parse_arguments(shape)
    function = find_function(target)
    with _failing(f"explain {target}"):
        explanation = zmlx.explain(function, *arguments)
    if json:
        typer.echo(explanation.json())
    elif full:
        typer.echo(explanation.text(full=True))
    else:
        Console().print(explanation)
    if out is not None:
        with _failing(f"--out {out}"):
            explanation.save(out)
        typer.echo(f"Written: {out}", err=json)


@app.command()
def catalog(
    words: Annotated[
        list[str] | None, typer.Argument(help="Words to search for, or a function's name.")
    ] = None,
) -> None:
    """List the kernels of zmlx.kernels, search them, or show one."""
    rows = page.found(words or [])
    if not rows:
        said = " ".join(words or [])
        typer.echo(f"No kernel has the words {said!r}; without words, all are listed.")
        raise typer.Exit(1)
    typer.echo(page.shown(rows[0]) if len(rows) == 1 else page.listed(rows))


@app.command()
def profile(
    target: Target,
    shape: Shape,
    gradient: Annotated[bool, typer.Option("--gradient", help="Of the sum's gradient.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also save the records as JSON.")] = None,
) -> None:
    """Run a fused function on random arrays and time each kernel by itself."""
    arguments = parse_arguments(shape)
    function = find_function(target)
    fused: Any = function if isinstance(function, zmlx.FusedFunction) else zmlx.fuse(function)
    call = mx.grad(lambda *given: fused(*given).sum()) if gradient else fused
    with _failing(f"profile {target}"), zmlx.profile(measure=True, show=False) as found:
        mx.eval(call(*arguments))
    Console().print(found.table())
    if not found.kernels:
        typer.echo("No kernel of ZMLX ran: `python -m zmlx explain` says why.")
    if out is not None:
        found.save(out)
        typer.echo(f"Written: {out}")


@app.command()
def model(
    module: Annotated[str, typer.Argument(help="E.g. mlx_lm.models.llama.")],
    layers: Annotated[int, typer.Option(min=1)] = 2,
    dim: Annotated[int, typer.Option(min=1, help="Width of the residual stream.")] = 1024,
    dtype: Annotated[str, typer.Option(help="Of the weights.")] = "bfloat16",
    tokens: Annotated[str, typer.Option(help="Rows x length of a prompt, or a batch.")] = "1x256",
    vocabulary: Annotated[int, typer.Option(min=2, help="How many tokens there are.")] = 4096,
    train: Annotated[bool, typer.Option("--train", help="Measure a training step too.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of which medians are taken.")] = 9,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: a field of ModelArgs, in JSON.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("zmlx-model.html"),
) -> None:
    """Measure a model of random weights, plain beside zmlx.patch: kernels, time, memory, errors."""
    kind, sizes = ALIASES.get(dtype, dtype), [int(n) for n in re.findall(r"\d+", tokens)]
    if kind not in ("float32", "float16", "bfloat16"):
        raise _bad("--dtype", dtype, "float32, float16 or bfloat16")
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", tokens) or sizes[1] < 2:
        raise _bad("--tokens", tokens, "ROWSxLENGTH with a length of 2 or more, e.g. 1x256")
    with _failing(f"model {module}"):
        made = built.built(module, dim, layers, vocabulary, built.parsed(settings or []))
        found = command.compared(module, made, DTYPES[kind], (sizes[0], sizes[1]), train, rounds)
    for part in (found.report, found.validation, found):
        Console().print(part.table())
    typer.echo(f"Written: {found.save(out)}")


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Say in one line what failed in the block, and where in the user's code."""
    try:
        yield
    except Exception as error:  # the user's function may raise anything
        place = locate.of_error(error)
        where = f"{place}: " if place and place not in str(error) else ""
        name = "" if isinstance(error, ZmlxError) else f"{type(error).__name__}: "
        typer.echo(f"[zmlx.cli] {what} failed: {where}{name}{error}", err=True)
        raise typer.Exit(1) from error


@kernels.command()
def info() -> None:
    """Say where compiled kernels are kept, and how many."""
    cache = KernelCache()
    size, count = cache.statistics()
    typer.echo(f"{cache.directory()}: {count} kernels, {size / 2**20:.1f} MiB")


@kernels.command()
def clear() -> None:
    """Remove all compiled kernels; they are compiled again when they are next needed."""
    cache = KernelCache()
    typer.echo(f"{cache.directory()}: {cache.clear()} kernels removed")


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Each a kernel's body, or whole kernels.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="NAME:DTYPE:SHAPE, e.g. x:float32:4x100; @200x2 strides, =VALUE fills."
        ),
    ] = None,
    outputs: Annotated[list[str] | None, typer.Option("--output", help="The same.")] = None,
    grid: Annotated[str, typer.Option(help="Threads, e.g. 400,1,1.")] = "",
    threadgroup: Annotated[str, typer.Option(help="Threads of a group, e.g. 64,1,1.")] = "",
    template: Annotated[list[str] | None, typer.Option(help="T=float32 or N=4.")] = None,
    init: Annotated[str, typer.Option(help="What outputs hold before the launch.")] = "",
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds that a launch may take.", min=0.1)] = 10.0,
    budget: Annotated[int, typer.Option(help="Accesses that one thread may make.", min=0)] = 0,
    order: Annotated[str, typer.Option(help="Of threads: forward, reverse or both.")] = "both",
    format: Annotated[str, typer.Option(help="text, json or github.")] = "text",
) -> None:
    """Run Metal kernels under the sanitizer, and past Metal's front end: docs/sanitizer.md."""
    if order not in ("forward", "reverse", "both"):
        raise _bad("--order", order, "forward, reverse or both")
    if format not in FORMATS:
        raise _bad("--format", format, " or ".join(FORMATS))
    orders = ("forward", "reverse") if order == "both" else (order,)
    options = {
        "input": inputs or [], "output": outputs or [], "template": template or [],
        "grid": [grid] * bool(grid), "threadgroup": [threadgroup] * bool(threadgroup),
        "init": [init] * bool(init),
    }  # fmt: skip
    wrong = False
    for file in files:
        if not file.is_file():
            raise _bad("FILE", str(file), "a file that exists")
        wrong |= _check_file(file, options, Run(timeout, budget, orders, seed), FORMATS[format])
    raise typer.Exit(1 if wrong else 0)


def _check_file(file: Path, options: Mapping[str, Sequence[str]], run: Run, shown: Format) -> bool:
    """Print what is wrong with one file; whether that is more than warnings and notes."""
    text = file.read_text("utf-8", "replace")
    try:
        kernels = read_kernels(re.sub(r"\W", "_", file.stem), text, options)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=str(file)) from error
    mx.random.seed(run.seed)
    faults, missing = faults_of(text, kernels, run)
    for words in missing:
        typer.echo(f"not asked: {words}", err=True)
    name = file.name if shown is FORMATS["text"] else str(file)
    for line in shown(name, text, faults):
        Console(highlight=False).print(line, soft_wrap=True, markup=False)
    return any(fault.severity == "error" for fault in faults)


def find_function(target: str) -> Callable[..., Any]:
    """What `module:name` (or `module:name.attribute`) names; the current folder counts."""
    module, colon, path = target.partition(":")
    if not (module and colon and path):
        raise _bad("TARGET", target, "module:function, e.g. mlx.nn:gelu")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise _bad("TARGET", target, f"a module that imports ({error})") from error
    for name in path.split("."):
        if not hasattr(found, name):
            where = getattr(found, "__name__", type(found).__name__)
            raise _bad("TARGET", target, f"a function that exists; {where} has no {name!r}")
        found = getattr(found, name)
    if not callable(found):
        raise _bad("TARGET", target, f"something callable, not {type(found).__name__}")
    return found


def parse_arguments(text: str) -> list[Any]:
    """Random arrays and numbers from `1024x4096:float32,scalar:float16,=0.5`."""
    return [_parse_argument(part.strip()) for part in text.split(",")]


def _parse_argument(part: str) -> Any:
    if part.startswith("="):
        return _parse_number(part)
    sizes, colon, named = part.partition(":")
    dtype = ALIASES.get(named, named) if colon else "float32"
    if dtype not in DTYPES:
        raise _bad("--shape", part, f"SIZES:DTYPE with a dtype of {', '.join(DTYPES)}")
    if sizes == "scalar":
        return random_array((), dtype)
    pieces = sizes.split("x")
    if not all(piece.isascii() and piece.isdigit() for piece in pieces):
        raise _bad("--shape", part, "SIZES:DTYPE, with sizes joined by x, e.g. 1024x4096:float32")
    return random_array(tuple(int(piece) for piece in pieces), dtype)


def _parse_number(part: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(part[1:])
        except ValueError:
            continue
    raise _bad("--shape", part, "a Python number after '=', e.g. =0.5")


def random_array(shape: tuple[int, ...], dtype: str) -> mx.array:
    """Normal numbers, or 0 and 1 for bool, or 0 to 9 for integers."""
    if "int" in dtype:
        return mx.random.randint(0, 10, shape).astype(DTYPES[dtype])
    normal = mx.random.normal(shape)
    if dtype == "float64":  # a type of the CPU's
        with mx.stream(mx.cpu):
            return normal.astype(mx.float64)
    return normal > 0 if dtype == "bool" else normal.astype(DTYPES[dtype])


def _bad(where: str, got: str, wanted: str) -> typer.BadParameter:
    return typer.BadParameter(f"got {got!r}, wanted {wanted}", param_hint=where)
