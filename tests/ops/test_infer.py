"""Types inferred from the rows against what MLX answers, for every op and every pair of types."""

from __future__ import annotations

import itertools

import mlx.core as mx
import pytest

from zmlx import dtypes
from zmlx.ops.infer import infer
from zmlx.ops.table import NAMED, OPS

pytestmark = pytest.mark.usefixtures("on_cpu")  # float64 exists there only


def mx_dtype(name: str) -> mx.Dtype:
    return getattr(mx, "bool_" if name == "bool" else name)


with mx.stream(mx.cpu):  # no fixture holds where modules are read
    ARRAYS = {name: mx.ones((2,)).astype(mx_dtype(name)) for name in dtypes.ALL}
# Types without a kernel: where MLX refuses them, it need not matter that the table answers.
NO_KERNEL = {"complex64", "float64"}


def mlx_answer(spec, types, name=None):
    function = getattr(mx, name or spec.mx[0])
    try:
        if spec.result == "param":
            return types[-1]
        return str(function(*[ARRAYS[t] for t in types]).dtype).rsplit(".", 1)[-1].rstrip("_")
    except (ValueError, RuntimeError):
        return None


@pytest.mark.parametrize("op", [o for o in NAMED if o != "astype"])
def test_infer_equals_mlx(op):
    spec = OPS[op]
    first = ("bool", "int32", "float16") if op == "where" else dtypes.ALL
    for types in itertools.product(first, *[dtypes.ALL] * (spec.arity - 1)):
        try:
            result = infer(op, types)[1]
        except ValueError:
            result = None
        want = mlx_answer(spec, types)
        if want is None and NO_KERNEL.intersection(types):
            continue
        assert result == want, (op, types)


def test_astype_returns_its_target():
    assert infer("astype", ["float16"], "int8") == ("float16", "int8")
    with pytest.raises(ValueError, match="needs the type"):
        infer("astype", ["float16"])


@pytest.mark.smoke
def test_operand_type():
    assert infer("divide", ["int32", "int8"]) == ("float32", "float32")
    assert infer("less", ["int32", "float16"]) == ("float16", "bool")
    assert infer("where", ["float32", "int8", "bool"]) == ("int8", "int8")
    assert infer("left_shift", ["bool", "bool"]) == ("uint8", "uint8")
    assert infer("logical_and", ["float32", "int8"]) == ("bool", "bool")


def test_wrong_arity_and_refused_types():
    with pytest.raises(ValueError, match="takes 2 operands"):
        infer("add", ["float32"])
    with pytest.raises(ValueError, match="not defined for float32"):
        infer("bitwise_and", ["float32", "int32"])
    with pytest.raises(ValueError, match="not defined for bool"):
        infer("negative", ["bool"])


def test_every_alias_is_the_same_op():
    for spec in OPS.values():
        for name in spec.mx[1:]:
            inputs = [ARRAYS["int8"] if "shift" in name else ARRAYS["float32"] * 0.5] * spec.arity
            assert mx.array_equal(
                getattr(mx, name)(*inputs), getattr(mx, spec.mx[0])(*inputs), equal_nan=True
            ).item(), name
