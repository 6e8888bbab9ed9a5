"""The process-wide store of hand-written kernels, by everything that decides what they compute."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["GLOBAL_KERNEL_CACHE", "KernelCache", "KernelCacheKey"]


@dataclass(frozen=True)
class KernelCacheKey:
    """What makes two kernels the same; texts as SHA-256 in hex."""

    name: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    source_hash: str
    header_hash: str
    ensure_row_contiguous: bool
    atomic_outputs: bool
    math_mode: str = "safe"

    @classmethod
    def from_parts(
        cls,
        *,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str | None,
        ensure_row_contiguous: bool,
        atomic_outputs: bool,
        math_mode: str = "safe",
    ) -> KernelCacheKey:
        """The key of a kernel with these parts; a header of None is none."""
        return cls(
            name, tuple(input_names), tuple(output_names), _sha256(source), _sha256(header or ""),
            ensure_row_contiguous, atomic_outputs, math_mode,
        )  # fmt: skip


class KernelCache:
    """Kernels by key, in the order in which they came; safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kernels: dict[KernelCacheKey, Any] = {}

    def get(self, key: KernelCacheKey) -> Any:
        """The kernel, None where there is none."""
        with self._lock:
            return self._kernels.get(key)

    def put(self, key: KernelCacheKey, value: Any) -> Any:
        """Keep `value`, in the place of what was there; returns it."""
        with self._lock:
            self._kernels[key] = value
        return value

    def get_or_put(self, key: KernelCacheKey, make: Callable[[], Any]) -> Any:
        """What is kept, or what `make` gives, kept from now on: one for all threads."""
        with self._lock:
            found = self._kernels.get(key)
            if found is None:
                found = self._kernels[key] = make()
            return found

    def clear(self) -> None:
        with self._lock:
            self._kernels.clear()

    def keys(self) -> list[KernelCacheKey]:
        with self._lock:
            return list(self._kernels)

    def size(self) -> int:
        with self._lock:
            return len(self._kernels)


GLOBAL_KERNEL_CACHE = KernelCache()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
