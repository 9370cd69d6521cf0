"""Dropout on a CPU with masks that cost a quarter: four decisions from each random number, where torch draws one each.

torch's own kernel (`bernoulli_`, not vectorised unless it has Intel's library on Intel's processors) draws element by
element on one core; in a Transformer that is a quarter of a step. Here 64 random bits of torch's own generator are read
as four numbers of 16 bits, each compared with the rate. The rate is rounded to 1 / 65,536, and the scale is the inverse
of what is really kept (rounded to the type of the input, as torch does it). Masks are others than torch's from the same
seed, equally distributed; seeding, checkpoints and recomputing work as before, as the generator is the same.

In compiled code the mask is an operation of its own (`hotloop::dropout_mask`), as what the compiler would write draws
element by element too. It is a function of a seed that is drawn before it: the compiler, which merges equal calls of an
operation and may repeat one in the backward pass, then cannot change what is dropped.

A layer becomes one of a subclass, in place; `remove` makes it what it was. A forward pass replaced on the instance, as
`engine.forwards` does it for blocks, would make each block a program of its own where blocks are compiled one by one.
Source: Srivastava et al., "Dropout", JMLR 15 (2014), with the scale in training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library, nn

from hotloop import device as machine

_OPERATION = "hotloop::dropout_mask"
_STEPS = 1 << 16  # of the rate: what 16 bits can tell apart
_SMALLEST = 8192  # elements from which four at a time is faster, with what it takes to begin


def layers_of(model: nn.Module) -> list[nn.Dropout]:
    """The layers that can draw their masks so: ordinary ones that drop anything."""
    drops = [part for part in model.modules() if isinstance(part, nn.Dropout)]
    ordinary = [part for part in drops if type(part) in (nn.Dropout, FastDropout) and not part.inplace]
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
            layer.__class__ = FastDropout


def remove(model: nn.Module) -> None:
    """Take off what `apply` put on."""
    for part in model.modules():
        if type(part) is FastDropout:
            part.__class__ = nn.Dropout  # type: ignore[assignment]


class FastDropout(nn.Dropout):
    """`nn.Dropout`; torch's own way for few elements, other devices, and tensors of other kinds."""

    def forward(self, input: Tensor) -> Tensor:
        """`input` of any shape, and the result of the same."""
        drops = self.training and 0.0 < self.p < 1.0
        return dropped(input, self.p) if drops and _is_plain(input) else super().forward(input)

    def _get_name(self) -> str:
        """As it is shown: what a model is does not depend on how it is run."""
        return "Dropout"


def _is_plain(x: Tensor) -> bool:
    """Whether a mask can be drawn for `x` here: enough elements in memory of the host, outside of vmap and its kin."""
    if x.is_nested or x.layout is not torch.strided or x.device.type != "cpu" or not x.is_floating_point():
        return False
    transformed: bool = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    return not transformed and x.numel() >= _SMALLEST


def dropped(x: Tensor, rate: float) -> Tensor:
    """Each element of `x` is 0 with probability `rate`, else 1 / (1 - rate) times what it was.

    Args:
        x: of any shape, floating point, on the CPU.
        rate: between 0 and 1, both left out; it is rounded to 1 / 65,536.

    Returns:
        A new tensor of x's shape and type, differentiable.
    """
    if torch.compiler.is_compiling():
        mask = torch.ops.hotloop.dropout_mask(x.detach(), torch.randint(0, 1 << 62, (1,), device="cpu"), rate)
    else:
        mask = _mask(x.detach(), rate)
    kept: Tensor = x * mask
    return kept


def _mask(like: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """0 or the scale, of `like`'s shape and type, from torch's own generator or another."""
    cut = min(_STEPS - 1, max(1, round(rate * _STEPS)))
    fours = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device="cpu")
    bits = fours.random_(-(2**63), None, generator=generator).view(torch.int16)
    mask: Any = torch.empty(like.shape, dtype=like.dtype, device="cpu")
    torch.ge(bits[: like.numel()].view(like.shape), cut - _STEPS // 2, out=mask)
    scaled: Tensor = mask.mul_(_STEPS / (_STEPS - cut))
    return scaled


def _mask_of(like: Tensor, seed: Tensor, rate: float) -> Tensor:
    """The mask of a seed (1,): always the same."""
    return _mask(like, rate, torch.Generator().manual_seed(int(seed)))


def _unknown_mask(like: Tensor, seed: Tensor, rate: float) -> Tensor:
    """What the compiler sees of it: shape and type."""
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


library.define(_OPERATION, "(Tensor like, Tensor seed, float rate) -> Tensor")
library.impl(_OPERATION, "CPU", _mask_of)
library.register_fake(_OPERATION, _unknown_mask)
