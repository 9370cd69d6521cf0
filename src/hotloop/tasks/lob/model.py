"""DeepLOB: convolutions that merge price with quantity, both sides, then all levels; inception, LSTM, a linear layer.

The input is (B, T, F) in the published order: ask price, ask quantity, bid price, bid quantity, level by level. Inside,
features are channels-last: B windows, T rows, W columns, C channels. A convolution of width w and stride w is a linear
layer over w neighbouring columns, which in this layout is a view and one matrix product.
Source: Zhang, Zohren, Roberts, "DeepLOB", arXiv 1808.03668, with unpadded convolutions over time.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.tasks.lob.options import LobModel

CLASSES = 3


class Merge(nn.Module):
    """Convolution over `width` neighbouring columns with stride `width`, (B, T, W, C) -> (B, T, W / width, D)."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.width, self.linear = width, nn.Linear(inputs * width, outputs)

    def forward(self, x_btwc: Tensor) -> Tensor:
        batch, rows, columns, channels = x_btwc.shape
        grouped = x_btwc.reshape(batch, rows, columns // self.width, self.width * channels)
        return cast(Tensor, self.linear(grouped))


class OverTime(nn.Module):
    """Convolution over `length` rows, (B, C, T, W) in channels-last memory; `same` pads so that T stays."""

    def __init__(self, inputs: int, outputs: int, length: int, *, same: bool = False) -> None:
        super().__init__()
        padding = (length // 2, 0) if same else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (length, 1), padding=padding)

    def forward(self, x_bctw: Tensor) -> Tensor:
        return cast(Tensor, self.conv(x_bctw))


class Settle(nn.Module):
    """Leaky ReLU, then batch norm over each channel: what follows every convolution. (B, C, T, W)."""

    def __init__(self, channels: int, negative_slope: float) -> None:
        super().__init__()
        self.norm, self.negative_slope = nn.BatchNorm2d(channels), negative_slope

    def forward(self, x_bctw: Tensor) -> Tensor:
        return cast(Tensor, self.norm(F.leaky_relu(x_bctw, self.negative_slope)))


class Block(nn.Module):
    """Merge neighbouring columns, then look over 4 rows twice: T becomes T - 6."""

    def __init__(self, inputs: int, channels: int, width: int, negative_slope: float) -> None:
        super().__init__()
        self.merge = Merge(inputs, channels, width)
        self.settle = Settle(channels, negative_slope)
        self.over_time = nn.Sequential(
            OverTime(channels, channels, 4),
            Settle(channels, negative_slope),
            OverTime(channels, channels, 4),
            Settle(channels, negative_slope),
        )

    def forward(self, x_bctw: Tensor) -> Tensor:
        merged = self.merge(x_bctw.permute(0, 2, 3, 1))  # (B, T, W, C) is the memory's own order
        return cast(Tensor, self.over_time(self.settle(merged.permute(0, 3, 1, 2))))


class Inception(nn.Module):
    """Three views of time at once: 3 rows, 5 rows and the largest of 3 rows; (B, C, T, 1) -> (B, 3 D, T, 1)."""

    def __init__(self, inputs: int, channels: int, negative_slope: float) -> None:
        super().__init__()
        self.short, self.long = (
            nn.Sequential(
                OverTime(inputs, channels, 1),
                Settle(channels, negative_slope),
                OverTime(channels, channels, length, same=True),
                Settle(channels, negative_slope),
            )
            for length in (3, 5)
        )
        self.largest = nn.Sequential(
            nn.MaxPool2d((3, 1), stride=1, padding=(1, 0)),
            OverTime(inputs, channels, 1),
            Settle(channels, negative_slope),
        )

    def forward(self, x_bct1: Tensor) -> Tensor:
        return torch.cat([self.short(x_bct1), self.long(x_bct1), self.largest(x_bct1)], dim=1)


class DeepLob(nn.Module):
    """Logits of down, flat and up, (B, 3), for windows (B, T, F).

    Args:
        options: sizes and parts.
        features: F, a multiple of 4.
    """

    def __init__(self, options: LobModel, features: int) -> None:
        super().__init__()
        channels, slope, hidden = options.channels, options.negative_slope, options.hidden_size
        self.blocks = nn.Sequential(
            Block(1, channels, 2, slope),
            Block(channels, channels, 2, slope),
            Block(channels, channels, features // 4, slope),
        )
        self.inception = Inception(channels, options.inception_channels, slope)
        merged, normed = 3 * options.inception_channels, options.switched("layer_norm")
        self.norm_in = nn.LayerNorm(merged) if normed else nn.Identity()
        self.lstm = nn.LSTM(merged, hidden, options.num_layers, batch_first=True)
        self.norm_out = nn.LayerNorm(hidden) if normed else nn.Identity()
        self.attention = nn.Linear(hidden, 1) if options.switched("attention_pooling") else None
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x_btf: Tensor) -> Tensor:
        merged = self.inception(self.blocks(x_btf.unsqueeze(1)))  # (B, D, T, 1)
        states_bth, _ = self.lstm(self.norm_in(merged.squeeze(3).transpose(1, 2)))
        return cast(Tensor, self.head(self.dropout(self._pool(states_bth))))

    def recompute_blocks(self) -> list[nn.Module]:
        """What the backward pass may run again: the convolutions, which hold nearly all activations."""
        return [*self.blocks, self.inception]

    def _pool(self, states_bth: Tensor) -> Tensor:
        """One vector a window: the last state, or all states by their share of attention."""
        if self.attention is None:
            return cast(Tensor, self.norm_out(states_bth[:, -1]))
        normed_bth = self.norm_out(states_bth)
        share_bt1 = self.attention(normed_bth).float().softmax(dim=1)
        return cast(Tensor, (share_bt1 * normed_bth).sum(dim=1))
