"""TrainState: everything that changes during training, and nothing else. The step and a checkpoint's load change it.

Host side: `step`, the number of steps done. Device side, read only at log points: `applied` (updates really made,
which the schedule is indexed by, so that a skipped update does not use up a rate), `held` (1.0 once a non-finite value
was met and the run is to stop), sums for the log interval.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hotloop import device as machine
from hotloop.engine.average import Average
from hotloop.engine.draws import Draws
from hotloop.engine.guard import Guard
from hotloop.engine.optim import allocate, bare_step, lay_like_parameters
from hotloop.engine.pieces import Pieces
from hotloop.engine.plan import Plan
from hotloop.engine.precision import LossScale
from hotloop.engine.reduce import Totals, couples_the_batch
from hotloop.task import Batch

MicroLoss = Callable[[Batch, Totals], Tensor]


@dataclass(frozen=True)
class Readout:
    """What one look at the device tells at a log point; all host numbers."""

    train_loss: float  # mean over the steps since the last look
    grad_norm: float  # of the last step, before clipping
    applied: int
    held_at: int  # 1-based step whose values were not finite, 0 if none (on_nan: stop)
    skipped: int  # updates left out so far (fp16 overflow, or on_nan: skip)


class Captured(Protocol):
    """What takes the place of `train_step` where steps are recorded and replayed.

    Attributes:
        off: why nothing is recorded any more; empty while it is.
    """

    off: str

    def __call__(self, state: TrainState, batch: Batch, /) -> tuple[Tensor, Tensor]: ...

    def forget(self) -> None:
        """Tensors of the state were replaced by others."""


class TrainState:
    """Model, optimizers, scale, schedule and counters of one run.

    Args:
        model: on the plan's device.
        optimizers: from `engine.optim.build_optimizers`.
        table: factor of the base rate for each step.
        plan: the resolved plan.
        totals: effective batch -> total weight of each loss term.
        micro_loss: a micro-batch's share of the loss, given these totals; possibly compiled.
        max_grad_norm: clip the global gradient norm here; None never clips.
        base_rate: peak learning rate, for records.
        ema: decay of the running average of the weights; None keeps none.
    """

    captured: Captured | None = None  # makes the steps, where they are replayed

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        table: Sequence[float],
        plan: Plan,
        totals: Callable[[Batch], Totals],
        micro_loss: MicroLoss,
        max_grad_norm: float | None,
        base_rate: float,
        ema: float | None = None,
    ) -> None:
        device = plan.torch_device
        self.model, self.optimizers, self.plan = model, optimizers, plan
        self.totals, self.micro_loss = totals, micro_loss
        model.zero_grad(set_to_none=True)  # of a step that an error ended: no part of this run's first
        allocate(optimizers)
        self.updates = [bare_step(optimizer) for optimizer in optimizers]
        self.max_grad_norm, self.base_rate = max_grad_norm, base_rate
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._factors, self.rate_scale = list(table), 1.0
        self._covered = len(self._factors) >= plan.total_steps  # a run without a known end stays at the last factor
        self.table = torch.tensor([*table, table[-1]], dtype=torch.float32, device=device)  # one more: after the end
        self.scaler = LossScale(device) if plan.precision == "fp16" else None
        self.average = None if ema is None else Average(model, ema)
        self._buffer_places = _changing_buffers(model)
        self._buffers_before = [buffer.clone() for buffer in self.buffers]
        self.pieces, self.updating = Pieces(plan.micro_batch, not couples_the_batch(model)), False
        self.draws, self.guard = Draws(device), Guard(device, plan.memory_limit, plan.compile == "off")
        self.tell: Callable[[str, str], None] = _warn
        self.ask: Callable[[str], bool] = lambda question: True
        self.step = 0
        self.applied = torch.zeros(1, dtype=torch.int64, device=device)
        self.alive = torch.zeros_like(self.applied)  # steps before the run was held, where some are skipped
        self.held = torch.zeros((), device=device)
        self.loss_sum = torch.zeros((), device=device)
        self.grad_norm = torch.zeros((), device=device)
        self.counted = 0  # updates already told of by `read`
        self._may_skip = self.scaler is not None or plan.on_nan == "skip"
        self._bind_rates()

    def _bind_rates(self) -> None:
        """Let every group's rate be a view into one tensor, so that one operation writes them all."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self._base_rates = torch.tensor([group["base_lr"] for group in groups], device=self.held.device)
        self._rates = torch.zeros_like(self._base_rates)
        for number, group in enumerate(groups):
            group["lr"] = self._rates[number]

    def set_rates(self) -> None:
        """Write each group's rate for the next update, on the device."""
        place = self.applied if self._covered else self.applied.clamp(max=len(self._factors))
        torch.mul(self._base_rates, self.table.index_select(0, place), out=self._rates)

    @property
    def buffers(self) -> list[Tensor]:
        """The buffers as they are now: a forward pass may change them in place or put others in their places."""
        return [buffers[name] for buffers, name in self._buffer_places]

    def rebind_buffers(self, kept: Sequence[Tensor]) -> None:
        """Put these very tensors back in the buffers' places."""
        for (buffers, name), buffer in zip(self._buffer_places, kept, strict=True):
            buffers[name] = buffer

    def remember_buffers(self) -> None:
        """Keep the buffers as they are before the forward pass."""
        if self._buffer_places:
            torch._foreach_copy_(self._buffers_before, self.buffers)

    def say(self, text: str, level: str) -> None:
        """Tell the person a line, through whoever listens now."""
        self.tell(text, level)

    def put_buffers_back(self) -> None:
        """Undo what forward passes did to the buffers since `remember_buffers`."""
        if self._buffer_places:
            torch._foreach_copy_(self.buffers, self._buffers_before)

    def hold_on(self, loss: Tensor, overflow: Tensor) -> Tensor:
        """The flag that holds this update: 1.0 where a value was not finite, and for good after it with on_nan: stop.

        Under fp16 a gradient that overflows while the loss is finite is the loss scale's affair: skipped, scale halved.
        """
        fault = overflow
        if self.scaler is not None:
            at_floor = self.scaler.scale <= self.scaler.lowest
            fault = overflow * ((loss * 0.0).ne(0.0) | at_floor)
            self.scaler.update(overflow)
        if self.plan.on_nan == "skip":
            return overflow
        torch.maximum(self.held, fault, out=self.held)
        return self.held if self.scaler is None else torch.maximum(self.held, overflow)

    def settle(self, loss: Tensor, grad_norm: Tensor, held: Tensor) -> None:
        """After the update: put buffers back where the step was held, and count what was applied."""
        free = held == 0
        if self._buffer_places:
            for buffer, before in zip(self.buffers, self._buffers_before, strict=True):
                torch.where(free, buffer, before, out=buffer)
        self.applied.add_(free)
        if self.average is not None:
            self.average.update(self.applied, free)
        if self._may_skip:
            self.alive.add_(self.held == 0)
            loss = loss.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) * free  # a skipped step adds nothing
        self.loss_sum.add_(loss)
        self.grad_norm.copy_(grad_norm)

    def read(self, reset: bool = True) -> Readout:
        """One transfer from the device: the only place where training waits for it."""
        packed = torch.stack([self.loss_sum, self.grad_norm.to(self.loss_sum.dtype), self.held]).double()
        counters = torch.cat([self.applied, self.alive]).double()
        loss_sum, norm, held, applied, alive = torch.cat([packed, counters]).tolist()
        alive = alive if self._may_skip else applied
        readout = Readout(
            train_loss=loss_sum / (applied - self.counted) if applied > self.counted else math.nan,
            grad_norm=norm,
            applied=int(applied),
            held_at=int(alive) + 1 if held else 0,
            skipped=(int(alive) if held else self.step) - int(applied),
        )
        if reset:
            self.loss_sum.zero_()
            self.counted = int(applied)
        return readout

    def scale_rates(self, factor: float) -> None:
        """Scale the rest of the schedule, from the next update on (reduce-on-plateau)."""
        self._set_rate_scale(self.rate_scale * factor)

    def _set_rate_scale(self, scale: float) -> None:
        """Work the table out anew from the unscaled factors: the same to the bit however often it was scaled before."""
        self.rate_scale = scale
        scaled = torch.tensor([*self._factors, self._factors[-1]], dtype=torch.float64) * scale
        self.table.copy_(scaled)

    def rate_at(self, update: int) -> float:
        """Peak group's learning rate of the `update`-th update, counted from 1."""
        return self.base_rate * self._factors[min(max(update, 1), len(self._factors)) - 1] * self.rate_scale

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on to the bit; tensors and plain values only."""
        counters = {"applied": self.applied, "alive": self.alive, "held": self.held, "loss_sum": self.loss_sum}
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            **({"average": self.average.state_dict()} if self.average else {}),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "rate_scale": self.rate_scale,
            "counters": {**counters, "grad_norm": self.grad_norm, "counted": self.counted},
            "step": self.step,
            "pieces": self.pieces.state_dict(),
            "random": machine.random_state(self.plan.torch_device),
        }

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""
        self.model.load_state_dict(stored["model"])
        for optimizer, saved in zip(self.optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        lay_like_parameters(self.optimizers)
        allocate(self.optimizers)  # a checkpoint may lack the state of what was not trained before it
        self._bind_rates()
        if self.average:
            self.average.load_state_dict(stored["average"])
        if self.scaler:
            self.scaler.load_state_dict(stored["scaler"])
        self._set_rate_scale(stored["rate_scale"])
        for name in ("applied", "alive", "held", "loss_sum", "grad_norm"):
            getattr(self, name).copy_(stored["counters"][name])
        self.counted, self.step = stored["counters"]["counted"], stored["step"]
        if "pieces" in stored:  # checkpoints of before have none
            self.pieces.load_state_dict(stored["pieces"])
        machine.restore_random_state(stored["random"], self.plan.torch_device)
        if self.captured is not None:
            self.captured.forget()


def _warn(text: str, level: str) -> None:
    """Where no run listens (a loop of the user's own) a warning is a warning of Python's."""
    if level == "warning":
        warnings.warn(text, stacklevel=2)


def _changing_buffers(model: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where the buffers are that a forward pass may change: the persistent ones (the others are derived constants)."""
    return [
        (module._buffers, name)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    ]
