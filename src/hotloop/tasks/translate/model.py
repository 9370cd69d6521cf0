"""An encoder-decoder Transformer for short pairs, whole or token by token with a key-value cache.

Shapes: B rows, S source positions, T target positions, C width, H heads, D = C / H, V vocabulary. Pad positions of the
source are hidden from every query; pad positions of the target come after all real ones, so the causal mask hides them.
Source: Vaswani et al., arXiv 1706.03762; normalised before each layer as in Xiong et al., arXiv 2002.04745.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.tasks.characters import PAD
from hotloop.tasks.layers import attend_to
from hotloop.tasks.translate.options import TranslateModel


@dataclass
class Cache:
    """What a decoder block remembers while it writes: own keys and values so far, and the memory's, made once."""

    own: tuple[Tensor, Tensor] | None = None  # (B, H, T, D) each
    memory: tuple[Tensor, Tensor] | None = None  # (B, H, S, D) each

    def chosen(self, rows: Tensor) -> Cache:
        """The cache of other rows (B',): those that a beam goes on with."""
        parts = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in (self.own, self.memory)]
        return Cache(*parts)


class Attention(nn.Module):
    """Multi-head attention of queries (B, T, C) to keys and values (B, S, C)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, width)

    def pair(self, x_bsc: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (B, H, S, D) each."""
        return self._split(self.key(x_bsc)), self._split(self.value(x_bsc))

    def _split(self, x_btc: Tensor) -> Tensor:
        return x_btc.view(*x_btc.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x_btc: Tensor, pair: tuple[Tensor, Tensor], visible: Tensor | None) -> Tensor:
        """`visible` is boolean and broadcasts to (B, H, T, S); None shows all."""
        query = self._split(self.query(x_btc))
        mixed = attend_to(query, *pair, visible=visible, drop=self.dropout)
        result: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between."""

    def __init__(self, options: TranslateModel) -> None:
        width, hidden = options.hidden_size, options.ff_size
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(options.dropout), nn.Linear(hidden, width))


class EncoderBlock(nn.Module):
    """Attention of the source to itself, and feed-forward."""

    def __init__(self, options: TranslateModel) -> None:
        super().__init__()
        width = options.hidden_size
        self.attention = Attention(width, options.n_head, options.dropout)
        self.feed_forward = FeedForward(options)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.drop = nn.Dropout(options.dropout)

    def forward(self, x_bsc: Tensor, visible: Tensor) -> Tensor:
        normed = self.norms[0](x_bsc)
        x_bsc = x_bsc + self.drop(self.attention(normed, self.attention.pair(normed), visible))
        result: Tensor = x_bsc + self.drop(self.feed_forward(self.norms[1](x_bsc)))
        return result


class DecoderBlock(nn.Module):
    """Causal attention of the target to itself, attention to the memory, and feed-forward."""

    def __init__(self, options: TranslateModel) -> None:
        super().__init__()
        width = options.hidden_size
        self.attention = Attention(width, options.n_head, options.dropout)
        self.to_memory = Attention(width, options.n_head, options.dropout)
        self.feed_forward = FeedForward(options)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.drop = nn.Dropout(options.dropout)

    def forward(
        self, x_btc: Tensor, memory_bsc: Tensor, visible: Tensor, earlier: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """`earlier` is the causal mask (T, T); None where a cache holds all that is earlier."""
        normed = self.norms[0](x_btc)
        own, memory = self.attention.pair(normed), None if cache is None else cache.memory
        if cache is not None:
            cache.own = own = own if cache.own is None else _joined(cache.own, own)
        x_btc = x_btc + self.drop(self.attention(normed, own, earlier))
        memory = self.to_memory.pair(memory_bsc) if memory is None else memory
        if cache is not None:
            cache.memory = memory
        x_btc = x_btc + self.drop(self.to_memory(self.norms[1](x_btc), memory, visible))
        result: Tensor = x_btc + self.drop(self.feed_forward(self.norms[2](x_btc)))
        return result


def _joined(before: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([before[0], new[0]], dim=2), torch.cat([before[1], new[1]], dim=2)


class Translator(nn.Module):
    """Source and target token ids to logits of each next target token; embedding and output share one weight.

    Args:
        options: sizes.
        vocabulary: V.
    """

    def __init__(self, options: TranslateModel, vocabulary: int) -> None:
        super().__init__()
        self.options = options
        width = options.hidden_size
        self.embedding = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.zeros(options.max_sequence_length, width))
        self.encoder = nn.ModuleList(EncoderBlock(options) for _ in range(options.num_layers))
        self.decoder = nn.ModuleList(DecoderBlock(options) for _ in range(options.num_layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(options.dropout)
        self.output_layers: list[nn.Module] = []  # the output is the embedding
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.options.hidden_size**-0.5)
        if self.options.positions == "learned":
            nn.init.normal_(self.places, std=0.02)
        else:
            self.places.requires_grad_(False).copy_(_waves(*self.places.shape))

    def depth_groups(self) -> list[nn.Module]:
        """From the bottom up, for rates by depth."""
        return [self.embedding, *self.encoder, *self.decoder]

    def forward(self, src_bs: Tensor, x_bt: Tensor) -> Tensor:
        """Logits (B, T, V) for target inputs (B, T)."""
        memory, visible = self.encode(src_bs)
        length = x_bt.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=x_bt.device).tril()
        hidden = self._embedded(x_bt, 0)
        for block in self.decoder:
            hidden = block(hidden, memory, visible, earlier)
        return self._logits(hidden)

    def encode(self, src_bs: Tensor) -> tuple[Tensor, Tensor]:
        """The memory (B, S, C), and which of its positions are real, (B, 1, 1, S)."""
        visible = (src_bs != PAD)[:, None, None, :]
        hidden = self._embedded(src_bs, 0)
        for block in self.encoder:
            hidden = block(hidden, visible)
        return self.encoder_norm(hidden), visible

    def step(self, token_b: Tensor, place: int, memory: Tensor, visible: Tensor, caches: list[Cache]) -> Tensor:
        """Logits (B, V) of the token after `token_b`, which stands at `place`; the caches grow by it."""
        hidden = self._embedded(token_b[:, None], place)
        for block, cache in zip(self.decoder, caches, strict=True):
            hidden = block(hidden, memory, visible, None, cache)
        return self._logits(hidden)[:, 0]

    def new_caches(self) -> list[Cache]:
        return [Cache() for _ in self.decoder]

    def _embedded(self, ids_bt: Tensor, first: int) -> Tensor:
        scaled = self.embedding(ids_bt) * math.sqrt(self.options.hidden_size)
        result: Tensor = self.drop(scaled + self.places[first : first + ids_bt.shape[1]])
        return result

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(self.decoder_norm(hidden), self.embedding.weight)


def _waves(length: int, width: int) -> Tensor:
    """Sines and cosines of the place, (length, width); equation in section 3.5 of the paper."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
