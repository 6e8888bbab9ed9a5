"""OPS: the table of elementwise ops, one row each; the only place where an op's formula stands.

Read by the tracer (names, types), the emitter (MSL), the derivatives (sympy text), the tests
(NumPy reference) and the docs. The rows live in the table_*.py files beside this one. NAMED holds
those that mlx.core has a function for; the others occur in C expressions only.
"""

from __future__ import annotations

from zmlx.ops import table_arith, table_logic, table_math
from zmlx.ops.spec import OpSpec

OPS: dict[str, OpSpec] = {
    spec.name: spec for spec in (*table_arith.ROWS, *table_math.ROWS, *table_logic.ROWS)
}
NAMED: dict[str, OpSpec] = {name: spec for name, spec in OPS.items() if spec.mx}
