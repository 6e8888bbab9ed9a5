"""zmlx.autograd: gradients given and derived, their agreement, whole kernel bodies, errors."""

from __future__ import annotations

import mlx.core as mx
import pytest

from tests.near import close, first, normal
from zmlx import autograd, msl, registry
from zmlx.errors import DeriveError, DeviceError
from zmlx.expr import ExpressionError

pytestmark = pytest.mark.usefixtures("default_device")


# |x| in C that has no rows of the op table.
SIZE = "as_type<float>(as_type<uint>((float)x) & 0x7fffffffu)"


def pair(f):
    """Both gradients of a function of two arrays, with a cotangent that varies."""
    return mx.grad(lambda a, b: (f(a, b) ** 2).sum(), argnums=(0, 1))


# -- unary ----------------------------------------------------------------------------------------
def test_readme_example() -> None:
    sigmoid = autograd.unary_from_expr(
        name="kk_sigmoid_demo",
        fwd_expr="kk_sigmoid(x)",
        vjp_expr="g * y * ((T)1 - y)",
        compute_dtype=mx.float32,
        use_output=True,
        header=msl.DEFAULT_HEADER,
        check=True,
    )
    x = normal(32, 7)
    close(sigmoid(x), mx.sigmoid(x))
    close(first(sigmoid)(x), first(mx.sigmoid)(x))
    close(first(first(sigmoid))(x), first(first(mx.sigmoid))(x))


def plain_silu(x: mx.array) -> mx.array:
    """Not nn.silu: a compiled function of MLX ends the process on NVIDIA GPUs for empty arrays."""
    return x * mx.sigmoid(x)


SILU = {
    "derived": {},
    "from x": {
        "vjp_expr": "g * (s + x * s * (1 - s))", "vjp_prelude": "T s = kk_sigmoid(x);",
        "use_output": False,
    },
    "from the header": {"vjp_expr": "g * kk_silu_grad(x)", "use_output": False},
    "from x and y": {
        "vjp_expr": "g * (s + y * (1 - s))", "vjp_prelude": "const T s = kk_sigmoid(x);",
    },
    "as a kernel": {
        "vjp_expr": "as_type<float>(as_type<uint>(g)) * kk_silu_grad(x)", "use_output": False,
    },
    "of raw buffers": {"vjp_expr": "(T)cotan[elem] * kk_silu_grad((T)inp[elem])"},
}  # fmt: skip


@pytest.mark.parametrize("how", SILU)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_silu(how: str, dtype: mx.Dtype) -> None:
    op = autograd.unary_from_expr(
        name="silu", fwd_expr="x * kk_sigmoid(x)", compute_dtype=dtype, check=True, **SILU[how]
    )
    limit = 4e-6 if dtype == mx.float32 else 2e-2
    x = 3 * normal(4, 6)
    given = x.astype(dtype)
    for array, exact in [(given, x), (given.T, x.T), (given[1, 2], x[1, 2]), (given[:0], x[:0])]:
        exact = array.astype(mx.float32)
        assert op(array).dtype == dtype
        close(op(array), plain_silu(exact), limit)
        got = first(op)(array)
        assert got.dtype == dtype
        close(got, first(plain_silu)(exact), limit)
    tangent = mx.jvp(op, [given], [mx.ones_like(given)])[1][0]
    close(tangent, first(plain_silu)(given.astype(mx.float32)), limit)
    mapped = mx.vmap(first(op), in_axes=1, out_axes=1)(given)
    close(mapped, first(plain_silu)(given.astype(mx.float32)), limit)
    if "kernel" not in how and "raw" not in how:
        second = first(first(plain_silu))(given.astype(mx.float32))
        close(first(first(op))(given), second, 2e-5 if dtype == mx.float32 else 4e-2)
        return
    with pytest.raises(DeriveError, match="'silu' has no second derivative: vjp_expr") as caught:
        mx.eval(first(first(op))(given))
    assert "^" in str(caught.value)


@pytest.mark.smoke
def test_a_gradient_that_is_given_is_used() -> None:
    op = autograd.unary_from_expr(
        name="through", fwd_expr="rint(x)", vjp_expr="g", use_output=False
    )
    x = normal(5) * 3
    assert op(x).tolist() == mx.round(x).tolist()
    assert first(op)(x).tolist() == [1.0] * 5
    assert mx.jvp(op, [x], [2 * x])[1][0].tolist() == (2 * x).tolist()
    derived = autograd.unary_from_expr(name="flat", fwd_expr="rint(x)")
    assert first(derived)(x).tolist() == [0.0] * 5


def test_forward_kernel_with_a_gradient() -> None:
    op = autograd.unary_from_expr(
        name="sign_off", fwd_expr=SIZE, vjp_expr="x > 0 ? g : -g", check=True
    )
    x = normal(4, 3)
    for array in (x, x.T, x[0, 0], x[::2, 1:]):
        close(op(array), mx.abs(array))
        close(first(op)(array), mx.sign(array))
    assert {"sign_off_fwd"} <= set(registry.list_kernels())


@pytest.mark.parametrize(
    ("vjp", "at"),
    [
        ("g * y * (1 + y)", "it gives"),
        ("y * (1 - y)", "it gives"),  # g is forgotten
        ("g * kk_sigmoid_grad(x) * copysign(1.0f, x)", "finite differences 0.0257"),
    ],
)
def test_check_finds_a_wrong_gradient(vjp: str, at: str) -> None:
    def make(check: bool):
        return autograd.unary_from_expr(
            name="wrong", fwd_expr="kk_sigmoid(x)", vjp_expr=vjp, check=check
        )

    make(check=False)
    with pytest.raises(DeriveError, match="vjp_expr of 'wrong' is not the gradient") as caught:
        make(check=True)
    assert at in str(caught.value) and "at x = -3.3" in str(caught.value)
    assert "the derived gradient 0.0257" in str(caught.value)


def test_check_without_a_readable_forward() -> None:
    def make(vjp: str):
        return autograd.unary_from_expr(
            name="rough", fwd_expr=f"x * {SIZE}", vjp_expr=vjp, check=True
        )

    make("2 * g * fabs(x)")
    with pytest.raises(DeriveError, match="it gives -4.95, finite differences 4.95"):
        make("2 * g * x")


# -- binary ---------------------------------------------------------------------------------------
GIVEN = {
    "derived": {},
    "given": {"vjp_lhs_expr": "g * b * t", "vjp_rhs_expr": "g * (a * t)"},
    "kernels": {"vjp_lhs_expr": "g * b * t", "vjp_rhs_expr": "(T)cotan[elem] * (a * t)"},
}


@pytest.mark.parametrize("how", GIVEN)
@pytest.mark.parametrize("shapes", [((4, 3), (4, 3)), ((4, 1), (3,)), ((), (2, 3))])
def test_binary(how: str, shapes: tuple) -> None:
    op = autograd.binary_from_expr(
        name="twice", fwd_expr="a * b * t", vjp_prelude="T t = 2;", check=True, **GIVEN[how]
    )
    a, b = normal(*shapes[0]), normal(*shapes[1], seed=1)

    def plain(a: mx.array, b: mx.array) -> mx.array:
        return a * b * 2

    close(op(a, b), plain(a, b))
    for got, wanted in zip(pair(op)(a, b), pair(plain)(a, b), strict=True):
        close(got, wanted, 1e-5)
    tangents = [normal(*shapes[0], seed=2), normal(*shapes[1], seed=3)]
    got, wanted = (mx.jvp(f, [a, b], tangents)[1][0] for f in (op, plain))
    close(got, wanted, 1e-5)
    rows = mx.stack([a, 2 * a])
    mapped = mx.vmap(pair(op), in_axes=(0, None))(rows, b)
    reference = mx.vmap(pair(plain), in_axes=(0, None))(rows, b)
    for got, wanted in zip(mapped, reference, strict=True):
        close(got, wanted, 1e-5)


@pytest.mark.parametrize("side", ["lhs", "rhs"])
@pytest.mark.parametrize("kernel", [False, True])
def test_one_gradient_given_and_one_derived(side: str, kernel: bool) -> None:
    other = {"lhs": "b", "rhs": "a"}[side]
    wrong = f"as_type<float>(as_type<uint>(3 * g * {other}))" if kernel else f"3 * g * {other}"
    op = autograd.binary_from_expr(name="half", fwd_expr="a * b", **{f"vjp_{side}_expr": wrong})
    a, b = normal(4, 1), normal(3, seed=1)
    wanted = pair(mx.multiply)(a, b)
    for got, exact, name in zip(pair(op)(a, b), wanted, ("lhs", "rhs"), strict=True):
        close(got, 3 * exact if name == side else exact, 1e-5)  # what is given is used
    got = mx.jvp(op, [a, b], [a, b])[1][0]
    close(got, 4 * a * b, 1e-5)
    for i, name in enumerate(("lhs", "rhs")):
        alone = mx.grad(lambda a, b: op(a, b).sum(), argnums=i)(a, b)
        exact = mx.grad(lambda a, b: (a * b).sum(), argnums=i)(a, b)
        close(alone, 3 * exact if name == side else exact, 1e-5)
    with pytest.raises(DeriveError, match=f"vjp_{side}_expr of 'half' is not the gradient"):
        autograd.binary_from_expr(
            name="half", fwd_expr="a * b", check=True, **{f"vjp_{side}_expr": wrong}
        )


def test_one_gradient_cannot_be_derived() -> None:
    op = autograd.binary_from_expr(
        name="half", fwd_expr=f"b * {SIZE.replace('x', 'a')}".replace("0a7", "0x7"),
        vjp_rhs_expr="g * fabs(a)", check=True,
    )  # fmt: skip
    a, b = normal(4, 3), normal(3, seed=1)
    close(op(a, b), mx.abs(a) * b)
    close(mx.grad(lambda b: op(a, b).sum())(b), mx.abs(a).sum(axis=0), 1e-5)
    with pytest.raises(DeriveError, match="'half' has no gradient for vjp_lhs_expr.*left out"):
        mx.eval(mx.grad(lambda a: op(a, b).sum())(a))


def test_a_derived_gradient_may_be_zero() -> None:
    op = autograd.binary_from_expr(name="only", fwd_expr="a + 0 * (int)b", vjp_lhs_expr="g")
    a, b = normal(4, 3), normal(3, seed=1)
    left, right = mx.grad(lambda a, b: op(a, b).sum(), argnums=(0, 1))(a, b)
    assert left.tolist() == [[1.0] * 3] * 4 and right.tolist() == [0.0] * 3


def test_binary_second_order() -> None:
    op = autograd.binary_from_expr(
        name="quotient", fwd_expr="a / b", vjp_lhs_expr="g / b", vjp_rhs_expr="-g * y / b"
    )
    a, b = normal(5), mx.abs(normal(5, seed=1)) + 1

    def second(f):
        return mx.grad(lambda b: mx.grad(lambda b: f(a, b).sum())(b).sum())

    close(second(op)(b), second(mx.divide)(b), 1e-5)


def test_a_prelude_that_nothing_uses() -> None:
    with pytest.raises(ValueError, match="vjp_prelude was given, but no vjp_expr"):
        autograd.unary_from_expr(name="op", fwd_expr="x", vjp_prelude="T s = x;")


def test_binary_errors() -> None:
    op = autograd.binary_from_expr(name="op", fwd_expr="a * b")
    x = normal(4, 3)
    with pytest.raises(ValueError, match="'op': types differ .*a: mlx.core.float32, b: mlx.core.b"):
        op(x, x.astype(mx.bfloat16))
    with pytest.raises(ValueError, match=r"do not broadcast \(a: \(4, 3\), b: \(2,\)\)"):
        op(x, x[0, :2])
    with pytest.raises(ExpressionError, match="vjp_prelude of 'op', column 7: unknown name 'g'"):
        autograd.binary_from_expr(name="op", fwd_expr="s", vjp_prelude="T s = g;")
    with pytest.raises(ExpressionError, match="vjp_rhs_expr of 'op', column 5: unknown name 'c'"):
        autograd.binary_from_expr(
            name="op", fwd_expr="a * b", vjp_lhs_expr="g * b", vjp_rhs_expr="g * c"
        )


# -- without a device ----------------------------------------------------------------------------
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.filterwarnings("ignore:.*fused regions run as MLX ops")
def test_without_a_device_ops_are_those_of_mlx(monkeypatch) -> None:
    monkeypatch.setenv("ZMLX_DEVICE", "replay")
    x = normal(4, 3)
    for how in ("derived", "from x and y"):
        op = autograd.unary_from_expr(name="silu", fwd_expr="kk_silu(x)", **SILU[how])
        close(op(x), plain_silu(x))
        close(first(op)(x), first(plain_silu)(x), 4e-6)
        close(mx.vmap(first(op))(x), first(plain_silu)(x), 4e-6)
        close(first(first(op))(x), first(first(plain_silu))(x), 2e-5)
    kernel = autograd.unary_from_expr(name="no_rows", fwd_expr=SIZE)
    with pytest.raises(DeviceError, match="'no_rows_fwd' cannot run here: .*ZMLX_DEVICE=replay"):
        kernel(x)
