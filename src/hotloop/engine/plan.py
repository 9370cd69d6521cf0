"""The execution plan: every choice that the configuration left open, resolved once, printed, stored, reused by resume.

Sizes are rows (items on the first axis of a batch). The effective batch is what one optimizer step sees; it is split
into micro-batches of at most `micro_batch` rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from hotloop import device as machine
from hotloop import memory


@dataclass(frozen=True)
class Choice:
    """What a measurement or a rule decided in place of the configuration; None leaves it to the configuration.

    Args:
        micro_batch: rows; the effective batch stays what the configuration says.
        precision, recompute, optimizer, offload: as in `Plan`.
        pin_memory: False where batches must not be pinned.
        told: lines for the person who trains, on what was decided and why.
        rows: what was tried, JSON-ready, for the run's folder.
    """

    micro_batch: int | None = None
    precision: str | None = None
    recompute: bool | float | None = None
    optimizer: str | None = None
    offload: bool | None = None
    pin_memory: bool | None = None
    told: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Plan:
    """How a run executes. Two runs with one plan, one configuration and one machine are equal to the bit."""

    device: str
    precision: str  # fp32, tf32, bf16 or fp16
    tf32: bool  # read back from torch, not asked for
    deterministic: bool
    threads: int
    compile: str  # off, default, reduce-overhead or max-autotune
    micro_batch: int
    accumulation: int
    effective_batch: int
    eval_batch: int
    pad_ragged: bool  # a shorter last batch is filled up with rows of weight 0
    resident: bool  # the data lives on the device
    num_workers: int
    pin_memory: bool
    prefetch: int
    steps_per_epoch: int
    total_steps: int
    eval_every: int
    log_every: int
    checkpoint_every: int
    on_nan: str
    recompute: bool | float | tuple[str, ...] = False  # which activations the backward pass works out again
    optimizer: str = ""  # empty in plans of before: what the configuration says
    offload: bool = False  # the optimizer's state lives on the host
    memory_limit: int = 0  # bytes the run may take, 0 where there is no limit but the machine's
    recover: bool = True  # an out-of-memory step is taken back and repeated in smaller pieces
    on_batchnorm: str = "ask"
    compile_region: str = "model"  # what is compiled as one piece: the whole loss, or each of the model's blocks
    capture: bool = False  # a step is recorded once and replayed
    channels_last: bool = False
    attention: str = "auto"
    keep_freed: bool = False  # on a CPU: malloc gives nothing back to the system
    fast_dropout: bool = False  # on a CPU: masks are drawn four elements at a time

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Plan:
        known = {field.name for field in fields(cls)}
        found = {name: value for name, value in stored.items() if name in known}
        if isinstance(found.get("recompute"), list):
            found["recompute"] = tuple(found["recompute"])
        return cls(**found)

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def lines(self) -> list[str]:
        """The plan for a person, a few lines."""
        split = f"{self.micro_batch} x {self.accumulation}" if self.accumulation > 1 else f"{self.micro_batch}"
        epochs = self.total_steps / self.steps_per_epoch
        return [
            f"device {self.device}, precision {self.precision}, TF32: {'on' if self.tf32 else 'off'} (read back), "
            f"compile {self.compile}{self._speed()}, {self.threads} threads",
            f"effective batch {self.effective_batch} ({split}), {self.total_steps:,} steps "
            f"({epochs:.2f} epochs of {self.steps_per_epoch:,} steps)",
            f"data {'resident on ' + self.device if self.resident else f'from the host, {self.num_workers} workers'}, "
            f"evaluation {self._evaluations()} in batches of {self.eval_batch}",
        ]

    def _speed(self) -> str:
        """What else was chosen for speed, where it is not the ordinary way."""
        parts = {
            " block by block": self.compile != "off" and self.compile_region == "blocks",
            ", captured steps": self.capture,
            ", channels last": self.channels_last,
            f", attention {self.attention}": self.attention != "auto",
            ", freed memory kept": self.keep_freed,
            ", fast dropout": self.fast_dropout,
        }
        return "".join(part for part, chosen in parts.items() if chosen)

    def inexact(self) -> list[str]:
        """Why a run that is resumed may not equal an undisturbed one to the bit; empty where it will."""
        if self.compile == "max-autotune":
            return ["resuming will not be exact to the bit: compile max-autotune picks its kernels by timing"]
        if self.torch_device.type == "cuda" and not self.deterministic:
            return [
                "resuming may not be exact to the bit: some CUDA kernels add in varying order "
                "(training.deterministic=true avoids them)"
            ]
        return []

    def _evaluations(self) -> str:
        return f"every {self.eval_every:,} steps" if 0 < self.eval_every < self.total_steps else "at the end"

    def all_lines(self) -> list[str]:
        """Every field, one a line."""
        return [f"plan.{name} = {value}" for name, value in self.to_dict().items()]


def apply_to_process(plan: Plan) -> Plan:
    """Set what holds per process (threads, TF32, determinism, malloc) and return the plan with what was read back."""
    machine.set_deterministic(plan.deterministic)
    machine.set_tf32(plan.precision == "tf32")
    threads = machine.set_threads(plan.threads)
    memory.keep_freed(plan.keep_freed)
    return Plan(**{**plan.to_dict(), "threads": threads, "tf32": machine.tf32_read_back()})
