"""What a stranger's file may not hold: words that reach beyond a kernel, which would run here.

Comes in: the text of a file. Goes out: the first such word, with its place. zmlx.checking.faults
asks before anything of the file is compiled; no kernel in Metal has use for any of them.
"""

from __future__ import annotations

import re

from zmlx.checking.file import without_comments

_SPLICE = re.compile(r"\\[ \t]*\n")
_INCLUDE = re.compile(r"#[ \t]*(?:include|include_next|import|embed)\b[ \t]*(.*)")
_METAL = re.compile(r"<(?:metal_\w+|metal/\w+|simd/simd\.h)>\s*$")
_WORD = re.compile(
    r"\b(?:extern|asm|__asm|__asm__|__builtin_\w+|__sync_\w+|__atomic_\w+|__attribute|__attribute__"
    r"|__declspec|_Pragma|__has_include|__FILE__|__BASE_FILE__|syscall|dlopen|dlsym"
    r"|zm_\w+|ZM_\w+|__tsan_\w+|__ubsan_\w+)\b"
    r"|\?\?[=/'()!<>-]|#[ \t]*line\b|#[ \t]*\d+[ \t]*\""
    r"|#[ \t]*pragma[ \t]+(?:GCC|clang|push_macro|pop_macro|redefine_extname|weak|include_alias)\b"
)


def foreign(text: str) -> tuple[int, int, str] | None:
    """Line, column and what is wrong; None for a text that holds nothing of the kind."""
    joined = _SPLICE.sub(lambda m: "\x00" + " " * (len(m[0]) - 2) + "\n", text)
    plain = re.sub("\x00 *\n", "", text if joined == text else joined)
    code = without_comments(text)
    for found in _INCLUDE.finditer(code):
        if not _METAL.match(found[1]):
            return (*_place(text, found.start()), f"{found[0].strip()}: only Metal's own headers")
    for found in _WORD.finditer(code):
        return (*_place(text, found.start()), f"{found[0]} has no place in a Metal kernel")
    spliced = _WORD.search(without_comments(plain)) or _INCLUDE.search(without_comments(plain))
    if spliced and joined != text and not _METAL.match(spliced[0].rpartition(" ")[2]):
        return 1, 1, f"{spliced[0].strip()} has no place in a Metal kernel"
    if "##" in code and (made := _pasted(code)):
        return 1, 1, f"{made} has no place in a Metal kernel"
    return None


def _pasted(code: str) -> str | None:
    """A refused word that `##` could make of words of the text."""
    words = set(re.findall(r"\w+", code))
    for word in ("extern", "asm", "syscall", "dlopen", "dlsym"):
        if any(word[:n] in words and word[n:] in words for n in range(1, len(word))):
            return word
    return next((f"{word}##" for word in words if word.startswith("_")), None)


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
