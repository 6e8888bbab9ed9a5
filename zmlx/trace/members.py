"""Members of mx.array: which a traced array records, which read a value, which it inherits.

zmlx.trace.proxy makes the overrides of traced arrays by it, zmlx.trace.intercept those of the plain
arrays that a traced function meets.
"""

from __future__ import annotations

import mlx.core as mx

# A branch by the statement that it stands in.
BRANCHES = {
    "assert": ("an assertion about an array's values", "Check it outside of the fused function."),
    "while": (
        "a loop that an array's value ends",
        "Loop for a number of rounds that is known, or outside of the fused function.",
    ),
}
# Reads of values: what a user wrote, and the way out.
READS = {
    "__bool__": ("a branch on an array's value", "Use mx.where(condition, a, b)."),
    "__float__": ("float(array)", "Keep it an array, or compute it outside and pass it in."),
    "__int__": ("int(array)", "Keep it an array, or compute it outside and pass it in."),
    "__index__": ("an array as an index", "Use mx.take or indexing by an array."),
    "__complex__": ("complex(array)", "Keep it an array."),
    "__array__": ("a conversion to NumPy", "Do it outside of the fused function."),
    "__dlpack__": ("a conversion through DLPack", "Do it outside of the fused function."),
    "__bytes__": ("bytes(array)", "Do it outside of the fused function."),
    "__reduce__": ("pickling an array", "Do it outside of the fused function."),
    "__reduce_ex__": ("pickling an array", "Do it outside of the fused function."),
    "__getstate__": ("pickling an array", "Do it outside of the fused function."),
    "item": ("array.item()", "Return the array and read it outside."),
    "tolist": ("array.tolist()", "Return the array and read it outside."),
    "__contains__": ("`in` on an array's values", "Use mx.any(x == value)."),
}
INHERITED = {
    "__class__", "__delattr__", "__dir__", "__doc__", "__getattribute__", "__init__", "__new__",
    "__init_subclass__", "__module__", "__setattr__", "__sizeof__", "__subclasshook__", "__hash__",
    "__array_namespace__", "__dlpack_device__", "__setstate__", "__repr__", "__str__", "__format__",
    "dtype", "ndim", "itemsize",
    "__buffer__", "__release_buffer__",  # Python 3.12 shows the slots that older ones have as well
}  # fmt: skip
SHAPE_READS = ("shape", "size", "nbytes")
IN_PLACE = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
            "lshift", "rshift")  # fmt: skip


def recorded() -> list[str]:
    """Names of methods and properties that compute an array from arrays."""
    plain = {*READS, *INHERITED, *SHAPE_READS, "__setitem__", "__len__", "at"}
    plain.update(f"__i{op}__" for op in IN_PLACE)
    return [name for name in sorted(dir(mx.array)) if name not in plain]
