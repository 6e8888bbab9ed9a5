"""What has been built in this process, and how to forget it.

Modules that memoise ops made of kernels hand in the function that empties their store, so that
`clear_cache` leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zmlx.cache import GLOBAL_KERNEL_CACHE

__all__ = ["cache_size", "clear_cache", "forgets", "list_kernels"]

_forgetters: list[Callable[[], Any]] = []


def list_kernels() -> list[str]:
    """Names of the kernels built so far, in order; a name may stand there twice."""
    return [key.name for key in GLOBAL_KERNEL_CACHE.keys()]  # noqa: SIM118 - no dict


def cache_size() -> int:
    """How many kernels are kept."""
    return GLOBAL_KERNEL_CACHE.size()


def clear_cache() -> None:
    """Forget all kernels, and all ops that were memoised over them."""
    for forget in _forgetters:
        forget()
    GLOBAL_KERNEL_CACHE.clear()


def forgets(forget: Callable[[], Any]) -> Callable[[], Any]:
    """Have `clear_cache` call `forget`, such as the cache_clear of an lru_cache."""
    _forgetters.append(forget)
    return forget
