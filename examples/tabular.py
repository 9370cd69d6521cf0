"""A table: numbers and categories out of a pandas frame, a rare class, and class weights.

    pip install pandas && python examples/tabular.py

One customer in twelve leaves. Counting mistakes alone, "everybody stays" is nearly right, so the balanced accuracy is
reported: the mean of the shares found among those who stay and among those who leave. Class weights raise it. Expect
0.80 or more with them, and less without.
Shapes: N customers; numbers (N, 3) float32; city (N,) and y (N,) int64.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotloop

CITIES = ("Taipei", "Lyon", "Quito", "Oslo")
NUMBERS = ["months", "calls", "price"]


def customers(count: int, seed: int) -> pd.DataFrame:
    """A generated table: who leaves hangs on calls and months together, and on the city."""
    draws = np.random.default_rng([seed, 1])
    table = pd.DataFrame(
        {
            "months": draws.integers(1, 60, count),
            "calls": draws.poisson(2.0, count),
            "price": draws.normal(30, 8, count).round(2),
            "city": draws.choice(CITIES, count),
        }
    )
    unhappy = table["calls"] - 0.05 * table["months"] + 1.5 * (table["city"] == "Quito") + draws.normal(0, 0.7, count)
    return table.assign(leaves=unhappy > 3.2)


def arrays(table: pd.DataFrame, mean: pd.Series, spread: pd.Series) -> dict[str, np.ndarray]:
    """The frame as named arrays; numbers are scaled by the training part's mean and spread."""
    city = pd.Categorical(table["city"], categories=CITIES).codes.astype("int64")
    numbers = ((table[NUMBERS] - mean) / spread).to_numpy("float32")
    return {"numbers": numbers, "city": city, "y": table["leaves"].to_numpy("int64")}


class Net(nn.Module):
    """Numbers (B, 3) and a city (B,) -> logits (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.city = nn.Embedding(len(CITIES), 4)
        self.layers = nn.Sequential(nn.Linear(len(NUMBERS) + 4, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, numbers: Tensor, city: Tensor) -> Tensor:
        return self.layers(torch.cat([numbers, self.city(city)], dim=1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Class weights are not in it: hotloop multiplies them in, when training only."""
    return F.cross_entropy(model(batch["numbers"], batch["city"]), batch["y"], reduction="none")


def balanced_accuracy(model: nn.Module, data: dict[str, np.ndarray]) -> float:
    """Mean over the two classes of the share found."""
    with torch.no_grad():
        found = model(torch.from_numpy(data["numbers"]), torch.from_numpy(data["city"])).argmax(1).numpy()
    return float(np.mean([(found[data["y"] == kind] == kind).mean() for kind in (0, 1)]))


def main() -> None:
    """Train with and without class weights, and compare on customers that were held out."""
    table = customers(6000, seed=0)
    train, held_out = table[:4500], table[4500:]
    mean, spread = train[NUMBERS].mean(), train[NUMBERS].std()
    data, rest = arrays(train, mean, spread), arrays(held_out, mean, spread)
    scores = {}
    for weights in ("none", "auto"):
        torch.manual_seed(0)
        run = hotloop.fit(
            Net(), data, val=rest, loss=loss, class_weights=weights, num_epochs=10, batch_size=64, learning_rate=3e-3
        )
        scores[weights] = balanced_accuracy(run.model.eval().cpu(), rest)
    print(f"balanced accuracy {scores['auto']:.3f} with class weights, {scores['none']:.3f} without")


if __name__ == "__main__":
    main()
