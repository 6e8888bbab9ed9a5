"""Words: names that Metal keeps for itself, so that no array of a kernel can have them.

Goes out: KEYWORDS. zmlx.metal and zmlx.helpers.spec refuse them before a compiler would.
"""

from __future__ import annotations

_CPP = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class
compl const const_cast constexpr continue decltype default delete do double dynamic_cast else enum
explicit export extern false float for friend goto if inline int long mutable namespace new noexcept
not not_eq nullptr operator or or_eq private protected public register reinterpret_cast return short
signed sizeof static static_assert static_cast struct switch template this thread_local throw true
try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
"""
_METAL = """
kernel vertex fragment device constant thread threadgroup threadgroup_imageblock ray_data
object_data as_type half bfloat uchar ushort uint ulong size_t ptrdiff_t int8_t uint8_t int16_t
uint16_t int32_t uint32_t int64_t uint64_t metal
"""

KEYWORDS = frozenset((_CPP + _METAL).split())
