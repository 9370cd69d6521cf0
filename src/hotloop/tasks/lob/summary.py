"""A window as some thirty numbers, and a small network on them: what carries over from one symbol to another.

A deep network on the whole window learns its symbols by heart, as there are few of them. A summary has no room for
that: returns over several spans, how much and how often the price moved, spread, depth and imbalance, all relative, so
that they mean the same for any symbol. Shapes: B windows, T rows, F columns, L = F / 4 levels, S = 29 + L numbers.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from hotloop.data.source import Source
from hotloop.tasks.lob.model import CLASSES
from hotloop.tasks.lob.options import LobModel

_SPANS = (1, 2, 5, 10, 20, 50, 99)  # rows of the returns; in shorter windows the longest that there is
_SAMPLE = 2048  # windows to fit on: they overlap, more say the same
_LIMIT = 6.0  # standard deviations
_STILL = 0.01  # of the unit of moves: less is no move


class Summary(nn.Module):
    """From rows to standardised numbers, (B, T, F) -> (B, S); the statistics come from the training part alone.

    Args:
        columns: F, a multiple of 4.
    """

    mean: Tensor
    spread: Tensor
    floors: Tensor
    unit: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.size = 29 + columns // 4
        self.register_buffer("mean", torch.zeros(self.size))
        self.register_buffer("spread", torch.ones(self.size))
        self.register_buffer("floors", torch.zeros(2))  # added to prices and quantities, so that both are above zero
        self.register_buffer("unit", torch.ones(1))  # half the mean move of the price over ten rows

    def forward(self, x_btf: Tensor) -> Tensor:
        return ((self._numbers(x_btf) - self.mean) / self.spread).clamp(-_LIMIT, _LIMIT)

    @torch.no_grad()
    def fit(self, train: Source) -> Summary:
        """Take the statistics of the training windows; returns itself."""
        x_btf = train.batch(torch.arange(0, len(train), max(1, len(train) // _SAMPLE)))["x"].float()
        for side in (0, 1):
            values = x_btf[..., side::2]
            least = values.min()
            self.floors[side] = 0.0 if least > 0 else 0.1 * values.std() - least
        mid = _mid(self._prices(x_btf)[0])
        span = min(10, mid.shape[1] - 1)
        self.unit.copy_((0.5 * (mid[:, span:] - mid[:, :-span]).abs().mean()).clamp(min=1e-9))
        seen = self._numbers(x_btf).double()
        self.mean.copy_(seen.mean(dim=0))
        spread = seen.std(dim=0)
        self.spread.copy_(torch.where(spread > 1e-9, spread, 1.0))
        return self

    def to_json(self) -> dict[str, Any]:
        """The statistics as plain lists."""
        return {name: buffer.tolist() for name, buffer in self.named_buffers()}

    def use_json(self, stored: dict[str, Any]) -> Summary:
        """Take the statistics of another; returns itself."""
        for name, buffer in self.named_buffers():
            buffer.copy_(torch.tensor(stored[name]))
        return self

    def _side(self, x_btf: Tensor, side: int) -> Tensor:
        """Prices (side 0) or quantities (side 1), above zero, (B, T, 2 L)."""
        return (x_btf.float()[..., side::2] + self.floors[side]).clamp(min=1e-3)

    def _prices(self, x_btf: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the prices against the window's last mid price, (B, T, 2 L), and that price's own, (B,).

        log(p / q) = 2 artanh((p - q) / (p + q)) keeps all digits of a small move; of two logarithms of prices near 100
        the difference has lost four of its seven.
        """
        price = self._side(x_btf, 0)
        last = _mid(price[:, -1:]).unsqueeze(2)
        return 2.0 * ((price - last) / (price + last)).atanh(), last.log().flatten()

    def _numbers(self, x_btf: Tensor) -> Tensor:
        price, level = self._prices(x_btf)
        quantity = self._side(x_btf, 1).log()
        return torch.stack([*self._moves(_mid(price), level), *self._shape(price), *_balance(quantity)], dim=1)

    def _moves(self, mid_bt: Tensor, level_b: Tensor) -> list[Tensor]:
        """Returns, how much and how often the price moved, its place in the window, its level: 19 numbers."""
        last, rows = mid_bt[:, -1], mid_bt.shape[1]
        steps = mid_bt.diff(dim=1).abs() / self.unit
        highest, lowest = mid_bt.amax(dim=1), mid_bt.amin(dim=1)
        return [
            *(self._squashed(last - mid_bt[:, -1 - min(span, rows - 1)]) for span in _SPANS),
            *((steps[:, -span:].mean(dim=1) + _STILL).log() for span in (5, 20, 50, 99)),
            *((steps[:, -span:] > _STILL).float().mean(dim=1) for span in (10, 30, 99)),
            ((highest - lowest) / self.unit + _STILL).log(),
            *(self._squashed(last - place) for place in (mid_bt.mean(dim=1), highest, lowest)),
            level_b + last,
        ]

    def _shape(self, price_bt2l: Tensor) -> list[Tensor]:
        """Spread, now and on average, and how far the last level is from the first: 4 numbers."""
        ask, bid = price_bt2l[..., 0::2], price_bt2l[..., 1::2]
        gap = ask[..., 0] - bid[..., 0]
        return [
            self._squashed(gap[:, -1]),
            self._squashed(gap).mean(dim=1),
            self._squashed(ask[:, -1, -1] - ask[:, -1, 0]),
            self._squashed(bid[:, -1, 0] - bid[:, -1, -1]),
        ]

    def _squashed(self, move: Tensor) -> Tensor:
        return torch.asinh(move / self.unit)


class SummaryNet(nn.Module):
    """Logits of down, flat and up, (B, 3), from a summary (B, S): two hidden layers of `hidden_size`.

    Args:
        options: width and dropout.
        size: S.
    """

    def __init__(self, options: LobModel, size: int) -> None:
        super().__init__()
        width, dropout = options.hidden_size, options.dropout
        self.layers = nn.Sequential(
            nn.Linear(size, width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x_bs: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.layers(x_bs)))


def _mid(price_bt2l: Tensor) -> Tensor:
    return (price_bt2l[..., 0] + price_bt2l[..., 1]) / 2


def _balance(quantity_bt2l: Tensor) -> list[Tensor]:
    """Asks against bids, level by level and together, and how deep the book is: L + 6 numbers."""
    lean_btl = quantity_bt2l[..., 0::2] - quantity_bt2l[..., 1::2]
    lean, depth = lean_btl.mean(dim=2), quantity_bt2l.mean(dim=2)
    usual = depth.mean(dim=1)
    return [
        *lean_btl[:, -1].unbind(dim=1),
        lean[:, -1], lean.mean(dim=1), lean[:, -10:].mean(dim=1),
        usual, depth[:, -1], depth[:, -1] - usual,
    ]  # fmt: skip
