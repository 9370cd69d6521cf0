"""The forecasting network: an LSTM, GRU or Transformer over the window, beside a linear map of each target's own past.

Both halves start at zero, so that an untrained model forecasts what `window_norm` gives back: the series' mean (none),
the window's last value, or its mean. Shapes: B rows, T look-back, C columns, H horizon, K targets, P patches of a
window, D hidden features; with independent channels each of the K targets' columns is a series of its own (B x K).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hotloop.tasks.forecast.options import ForecastModel

_SMALLEST_SPREAD = 1e-2  # in scaled units: a window that hardly moves is not blown up


class Forecaster(nn.Module):
    """x (B, T, C) and symbol (B,) to a forecast (B, H, K), all in scaled units.

    Args:
        options: kind and sizes of the model.
        columns: C.
        targets: positions of the K targets among the columns.
        symbols: number of series; one has no embedding.
        norm: the options' window_norm, settled.
        sequence: T. horizon: H.

    Source: patches and independent channels: Nie et al., arXiv 2211.14730. Linear skip: Zeng et al., arXiv 2205.13504.
    Normalised windows: Kim et al., "Reversible instance normalization", 2022 (without its learned factors).
    """

    def __init__(
        self,
        options: ForecastModel,
        columns: int,
        targets: tuple[int, ...],
        symbols: int,
        sequence: int,
        horizon: int,
        *,
        norm: str,
    ) -> None:
        super().__init__()
        self.norm, self.patch = norm, options.patch
        self.horizon = horizon
        # A buffer: a list of positions would be copied to the device anew in each step, and make the host wait.
        self.targets: Tensor
        self.register_buffer("targets", torch.tensor(targets), persistent=False)
        self.independent = options.channels == "independent"
        count, width = len(targets), options.hidden_size
        inputs = options.patch * (1 if self.independent else columns)
        self.enter = nn.Linear(inputs, width)
        self.channel_embedding = nn.Parameter(torch.randn(count, width) * 0.02) if self.independent else None
        embedded = options.symbol_embedding if symbols > 1 else 0
        self.symbol_embedding = nn.Embedding(symbols, embedded) if embedded else None
        self.symbol_enter = nn.Linear(embedded, width, bias=False) if embedded else None
        self.encoder = _encoder(options, sequence // options.patch)
        self.dropout = nn.Dropout(options.dropout)
        self.leave = _zero(nn.Linear(self.encoder.features, horizon * (1 if self.independent else count)))
        self.skip = LinearSkip(count, sequence, horizon) if options.linear_skip else None

    def forward(self, x_btc: Tensor, symbol_b: Tensor) -> Tensor:
        if self.norm != "none":
            centre, spread = _statistics(self.norm, x_btc)
            x_btc = (x_btc - centre) / spread
        own = x_btc.index_select(2, self.targets)  # (B, T, K)
        forecast = self._encode(own if self.independent else x_btc, symbol_b)
        if self.skip is not None:
            forecast = forecast.float() + self.skip(own)
        if self.norm == "none":
            return forecast
        spread, centre = (each.index_select(2, self.targets) for each in (spread, centre))
        return forecast.float() * spread + centre

    def _encode(self, x_btc: Tensor, symbol_b: Tensor) -> Tensor:
        rows, steps, columns = x_btc.shape
        if self.independent:
            patches = x_btc.transpose(1, 2).reshape(rows, columns, steps // self.patch, self.patch)
        else:
            patches = x_btc.reshape(rows, 1, steps // self.patch, self.patch * columns)
        z = self.enter(patches)  # (B, K or 1, P, D)
        if self.channel_embedding is not None:
            z = z + self.channel_embedding.unsqueeze(1)
        if self.symbol_embedding is not None and self.symbol_enter is not None:
            z = z + self.symbol_enter(self.symbol_embedding(symbol_b)).unsqueeze(1).unsqueeze(1)
        encoded = self.encoder(z.flatten(0, 1))  # (B x K or B, features)
        out: Tensor = self.leave(self.dropout(encoded))
        return out.view(rows, columns, -1).transpose(1, 2) if self.independent else out.view(rows, self.horizon, -1)

    def recompute_blocks(self) -> list[nn.Module]:
        """What the backward pass may run again: each layer of a Transformer, or the recurrent encoder as a whole."""
        return list(self.encoder.layers.layers) if isinstance(self.encoder, Attention) else [self.encoder]


class LinearSkip(nn.Module):
    """One linear map of T steps to H for each of the K targets, zero at the start: (B, T, K) to (B, H, K).

    In float32 whatever the rest is trained in: most of the forecast comes from here, and it costs next to nothing.
    """

    def __init__(self, targets: int, sequence: int, horizon: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.zeros(targets, sequence, horizon))
        self.bias = nn.Parameter(torch.zeros(targets, 1, horizon))

    def forward(self, own_btk: Tensor) -> Tensor:
        with torch.autocast(own_btk.device.type, enabled=False):
            return torch.baddbmm(self.bias, own_btk.float().permute(2, 0, 1), self.maps).permute(1, 2, 0)


def _statistics(norm: str, x_btc: Tensor) -> tuple[Tensor, Tensor]:
    """What a window is freed of: centre and spread, both (B, 1, C)."""
    centre = x_btc[:, -1:] if norm == "last" else x_btc.mean(1, keepdim=True)
    spread = x_btc.std(1, keepdim=True) + _SMALLEST_SPREAD if norm == "standard" else torch.ones_like(centre)
    return centre, spread


class Recurrent(nn.Module):
    """LSTM or GRU: patches (B, P, D) to the state after the last one (B, D)."""

    def __init__(self, options: ForecastModel) -> None:
        super().__init__()
        kind = nn.LSTM if options.name == "lstm" else nn.GRU
        self.features = options.hidden_size
        between = options.dropout if options.num_layers > 1 else 0.0
        self.cell = kind(self.features, self.features, options.num_layers, batch_first=True, dropout=between)

    def forward(self, z_bpd: Tensor) -> Tensor:
        output: Tensor = self.cell(z_bpd)[0]
        return output[:, -1]


class Attention(nn.Module):
    """Transformer encoder with learned positions: patches (B, P, D) to all of them end to end (B, P x D).

    With many patches the mean over them (B, D) is given instead, so that the last layer stays small.
    """

    LARGEST = 16  # patches that are still kept apart

    def __init__(self, options: ForecastModel, patches: int) -> None:
        super().__init__()
        width = options.hidden_size
        self.is_flat = patches <= self.LARGEST
        self.features = width * patches if self.is_flat else width
        self.positions = nn.Parameter(torch.randn(patches, width) * 0.02)
        self.dropout = nn.Dropout(options.dropout)
        layer = nn.TransformerEncoderLayer(
            width, options.n_head, 2 * width, options.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, options.num_layers, enable_nested_tensor=False)

    def forward(self, z_bpd: Tensor) -> Tensor:
        z: Tensor = self.layers(self.dropout(z_bpd + self.positions))
        return z.flatten(1) if self.is_flat else z.mean(1)


def _encoder(options: ForecastModel, patches: int) -> Recurrent | Attention:
    return Attention(options, patches) if options.name == "transformer" else Recurrent(options)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
