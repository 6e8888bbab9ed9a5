"""What a kernel's text names of Metal beyond what every kernel gets.

Comes in: the text of a kernel written by hand. Goes out: macros that name its swizzles, and the
files of headers/parts that it needs. The host and the CUDA device call it: all of Metal's names
would make each kernel compile twice as long.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

PARTS = Path(__file__).parent / "headers" / "parts"
# Each part with the words that ask for it, in the order in which they stand.
_OFFERS = {
    "msl_arms.h": "zm_arm",
    "msl_elementwise.h": r"""exp|exp2|exp10|log|log2|log10|a?sinh?|a?cosh?|a?tanh?|r?sqrt|floor|ceil
        |trunc|rint|round|f?abs|sign|saturate|fract|f?max|f?min|powr?|fmod|atan2|copysign|step
        |fma|mix|clamp|select|dot|length|isnan|isinf|isfinite|isnormal|signbit
        |(?:simd|quad)_m(?:ax|in)|atomic_fetch_m\w+""",
    "msl_traits.h": r"""is_\w+|enable_if\w*|conditional\w*|remove_\w+|add_\w+|decay\w*|declval
        |integral_constant|bool_constant|true_type|false_type|make_(?:un)?signed\w*|move|swap""",
    "msl_limits.h": "numeric_limits",
    "msl_array.h": "array",
    "msl_packed.h": r"packed_\w+",
    "msl_float.h": """smoothstep|fdim|nextafter|divide|sinpi|cospi|tanpi|sincos|modf|frexp|ilogb
        |ldexp|f?max3|f?min3|f?median3""",
    "msl_integers_of_all_sizes.h": """popcount|clz|ctz|reverse_bits|rotate|absdiff|addsat|subsat
        |r?hadd|mulhi|madhi|madsat|mul24|mad24|extract_bits|insert_bits""",
    "msl_relational.h": "isordered|isunordered|any|all",
    "msl_geometric.h": r"""length_squared|distance\w*|normalize|cross|reflect|refract
        |faceforward""",
    "msl_matrix.h": r"(?:half|float)[234]x[234]|matrix|transpose|determinant",
    "msl_pack.h": r"(?:un)?pack_\w+",
    "msl_lanes.h": r"simd_shuffle_and_fill_\w+|quad_\w+|\w+_is_helper_thread",
    "msl_simdgroup_matrix.h": r"""simdgroup_matrix|simdgroup_\w+8x8|simdgroup_load|simdgroup_store
        |simdgroup_multiply\w*|make_\w+_simdgroup_matrix""",
    "msl_mlx.h": r"""MLX_MTL_\w+|\w+_N_READS|\w+_N_WRITES|MAX_REDUCE_\w+|complex\w*|WorkPerThread
        |Limits|ConditionalType|cast_to|ceildiv|log1p|expm1f?|erf|erfinv|hypot|elem_to_loc\w*
        |LoopedElemToLoc""",
}
_ASKED = {
    PARTS / name: re.compile(rf"\b(?:{''.join(words.split())})\b")
    for name, words in _OFFERS.items()
}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LETTERS = ("xyzw", "rgba")
_SWIZZLE = re.compile(r"\b(?:[xyzw]{2,4}|[rgba]{2,4})\b")
# `.wzyx.xy`: elements of elements.
_CHAIN = re.compile(
    r"(?P<dot>\.|->)\s*(?P<first>[xyzw]{2,4}|[rgba]{2,4})\s*\.\s*(?P<then>[xyzw]{1,4}|[rgba]{1,4})\b"
    r"(?!\s*\()"
)


def swizzles(text: str) -> str:
    """Macros for msl_vectors.h: the swizzles that `text` names, of vectors of 2, 3, 4 elements."""
    lines = []
    for size in (2, 3, 4):
        members = [
            f"ZM_SWIZZLE({name}, {', '.join(map(str, places))})"
            for name, places in _places(text)
            if max(places) < size
        ]
        if members:
            lines.append(f"#define ZM_SWIZZLES_{size} {' '.join(members)}\n")
    return "".join(lines)


def composed(text: str) -> str:
    """`text` with chains of swizzles as one; where a name is also declared, it is left alone."""

    def one(match: re.Match[str]) -> str:
        first, then = match["first"], match["then"]
        if re.search(rf"(?<![.>\w]){first}\b", text):
            return match[0]
        letters = next(row for row in _LETTERS if then[0] in row)
        places = [letters.index(letter) for letter in then]
        if max(places) >= len(first):
            return match[0]
        return match["dot"] + "".join(first[p] for p in places)

    before = ""
    while before != text:
        before, text = text, _CHAIN.sub(one, text)
    return text


def parts(text: str) -> list[Path]:
    """The files of headers/parts that `text` needs, in order."""
    texts = [_COMMENT.sub(" ", text)]
    needed: list[Path] = []
    for path, asked in reversed(_ASKED.items()):  # a part may ask for an earlier one
        if any(asked.search(some) for some in texts):
            needed.insert(0, path)
            texts.append(_text(path))
    return needed


def _places(text: str) -> list[tuple[str, list[int]]]:
    found = dict.fromkeys(_SWIZZLE.findall(composed(text)))
    return [
        (name, [next(row for row in _LETTERS if name[0] in row).index(c) for c in name])
        for name in found
    ]


@lru_cache(maxsize=32)
def _text(path: Path) -> str:
    return _COMMENT.sub(" ", path.read_text("utf-8"))
