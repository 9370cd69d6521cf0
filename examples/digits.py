"""Handwritten digits: a ten-line network trained by `hotloop.fit`, then counted on digits it never saw.

    pip install scikit-learn && python examples/digits.py

The 1,797 images of 8 x 8 pixels come with scikit-learn, so nothing is downloaded. A fifth of them is held out: it takes
no part in training or in choosing anything. Expect an accuracy of 0.97 or more, after some seconds.
"""

from __future__ import annotations

import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, from_numpy, manual_seed, nn

import hotloop


def network() -> nn.Module:
    """Images (B, 1, 8, 8) of values from 0 to 1 -> logits (B, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 10),
    )


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """One value per image: hotloop does the averaging, so that uneven batches and accumulation count right."""
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def main() -> float:
    """Train, count, print; returns the held-out accuracy."""
    images, labels = load_digits(return_X_y=True)
    x = from_numpy(images).float().reshape(-1, 1, 8, 8) / 16
    y = from_numpy(labels).long()
    train, held_out = train_test_split(range(len(y)), test_size=0.2, random_state=0, stratify=labels)

    manual_seed(0)
    data = {"x": x[train], "y": y[train]}
    run = hotloop.fit(network(), data, loss=loss, num_epochs=20, batch_size=32, learning_rate=3e-3, log_every=100)

    model = run.model.eval().cpu()
    accuracy = (model(x[held_out]).argmax(1) == y[held_out]).float().mean().item()
    print(f"held-out accuracy {accuracy:.3f} on {len(held_out)} digits; the run is in {run.dir}")
    return accuracy


if __name__ == "__main__":
    main()
