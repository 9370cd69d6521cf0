"""Observers of your own: one that asks for an evaluation, a checkpoint and an end, and one that watches the steps.

    python examples/custom_callback.py

A callback sees and asks; it changes nothing itself. What it keeps in `state_dict` is in the checkpoint, so a resumed
run goes on counting where it was. The run should stop early, soon after two evaluations above 0.95.
Shapes: points x (N, 2), y (N,) 0 or 1: inside or outside a ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotloop


class Good(hotloop.Callback):
    """Stop once accuracy was high enough several times on end; save each time it was."""

    def __init__(self, wanted: float, times: int) -> None:
        self.wanted, self.times, self.seen = wanted, times, 0

    def on_evaluate(self, info: Any, metrics: Mapping[str, float]) -> hotloop.Ask | None:
        """After each evaluation; `metrics` has eval_loss, eval_accuracy and so on."""
        self.seen = self.seen + 1 if metrics["eval_accuracy"] >= self.wanted else 0
        if self.seen >= self.times:
            return hotloop.Ask(save=True, stop=f"accuracy was {self.wanted} or more {self.seen} times on end")
        return hotloop.Ask(save=True) if self.seen else None

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def early_looks(info: Any) -> hotloop.Ask | None:
    """A plain function of a step is a callback too: evaluate at steps 1, 2, 4, 8, ..., where much changes."""
    return hotloop.Ask(evaluate=True) if info.step & (info.step - 1) == 0 else None


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """One value a point."""
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def right(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Which points are classed right, (B,)."""
    return model(batch["x"]).argmax(1) == batch["y"]


def main() -> None:
    """Train with both, and say what they did."""
    torch.manual_seed(0)
    x = 2 * torch.rand(2000, 2) - 1
    y = (x.norm(dim=1).sub(0.6).abs() < 0.2).long()
    good = Good(wanted=0.95, times=2)
    run = hotloop.fit(
        nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)),
        {"x": x[:1500], "y": y[:1500]},
        val={"x": x[1500:], "y": y[1500:]},
        loss=loss,
        metrics={"accuracy": right},
        callbacks=[good, early_looks],
        max_steps=4000,
        eval_every=100,
        batch_size=64,
        learning_rate=3e-3,
    )
    looked = [record["step"] for record in run.history if "eval_loss" in record]
    print(f"stopped after {run.summary['steps']} of 4000 steps: {run.summary['reason']}")
    print(f"accuracy {run.summary['eval_accuracy']:.3f}; evaluated after steps {looked}")


if __name__ == "__main__":
    main()
