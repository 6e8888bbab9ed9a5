"""The catalog's table, measured on any device: `python benchmarks/microbench.py [--quick] ...`.

It is `python -m benchmarks catalog` with the same options, for those who look for this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.__main__ import app  # noqa: E402

if __name__ == "__main__":
    app(["catalog", *sys.argv[1:]])
