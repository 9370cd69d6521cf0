"""The classifier: an encoder of token ids, the text's features out of its tokens, one linear layer for each task.

The mask derives from the ids: a position that holds the pad id is hidden from all others and counts in no mean.
Shapes: B rows, T tokens, C features, H heads; ids (B, T); logits (B, classes of the task).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hotloop.tasks.characters import PAD
from hotloop.tasks.classify.encoder import layers_of
from hotloop.tasks.classify.options import ClassifyModel
from hotloop.tasks.layers import FeedForward, Norm, Rotary, attend_to

_LAYERS = 2  # of the small encoder, where nobody says
_AROUND = 3  # characters that its first layer sees together


class Block(nn.Module):
    """Attention of all tokens to all, and feed-forward, each normalised first (pre-norm)."""

    def __init__(self, width: int, heads: int, dropout: float, rotary: Rotary) -> None:
        super().__init__()
        self.heads, self.dropout, self.rotary = heads, nn.Dropout(dropout), rotary
        self.join = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.feed_forward = FeedForward(width, ratio=4.0, activation="gelu", bias=True, dropout=dropout)
        self.norms = nn.ModuleList(Norm("layernorm", width, bias=True) for _ in range(2))
        self.drop = nn.Dropout(dropout)

    def forward(self, x_btc: Tensor, visible: Tensor) -> Tensor:
        rows, length, width = x_btc.shape
        joined = self.join(self.norms[0](x_btc)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key = self.rotary(joined[:2]).unbind()
        mixed = attend_to(query, key, joined[2], visible=visible, drop=self.dropout)
        x_btc = x_btc + self.drop(self.project(mixed.transpose(1, 2).reshape(rows, length, width)))
        result: Tensor = x_btc + self.feed_forward(self.norms[1](x_btc))
        return result


class SmallEncoder(nn.Module):
    """Characters to features, from scratch: embedding, a convolution over neighbours, a few blocks.

    Args:
        options: sizes.
        vocabulary: ids are below it.
    """

    def __init__(self, options: ClassifyModel, vocabulary: int) -> None:
        super().__init__()
        width = options.hidden_size
        dropout = 0.1 if options.encoder_dropout is None else options.encoder_dropout
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.around = nn.Conv1d(width, width, _AROUND, padding=_AROUND // 2)
        self.drop = nn.Dropout(dropout)
        rotary = Rotary(width // options.n_head, options.max_sequence_length)
        self.blocks = nn.ModuleList(
            Block(width, options.n_head, dropout, rotary) for _ in range(options.num_layers or _LAYERS)
        )
        self.norm = Norm("layernorm", width, bias=True)

    def forward(self, ids_bt: Tensor, real_bt: Tensor) -> Tensor:
        """Features (B, T, C)."""
        x_btc = self.embedding(ids_bt) * real_bt[:, :, None]
        x_btc = self.drop(x_btc + self.around(x_btc.transpose(1, 2)).transpose(1, 2))
        # a text without a character would see nothing, and a mean of nothing is no number
        visible = (real_bt | ~real_bt.any(dim=1, keepdim=True))[:, None, None, :]
        for block in self.blocks:
            x_btc = block(x_btc, visible)
        result: Tensor = self.norm(x_btc)
        return result

    def depth_groups(self) -> list[nn.Module]:
        return [self.embedding, *self.blocks]


class Classifier(nn.Module):
    """Logits of each task, by name.

    Args:
        encoder: `SmallEncoder`, or a model of `transformers`.
        width: C of the encoder.
        classes: task -> how many classes.
        options: how tokens become one vector, and dropout.
        pad: the id that fills up rows.
    """

    def __init__(
        self, encoder: nn.Module, width: int, classes: Mapping[str, int], options: ClassifyModel, pad: int
    ) -> None:
        super().__init__()
        self.encoder, self.pooling, self.pad = encoder, options.pooling, pad
        self._keys = {task: f"task_{task}" for task in classes}  # a bare name could be one of torch's own, as "type"
        self.drop = nn.Dropout(options.dropout)
        self.heads = nn.ModuleDict({self._keys[task]: nn.Linear(width, count) for task, count in classes.items()})
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        self.output_layers: Sequence[nn.Module] = list(self.heads.values())

    def forward(self, ids_bt: Tensor) -> dict[str, Tensor]:
        features = self.drop(self._pooled(ids_bt))
        return {task: self.heads[key](features) for task, key in self._keys.items()}

    def _pooled(self, ids_bt: Tensor) -> Tensor:
        """One vector a text, (B, C)."""
        real = ids_bt != self.pad
        if isinstance(self.encoder, SmallEncoder):
            tokens = self.encoder(ids_bt, real)
        else:
            tokens = self.encoder(input_ids=ids_bt, attention_mask=real).last_hidden_state
        if self.pooling == "cls":
            first: Tensor = tokens[:, 0]
            return first
        share = real.to(torch.float32)
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1.0)
        result: Tensor = (tokens * share[:, :, None].to(tokens.dtype)).sum(dim=1)
        return result

    def depth_groups(self) -> list[nn.Module]:
        """From the bottom up, for rates by depth."""
        return self.encoder.depth_groups() if isinstance(self.encoder, SmallEncoder) else layers_of(self.encoder)


class Answers(nn.Module):
    """The classifier for other programs: ids in, the logits of each task out, in the tasks' order."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(ids).values())
