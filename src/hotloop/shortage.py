"""What to tell a person whose run ended for want of memory: which sample it was, and what would make it fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hotloop import device as machine
from hotloop.assemble import Session
from hotloop.config.schema import Config
from hotloop.data.loader import fetch
from hotloop.engine.blame import described
from hotloop.engine.plan import Plan
from hotloop.errors import NoMemory
from hotloop.parts import Parts

_LENGTHS = ("model.max_sequence_length", "model.block_size", "data.window", "data.max_tokens", "model.max_length")
_OPTIONS = 3


def explained(session: Session, short: NoMemory, folder: Path, step: int) -> NoMemory:
    """The end of a run as its person should read it: what, where, and the cheapest ways on.

    Args:
        session: of the run.
        short: what ended it.
        folder: of the run.
        step: of the newest checkpoint that is whole, -1 where there is none.
    """
    kept = f"the checkpoint of step {step} is safe" if step >= 0 else "no checkpoint was written yet"
    sample = "" if short.row is None else _sample(session.parts, session.state.step, short.row)
    ways = [short.fix] if short.fix else options(session.config, session.plan, session.state.model)
    on = f"hotloop resume {folder} goes on as it is, where more memory is free"
    listed = "".join(f"\n    {number}. {way}" for number, way in enumerate(ways, start=1))
    return NoMemory(
        f"{short.what}; {kept}" + (f"\n  the sample: {sample}" if sample else ""),
        where=str(folder),
        fix=f"train again with one of these, the cheapest first, or make room:{listed}\n    {on}",
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


def options(config: Config, plan: Plan, model: nn.Module) -> list[str]:
    """The cheapest ways to need less memory that are not in use yet, at most three; the first costs least time."""
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    device = plan.torch_device
    native = machine.native_precision(device)
    ways = []
    if plan.precision in ("fp32", "tf32") and native != "fp32":
        ways.append(f"training.precision={native}: activations take half the bytes, and steps are mostly faster")
    if plan.recompute is not True:
        ways.append("optimization.gradient_checkpointing=true: activations are worked out again in the backward pass")
    ways += _shorter(config)
    if plan.optimizer in ("adamw", "adam"):
        ways.append(f"optimization.optimizer=adamw8bit: about {_size(6 * weights)} less for the optimizer")
    if device.type == "cuda" and not plan.offload:
        ways.append(f"memory.offload=on: about {_size(8 * weights)} less on the GPU, slower updates")
    ways.append(f"model.freeze for a part of the model: {_size(12 * weights)} of gradients and optimizer state shrink")
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
    return f"{count / 2**30:.2f} GB" if count >= 2**28 else f"{count / 2**20:.0f} MB"
