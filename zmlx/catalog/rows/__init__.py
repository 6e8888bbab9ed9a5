"""The table of the catalog: a row for each function, by name; see zmlx.catalog.rows.row."""

from zmlx.catalog.rows import elementwise, others, rowwise
from zmlx.catalog.rows.row import Array, Row

__all__ = ["ROWS", "Array", "Row"]

ROWS: dict[str, Row] = {row.name: row for row in (*elementwise.ROWS, *rowwise.ROWS, *others.ROWS)}
