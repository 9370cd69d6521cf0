"""A stream without end: items are made as they are needed, and training lasts as many steps as you say.

    python examples/stream.py

The items are noisy values of a wave, drawn anew each time, so no item is ever seen twice. Validation must count each
item once, so it is a fixed list taken from another stream. Expect an error near that of the noise, 0.1.
Shapes: x (B, 1) from -3 to 3; y (B, 1).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import hotloop

NOISE = 0.1


class Waves(IterableDataset):
    """Pairs (x, y) for ever; it begins anew each time that it is iterated."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        draws = np.random.default_rng(self.seed)
        while True:
            x = draws.uniform(-3, 3, 1)
            y = np.sin(2 * x) * np.exp(-abs(x) / 3) + draws.normal(0, NOISE, 1)
            yield {"x": torch.tensor(x, dtype=torch.float32), "y": torch.tensor(y, dtype=torch.float32)}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The squared error of each item, (B, 1)."""
    return (model(batch["x"]) - batch["y"]) ** 2


def main() -> None:
    """Train on the stream, and say how far off the curve is."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    held_out = list(itertools.islice(Waves(seed=1), 1000))
    run = hotloop.fit(
        net, Waves(seed=0), val=held_out, loss=loss, max_steps=1500, batch_size=64, learning_rate=5e-3, eval_every=500
    )
    print(f"root mean squared error {run.summary['eval_loss'] ** 0.5:.3f}, of which the noise is {NOISE}")


if __name__ == "__main__":
    main()
