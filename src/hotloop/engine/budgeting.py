"""What a plan says about memory: how much the run may take, what it keeps, what it does when there is too little."""

from __future__ import annotations

from typing import Any

import torch

from hotloop import device as machine
from hotloop import memory
from hotloop.config.schema import MemorySection, OptimizationSection
from hotloop.engine.optim import require_offloadable


def resolve_memory(
    optimization: OptimizationSection, section: MemorySection, device: torch.device
) -> tuple[dict[str, Any], list[str]]:
    """Fields of the plan, and remarks for the person.

    Raises:
        HotloopError: the optimizer's state cannot live on the host.
    """
    fields = {
        "recompute": optimization.gradient_checkpointing,
        "optimizer": optimization.optimizer,
        "offload": section.offload == "on" and device.type == "cuda",
        "memory_limit": machine.budget_bytes(section.budget, device),
        "recover": section.recover == "on",
        "on_batchnorm": section.on_batchnorm,
        "keep_freed": keeps_freed(section, device),
    }
    return fields, [*_offloading(optimization, section, device), *_kept(section, device)]


def keeps_freed(section: MemorySection, device: torch.device) -> bool:
    """Whether malloc is to keep what tensors gave back: unasked on a CPU, unless memory is what the run is short of."""
    wanted = section.keep_freed == "on" or (section.keep_freed == "auto" and section.budget is None)
    return wanted and device.type == "cpu" and memory.can_keep_freed()


def _kept(section: MemorySection, device: torch.device) -> list[str]:
    """A line where keeping was asked for and cannot be: it changes no result."""
    if section.keep_freed != "on" or keeps_freed(section, device):
        return []
    why = "this system's malloc has no such switch" if device.type == "cpu" else f"this run is on {device}"
    return [f"memory.keep_freed=on is left out: it is for training on a CPU with glibc, and {why}"]


def _offloading(optimization: OptimizationSection, section: MemorySection, device: torch.device) -> list[str]:
    """What keeping the optimizer's state on the host means here."""
    if section.offload != "on":
        return []
    if device.type != "cuda":
        return [f"memory.offload=on is left out: on {device} the optimizer's state is in the host's memory anyway"]
    require_offloadable(optimization.optimizer)
    return ["the optimizer's state is on the host and the update runs there: the host waits for the GPU once a step"]
