"""Images: a task of your own with typed options, trained by its file's name.

    python examples/image_cnn.py
    hotloop train examples/image_cnn.py:Shapes --width 32 --noise 0.5 --max-steps 600

Circles, squares, triangles and crosses of any colour, size and place are drawn at random under noise; nothing is
downloaded. Expect an accuracy of 0.93 or more on shapes that were held out, after some seconds.
Shapes: N images of 3 x 24 x 24 values; y (N,) numbers of `NAMES`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotloop
from hotloop.config.schema import ModelSection, RowsData, knob

NAMES = ("circle", "square", "triangle", "cross")
SIZE = 24


class Net(ModelSection):
    """The options under `model.`"""

    width: int = knob(16, "Channels of the first layer.", unit="channels", ge=1)


class Drawn(RowsData):
    """The options under `data.`, beside val_fraction, limit and so on."""

    images: int = knob(2000, "Images to draw.", unit="images", ge=10)
    noise: float = knob(0.3, "Standard deviation of the noise; colours are from 0 to 1.", ge=0)


def draw(count: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 24, 24) and the numbers of their shapes (N,)."""
    draws = np.random.default_rng([seed, 1])
    y = draws.integers(0, len(NAMES), count)
    centre, radius = draws.uniform(8, SIZE - 8, (2, count, 1, 1)), draws.uniform(4, 8, (count, 1, 1))
    down, right = np.arange(SIZE)[None, :, None] - centre[0], np.arange(SIZE)[None, None, :] - centre[1]
    far = np.maximum(abs(down), abs(right))
    inside = np.stack(
        [
            down**2 + right**2 <= radius**2,
            far <= 0.8 * radius,
            (abs(right) <= (down + radius) / 2) & (down <= radius),
            (far <= radius) & (np.minimum(abs(down), abs(right)) <= radius / 4),
        ]
    )[y, np.arange(count)]
    colour = draws.uniform(0.3, 1.0, (count, 3, 1, 1))
    images = inside[:, None] * colour + draws.normal(0, noise, (count, 3, SIZE, SIZE))
    return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(y)


class Shapes(hotloop.Task):
    """Which shape is it?"""

    Model, Data = Net, Drawn

    def sources(self) -> hotloop.Splits:
        """All images in one part: `data.val_fraction` of them is held out."""
        x, y = draw(self.data_options.images, self.data_options.noise, self.seed)
        return hotloop.Splits(train={"x": x, "y": y})

    def class_names(self) -> tuple[str, ...]:
        """For the lines about the classes."""
        return NAMES

    def model(self) -> nn.Module:
        """Images (B, 3, 24, 24) -> logits (B, 4)."""
        width = self.model_options.width
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (SIZE // 4) ** 2, len(NAMES)),
        )

    def loss(self, model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        """One value an image: averaging is not the task's."""
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    def metrics(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, hotloop.Tally]:
        """Reported as eval_accuracy; the batch's weight is 0 where a row only fills it up."""
        right = model(batch["x"]).argmax(1) == batch["y"]
        return {"accuracy": hotloop.Tally.of(right, batch.get("weight"))}


def main() -> None:
    """Train from Python as the command line would, then load the model back from the run's folder."""
    run = hotloop.train(f"{__file__}:Shapes", num_epochs=10, batch_size=64, learning_rate=3e-3)
    model = hotloop.load_run(run.dir).model
    x, y = draw(500, 0.3, seed=99)
    with torch.no_grad():
        fresh = (model(x).argmax(1) == y).float().mean().item()
    print(f"held-out accuracy {run.summary['eval_accuracy']:.3f}, on freshly drawn images {fresh:.3f}")


if __name__ == "__main__":
    main()
