"""What parses, what it means, and what errors say; no kernel runs here."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import Phase, given, settings

from zmlx.expr import ExpressionError, Source, Unparsed, parse, parse_all, split_update
from zmlx.expr.functions import CONSTANTS, FUNCTIONS, METAL_ONLY
from zmlx.expr.lower import Names
from zmlx.fuse.replay import replay
from zmlx.msl import DEFAULT_HEADER

X = [-3.0, -1.5, -0.5, 0.0, 0.25, 0.5, 1.0, 2.5, 3.0]


def value(expr: str, **names: float) -> float | int | bool:
    """`expr` at one point; floats as float32, ints as int32."""
    kinds = {n: "float32" if isinstance(v, float) else "int32" for n, v in names.items()}
    lowered = _as_they_are(expr, kinds)
    arrays = [mx.array(v, getattr(mx, kinds[n])) for n, v in names.items()]
    return replay(lowered, arrays)[0].item()


def _as_they_are(expr: str, kinds: dict[str, str]):
    """Ints must stay ints, so they are parsed with T int; floats with T float."""
    if set(kinds.values()) == {"int32"}:
        return parse(expr, kinds, compute="int32")
    return parse(expr, kinds)


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("1 / 2 * x", 0.0),
        ("1.0f / 2 * x", 1.25),
        ("7 % 3 + x", 3.5),
        ("-7 / 2", -3),
        ("(uchar)(-2) + 0 * x", 254.0),
        ("(short)(70000) + 0 * x", 4464.0),
        ("-7 % 3", -1),
        ("7 / -2", -3),
        ("1 + 2 * 3 - 4", 3),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("16 / 4 / 2", 2),
        ("1 << 3 | 1", 9),
        ("6 & 3 ^ 1", 3),
        ("0x1Fu", 31),
        ("010", 8),
        ("1e-3f * 1000", 1.0),
        (".5 + 1.", 1.5),
        ("2.5h", 2.5),
        ("x > 2 && x < 3", True),
        ("x < 2 || !(x < 3)", False),
        ("1 < 2 == 1", True),
        ("x > 0 ? 1 : 2", 1),
        ("x > 0 ? x > 5 ? 1 : 2 : 3", 2),
        ("(x > 0) + (x > 1)", 2),
        ("-x", -2.5),
        ("- -x", 2.5),
        ("+x", 2.5),
        ("~5", -6),
        ("!x", False),
        ("(int)x", 2),
        ("int(-2.9f)", -2),
        ("static_cast<int>(x) / 2", 1),
        ("float(7) / 2", 3.5),
        ("(float)7 / 2", 3.5),
        ("bool(x)", True),
        ("(T)1 / 2", 0.5),
        ("T(3) / O(2)", 1.5),
        ("metal::fabs(-x)", 2.5),
        ("::metal::precise::sqrt(4.0f)", 2.0),
        ("metal::fast::exp(0.0f)", 1.0),
        ("max(x, 3)", 3.0),
        ("max(2, 3)", 3),
        ("fmin(x, NAN)", 2.5),
        ("fmax(NAN, x)", 2.5),
        ("clamp(x, 0, 1)", 1.0),
        ("select(1.0f, 2.0f, x > 0)", 2.0),
        ("fma(x, 2.0f, 1.0f)", 6.0),
        ("mix(0.0f, 4.0f, 0.25f)", 1.0),
        ("step(3.0f, x)", 0.0),
        ("smoothstep(0.0f, 5.0f, x)", 0.5),
        ("fmod(-7.5f, 2.0f)", -1.5),
        ("round(x) + round(-x)", 0.0),
        ("round(0.49999997f)", 0.0),
        ("rint(x)", 2.0),
        ("trunc(-x)", -2.0),
        ("fract(x)", 0.5),
        ("pow(x, 2)", 6.25),
        ("exp2(3)", 8.0),
        ("isnan(NAN)", True),
        ("isinf(-INFINITY)", True),
        ("INT_MAX", 2**31 - 1),
        ("x /* of any kind */ + 1 // more", 3.5),
        ("3000000000", 3000000000),
    ],
)
def test_values(expr: str, wanted: float) -> None:
    got = value(expr, x=2.5)
    assert type(got) is type(wanted) and got == wanted


@pytest.mark.parametrize("name", sorted(set(CONSTANTS) - {"NAN"}))
def test_constants_are_those_of_math(name: str) -> None:
    lines = {"M_PI_F": math.pi, "M_E_F": math.e, "FLT_MAX": float(np.finfo(np.float32).max)}
    if name in lines:
        assert CONSTANTS[name] == lines[name]
    assert value(f"x * 0.0f == 0.0f ? {name} : 0", x=1.0) == np.float32(CONSTANTS[name])


def test_every_function_has_its_arity_and_no_second_meaning() -> None:
    assert not set(FUNCTIONS) & METAL_ONLY
    for name, function in FUNCTIONS.items():
        arguments = ", ".join(["x", "2"] if name == "ldexp" else ["x"] * function.arity)
        parse(f"{name}({arguments})", ["x"])
        with pytest.raises(ExpressionError, match=rf"column 3: {name} takes {function.arity} arg"):
            parse(f"1+{name}({arguments}, x)", ["x"])


def test_the_default_header_is_known() -> None:
    for name in ("sigmoid", "silu", "gelu_tanh", "softplus", "expm1", "mish", "log1p"):
        assert f"kk_{name}" in FUNCTIONS and f"kk_{name}(" in DEFAULT_HEADER
    with pytest.raises(Unparsed, match="kk_uniform01"):
        parse("kk_uniform01(1u, 2ul)", [])


@pytest.mark.parametrize(
    ("expr", "line", "column", "words"),
    [
        ("x * sigmid(x)", 1, 5, "unknown function 'sigmid'. Did you mean 'kk_sigmoid'?"),
        ("x + alpah", 1, 5, "unknown name 'alpah'. Did you mean 'alpha'? Values here: alpha, x."),
        ("x *", 1, 4, "the end is not expected here"),
        ("x * (alpha + 1", 1, 15, "a closing parenthesis is missing"),
        ("x * * alpha", 1, 5, "'*' is not expected here"),
        ("x\n  + tanh(x, x)", 2, 5, "tanh takes 1 argument, got 2"),
        ("pow(x)", 1, 1, "pow takes 2 arguments, got 1"),
        ("x % 2", 1, 3, "'%' takes integers, got float32 and int32. fmod"),
        ("x ^ 2", 1, 3, "Powers are pow(a, b)"),
        ("x + exp", 1, 5, "the function 'exp' is not called"),
        ("x + x[0]", 1, 5, "'x' is a value, not an array"),
        ("x x", 1, 3, "'x' is not expected here"),
    ],
)
def test_slips_are_pointed_at(expr: str, line: int, column: int, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(expr, ["x", "alpha"], what="fwd_expr of 'op'")
    message = str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert words in message and message.startswith("[zmlx.expr] fwd_expr of 'op', ")
    *_, shown, caret = message.split("\n")
    assert shown == "  " + expr.split("\n")[line - 1]
    assert caret == " " * (column + 1) + "^"


@pytest.mark.parametrize(
    ("expr", "column", "reason"),
    [
        ("inp[elem] * 2", 1, "buffer 'inp'"),
        ("x + elem", 5, "'elem' is the kernel's"),
        ("nextafter(x, 1.0f)", 1, "'nextafter'"),
        ("x + simd_sum(x)", 5, "'simd_sum'"),
        ("dot(float2(x, x), float2(x, 1))", 1, "'dot'"),
        ("elem * float4(x).y", 17, "'.'"),
        ("metal::unheard_of(x)", 1, "'unheard_of'"),
        ("mine(x)", 1, "'mine' of the header"),
        ("x.y", 2, "'.'"),
        ("f<float>(x)", 2, ""),
        ("x + --x", 5, "'--'"),
    ],
)
def test_other_c_is_told_from_slips(expr: str, column: int, reason: str) -> None:
    names = Names(raw=frozenset(("inp", "elem")), header=frozenset(("mine", "f")))
    with pytest.raises(Unparsed) as caught:
        parse_all([Source(expr)], {"x": "float32"}, names)
    assert reason in str(caught.value)
    if reason:
        assert caught.value.column == column


@pytest.mark.smoke
def test_preludes() -> None:
    prelude = "const T s = x * 2, t = s; float u = 1; auto v = t > 3; u += s; int i = 2.9f; ;"
    graph = parse("s + t + u + v + i", ["x"], prelude=prelude)
    x = mx.array(2.0)
    assert replay(graph, [x])[0].item() == 4 + 4 + 5 + 1 + 2
    with pytest.raises(ExpressionError, match="the prelude of expr, column 7.*unknown name 'g'"):
        parse("x", ["x"], prelude="T s = g;")
    with pytest.raises(Unparsed, match="'out'"):
        parse("x", ["x"], prelude="out[0] = x;", raw=["out"])


def test_a_constant_has_the_shape_of_the_inputs() -> None:
    graph = parse("1", ["x", "y"], result="float32")
    graph.verify()
    shapes = [graph[n]["shape"] for n in graph.outputs]
    assert shapes == [(2,)]


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("acc + x * x", ("add", "(x * x)")),
        ("exp(x) + acc", ("add", "exp(x)")),
        ("acc - x", ("add", "-x")),
        ("acc + x + y", ("add", "x + y")),
        ("max(acc, x - 1)", ("maximum", "(x - 1)")),
        ("fmin(x, acc)", ("minimum", "x")),
        ("metal::fma(x, y, acc)", ("add", "x * y")),
        ("acc * x", ("multiply", "x")),
        ("acc + acc", None),
        ("acc + x * acc", None),
        ("x + 1", None),
        ("acc / x", None),
        ("acc * x + 1", None),
    ],
)
def test_updates_are_taken_apart(expr: str, wanted: tuple[str, str] | None) -> None:
    assert split_update(expr, "acc") == wanted


# -- integers against the C compiler --------------------------------------------------------------
def _integers() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(("x", "y", "3", "-2", "7", "1u", "0x10", "true", "(short)x", "2l"))
    pair = "({0} {2} {1})".format

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        signs = st.sampled_from(("+", "-", "*", "&", "|", "^", "<", "<=", "==", "!=", "&&", "||"))
        return st.one_of(
            st.builds(pair, inner, inner, signs),
            st.builds(pair, inner, st.sampled_from(("3", "-2", "7u", "(x*x + 1)")), _divisions),
            st.builds(
                pair, inner, st.sampled_from(("0", "1", "3u")), st.sampled_from(("<<", ">>"))
            ),
            st.builds("({0} ? {1} : {2})".format, inner, inner, inner),
            st.builds("{1}({0})".format, inner, st.sampled_from(("-", "~", "!", "+", "(uchar)"))),
            st.builds("(int)((short)({0}) * 0.75f)".format, inner),  # beyond int C leaves it open
        )

    return st.recursive(leaves, grow, max_leaves=6)


_divisions = st.sampled_from(("/", "%"))


@settings(max_examples=3, phases=[Phase.explicit, Phase.generate])  # shrinking compiles for minutes
@given(st.lists(_integers(), min_size=40, max_size=40, unique=True))
def test_integers_mean_what_the_compiler_means(tmp_path_factory, expressions: list[str]) -> None:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    points = [(x, y) for x in (-9, -1, 0, 2, 5) for y in (-4, 1, 3)]
    wanted = _compiled(compiler, expressions, points, tmp_path_factory.mktemp("ints"))
    arrays = [mx.array(column, mx.int32) for column in zip(*points, strict=True)]
    names = Names(compute="int32", output="int64")
    sources = [Source(e) for e in expressions]
    graph = parse_all(sources, {"x": "int32", "y": "int32"}, names, result="int64")
    for expression, got, row in zip(expressions, replay(graph, arrays), wanted, strict=True):
        assert got.tolist() == row, expression


def _compiled(
    compiler: str, expressions: list[str], points: list[tuple[int, int]], folder: Path
) -> list[list[int]]:
    """What the compiler makes of the expressions, at each point."""
    prints = "".join(f'std::printf("%lld ", (long long)({e}));\n' for e in expressions)
    pairs = ", ".join(f"{{{x}, {y}}}" for x, y in points)
    source = (
        "#include <cstdio>\ntypedef unsigned char uchar;\nint main() {\n"
        f"int points[][2] = {{{pairs}}};\n"
        f'for (auto& p : points) {{ int x = p[0], y = p[1];\n{prints}std::printf("\\n"); }}\n}}\n'
    )
    (folder / "ints.cpp").write_text(source)
    flags = ["-w", "-O0", "-fwrapv", "-o", str(folder / "ints")]
    subprocess.run([compiler, str(folder / "ints.cpp"), *flags], check=True)
    output = subprocess.run([str(folder / "ints")], check=True, capture_output=True, text=True)
    lines = [[int(n) for n in line.split()] for line in output.stdout.splitlines()]
    return [list(column) for column in zip(*lines, strict=True)]
