"""The table as a whole: MLX is accounted for, formula and reference agree, docs are fresh."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import sympy as sp
from scipy import special

from zmlx.derive.docs import text
from zmlx.derive.partials import SYMBOLS, formula
from zmlx.ops.composite import COMPOSITES
from zmlx.ops.names import OPAQUE, OTHER, meaning
from zmlx.ops.spec import OPERANDS, OpSpec
from zmlx.ops.table import NAMED, OPS
from zmlx.trace import namespace

PUBLIC = [n for n in dir(mx) if not n.startswith("_")]
LISTED = [n for groups in (OPAQUE, OTHER) for names in groups.values() for n in names.split()]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_of_mlx_core_is_accounted_for(name):
    assert meaning(name) is not None


def test_the_account_names_nothing_twice_and_nothing_unknown():
    assert len(set(LISTED)) == len(LISTED)
    assert set(LISTED) <= set(PUBLIC)
    rows = {n for spec in OPS.values() for n in spec.mx}
    composites = {n.removeprefix("mlx.core.") for n in COMPOSITES if n.startswith("mlx.core.")}
    assert not set(LISTED) & (rows | composites)
    assert rows | composites <= set(PUBLIC)


def test_rows_are_named_as_mlx_names_them():
    assert all(name == spec.name for name, spec in OPS.items())
    for name, spec in NAMED.items():
        assert name == spec.mx[0]
    aliases = [n for spec in OPS.values() for n in spec.mx]
    assert len(set(aliases)) == len(aliases)


def test_rows_without_a_name_are_no_function_of_mlx_and_no_method():
    unnamed = [spec for name, spec in OPS.items() if name not in NAMED]
    assert {spec.name for spec in unnamed} == {"fma", "ldexp", "sech2"}
    for spec in unnamed:
        assert spec.plain is not None and not spec.methods and not spec.dunder
        assert not hasattr(mx, spec.name), f"mx.{spec.name} exists: name it in the row"


def test_operators_and_methods_exist_on_arrays():
    dunders = [spec.dunder for spec in OPS.values() if spec.dunder]
    assert len(set(dunders)) == len(dunders)
    for spec in OPS.values():
        assert spec.dunder is None or hasattr(mx.array, f"__{spec.dunder}__")
        assert all(hasattr(mx.array, method) for method in spec.methods)


def test_every_elementwise_method_of_arrays_is_a_row():
    elementwise = {
        "abs",
        "cos",
        "exp",
        "log",
        "log10",
        "log1p",
        "log2",
        "reciprocal",
        "rsqrt",
        "sin",
    }
    elementwise |= {"sqrt", "square", "astype"}
    assert {m for spec in OPS.values() for m in spec.methods} == elementwise


def samples(spec: OpSpec, count: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    values = {o: rng.uniform(*d, count) for o, d in zip(OPERANDS, spec.domain, strict=False)}
    for kink in spec.kinks:
        values = {o: np.where(np.abs(v - kink) < 1e-3, kink + 0.1, v) for o, v in values.items()}
    return values


WITH_FORMULA = [s for s in OPS.values() if s.sym is not None]


@pytest.mark.parametrize("spec", WITH_FORMULA, ids=lambda s: s.name)
def test_formula_equals_reference_and_mlx(spec):
    values = samples(spec)
    expression = formula(spec.name)
    compute = sp.lambdify([SYMBOLS[o] for o in values], expression, modules=["scipy", "numpy"])
    by_formula = compute(*values.values())
    names = dict(values, x=values["x"] != 0) if spec.name == "where" else values
    by_reference = eval(spec.ref, {"np": np, "special": special, **names})
    np.testing.assert_allclose(by_formula, by_reference, rtol=1e-12, atol=1e-14)
    if spec.name != "astype":
        arrays = [mx.array(v.astype(np.float32)) for v in names.values()]
        by_mlx = np.array(namespace.function(spec.name)(*arrays))
        singles = {o: v.astype(np.float32).astype(np.float64) for o, v in names.items()}
        singles = singles if spec.name != "where" else {**singles, "x": names["x"]}
        want = eval(spec.ref, {"np": np, "special": special, **singles})
        np.testing.assert_allclose(by_mlx, want, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arity": 4}, "arity 4"),
        ({"operands": "any"}, "unknown rule"),
        ({"grad": "maybe"}, "grad is 'maybe'"),
        ({"sym": None}, "sym is missing"),
        ({"msl": None}, "no MSL expression"),
        ({"mx": ()}, "names on mlx.core or a plain form"),
        ({"plain": lambda F, x: x}, "names on mlx.core or a plain form"),
    ],
)
def test_a_wrong_row_is_refused(change, message):
    good = {"name": "f", "arity": 1, "mx": ("f",), "operands": "own", "msl": "{x}", "sym": "x"}
    OpSpec(**good)
    with pytest.raises(ValueError, match=message):
        OpSpec(**(good | change))


def test_the_table_loads_without_sympy_or_networkx():
    code = (
        "import sys, zmlx.ops.table, zmlx.ops.infer, zmlx.ops.composite, zmlx.msl.helpers\n"
        "print({'sympy', 'networkx', 'scipy', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.smoke
def test_docs_are_up_to_date():
    committed = Path(__file__).parents[2] / "docs" / "ops.md"
    assert committed.read_text(encoding="utf-8") == text(), "run python -m zmlx.derive.docs"
