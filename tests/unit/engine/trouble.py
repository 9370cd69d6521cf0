"""Memory that runs out where a test wants it to: in the forward or backward pass, in the update, in evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hotloop

ROWS = 44  # in effective batches of 8: epochs of 6 steps, the last of 4 rows
SAID = "CUDA out of memory. Tried to allocate 2.00 GiB"


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, trouble: Trouble) -> Tensor:
        context.trouble = trouble
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        context.trouble.strike("backward")
        return gradient, None


class Trouble(hotloop.Callback):
    """Strikes `times` times at a place of a step, in its micro-batch `micro` (from 1) or at `row`; and watches.

    Attributes:
        seen: step -> row numbers of the attempt that counted.
        losses: step -> loss.
        notes: lines that were told.
    """

    def __init__(
        self, place: str = "", *, step: int = 3, micro: int = 1, times: int = 1, above: int = 0, error: Any = None,
        row: int | None = None,
    ) -> None:  # fmt: skip
        self.place, self.step, self.micro, self.times, self.above = place, step, micro, times, above
        self.row, self.rows = row, []
        self.error = error or torch.OutOfMemoryError(SAID)
        self.state: Any = None
        self.struck, self.done = 0, 0
        self.seen: dict[int, list[int]] = {}
        self.losses: dict[int, float] = {}
        self.notes: list[str] = []
        self.evaluated: list[int] = []

    def on_start(self, state: Any) -> None:
        self.state, self.done = state, state.step
        if self.place.startswith("update"):
            real, half = state.updates[0], self.place == "update, in part"
            state.updates[0] = lambda: self._update(real, half)

    def on_step(self, info: Any) -> None:
        self.losses[info.step], self.done = float(info.loss), info.step

    def on_note(self, text: str, level: str) -> None:
        self.notes.append(text)

    def strike(self, place: str) -> None:
        """Raise, if this is the place, the step and the micro-batch, and it has not been enough."""
        here = self.state is not None and place == self.place and self.done + 1 == self.step
        here = here and (self.row is None or self.row in self.rows)
        if here and self.state.pieces.begun >= self.micro and self.struck < self.times:
            self.struck += 1
            raise self.error

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Squared error; what it sees is written down."""
        rows = self.rows = batch["row"].tolist()
        if not torch.is_grad_enabled():
            return self._evaluate(model, batch, rows)
        if self.state is not None:
            told = self.seen.setdefault(self.done + 1, [])
            if self.state.pieces.begun == 1:
                told.clear()
            told += rows
            if 0 < self.above < len(rows):
                self.struck += 1
                raise self.error
        self.strike("forward")
        return (_FailsBackward.apply(model(batch["x"]), self) - batch["y"]).square().squeeze(1)

    def _evaluate(self, model: nn.Module, batch: dict[str, Tensor], rows: list[int]) -> Tensor:
        if self.place == "evaluation" and len(rows) > self.times and self.state is not None:
            self.struck += 1
            raise self.error
        self.evaluated += rows if self.state is not None else []
        return (model(batch["x"]) - batch["y"]).square().squeeze(1)

    def _update(self, real: Callable[[], None], half: bool) -> None:
        if half and self.done + 1 == self.step and not self.struck:
            with torch.no_grad():
                self.state.parameters[0].mul_(0.5)  # as if the optimizer had come as far as its first parameter
        self.strike(self.place)
        real()


def data() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(ROWS, 6, generator=draw)
    return {"x": x, "y": x.square().sum(1, keepdim=True), "row": torch.arange(ROWS)}


def plain_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def drawing_net() -> nn.Module:
    """With BatchNorm and dropout."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 1))


def fit(folder: Path, trouble: Trouble, net: nn.Module, **settings: Any) -> hotloop.Run:
    """Train 20 steps with this trouble on the way."""
    chosen = {"batch_size": 8, "max_steps": 20, "log_every": 1, "eval_every": 5, "eval_batch_size": 16, **settings}
    return hotloop.fit(
        net, data(), loss=trouble.loss, val=data(), callbacks=[trouble], precision=chosen.pop("precision", "fp32"),
        compile="off", device="cpu", progress=False, trackers=(), dir=str(folder), **chosen,
    )  # fmt: skip


def weights(model: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in model.state_dict().values()]
