"""What has been built in this process, and how to forget it.

Modules that memoise ops made of kernels hand in the function that empties their store, so that
`clear_cache` leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zmlx.cache import GLOBAL_KERNEL_CACHE, KernelCacheKey

__all__ = ["cache_size", "clear_cache", "forgets", "list_kernels", "lists"]

_forgetters: list[Callable[[], Any]] = []


def list_kernels() -> list[str]:
    """Names of the kernels made so far, in order; a name may stand there twice.

    Kernels written by hand and ops of zmlx.elementwise and zmlx.rowwise by their names, those of
    zmlx.autograd as <name>_fwd and, where a gradient was given, <name>_bwd.
    """
    return [key.name for key in GLOBAL_KERNEL_CACHE.keys()]  # noqa: SIM118 - no dict


def cache_size() -> int:
    """How many kernels are kept."""
    return GLOBAL_KERNEL_CACHE.size()


def clear_cache() -> None:
    """Forget all kernels, and all ops that were memoised over them."""
    for forget in _forgetters:
        forget()
    GLOBAL_KERNEL_CACHE.clear()


def lists(op: Any, name: str, inputs: Sequence[str], outputs: Sequence[str], what: Any) -> None:
    """Have `list_kernels` name `op`; `what`, by its repr, decides what it computes."""
    key = KernelCacheKey.from_parts(
        name=name, input_names=inputs, output_names=outputs, source=repr(what), header="",
        ensure_row_contiguous=True, atomic_outputs=False,
    )  # fmt: skip
    GLOBAL_KERNEL_CACHE.put(key, op)


def forgets(forget: Callable[[], Any]) -> Callable[[], Any]:
    """Have `clear_cache` call `forget`, such as the cache_clear of an lru_cache."""
    _forgetters.append(forget)
    return forget
