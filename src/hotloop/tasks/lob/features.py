"""What the model sees of a window: the columns as they are, standardised, or relative to the window's own level.

The statistics come from the training part alone and travel with the model as buffers. Relative features keep what a
move means for any symbol: prices as returns against their own mean in the window, quantities as logarithms; both with
one scale for all levels and both sides, so that mirroring a book mirrors its features. Shapes: (B, T, F) with prices
in the even columns and quantities in the odd ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hotloop.data.source import Source

_SAMPLE = 2048  # windows to fit on: they overlap, more say the same
_LIMIT = 10.0  # standard deviations


class Features(nn.Module):
    """From rows to what the first layer reads, (B, T, F) -> (B, T, F).

    Args:
        relative: prices and quantities against their level, instead of column by column.
        columns: F.
    """

    mean: Tensor
    spread: Tensor
    floors: Tensor

    def __init__(self, relative: bool, columns: int) -> None:
        super().__init__()
        self.relative = relative
        size = 2 if relative else columns
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.register_buffer("floors", torch.zeros(2))  # added to prices and quantities, so that both are above zero

    def forward(self, x_btf: Tensor) -> Tensor:
        x_btf = x_btf.float()
        if not self.relative:
            return (x_btf - self.mean) / self.spread
        return ((self._relative(x_btf) - self._tiled(self.mean, x_btf)) / self._tiled(self.spread, x_btf)).clamp(
            -_LIMIT, _LIMIT
        )

    def _relative(self, x_btf: Tensor) -> Tensor:
        """Prices as returns against their mean over the window, quantities as logarithms."""
        above = _pairs(x_btf + self._tiled(self.floors, x_btf))
        price, quantity = above.unbind(3)
        price = price.clamp(min=1e-6)
        level = price.mean(dim=1, keepdim=True)
        return torch.stack([price / level - 1.0, quantity.clamp(min=1e-3).log()], dim=3).flatten(2)

    @staticmethod
    def _tiled(pair: Tensor, x_btf: Tensor) -> Tensor:
        return pair.repeat(x_btf.shape[2] // 2)

    @torch.no_grad()
    def fit(self, train: Source, *, standard: bool) -> Features:
        """Take the statistics of the training windows; returns itself."""
        step = max(1, len(train) // _SAMPLE)
        x_btf = train.batch(torch.arange(0, len(train), step))["x"].float()
        if self.relative:
            pairs = _pairs(x_btf)
            least, most = pairs.amin(dim=(0, 1, 2)), pairs.std(dim=(0, 1, 2))
            self.floors.copy_(torch.where(least > 0, 0.0, 0.1 * most - least))
            seen = _pairs(self._relative(x_btf)).double()
            self.mean.copy_(seen.mean(dim=(0, 1, 2)))
            self.spread.copy_(seen.std(dim=(0, 1, 2)).clamp(min=1e-12))
            self.mean[0] = 0.0  # up and down are alike
        elif standard:
            self.mean.copy_(x_btf.double().mean(dim=(0, 1)))
            spread = x_btf.double().std(dim=(0, 1))
            self.spread.copy_(torch.where(spread > 0, spread, 1.0))
        return self

    def to_json(self) -> dict[str, Any]:
        """The statistics as plain lists."""
        return {name: buffer.tolist() for name, buffer in self.named_buffers()}

    def use_json(self, stored: dict[str, Any]) -> Features:
        """Take the statistics of another; returns itself."""
        for name, buffer in self.named_buffers():
            buffer.copy_(torch.tensor(stored[name]))
        return self


def _pairs(x_btf: Tensor) -> Tensor:
    """(B, T, F) as (B, T, F / 2, 2): price and quantity."""
    return x_btf.reshape(*x_btf.shape[:2], -1, 2)


def mirrored(x_btf: Tensor, y_b: Tensor, flip_b: Tensor) -> tuple[Tensor, Tensor]:
    """Books seen from the other side where `flip_b` says so: bids become asks, up becomes down.

    Prices are reflected at the window's mean mid price, so that their level stays.
    """
    book = x_btf.reshape(*x_btf.shape[:2], -1, 4)
    ask, ask_size, bid, bid_size = book.unbind(3)
    centre = (ask[..., :1] + bid[..., :1]).mean(dim=1, keepdim=True)  # twice the mean mid
    other = torch.stack([centre - bid, bid_size, centre - ask, ask_size], dim=3).flatten(2)
    return torch.where(flip_b[:, None, None], other, x_btf), torch.where(flip_b, 2 - y_b, y_b)
