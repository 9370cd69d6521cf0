"""Numbers in 8 bits, block by block: each block keeps its largest magnitude, each number a root of its share of that.

A number x of a block whose largest magnitude is s becomes the integer nearest to L * (|x| / s) ** (1/4), with a sign
where numbers have one; L is 127 with a sign and 255 without. Small numbers so get finer steps than large ones: the
levels span eight (ten) orders of magnitude. The largest number of a block is kept exactly, zero stays zero, and
a positive number without a sign never becomes zero, because second moments are divided by. Blocks as in Dettmers et
al., "8-bit optimizers via block-wise quantization" (arXiv 2110.02861); their levels come from a table, these from two
square roots, which are the same on every machine and need no search. Shapes: B blocks of S = 256 numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256  # S
_SIGNED, _UNSIGNED = 127, 255
_TINY = torch.finfo(torch.float32).tiny  # in place of the scale of a block of zeros


def block_count(numbers: int) -> int:
    """Blocks that so many numbers take; the last one is filled up with zeros."""
    return -(-numbers // BLOCK)


def as_blocks(flat_n: Tensor) -> Tensor:
    """(N,) -> (B, S): a view where S divides N, else a copy with zeros behind the end."""
    short = -flat_n.numel() % BLOCK
    return F.pad(flat_n, (0, short)).view(-1, BLOCK) if short else flat_n.view(-1, BLOCK)


def zeros(numbers: int, signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Codes and scales of so many zeros."""
    blocks = block_count(numbers)
    codes = torch.zeros(blocks, BLOCK, dtype=torch.int8 if signed else torch.uint8, device=device)
    return codes, torch.zeros(blocks, 1, device=device)


def encode(x_bs: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes (B, S) and scales (B, 1) of float32 blocks.

    Args:
        x_bs: finite numbers, not negative where `signed` is False.
        signed: int8 codes from -127 to 127, else uint8 codes from 0 to 255.

    Returns:
        (codes, scales). A decoded number is at most half a level from the number in the fourth root of its share.
    """
    size = x_bs.abs() if signed else x_bs
    scale = size.amax(dim=1, keepdim=True)
    root = (size / scale.clamp_min(_TINY)).sqrt_().sqrt_()
    if signed:
        return root.mul_(_SIGNED).round_().copysign_(x_bs).to(torch.int8), scale
    level = root.mul_(_UNSIGNED).round_()
    return torch.maximum(level, (x_bs > 0).to(level.dtype), out=level).to(torch.uint8), scale


def decode(codes_bs: Tensor, scale_b1: Tensor) -> Tensor:
    """The numbers that codes stand for, float32 (B, S)."""
    root = codes_bs.float().div_(_SIGNED if codes_bs.dtype == torch.int8 else _UNSIGNED)
    return root.abs().pow_(3).mul_(root).mul_(scale_b1)
