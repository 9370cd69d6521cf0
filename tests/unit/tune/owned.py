"""Tasks in a file of one's own, for trials in fresh processes."""

from __future__ import annotations

from pathlib import Path

TASK = '''
import os, signal, sys, time
import torch, hotloop

class Line(hotloop.Task):
    """A thousand rows, and a loss that can be slow, greedy or deadly."""

    def sources(self):
        x = torch.linspace(-1, 1, 960).unsqueeze(1)
        return hotloop.Splits({"x": x, "y": 2 * x}, {"x": x[:64], "y": 2 * x[:64]})

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))

    def loss(self, model, batch, training):
        return (model(batch["x"]) - batch["y"]).square()

class Cliff(Line):
    """A pass costs 8 ms and 0.2 ms a row, and ten times as much a row above 60 rows."""

    def loss(self, model, batch, training):
        rows = len(batch["x"])
        if training:
            time.sleep(0.008 + 0.0002 * rows + (0.002 * rows if rows > 60 else 0.0))
        return super().loss(model, batch, training)

class Deadly(Line):
    """The system kills the process above 60 rows."""

    def loss(self, model, batch, training):
        if training and len(batch["x"]) > 60:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch, training)

class Greedy(Line):
    """A pass takes 4 MB a row, all at once."""

    def loss(self, model, batch, training):
        print("this is not an answer")
        if training:
            torch.ones(len(batch["x"]) << 20).sum()
        return super().loss(model, batch, training)

class Mean(Line):
    """A loss that is a mean already, and cannot be split."""

    def loss(self, model, batch, training):
        return super().loss(model, batch, training).mean()

class Broken(Line):
    """An error that has nothing to do with sizes."""

    def loss(self, model, batch, training):
        if len(batch["x"]) > 2:
            raise TypeError("not with me")
        return super().loss(model, batch, training)
'''
SETTINGS = {
    "precision": "fp32",
    "compile": "off",
    "device": "cpu",
    "threads": 1,
    "trackers": (),
    "log_every": 1,
    "max_steps": 4,
}


def write(folder: Path) -> str:
    """The file of these tasks, for FILE.py:CLASS."""
    path = folder / "owned.py"
    path.write_text(TASK, encoding="utf-8")
    return str(path)
