"""Models as people find them: DeepLOB with the convolutions of its paper, and a text encoder of Hugging Face's.

The built-in tasks bring their own data, loss and metrics; only the model is another one, the same for every contestant.
Shapes: B windows, T rows, F columns, C channels.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.tasks.lob.task import Lob

ENCODER = {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 1536}


def _settled(*convolutions: nn.Module) -> list[nn.Module]:
    """Each convolution with leaky ReLU and batch norm behind it."""
    parts: list[nn.Module] = []
    for convolution in convolutions:
        assert isinstance(convolution, nn.Conv2d)
        parts += [convolution, nn.LeakyReLU(0.01), nn.BatchNorm2d(convolution.out_channels)]
    return parts


class PublishedDeepLob(nn.Module):
    """DeepLOB as its authors write it, with 2-D convolutions (Zhang, Zohren, Roberts, arXiv 1808.03668)."""

    def __init__(self, columns: int, classes: int = 3) -> None:
        super().__init__()
        over_time = [(1, 2), (1, 2), (1, columns // 4)]
        blocks: list[nn.Module] = []
        for place, size in enumerate(over_time):
            first = nn.Conv2d(32 if place else 1, 32, size, stride=size)
            blocks += _settled(first, nn.Conv2d(32, 32, (4, 1)), nn.Conv2d(32, 32, (4, 1)))
        self.blocks = nn.Sequential(*blocks)
        self.three = nn.Sequential(*_settled(nn.Conv2d(32, 64, 1), nn.Conv2d(64, 64, (3, 1), padding=(1, 0))))
        self.five = nn.Sequential(*_settled(nn.Conv2d(32, 64, 1), nn.Conv2d(64, 64, (5, 1), padding=(2, 0))))
        self.pooled = nn.Sequential(nn.MaxPool2d((3, 1), 1, (1, 0)), *_settled(nn.Conv2d(32, 64, 1)))
        self.lstm = nn.LSTM(192, 64, batch_first=True)
        self.head = nn.Linear(64, classes)

    def forward(self, x_btf: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x_bctw = self.blocks(x_btf[:, None])
        joined = torch.cat([self.three(x_bctw), self.five(x_bctw), self.pooled(x_bctw)], dim=1)
        seen_btc, _ = self.lstm(joined.permute(0, 2, 1, 3).flatten(2))
        logits: Tensor = self.head(seen_btc[:, -1])
        return logits


class PublishedLob(Lob):
    """hotloop's simulated order books in ten levels, 40 columns as in FI-2010, with the model as published."""

    def _read(self) -> dict[str, Any]:
        """The five deeper levels repeat the first ones, a little further out."""
        return {
            part: replace(books, rows=torch.cat([books.rows, books.rows * 1.01], dim=1))
            for part, books in super()._read().items()
        }

    def model(self) -> nn.Module:
        super().model()  # the features are fitted
        return nn.Sequential(self.features, PublishedDeepLob(self.columns))


def encoder_folder(folder: Path) -> Path:
    """A BERT encoder with random weights and a vocabulary of single characters, as a Hugging Face folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    target = folder / "encoder"
    if target.is_dir():
        return target
    torch.manual_seed(0)
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [chr(code) for code in [*range(0x30, 0x3A), *range(0x4E00, 0x9FA6)]]
    making: Any = folder / f"making_{os.getpid()}"
    making.mkdir(parents=True)
    (making / "vocab.txt").write_text("\n".join([*signs, *characters]) + "\n", encoding="utf-8")
    BertModel(BertConfig(vocab_size=len(signs) + len(characters), **ENCODER)).save_pretrained(making)
    BertTokenizer(str(making / "vocab.txt")).save_pretrained(making)
    making.rename(target)
    return target
