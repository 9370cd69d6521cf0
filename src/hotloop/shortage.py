"""What to tell a person whose run ended for want of memory: which sample it was, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hotloop import device as machine
from hotloop.assemble import Session
from hotloop.config.schema import Config
from hotloop.data.loader import fetch
from hotloop.engine.blame import described
from hotloop.engine.plan import Choice, Plan
from hotloop.engine.recompute import supports
from hotloop.engine.resolve import Sections
from hotloop.errors import HotloopError, NoMemory, first_line
from hotloop.parts import Parts

_LENGTHS = ("model.max_sequence_length", "model.block_size", "data.window", "data.max_tokens", "model.max_length")
_OPTIONS = 3


def explained(session: Session, short: NoMemory, folder: Path | None = None, step: int = -1) -> NoMemory:
    """The end of a run as its person should read it: what, where, and the cheapest ways on.

    Args:
        session: of the run.
        short: what ended it.
        folder: of the run; None for a loop of the person's own, which has none.
        step: of the newest checkpoint that is whole, -1 where there is none.
    """
    sample = "" if short.row is None else _sample(session.parts, session.state.step, short.row)
    using = Using.of(session.plan, session.state.model)
    ways = [*([short.fix] if short.fix else []), *options(session.config, using, in_update=not short.intact)]
    listed = "".join(f"\n    {number}. {way}" for number, way in enumerate(ways, start=1))
    if folder is None:
        done = session.state.step
        kept = f"the model has the weights of step {done}" if short.intact else "the model's weights are not whole"
        on = ""
    else:
        kept = f"the checkpoint of step {step} is safe" if step >= 0 else "no checkpoint was written yet"
        on = f"\n    hotloop resume {folder} goes on as it is, where more memory is free"
    return NoMemory(
        f"{short.what}; {kept}" + (f"\n  the sample: {sample}" if sample else ""),
        where="hotloop.steps" if folder is None else str(folder),
        fix=f"train again with one of these, the cheapest first, or make room:{listed}{on}",
        row=short.row,
        intact=short.intact,
    )


def _sample(parts: Parts, steps_done: int, row: int) -> str:
    """The row of the training part that a step failed on, with the shapes of what it holds."""
    epoch, within = divmod(steps_done, parts.sampler.steps_per_epoch)
    order = parts.sampler.indices(epoch, within)
    if row >= len(order):
        return ""
    index = int(order[row])
    try:
        batch: Any = fetch(parts.host.train, torch.tensor([index]), None)
    except Exception:  # a user's item that cannot be fetched again, or memory that is short here too
        return f"row {index:,} of the training part"
    return f"row {index:,} of the training part: {described(batch)}"


def before_training(config: Config, choice: Choice, error: Exception) -> HotloopError:
    """A run that could not be put together for want of memory."""
    sections = Sections.of(config, choice)
    wanted, using = sections.training.precision, sections.optimization
    device = machine.pick_device(config.training.device)
    using_now = Using(device, wanted, using.gradient_checkpointing, using.optimizer, sections.memory.offload == "on", 0)
    listed = "".join(f"\n    {number}. {way}" for number, way in enumerate(options(config, using_now), start=1))
    free = f"{machine.memory_free(device) / 2**30:.1f} GB of {machine.memory_total(device) / 2**30:.1f} are free"
    return HotloopError(
        f"out of memory before the first step: {first_line(error)}",
        where=f"{device}, of which {free}",
        fix=f"one of these, the cheapest first, or make room on the device:{listed}",
    )


@dataclass(frozen=True)
class Using:
    """What decides over the memory of a run: where, and what is in use already; `trained` is a number of weights."""

    device: torch.device
    precision: str
    recompute: bool | float | tuple[str, ...]
    optimizer: str
    offload: bool
    trained: int
    recomputes: bool = True  # the model knows gradient checkpointing, or it is not known yet

    @classmethod
    def of(cls, plan: Plan, model: nn.Module) -> Using:
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        kept = plan.recompute, plan.optimizer, plan.offload
        return cls(plan.torch_device, plan.precision, *kept, trained, supports(model))


def options(config: Config, using: Using, in_update: bool = False) -> list[str]:
    """The cheapest ways to need less memory that are not in use yet, at most three; the first costs least time.

    Where it ran out in the update the optimizer's state is what counts, so its ways come first.
    """
    native = machine.native_precision(using.device)
    ways = []
    if using.precision in ("fp32", "tf32") and native != "fp32":
        ways.append(f"training.precision={native}: activations take half the bytes, and steps are mostly faster")
    if using.recompute is not True and using.recomputes:
        ways.append("optimization.gradient_checkpointing=true: activations are worked out again in the backward pass")
    ways += _shorter(config)
    smaller = []
    if using.optimizer in ("adamw", "adam"):
        smaller.append(f"optimization.optimizer=adamw8bit: {_size(6 * using.trained)}less optimizer state")
        if using.device.type == "cuda" and not using.offload:
            smaller.append(f"memory.offload=on: {_size(8 * using.trained)}less on the GPU, slower updates")
    ways = smaller + ways if in_update else ways + smaller
    ways.append("model.freeze for a part of the model: no gradients and no optimizer state for it")
    return ways[:_OPTIONS]


def _shorter(config: Config) -> list[str]:
    """The knob that says how long a sample is, where the task has one, at half its value."""
    for key in _LENGTHS:
        section, _, name = key.partition(".")
        length = getattr(getattr(config, section), name, None)
        if isinstance(length, int):
            return [f"{key}={length // 2} instead of {length}: shorter samples, which then see less"]
    return []


def _size(count: int) -> str:
    """Bytes in words, with a space after them; nothing for an unknown number, or one too small to matter."""
    if count < 2**20:
        return ""
    return f"about {count / 2**30:.2f} GB " if count >= 2**28 else f"about {count / 2**20:.0f} MB "
