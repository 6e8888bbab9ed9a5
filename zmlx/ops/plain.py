"""Plain forms: rows that MLX has no name for, in rows that it has; table_arith.py refers to them.

They run where no kernel can, and are what ZMLX_CHECK compares a kernel with. A form takes `F`, a
namespace with one function of MLX per row, then the row's operands, arrays of one float type.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

_SPLIT = 4097.0  # 2**12 + 1: halves of 12 bits, whose products float32 holds


def fma(F: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z; in float32 with what both roundings lose, which is then rounded once more.

    Dekker's product and Knuth's sum. Where they overflow, and in other types, nothing is put right.
    """
    product = F.multiply(x, y)
    total = F.add(product, z)
    if total.dtype != mx.float32:
        return total
    lost = F.add(_lost_by_product(F, x, y, product), _lost_by_sum(F, product, z, total))
    fine = F.less(F.abs(lost), math.inf)
    return F.add(total, F.stop_gradient(F.where(fine, lost, 0.0)))


def ldexp(F: Any, x: Any, y: Any) -> Any:
    """x * 2**y, in two steps, as 2**y may be out of range where the result is not."""
    whole = F.floor(y)
    half = F.floor(F.multiply(whole, 0.5))
    return F.multiply(F.multiply(x, F.power(2.0, half)), F.power(2.0, F.subtract(whole, half)))


def sech2(F: Any, x: Any) -> Any:
    """1 / cosh(x)**2, as MLX's own derivative of tanh."""
    return F.reciprocal(F.square(F.cosh(x)))


def _lost_by_product(F: Any, x: Any, y: Any, product: Any) -> Any:
    """x * y - product, exactly."""
    (a, b), (c, d) = _halves(F, x), _halves(F, y)
    first = F.subtract(F.multiply(a, c), product)
    middle = F.add(F.add(first, F.multiply(a, d)), F.multiply(b, c))
    return F.add(middle, F.multiply(b, d))


def _lost_by_sum(F: Any, x: Any, y: Any, total: Any) -> Any:
    """x + y - total, exactly."""
    second = F.subtract(total, x)
    return F.add(F.subtract(x, F.subtract(total, second)), F.subtract(y, second))


def _halves(F: Any, x: Any) -> tuple[Any, Any]:
    """The upper 12 bits of `x`, and the rest."""
    wide = F.multiply(x, _SPLIT)
    upper = F.subtract(wide, F.subtract(wide, x))
    return upper, F.subtract(x, upper)
