"""Token windows: a stream of tokens held once; a batch is a gather, windows are never materialised.

x and y are (B, T) int64 with y = x shifted by one token. Tokens may be uint16 in memory (nanoGPT's files): half a
gigabyte of text is half a gigabyte on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop.errors import HotloopError


def _check_length(tokens: Tensor, block_size: int, part: str) -> None:
    if len(tokens) < block_size + 1:
        fits = max(0, len(tokens) - 1)
        raise HotloopError(
            f"the {part} part holds {len(tokens):,} tokens; one window needs {block_size + 1:,}",
            where="model.block_size",
            fix=f"use a longer text, or model.block_size={fits} or less" if fits else "use a longer text",
        )


class TokenWindows:
    """All windows of a token stream; an index is the position where the window starts.

    Args:
        tokens: (N,) integers of any width.
        block_size: T, tokens a window.
        part: name for messages.
    """

    def __init__(self, tokens: Tensor, block_size: int, part: str = "train") -> None:
        _check_length(tokens, block_size, part)
        self.tokens, self.block_size, self._part = tokens, block_size, part
        # uint16 has no gather on several devices; int16 has the same bits, and the mask below undoes the sign.
        self._stored = tokens.view(torch.int16) if tokens.dtype == torch.uint16 else tokens
        self._mask = 0xFFFF if tokens.dtype == torch.uint16 else None
        self._offsets = torch.arange(block_size + 1, device=tokens.device)
        self.nbytes: int | None = tokens.numel() * tokens.element_size()

    def __len__(self) -> int:
        return len(self.tokens) - self.block_size

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        window = self._stored[indices.unsqueeze(1) + self._offsets].long()  # (B, T + 1)
        if self._mask is not None:
            window = window & self._mask
        return {"x": window[:, :-1].contiguous(), "y": window[:, 1:].contiguous()}

    def column(self, name: str) -> Tensor | None:
        return None  # windows overlap: no column holds each value once

    def to(self, device: torch.device) -> TokenWindows:
        return TokenWindows(self.tokens.to(device), self.block_size, self._part)


class WholeSplit:
    """Consecutive windows that cover every target of a stream exactly once.

    The last window is as long as the others (static shapes); targets that the window before has counted weigh 0.
    Batches hold x, y and weight, each (B, T).
    """

    def __init__(self, tokens: Tensor, block_size: int, part: str = "validation") -> None:
        self._windows = TokenWindows(tokens, block_size, part)
        self._block, self._targets = block_size, len(tokens) - 1
        self.nbytes: int | None = self._windows.nbytes
        self._ahead = torch.arange(block_size, device=tokens.device)

    def __len__(self) -> int:
        return -(-self._targets // self._block)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        wanted = indices * self._block
        starts = wanted.clamp(max=self._targets - self._block)
        batch = self._windows.batch(starts)
        batch["weight"] = (starts.unsqueeze(1) + self._ahead >= wanted.unsqueeze(1)).float()
        return batch

    def column(self, name: str) -> Tensor | None:
        return None

    def to(self, device: torch.device) -> WholeSplit:
        return WholeSplit(self._windows.tokens.to(device), self._block)
