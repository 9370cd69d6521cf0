"""Text to token ids and back: characters, byte-level pairs, or bare ids where only token files are known.

A vocabulary is complete and frozen before training starts, and goes into the run folder as plain JSON. Ids are
0 .. size - 1 and fit 16 bits. A character that a vocabulary does not hold is an error that names it, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from hotloop.errors import HotloopError
from hotloop.tasks.byte_pairs import BytePairs

Tokens = np.ndarray[Any, np.dtype[np.uint16]]
LARGEST = 1 << 16
"""Most tokens a vocabulary can hold: token files keep 16 bits an id."""


class Vocabulary(Protocol):
    """Text to ids and back."""

    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> Tokens:
        """Ids (N,) of a text. Raises HotloopError for what it does not hold."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs to build it again."""
        ...


@dataclass(frozen=True)
class Characters:
    """One token per character; the id is the character's place in `characters`."""

    characters: str

    @classmethod
    def of(cls, text: str) -> Characters:
        """All characters of a text in the order of their code points, as nanoGPT numbers them."""
        found = "".join(sorted(set(text)))
        if len(found) > LARGEST:
            raise HotloopError(
                f"the text holds {len(found):,} different characters, above {LARGEST:,}", fix="data.vocabulary=bpe"
            )
        return cls(found)

    @property
    def size(self) -> int:
        return len(self.characters)

    @cached_property
    def _by_code(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        codes = _code_points(self.characters)
        order = np.argsort(codes)
        return codes[order], order

    def encode(self, text: str) -> Tokens:
        codes, ids = self._by_code
        points = _code_points(text)
        places = np.searchsorted(codes, points).clip(max=len(codes) - 1)
        missing = codes[places] != points
        if missing.any():
            unknown = "".join(dict.fromkeys(text[place] for place in np.flatnonzero(missing)))
            shown = ", ".join(repr(character) for character in unknown[:10])
            subject = "character is" if len(unknown) == 1 else "characters are"
            raise HotloopError(
                f"{len(unknown)} {subject} not in the vocabulary: {shown}" + (" ..." if len(unknown) > 10 else ""),
                fix="leave them out; the model has never seen them",
            )
        encoded: Tokens = ids[places].astype(np.uint16)
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.characters[token] for token in ids)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "char", "characters": self.characters}


@dataclass(frozen=True)
class BareIds:
    """Token files without a vocabulary: a text is the ids themselves, with spaces between."""

    size: int

    def encode(self, text: str) -> Tokens:
        words = text.split()
        wrong = [word for word in words if not (word.isascii() and word.isdigit() and int(word) < self.size)]
        if wrong:
            raise HotloopError(
                f"{wrong[0]!r} is not a token id from 0 to {self.size - 1}",
                fix="this run knows no characters (its data had no meta.pkl): write ids, e.g. '5 17 3'",
            )
        return np.array([int(word) for word in words], dtype=np.uint16)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"{token} " for token in ids)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "ids", "size": self.size}


def from_json(saved: dict[str, Any]) -> Vocabulary:
    """The vocabulary that `to_json` described.

    Raises:
        HotloopError: the description is not one of ours, or its library is absent.
    """
    kind = saved.get("kind") if isinstance(saved, dict) else None
    try:
        if kind == "char":
            characters = saved["characters"]
            if isinstance(characters, str) and characters and len(set(characters)) == len(characters) <= LARGEST:
                return Characters(characters)
        if kind == "bpe":
            return BytePairs.from_json(saved)
        if kind == "ids" and isinstance(saved["size"], int) and 0 < saved["size"] <= LARGEST:
            return BareIds(saved["size"])
    except HotloopError:
        raise
    except Exception as error:  # the library raises bare Exceptions for a damaged tokenizer
        raise HotloopError(f"the saved vocabulary is damaged: {error}") from error
    raise HotloopError(f"the saved vocabulary (kind {kind!r}) cannot be read")


def _code_points(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.dtype("<u4")).astype(np.uint32)
