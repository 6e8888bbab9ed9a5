"""autograd.nary_from_expr: whole kernel bodies, their derivatives, checks and refusals."""

from __future__ import annotations

import mlx.core as mx
import pytest

from tests.near import close, first, normal
from zmlx import autograd, msl
from zmlx.errors import DeriveError, DeviceError
from zmlx.expr import Names, Source, Unparsed, parse_body

pytestmark = pytest.mark.usefixtures("default_device")


HEAD = "uint elem = thread_position_in_grid.x;\n"


def test_nary_of_one_input() -> None:
    op = autograd.nary_from_expr(
        name="cube", input_names=["x"], output_names=["out"],
        fwd_source=HEAD + "T v = (T)x[elem]; out[elem] = (O)(v * v * v);",
        bwd_source=HEAD + "T v = (T)x[elem]; dx[elem] = (O)((T)cotan[elem] * 3 * v * v);",
    )  # fmt: skip
    x = normal(4, 3)
    for array in (x, x.T, x[0, 0], x[:0]):
        close(op(array), array**3, 1e-5)
        close(first(op)(array), 3 * array**2, 1e-5)
    close(mx.vmap(first(op), in_axes=1, out_axes=1)(x), 3 * x**2, 1e-5)
    half = op(x.astype(mx.bfloat16))
    assert half.dtype == mx.bfloat16
    close(first(first(op))(x), 6 * x, 1e-5)
    close(mx.jvp(op, [x], [x])[1][0], 3 * x**3, 1e-5)


def test_nary_of_two_outputs() -> None:
    op = autograd.nary_from_expr(
        name="both", input_names=["a", "b"], output_names=["p", "q"],
        fwd_source=HEAD + "T u = a[elem], v = b[elem]; p[elem] = (O)(u * v); q[elem] = (O)(u - v);",
        bwd_source=HEAD + "T gp = cotan_p[elem], gq = cotan_q[elem];\n"
        "da[elem] = (O)(gp * (T)b[elem] + gq); db[elem] = (O)(gp * (T)a[elem] - gq);",
    )  # fmt: skip
    a, b = normal(4, 3), normal(4, 3, seed=1)
    p, q = op(a, b)
    close(p, a * b)
    close(q, a - b)

    def loss(f):
        return mx.grad(
            lambda a, b: sum((i + 1) * (o**2).sum() for i, o in enumerate(f(a, b))), (0, 1)
        )

    for got, wanted in zip(loss(op)(a, b), loss(lambda a, b: (a * b, a - b))(a, b), strict=True):
        close(got, wanted, 1e-5)
    only = mx.grad(lambda a: op(a, b)[1].sum())(a)
    close(only, mx.ones_like(a))


def test_nary_errors() -> None:
    def make(**more):
        arguments = {
            "input_names": ["a", "b"],
            "output_names": ["out"],
            "fwd_source": "out[0] = 0;",
        }
        return autograd.nary_from_expr(**{"name": "op", **arguments, **more})

    x = normal(4, 3)
    with pytest.raises(ValueError, match=r"'op': shapes differ \(a: \(4, 3\), b: \(3,\)\)"):
        make()(x, x[0])
    with pytest.raises(ValueError, match="'op' was called with 3 arrays; wanted 2"):
        make()(x, x, x)
    with pytest.raises(ValueError, match="input_names has 'T', which the kernel uses itself"):
        make(input_names=["T"])
    with pytest.raises(ValueError, match="a name occurs twice in output_names"):
        make(output_names=["p", "p"])
    with pytest.raises(ValueError, match="fwd_source is empty"):
        make(fwd_source=" ")
    with pytest.raises(ValueError, match="fwd_source never names 'out', which it should write"):
        make(fwd_source="return; // out")
    with pytest.raises(ValueError, match="bwd_source never names 'db'"):
        make(bwd_source=HEAD + "da[elem] = 0;")
    with pytest.raises(ValueError, match="two buffers of bwd_source are called 'da'"):
        make(input_names=["a", "da"], bwd_source=HEAD + "da[elem] = dda[elem] = 0;")
    with pytest.raises(ValueError, match="two buffers of fwd_source are called 'a'"):
        make(output_names=["a"])
    with pytest.raises(ValueError, match="input_names has 'float', which is a word of Metal's"):
        make(input_names=["float"])


# -- derivatives from the bodies ------------------------------------------------------------------
PAIR = HEAD + "T u = a[elem], v = b[elem]; p[elem] = (O)(u * tanh(v)); q[elem] = (O)(u - v * v);"


def plain_pair(a: mx.array, b: mx.array) -> tuple[mx.array, mx.array]:
    return a * mx.tanh(b), a - b * b


def pair_op(**more):
    names = {"input_names": ["a", "b"], "output_names": ["p", "q"], "fwd_source": PAIR}
    return autograd.nary_from_expr(name="pair", **names, **more)


GIVEN = (
    HEAD
    + """
    const T t = tanh((T)b[elem]);
    const T gp = cotan_p[elem], gq = cotan_q[elem];
    da[elem] = (O)(gp * t + gq);
    db[elem] = (O)(gp * (T)a[elem] * (1 - t * t) - 2 * gq * (T)b[elem]);
"""
)


@pytest.mark.parametrize("backward", [None, GIVEN], ids=["derived", "given"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_all_transformations_of_bodies(backward: str | None, dtype: mx.Dtype) -> None:
    op = pair_op(bwd_source=backward, check=True)
    exact = [3 * normal(4, 3), normal(4, 3, seed=1)]
    limit = 1e-5 if dtype == mx.float32 else 4e-2
    a, b = (v.astype(dtype) for v in exact)
    exact = [a.astype(mx.float32), b.astype(mx.float32)]

    def weighed(f):
        return lambda a, b: sum((i + 1.5) * (o**2).sum() for i, o in enumerate(f(a, b)))

    got, wanted = (mx.grad(weighed(f), (0, 1)) for f in (op, plain_pair))
    for g, w in zip(got(a, b), wanted(*exact), strict=True):
        assert g.dtype == dtype
        close(g, w, limit * 3)
    tangents = [normal(4, 3, seed=2), normal(4, 3, seed=3)]
    pushed = mx.jvp(op, [a, b], [t.astype(dtype) for t in tangents])[1]
    for g, w in zip(pushed, mx.jvp(plain_pair, exact, tangents)[1], strict=True):
        assert g.dtype == dtype
        close(g, w, limit)
    mapped = mx.vmap(mx.grad(weighed(op), (0, 1)), in_axes=(1, None))(a, b[:, 0])
    twin = mx.vmap(mx.grad(weighed(plain_pair), (0, 1)), in_axes=(1, None))(
        exact[0], exact[1][:, 0]
    )
    for g, w in zip(mapped, twin, strict=True):
        close(g, w, limit * 3)
    only = mx.grad(lambda b: op(a, b)[1].sum())(b)
    close(only, -2 * exact[1], limit)

    def second(f):
        return mx.grad(lambda b: mx.grad(lambda b: weighed(f)(exact[0], b))(b).sum())

    close(second(op)(exact[1]), second(plain_pair)(exact[1]), 1e-4)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.filterwarnings("ignore:.*fused regions run as MLX ops")
@pytest.mark.parametrize("backward", [None, GIVEN], ids=["derived", "given"])
def test_without_a_device_bodies_that_are_read_run(monkeypatch, backward: str | None) -> None:
    monkeypatch.setenv("ZMLX_DEVICE", "replay")
    op = pair_op(bwd_source=backward)
    a, b = normal(4, 3), normal(4, 3, seed=1)
    for got, wanted in zip(op(a, b), plain_pair(a, b), strict=True):
        close(got, wanted)
    for got, wanted in zip(
        mx.grad(lambda a, b: (op(a, b)[0] ** 2).sum() + op(a, b)[1].sum(), (0, 1))(a, b),
        mx.grad(lambda a, b: (a * mx.tanh(b)).square().sum() + (a - b * b).sum(), (0, 1))(a, b),
        strict=True,
    ):
        close(got, wanted, 1e-5)
    close(mx.vmap(lambda a, b: op(a, b)[0])(a, b), a * mx.tanh(b))
    assert op(a.astype(mx.bfloat16), b)[0].dtype == mx.bfloat16
    with pytest.raises(DeviceError, match="'shift_fwd' cannot run here"):
        shift()(normal(7))


def test_rank_0_and_empty() -> None:
    op = pair_op()
    for shape in ((), (0,), (3, 0), (1,)):
        a, b = normal(*shape), normal(*shape, seed=1)
        for got, wanted in zip(op(a, b), plain_pair(a, b), strict=True):
            close(got, wanted)
        grads = mx.grad(lambda a, b: op(a, b)[0].sum(), (0, 1))(a, b)
        close(grads[0], mx.tanh(b))


SHIFT = HEAD + "uint n = a_shape[0]; out[elem] = a[elem] * a[(elem + 1) % n];"
BACK = (
    HEAD
    + """uint n = a_shape[0]; uint last = (elem + n - 1) % n;
da[elem] = cotan[elem] * a[(elem + 1) % n] + cotan[last] * a[last];"""
)


def shift(**more):
    names = {"input_names": ["a"], "output_names": ["out"], "fwd_source": SHIFT}
    return autograd.nary_from_expr(name="shift", **names, **more)


def test_a_body_that_reads_other_elements() -> None:
    def plain(a: mx.array) -> mx.array:
        return a * mx.roll(a, -1)

    a = normal(7)
    op = shift(bwd_source=BACK, check=True)
    close(op(a), plain(a))
    close(mx.grad(lambda a: (op(a) ** 2).sum())(a), mx.grad(lambda a: (plain(a) ** 2).sum())(a))
    rows = normal(3, 7)
    close(mx.vmap(op)(rows), mx.vmap(plain)(rows))
    close(mx.vmap(first(op))(rows), mx.vmap(first(plain))(rows))
    assert mx.vmap(op)(rows[:0]).shape == (0, 7)
    with pytest.raises(DeriveError, match="'shift' has no jvp: .*depend on one another") as caught:
        mx.jvp(op, [a], [a])
    assert "'a_shape' is indexed" in str(caught.value) and "Use mx.vjp" in str(caught.value)
    with pytest.raises(
        DeriveError, match="'shift' has no second derivative: bwd_source of 'shift'"
    ):
        mx.eval(first(first(op))(a))
    forward = shift()
    close(forward(a), plain(a))
    with pytest.raises(DeriveError, match="(?s)'shift' has no gradient: fwd_source .*Give bwd_sou"):
        mx.eval(first(forward)(a))
    with pytest.raises(DeriveError, match="(?s)'shift' has no gradient: fwd_source .*Give bwd_sou"):
        mx.jvp(forward, [a], [a])


def test_check_finds_a_wrong_body() -> None:
    with pytest.raises(DeriveError) as caught:
        pair_op(bwd_source=GIVEN.replace("- 2 * gq", "+ 2 * gq"), check=True)
    message = str(caught.value)
    assert "db of bwd_source of 'pair' is not the gradient of fwd_source: at a = -3.3" in message
    assert "cotan_p = 0.75, cotan_q = -1.125 it gives" in message and "the derived" in message
    pair_op(bwd_source=GIVEN.replace("- 2 * gq", "+ 2 * gq"))  # not checked
    one = GIVEN.replace("cotan_p", "cotan").replace("cotan_q", "cotan")
    for bwd_source, missing in ((one, "cotan_p"), (GIVEN.replace("cotan_q", "cotan_p"), "cotan_q")):
        with pytest.raises(ValueError, match=f"bwd_source never names '{missing}'; each output"):
            pair_op(bwd_source=bwd_source)
    with pytest.raises(DeriveError, match=r"da of bwd_source of 'shift' .*Correct it\.$"):
        shift(bwd_source=BACK.replace("cotan[last] * a[last]", "0"), check=True)
    with pytest.raises(DeriveError, match="finite at none of the points"):
        nan = HEAD + "out[elem] = a[elem] / 0 * 0;"
        autograd.nary_from_expr(
            name="none", input_names=["a"], output_names=["out"], fwd_source=nan,
            bwd_source=HEAD + "da[elem] = 0 * cotan[elem];", check=True,
        )  # fmt: skip


# -- reading --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("out[thread_position_in_grid.x] = a[thread_position_in_grid.x];", None),
        ("auto i = thread_position_in_grid.x; T v = (T)a[i]; v *= v; out[i] = v;", None),
        ("uint i = thread_position_in_grid.x; out[i] = a[i]; out[i] = 2 * out[i];", None),
        ("uint i = thread_position_in_grid.x, k = 3; out[i] = a[i] * k;", None),
        ("uint i = (uint)thread_position_in_grid.x; out[i] = twice(a[i]);", None),
        ("uint i = thread_position_in_grid.x; out[i] = a[i + 1];", "more than the thread's place"),
        ("uint i = thread_position_in_grid.x; out[i] = a[i] * i;", "with the element's place"),
        ("uint i = thread_position_in_grid.x; i += 1; out[i] = a[i];", "the element's place"),
        ("uchar i = thread_position_in_grid.x; out[i] = a[i];", "the element's place"),
        ("uint i = thread_position_in_grid.x; out[i] = a[i]; out[0] = 1;", "thread's place"),
        (
            "uint i = thread_position_in_grid.x; if (i >= n * a_shape[0]) return; out[i] = a[i];",
            None,
        ),
        ("uint i = thread_position_in_grid.x; if (i > 3u) { return; } out[i] = a[i];", None),
        ("uint i = thread_position_in_grid.x; if (i < 3u) return; out[i] = a[i];", "end early"),
        ("uint i = thread_position_in_grid.x; if (a[i] > 3) return; out[i] = a[i];", "end early"),
        ("uint i = thread_position_in_grid.x; if (i > 3) out[i] = a[i];", "'out' is not expected"),
        ("uint i = thread_position_in_grid.x; for (;;) { out[i] = a[i]; }", "is not expected"),
        ("uint i = thread_position_in_grid.y; out[i] = a[i];", "'.'"),
        ("uint i = thread_position_in_grid.x; a[i] = 1;", "'a' is no output"),
        ("uint i = thread_position_in_grid.x; T v = a[i];", "nothing is stored in out"),
        ("uint i = thread_position_in_grid.x; out[i] = *a;", "'*'"),
        ("uint i = thread_position_in_grid.x; out[i] = out[i] + a[i];", "'out' is indexed"),
        ("uint i = thread_position_in_grid.x; out[i] = a;", "'a' is not indexed"),
        ("uint i = thread_position_in_grid.x; out[i] = b[i];", "'b' is indexed"),
    ],
)
def test_which_bodies_are_read(body: str, reason: str | None) -> None:
    from zmlx.expr.header import header_functions

    functions = header_functions("inline float twice(float v) { return v + v; }")
    names = Names(header=frozenset(functions), functions=functions)

    def read() -> None:
        parse_body(Source(body), {"a": "float16"}, {"out": "float16"}, names).verify()

    if reason is None:
        read()
        return
    with pytest.raises(Unparsed) as caught:
        read()
    assert reason in str(caught.value)


@pytest.mark.usefixtures("on_cpu")  # on a GPU MLX compiles, when it evaluates
def test_the_compiler_points_at_the_lines_of_bodies_and_headers() -> None:
    def make(**more):
        names = {
            "input_names": ["a"],
            "output_names": ["out"],
            "fwd_source": HEAD + "out[elem] = 1;",
        }
        return autograd.nary_from_expr(**{"name": "bad", **names, **more})

    x = normal(3)
    with pytest.raises(DeviceError, match=r"fwd_source:3:7: .*undeclared") as caught:
        make(fwd_source=HEAD + "out[elem] =\n  1 + undeclared;")(x)
    assert "1 + undeclared;\n" in str(caught.value) and "kk_" not in str(caught.value)
    with pytest.raises(DeviceError, match=r"bwd_source:2:12: .*undeclared"):
        mx.eval(first(make(bwd_source=HEAD + "da[elem] = undeclared * cotan[elem];"))(x))
    for header in ("\nfloat f() { return no; }", msl.DEFAULT_HEADER + "\nfloat f() { return no; }"):
        with pytest.raises(DeviceError, match=r"header:2:20: .*\n  float f\(\) { return no; }"):
            make(header=header)(x)
    with pytest.raises(DeviceError, match="left open in fwd_source"):
        make(fwd_source=HEAD + "out[elem] = 1; {")(x)
