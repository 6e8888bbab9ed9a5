"""Functions of headers in expressions: which are read, what they mean, why others are not."""

from __future__ import annotations

import mlx.core as mx
import pytest

from zmlx.expr import ExpressionError, Names, Source, Unparsed, parse_all
from zmlx.expr.header import default_functions, header_functions, helper_rows
from zmlx.fuse.replay import replay
from zmlx.ops.table import OPS

X = [-2.5, -0.5, 0.0, 1.5]


def names_of(header: str, kind: str = "float32") -> Names:
    functions = header_functions(header)
    words = frozenset(w for w in ("f", "h", "K") if w in header)
    return Names(kind, kind, header=words, functions=functions)


def values(expr: str, header: str, kind: str = "float32") -> list[float]:
    graph = parse_all([Source(expr)], {"x": kind}, names_of(header, kind), result=kind)
    graph.verify()
    return replay(graph, [mx.array(X, getattr(mx, kind))])[0].tolist()


@pytest.mark.parametrize(
    ("header", "expr", "wanted"),
    [
        ("inline float f(float v) { return v * v + 1; }", "f(x)", lambda v: v * v + 1),
        ("float f(const float v, int k) { return v * k; }", "f(x, 2.9f)", lambda v: v * 2),
        ("template <typename T> inline T f(T v) { return T(2) * v; }", "f(x)", lambda v: 2 * v),
        ("template<class Real> Real f(Real v) { const Real w = v; return w; }", "f(x)", float),
        ("float f(float v) { float s = 0; s += v; s *= s; return s; }", "f(x)", lambda v: v * v),
        ("float f(float v) { if (v > 0) return v; return -2 * v; }", "f(x)",
         lambda v: v if v > 0 else -2 * v),
        ("float h(float v) { return v + 1; }\nfloat f(float v) { return h(v) * h(v); }", "f(x)",
         lambda v: (v + 1) ** 2),
        ("int f(float v) { return v; }", "f(x)", int),
        ("bool f(float v) { return v > 0; } // no f(x) {", "f(x) ? x : 0", lambda v: max(v, 0)),
        ("/* float f(int) { } */ float f(float v) { return v; }", "f(x)", float),
        ("float f() { return 1.5f; }", "f() * x", lambda v: 1.5 * v),
        ("inline half f(half v) { return v; }", "(float)f(x)", float),
    ],
)  # fmt: skip
def test_functions_that_are_read(header: str, expr: str, wanted) -> None:
    assert values(expr, header) == [wanted(v) for v in X]


def test_parameters_hide_the_names_around() -> None:
    header = "float h(float x) { return x + 1; }\nfloat f(float v) { return h(v * 10) + v; }"
    assert values("f(x) - x", header) == [10 * v + 1 for v in X]
    with pytest.raises(Unparsed, match=r"'f' of the header cannot be read: .*unknown name 'x'"):
        values("f(x)", "float f(float v) { return v + x; }")


def test_a_qualified_name_is_metals() -> None:
    header = "inline float fabs(float v) { return metal::fabs(v) + 1; }"
    names = Names(header=frozenset(("fabs",)), functions=header_functions(header))
    sources = [Source("fabs(x)"), Source("::fabs(x)"), Source("metal::precise::fabs(x)")]
    graph = parse_all(sources, {"x": "float32"}, names, result="float32")
    own, same, metals = (o.tolist() for o in replay(graph, [mx.array(X)]))
    assert own == same == [abs(v) + 1 for v in X] and metals == [abs(v) for v in X]


def test_a_template_has_the_type_of_its_argument() -> None:
    header = "template <typename T> T f(T v, float w) { return v / T(2); }"
    assert values("f((int)x, x)", header) == [-1, 0, 0, 0]
    assert values("f(x, x)", header) == [v / 2 for v in X]


def test_a_reference_computes_in_float64() -> None:
    header = "float f(float v) { return v + 1e-12f; }"
    graph = parse_all([Source("f(x)")], {"x": "float64"}, names_of(header, "float64"))
    kinds = {graph[n]["dtype"] for n in graph if graph.kind(n) == "op"}
    assert kinds == {"float64"}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("float f(float v) { for (int i = 0; i < 3; i += 1) v += v; return v; }", "'(' is not exp"),
        ("float f(float v) { return f(v); }", "'f' of the header"),
        ("float f(float v) { return v; }\nint f(int v) { return v; }", "'f' of the header"),
        ("float f(thread float& v) { return v; }", "'f' of the header"),
        ("float f(device const float* v) { return v[0]; }", "'f' of the header"),
        ("float4 f(float v) { return float4(v); }", "'f' of the header"),
        ("#define K 2\nfloat f(float v) { return v * K; }", "'f' of the header"),
        ("#ifdef K\nfloat f(float v) { return v; }\n#endif", "'f' of the header"),
        ("float f(float v) { return T(v); }", "'f' of the header"),
        ("float f(float v, float w = 2) { return v; }", "'f' of the header"),
        ("constant float K = 2;\nfloat f(float v) { return v * K; }", "'K' is not known here"),
        ("float f(float v) { v; }", "is not expected here"),
        ("#define f(v) ((v) + 1)", "'f' of the header"),
    ],
)
def test_functions_that_are_not_read(header: str, reason: str) -> None:
    with pytest.raises(Unparsed) as caught:
        values("x + f(x)", header)
    assert reason in str(caught.value) and caught.value.column == 5


def test_a_wrong_count_of_arguments() -> None:
    with pytest.raises(ExpressionError, match="column 1: f takes 2 arguments, got 1"):
        values("f(x)", "float f(float v, float w) { return v; }")


@pytest.mark.smoke
def test_the_default_header_and_its_helpers() -> None:
    found = default_functions()
    names = ("sigmoid", "silu", "gelu_tanh", "softplus", "mish")
    assert {f"kk_{name}_grad" for name in names} <= set(found)
    for helper, row in helper_rows().items():
        assert helper in (OPS[row].msl or "")
    assert helper_rows()["zmlx_sigmoid"] == "sigmoid"
    with pytest.raises(Unparsed, match="the function 'kk_uniform01' has no derivative here"):
        values("kk_uniform01(1u, 2ul)", "")
