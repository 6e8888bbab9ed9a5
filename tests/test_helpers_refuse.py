"""Bad input to elementwise, autograd and metal: every slip has a message that says what to do."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zmlx import autograd, elementwise, metal, msl
from zmlx.errors import DeriveError, DeviceError
from zmlx.expr import ExpressionError

X = mx.array([[1.0, -2.0, 3.0], [0.5, 0.0, -1.5]])


def unary(expr: str, **more: Any):
    return elementwise.unary(**{"name": "op", "expr": expr, **more})


# -- expressions ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expr", "column", "words"),
    [
        ("x; y", 2, "';' is not expected here."),
        ("return x;", 1, "'return' belongs to a statement; give an expression."),
        ("x if x > 0 else 0", 3, "A choice is written condition ? a : b."),
        ("(x", 3, "a closing parenthesis is missing."),
        ("x) + (x", 2, "')' is not expected here."),
        ("x /* no end", 3, "the comment that begins here is not closed."),
        ("x \\", 3, "no part of an expression in C."),
        ("x # 2", 3, "'#' is no part of an expression in C."),
        ('"text"', 1, "no part of an expression in C."),
        ("x \u2212 1", 3, "no part of an expression in C. Write '-'."),
        ("x \u00d7 2 // \u00d7", 3, "Write '*'."),
        ("\u00e9 + x", 1, "'\u00e9' is no part of an expression in C."),
        ("x\0", 2, "'\\x00' is no part of an expression"),
        ("x**2", 3, "Powers are pow(a, b)."),
        ("x and x", 3, "Write &&."),
        ("x order x", 3, "'order' is not expected here.\n"),
        ("np.exp(x)", 3, "'np' is Python's"),
        ("08", 1, "08 begins with 0, so it is octal"),
        ("1.5.2", 4, "'.2' is not expected here."),
        ("inf", 1, "Did you mean 'INFINITY'?"),
        ("pi * x", 1, "Did you mean 'M_PI_F'?"),
        ("arcsin(x)", 1, "Did you mean 'asin'?"),
        ("maximum(x, 0)", 1, "Did you mean 'max'?"),
        ("sigmoid(x)", 1, "Did you mean 'kk_sigmoid'?"),
        ("imp[elem]", 1, "unknown buffer 'imp'. Did you mean 'inp'?"),
        ("pow(x)", 1, "pow takes 2 arguments, got 1."),
        ("kk_silu_grad(x, x)", 1, "kk_silu_grad takes 1 argument, got 2."),
    ],
)
def test_slips_in_expressions(expr: str, column: int, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        unary(expr)
    message = str(caught.value)
    assert words in message and message.startswith("[zmlx.expr] expr of 'op', column ")
    assert caught.value.column == column


def test_a_caret_in_a_long_line() -> None:
    with pytest.raises(ExpressionError) as caught:
        unary("x + " * 1000 + "nothing" + " + x" * 1000)
    *_, shown, caret = str(caught.value).split("\n")
    assert len(shown) < 130 and shown[caret.index("^") :].startswith("nothing")


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("x // a comment \u00e9", lambda x: x),
        ("x /* \u2212 */ +\n\t2", lambda x: x + 2),
        ("\n\nx\r\n", lambda x: x),
        ("(" * 300 + "x" + ")" * 300, lambda x: x),
        (" + ".join(["x"] * 600), lambda x: 600 * x),
    ],
)
@pytest.mark.usefixtures("host_device")
def test_what_is_no_slip(expr: str, wanted) -> None:
    np.testing.assert_allclose(np.array(unary(expr)(X)), np.array(wanted(X)), rtol=1e-4)


@pytest.mark.usefixtures("host_device")
def test_an_expression_that_nests_too_deeply_is_not_read() -> None:
    op = unary("- " * 1500 + "x")
    assert "nests too deeply" in str(op.reason)
    np.testing.assert_array_equal(np.array(op(X)), np.array(X))


@pytest.mark.usefixtures("host_device")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"expr": "x +\n  missing<float>(x)"}, r"expr:2:3: .*\n    missing<float>\(x\)\n    \^"),
        ({"expr": "&x"}, "The value of expr is none that the output can hold."),
        ({"expr": "f(x)", "header": "float f(float v) {\n for (;;) return w;\n}"},
         r"header:2:18: .*'w'.*\n   for \(;;\) return w;\n                   \^"),
        ({"expr": "f(x)", "header": msl.DEFAULT_HEADER + "\nfloat f(float v)\n{ for (;;) w; }"},
         r"header:3:12: .*'w'"),
        ({"expr": "f(x)", "header": "float f(float v) {\n for (;;) return v;\n"},
         "left open in"),
    ],
)  # fmt: skip
def test_the_compiler_speaks_of_the_text_of_the_user(arguments: dict, words: str) -> None:
    op = elementwise.unary(**{"name": "op", **arguments})
    with pytest.raises(DeviceError, match=words) as caught:
        mx.eval(op(X))
    assert "kk_sigmoid" not in str(caught.value)  # nothing of what stands around it


# -- names ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "\u00e9", None, 3])
def test_names_of_ops(name: object) -> None:
    for make in (unary, lambda e, name: metal_copy(name=name)):
        with pytest.raises(ValueError, match="identifier"):
            make("x", name=name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("float", "a word of Metal's own"), ("while", "a word of Metal's own"),
        ("threadgroup", "a word of Metal's own"), ("uint", "a word of Metal's own"),
        ("INFINITY", "a constant of Metal"), ("zmlx_a", "the kernel uses itself"),
        ("thread_position_in_grid", "the kernel uses itself"), ("O", "the kernel uses itself"),
    ],
)  # fmt: skip
def test_names_of_inputs(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"'op': input_names has '{name}', which .*{why}"):
        elementwise.map(name="op", expr="1", input_names=["a", name])


@pytest.mark.usefixtures("host_device")
def test_names_that_look_like_those_of_the_kernel() -> None:
    names = ["a", "a_shape", "exp", "inp", "half4"]
    for more in ("", " + 0 * as_type<uint>(1.0f)"):
        op = elementwise.map(name="op", expr=" + ".join(names) + more, input_names=names)
        np.testing.assert_allclose(np.array(op(*[X] * 5)), 5 * np.array(X), rtol=1e-6)


# -- preludes -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("prelude", "words"),
    [
        ("T x = 2;", "column 3: 'x' is declared already."),
        ("T s = x; T s = x;", "column 12: 's' is declared already."),
        ("s = x;", "column 1: 's' is not declared; write T s = ...;"),
        ("T s = x", "the end is not expected here."),
        ("x * x;", "'*' is not expected here."),
    ],
)
def test_slips_in_preludes(prelude: str, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        autograd.unary_from_expr(
            name="op", fwd_expr="x", vjp_expr="g", vjp_prelude=prelude, use_output=False
        )
    assert words in str(caught.value) and "vjp_prelude of 'op'" in str(caught.value)


@pytest.mark.usefixtures("host_device")
def test_preludes_may_hold_other_c() -> None:
    prelude = "#define HALF 0.5f\nT s = 0; for (int i = 0; i < 4; ++i) { s += HALF * x; }"
    op = autograd.unary_from_expr(
        name="op", fwd_expr="x * x", vjp_expr="g * s", vjp_prelude=prelude, check=True
    )
    assert mx.grad(lambda v: op(v).sum())(X).tolist() == (2 * X).tolist()


# -- arrays ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [None, 1.0, [1.0], np.ones(3, np.float32), "x"])
def test_what_is_no_array(value: object) -> None:
    body = autograd.nary_from_expr(
        name="op", input_names=["x"], output_names=["out"], fwd_source="out[0] = x[0];"
    )
    for op in (unary("x"), unary("as_type<float>(x)"), autograd.unary_from_expr(
        name="op", fwd_expr="x"), body):  # fmt: skip
        with pytest.raises(TypeError, match=rf"x is a {type(value).__name__}; wanted an mx.array"):
            op(value)


@pytest.mark.usefixtures("host_device")
@pytest.mark.parametrize("expr", ["a * b", "a * as_type<float>(as_type<uint>((float)b))"])
def test_arrays_without_elements(expr: str) -> None:
    op = autograd.binary_from_expr(
        name="op", fwd_expr=expr, vjp_lhs_expr="g * b", vjp_rhs_expr="g * a"
    )
    for left, right in [((0,), (0,)), ((0, 3), (3,)), ((2, 0), ()), ((0, 3), (1, 3))]:
        a, b = mx.zeros(left), mx.zeros(right)
        shape = op(a, b).shape
        assert shape == mx.broadcast_shapes(left, right)
        grads = mx.grad(lambda a, b: op(a, b).sum(), (0, 1))(a, b)
        assert [g.shape for g in grads] == [left, right]
        assert all(mx.all(g == 0).item() for g in grads)
        assert mx.vmap(op, in_axes=(None, 0))(a, mx.zeros((4, *right))).shape == (4, *shape)
    with pytest.raises(ValueError, match=r"do not broadcast \(a: \(0, 3\), b: \(2, 3\)\)"):
        op(mx.zeros((0, 3)), mx.zeros((2, 3)))


def test_a_gradient_that_is_refused_says_why() -> None:
    op = unary("x * simd_sum(x)")
    with pytest.raises(DeriveError, match="(?s)'op' has no gradient: .*'simd_sum'.*Give its vjp"):
        mx.eval(mx.grad(lambda v: op(v).sum())(X))


# -- kernels --------------------------------------------------------------------------------------
def metal_copy(**changes: Any) -> metal.MetalKernel:
    parts: dict[str, Any] = {
        "name": "copy", "input_names": ["a"], "output_names": ["out"],
        "source": "uint i = thread_position_in_grid.x; out[i] = a[i];",
    }  # fmt: skip
    return metal.kernel(**parts | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_names": "ab"}, "input_names is 'ab'; give a list of names"),
        ({"output_names": None}, "output_names is None; give a list of names"),
        ({"input_names": ["while"]}, "'while' is a word of Metal's own"),
        ({"input_names": ["a", "a_shape"]}, "'a_shape' is what MLX calls a part of 'a'"),
        ({"output_names": ["a_ndim"]}, "'a_ndim' is what MLX calls a part of 'a'"),
        ({"output_names": ["threads_per_grid"]}, "'threads_per_grid' is a word of Metal's own"),
        ({"source": None}, "source is a NoneType; give a str"),
        ({"header": 3}, "header is a int; give a str"),
    ],
)
def test_parts_of_kernels(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        metal_copy(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": 12}, "grid is 12; give three whole numbers"),
        ({"grid": "abc"}, "grid is 'abc'; give three whole numbers"),
        ({"threadgroup": 5}, "threadgroup is 5; give three whole numbers"),
        ({"threadgroup": (32, 32, 2)}, "give at most 1024 threads in all"),
        ({"template": ["T"]}, "template T is None"),
        ({"template": [("a", 3)]}, "template is 'a', which is taken"),
        ({"template": [("float", mx.float32)]}, "template is 'float', which is taken"),
        ({"template": [("N", 1), ("N", 2)]}, "template is 'N', which is taken"),
        ({"template": [("N", 2**40)]}, "template N is 1099511627776; give an int of 32 bits"),
        ({"template": [("1a", 3)]}, "template is .*; give pairs of a name and a value"),
        ({"output_shapes": [3]}, "output_shapes is 3; give sizes from 0 on"),
        ({"output_shapes": [None]}, "output_shapes is None; give sizes"),
        ({"output_dtypes": mx.float32}, "output_dtypes is mlx.core.float32; give a list"),
        ({"init_value": "x"}, "init_value is 'x'; give a number"),
    ],
)
def test_launches(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        metal_copy()(X, **changes)


@pytest.mark.usefixtures("host_device")
def test_numbers_of_numpy_are_numbers() -> None:
    (got,) = metal_copy()(
        X, grid=np.array([6, 1, 1]), output_shapes=[np.array([2, 3])], init_value=np.float32(1)
    )
    assert got.tolist() == X.tolist()
