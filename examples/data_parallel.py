"""Training on several processes: each has a part of the batch, and all have the same weights.

    mlx.launch -n 2 python examples/data_parallel.py     # two processes on this machine
    python examples/data_parallel.py                     # one process, the same numbers

Every rank runs fused steps on its share of the batch; gradients are averaged over the ranks between
the two, so that all take the step that one process would take on the whole batch.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

import zmlx

WIDTH, CLASSES, BATCH = 64, 10, 128


class Block(nn.Module):
    """A gated layer behind a norm, with its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.gate = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.norm(x)
        return x + self.down(nn.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [Block(), Block()]
        self.head = nn.Linear(WIDTH, CLASSES)

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@zmlx.fuse
def loss(model: Model, x: mx.array, y: mx.array) -> mx.array:
    """The mean over this rank's part of the batch."""
    return nn.losses.cross_entropy(model(x), y, reduction="mean")


def batches(steps: int, rank: int, size: int) -> Any:
    """This rank's part of every batch: rows of one array that all ranks would draw alike."""
    truth = mx.random.normal((WIDTH, CLASSES), key=mx.random.key(1))
    for step in range(steps):
        x = mx.random.normal((BATCH, WIDTH), key=mx.random.key(2 + step))
        y = mx.argmax(x @ truth, axis=-1)
        yield x[rank::size], y[rank::size]


def train(steps: int, group: Any) -> tuple[Model, list[float]]:
    """The model after so many steps, and the losses over the whole batch."""
    mx.random.seed(0)  # the same weights on every rank
    model, optimizer = Model(), optim.AdamW(learning_rate=3e-3)
    optimizer.init(model.trainable_parameters())
    gradient = nn.value_and_grad(model, loss)

    @zmlx.fuse(inputs=(model, optimizer.state), outputs=(model, optimizer.state))
    def update(gradients: Any) -> None:
        optimizer.update(model, gradients)

    losses = []
    for x, y in batches(steps, group.rank(), group.size()):
        value, gradients = gradient(model, x, y)
        update(nn.utils.average_gradients(gradients, group))
        losses.append(mx.distributed.all_sum(value, group=group) / group.size())
        mx.eval(model, optimizer.state, losses[-1])
    return model, [value.item() for value in losses]


def parting(model: Model, group: Any) -> float:
    """The largest difference between the weights of two ranks."""
    whole = tree_map(lambda w: mx.distributed.all_max(w, group=group) - w, model.parameters())
    furthest = mx.stack([mx.abs(w).max() for _, w in tree_flatten(whole)]).max()
    return mx.distributed.all_max(furthest, group=group).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save", default="", help="where the first rank saves losses and weights")
    options = parser.parse_args()
    group = mx.distributed.init()
    started = time.perf_counter()
    model, losses = train(options.steps, group)
    apart = parting(model, group)
    if group.rank() == 0:
        seconds = time.perf_counter() - started
        print(
            f"{group.size()} ranks, {options.steps} steps in {seconds:.1f} s: loss "
            f"{losses[0]:.4f} -> {losses[-1]:.4f}; weights of ranks differ by {apart:g}"
        )
        if options.save:
            weights = dict(tree_flatten(model.parameters()))
            mx.savez(options.save, losses=mx.array(losses), **weights)


if __name__ == "__main__":
    main()
