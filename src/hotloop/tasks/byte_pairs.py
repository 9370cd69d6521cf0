"""Byte-level pair encoding through `tokenizers`: for tasks whose tokens are pieces of words.

Learned on training text only and frozen then. Ids are 0 .. size - 1 and fit 16 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hotloop.errors import HotloopError

Ids = np.ndarray[Any, np.dtype[np.uint16]]
_PIECE = 1_000_000  # characters given to the encoder at a time, which bounds its memory


@dataclass(frozen=True)
class BytePairs:
    """Byte-level pair encoding: every text can be written with it, down to single bytes.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
    """

    tokenizer: Any

    @classmethod
    def learn(cls, text: str, size: int) -> BytePairs:
        """Learn up to `size` tokens from a text (the training part only, so that validation stays unseen)."""
        library = _tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
        trainer = library.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(_pieces(text), trainer)
        return cls(tokenizer)

    @property
    def size(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str) -> Ids:
        parts = [np.array(self.tokenizer.encode(piece).ids, dtype=np.uint16) for piece in _pieces(text)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids)))

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bpe", "tokenizer": self.tokenizer.to_str()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> BytePairs:
        """The pairs that `to_json` described. Raises whatever the library raises for damaged ones."""
        return cls(_tokenizers().Tokenizer.from_str(saved["tokenizer"]))


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise HotloopError(
            "data.vocabulary=bpe needs the package 'tokenizers'", fix="pip install 'hotloop[text]'"
        ) from error
    return tokenizers


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces, cut between a word and the space after it, where the byte-pair rules cut anyway."""
    cut, start = re.compile(r"(?<=\S)(?= )"), 0
    while len(text) - start > _PIECE:
        found = cut.search(text, start + _PIECE)
        if found is None:
            break
        yield text[start : found.start()]
        start = found.start()
    if start < len(text):
        yield text[start:]
