"""Pulled: the gradients of a call that MLX runs, as a node of a backward graph.

zmlx.fuse.backward makes it, zmlx.fuse.saved asks what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from zmlx.device.rules import native_or_none
from zmlx.trace.graph import OpaqueCall, Ref
from zmlx.trace.intercept import original
from zmlx.trace.operands import arrays_in, mapped


class Pulled:
    """The gradients of `call` by some of its operands, by what it left in MLX's graph.

    Called with the arrays that it was given, those that it gave, what these receive, and the
    numbers that it was given. `places` says which of these each operand of the call is, arrays
    first; `results` are the positions of what the call gave among all its results.

    Where nothing leads from the one to the other, as a view was moved, or an array stands at two
    places of the call, MLX makes the call again to pull back through it; also where ZMLX has no
    native module, for want of a compiler.
    """

    def __init__(
        self, given: int, moving: Sequence[int], call: OpaqueCall,
        places: Sequence[int], results: Sequence[int],
    ) -> None:  # fmt: skip
        self.given, self.moving, self.several = given, tuple(moving), len(moving) > 1
        self.call, self.places, self.results = call, tuple(places), tuple(results)

    def __call__(self, *values: Any) -> Any:
        count = len(self.results)
        given, rest = values[: self.given], values[self.given :]
        results, seeds, numbers = rest[:count], rest[count : 2 * count], rest[2 * count :]
        moving = [given[i] for i in self.moving]
        native = native_or_none()
        found = native.pull_between(moving, given, results, seeds) if native else [None]
        if any(gradient is None for gradient in found):
            found = self._again((*given, *numbers), seeds)
        return found if self.several else found[0]

    def _again(self, values: Sequence[Any], seeds: Sequence[mx.array]) -> list[mx.array]:
        call = self.call

        def called(*moving: mx.array) -> list[mx.array]:
            now = [*values]
            for i, array in zip(self.moving, moving, strict=True):
                now[i] = array

            def leaf(value: Any) -> Any:
                return now[self.places[value.position]] if type(value) is Ref else value

            args, kwargs = mapped((call.args, call.kwargs), leaf)
            results = list(arrays_in(call.fn(*args, **kwargs)))
            return [results[i] for i in self.results]

        moving = [values[i] for i in self.moving]
        found: list[mx.array] = original("vjp")(called, moving, list(seeds))[1]
        return found

    def reads(self, position: int) -> bool:
        """Whether it reads the values of an argument, as far as is known: calls' gradients read
        what the calls were given. What they gave tells where to begin.
        """
        return position < self.given
