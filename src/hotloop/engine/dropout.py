"""Dropout on a CPU with masks that cost a quarter: four decisions from each random number, where torch draws one each.

torch's own kernel (`bernoulli_`, not vectorised unless it has Intel's library on Intel's processors) draws element by
element on one core; in a Transformer that is a quarter of a step. Here 64 random bits of torch's own generator are read
as four numbers of 16 bits, each compared with the rate. The rate is rounded to 1 / 65,536 and the scale is the inverse
of what is really kept, so the expectation is exact. Masks are others than torch's from the same seed, equally
distributed; seeding, checkpoints and recomputing work as before, as the generator is the same.

A layer's `forward` is replaced on the instance (`engine.forwards`); `remove` takes it off again.
Source: Srivastava et al., "Dropout", JMLR 15 (2014), with the scale in training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hotloop import device as machine
from hotloop.engine.forwards import unwrap, wrap

_STEPS = 1 << 16  # of the rate: what 16 bits can tell apart
_SMALLEST = 8192  # elements from which four at a time is faster, with what it takes to begin


def layers_of(model: nn.Module) -> list[nn.Dropout]:
    """The layers that can draw their masks so: ordinary ones that drop anything."""
    ordinary = [part for part in model.modules() if type(part) is nn.Dropout and not part.inplace]
    return [part for part in ordinary if 0.0 < part.p < 1.0]


def is_slow_in_torch() -> bool:
    """Whether torch draws a mask's elements one by one here."""
    return not (
        torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and machine.cpu_is_intel()
    )


def apply(model: nn.Module) -> None:
    """Let the dropout layers of a model draw four decisions at once where they train on a CPU."""
    remove(model)
    for layer in layers_of(model):
        if "forward" not in layer.__dict__:  # one that somebody replaced is left to them
            wrap(layer, _forward)


def remove(model: nn.Module) -> None:
    """Take off what `apply` put on."""
    unwrap(model, _forward)


def _forward(layer: nn.Dropout, before: None, x: Tensor) -> Tensor:
    """A dropout layer's forward pass; torch's own for few elements, other devices, and code that is being compiled."""
    ours = layer.training and 0.0 < layer.p < 1.0 and x.numel() >= _SMALLEST
    if not ours or x.device.type != "cpu" or not x.is_floating_point() or torch.compiler.is_compiling():
        return type(layer).forward(layer, x)
    return dropped(x, layer.p)


def dropped(x: Tensor, rate: float) -> Tensor:
    """Each element of `x` is 0 with probability `rate`, else 1 / (1 - rate) times what it was.

    Args:
        x: of any shape, floating point, on the CPU.
        rate: between 0 and 1, both left out; it is rounded to 1 / 65,536.

    Returns:
        A new tensor of x's shape and type, differentiable.
    """
    cut = min(_STEPS - 1, max(1, round(rate * _STEPS)))
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    mask: Any = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(bits[: x.numel()].view(x.shape), cut - _STEPS // 2, out=mask)
    kept: Tensor = x * mask.mul_(_STEPS / (_STEPS - cut))
    return kept
