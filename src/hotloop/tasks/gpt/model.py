"""A decoder-only Transformer, from nanoGPT's to the modern style, by options alone.

Invariants: the logits at a position depend on tokens up to it and no further; the cached path gives the same logits
as the full one. Shape legend: B rows, T positions (at most block_size), C = n_embd, V tokens in the vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hotloop.tasks.gpt.options import GptModel
from hotloop.tasks.layers import Block, FeedForward, LayerCache, Norm, Rotary, SelfAttention, TokenShift


class Transformer(nn.Module):
    """Token ids (B, T) to next-token logits (B, T, V).

    Args:
        options: sizes and style.
        vocabulary_size: V.
    """

    def __init__(self, options: GptModel, vocabulary_size: int) -> None:
        super().__init__()
        self.options = options
        self.vocabulary_size = vocabulary_size
        width, learned = options.n_embd, options.positions == "learned"
        self.token_embedding = nn.Embedding(vocabulary_size, width)  # weight (V, C)
        self.position_embedding = nn.Embedding(options.block_size, width) if learned else None  # weight (block_size, C)
        self.embedding_norm = _norm(options) if options.embedding_norm else None
        self.embedding_dropout = nn.Dropout(options.dropout)
        rotary = None if learned else Rotary(width // options.n_head, options.block_size, options.rotary_base)
        self.blocks = nn.ModuleList(_block(options, rotary) for _ in range(options.n_layer))
        self.final_norm = _norm(options)
        # A tied output layer is the embedding's own weight; it has no module, so nothing is counted or stored twice.
        self.head = None if options.tie_embeddings else nn.Linear(width, vocabulary_size, bias=False)  # weight (V, C)
        # An optimizer for hidden matrices leaves these out (it would take the last Linear for the output layer).
        self.output_layers = [] if self.head is None else [self.head]
        self._initialise()

    def _initialise(self) -> None:
        """Spread the weights as the options say; what adds to the residual stream starts smaller, or at zero."""
        options = self.options
        smaller = 0.0 if options.zero_init else 1 / math.sqrt(2 * options.n_layer)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                inputs = module.in_features
                spread = 0.02 if options.initialisation == "normal" else 0.6 / math.sqrt(inputs)
                factor = smaller if name.endswith(".project") else 1.0
                nn.init.normal_(module.weight, std=spread * factor)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.token_embedding.weight, std=options.embedding_std)
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding.weight, std=0.02)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, x_bt: Tensor) -> Tensor:
        """Logits (B, T, V) at every position.

        Args:
            x_bt: token ids, T at most block_size.
        """
        return self._logits(self._hidden(x_bt))

    def forward_cached(self, x_bt: Tensor, caches: list[LayerCache]) -> Tensor:
        """Logits (B, V) after the last token, remembering what was seen in `caches` (see `new_caches`).

        Args:
            x_bt: the whole context at the first call, then one token at a time.

        With learned positions a full cache (see `is_full`) cannot go on: start new ones with a cropped context.
        """
        return self._logits(self._hidden(x_bt, caches)[:, -1:])[:, 0]

    def new_caches(self) -> list[LayerCache]:
        """Empty caches, one a block."""
        return [LayerCache(self.options.block_size) for _ in self.blocks]

    def is_full(self, caches: list[LayerCache]) -> bool:
        """Whether one more token would have no place: only learned positions ever run out of places."""
        return self.position_embedding is not None and _length(caches) >= self.options.block_size

    def count_parameters(self, positions: bool = True) -> int:
        """Number of parameters; without the learned position table where `positions` is False."""
        table = self.position_embedding
        spared = 0 if positions or table is None else table.weight.numel()
        return sum(parameter.numel() for parameter in self.parameters()) - spared

    def _hidden(self, x_bt: Tensor, caches: list[LayerCache] | None = None) -> Tensor:
        h_btc = self.token_embedding(x_bt)
        if self.position_embedding is not None:
            first = 0 if caches is None else _length(caches)
            places = torch.arange(first, first + x_bt.size(1), device=x_bt.device)
            h_btc = h_btc + self.position_embedding(places)
        if self.embedding_norm is not None:
            h_btc = self.embedding_norm(h_btc)
        h_btc = self.embedding_dropout(h_btc)
        if self.options.low_precision_residual and _trains_in_bf16(h_btc.device.type):
            h_btc = h_btc.bfloat16()
        for number, block in enumerate(self.blocks):
            h_btc = block(h_btc, None if caches is None else caches[number])
        hidden: Tensor = self.final_norm(h_btc)
        return hidden

    def _logits(self, h_btc: Tensor) -> Tensor:
        weight = self.token_embedding.weight if self.head is None else self.head.weight
        return nn.functional.linear(h_btc, weight)


def _length(caches: list[LayerCache]) -> int:
    """Tokens that the caches hold."""
    keys = caches[0].keys
    return 0 if keys is None else keys.size(2)


def _trains_in_bf16(device_type: str) -> bool:
    return torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.bfloat16


def _norm(options: GptModel) -> Norm:
    return Norm(options.norm, options.n_embd, scale=options.norm_scale, bias=options.bias)


def _block(options: GptModel, rotary: Rotary | None) -> Block:
    width, bias, dropout = options.n_embd, options.bias, options.dropout
    qk_norm = options.norm if options.qk_norm else None
    return Block(
        SelfAttention(width, options.n_head, bias=bias, dropout=dropout, qk_norm=qk_norm, rotary=rotary),
        FeedForward(width, ratio=options.mlp_ratio, activation=options.activation, bias=bias, dropout=dropout),
        attention_norm=_norm(options),
        feed_forward_norm=_norm(options),
        shifts=(TokenShift(width), TokenShift(width)) if options.token_shift else None,
    )
