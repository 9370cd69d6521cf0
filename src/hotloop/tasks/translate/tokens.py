"""From pairs to token rows: characters, or byte-level pairs; frozen before training, the same for source and target.

Ids below RESERVED are no text (padding, unknown, begin, end); the tags come next, and then the text's own tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hotloop.errors import HotloopError
from hotloop.tasks.byte_pairs import BytePairs
from hotloop.tasks.characters import RESERVED, UNK, Characters, unknown_line


@dataclass(frozen=True)
class Pieces:
    """Byte-level pairs behind the reserved ids and the tags.

    Args:
        pairs: what cuts a text.
        specials: names with an id of their own.
    """

    pairs: BytePairs
    specials: tuple[str, ...] = ()

    @property
    def _first(self) -> int:
        return RESERVED + len(self.specials)

    @property
    def size(self) -> int:
        """Ids are 0 .. size - 1."""
        return self._first + self.pairs.size

    def encode(self, text: str) -> list[int]:
        """The ids of a text; nothing is unknown."""
        return [self._first + int(token) for token in self.pairs.encode(text)]

    def special(self, name: str) -> int:
        """The id of a special, UNK where there is none of that name."""
        return RESERVED + self.specials.index(name) if name in self.specials else UNK

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; what is no text is left out."""
        return self.pairs.decode([token - self._first for token in ids if token >= self._first])

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs."""
        return {**self.pairs.to_json(), "specials": list(self.specials)}


Tokens = Characters | Pieces


def parted(text: str, specials: Sequence[str]) -> tuple[str, str]:
    """A tag that stands before a text, such as [EN], and the text; an empty tag where none of the specials does."""
    first, _, rest = text.strip().partition(" ")
    return (first, rest.strip()) if first in specials else ("", text.strip())


def build(kind: str, size: int, texts: Sequence[str], tags: Sequence[str]) -> Tokens:
    """The tokens of the training texts.

    Args:
        kind: "char" or "bpe".
        size: tokens at most.
        texts: sources and targets of the training part.
        tags: names with an id of their own.
    """
    if kind == "char":
        return Characters.build(texts, size, tags)
    return Pieces(BytePairs.learn("\n".join(texts), size - RESERVED - len(tags)), tuple(tags))


def from_json(saved: Any) -> Tokens:
    """The tokens that `to_json` described.

    Raises:
        HotloopError: they are damaged.
    """
    try:
        if saved["kind"] == "bpe":
            return Pieces(BytePairs.from_json(saved), tuple(map(str, saved["specials"])))
        return Characters.from_json(saved)
    except HotloopError:
        raise
    except Exception as error:  # the library raises bare Exceptions for damaged pairs
        raise HotloopError(f"the saved vocabulary is damaged: {error!r}", where="assets") from error


def told(tokens: Tokens, parts: Mapping[str, Sequence[str]], origin: str) -> list[str]:
    """How large the vocabulary is, of what (`origin`), and what each part holds that it does not, by script."""
    if isinstance(tokens, Pieces):
        return [f"vocabulary: {tokens.size:,} byte-level pairs, learned on {origin}; nothing is unknown"]
    tags = f", {len(tokens.specials)} tags" if tokens.specials else ""
    lines = [f"vocabulary: {len(tokens.tokens):,} characters of {origin}{tags}, complete before training"]
    return lines + [unknown_line(part, tokens.unknown_by_script(texts)) for part, texts in parts.items()]
