"""Mixed precision without a host sync: autocast, and a loss scale that lives on the device.

The scale is a tensor from start to end: scaling, the check for overflow and the scale's own update are device
operations (torch's GradScaler asks the host when its optimizer is not a fused one). It exists for fp16 alone: bf16 has
fp32's range and needs none. Source: P. Micikevicius et al., "Mixed precision training", arXiv 1710.03740, section 3.2.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from hotloop.device import DTYPES, native_precision

_START, _GROWTH, _BACKOFF, _INTERVAL = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """The factor that keeps fp16 gradients above underflow; doubles after 2000 clean steps, halves on overflow.

    Attributes:
        scale: 0-d float32 tensor.
        clean: 0-d float32 tensor, clean steps since the scale last changed.
    """

    lowest = 2.0**-14  # an overflow that goes on down here is a fault of the model, not of fp16

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(_START, device=device)
        self.clean = torch.tensor(0.0, device=device)

    def update(self, overflow: Tensor) -> None:
        """Grow or shrink; `overflow` is 0-d float32, 1.0 where this step's gradients were not finite."""
        # Arithmetic instead of torch.where: a number handed to `where` is copied to the device, and the host waits.
        clean = (self.clean + 1.0) * (1.0 - overflow)
        grown = (clean >= _INTERVAL).float()
        factor = (1.0 - (1.0 - _BACKOFF) * overflow) * (1.0 + (_GROWTH - 1.0) * grown)
        self.scale.mul_(factor).clamp_(min=self.lowest)
        self.clean.copy_(clean * (1.0 - grown))

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "clean": self.clean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale.copy_(state["scale"])
        self.clean.copy_(state["clean"])


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context in which forward passes of this precision run."""
    if precision not in DTYPES:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def resolve(wanted: str, device: torch.device) -> tuple[str, str]:
    """The precision to use for the one asked for, and a line for the user where it is another.

    `auto` is not resolved here on a CPU: whether bf16 is faster there is for a measurement to say.
    """
    if wanted == "fp16" and device.type == "cpu":
        instead = "bf16" if machine_has_bf16(device) else "fp32"
        return instead, f"fp16 has no fast path on a CPU: training in {instead}"
    if wanted == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8):
        return "fp32", f"TF32 exists on NVIDIA GPUs only, from Ampere on: training in fp32 on this {device.type}"
    if wanted == "bf16" and device.type == "cuda" and not machine_has_bf16(device):
        return "fp16", "this GPU has no bf16 in hardware: training in fp16 with loss scaling"
    if wanted == "auto" and device.type == "cuda":
        best = "bf16" if machine_has_bf16(device) else "fp16"
        return (best if torch.cuda.get_device_capability(device)[0] >= 7 else "fp32"), ""
    return wanted, ""


def machine_has_bf16(device: torch.device) -> bool:
    """Whether the device computes bf16 in hardware."""
    return native_precision(device) == "bf16"
