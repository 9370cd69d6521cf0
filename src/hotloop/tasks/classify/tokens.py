"""From texts to token rows: characters for the small encoder, pieces of a tokenizer for a pretrained one.

Either kind is frozen before training and goes into the run's assets as JSON. Shapes: N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hotloop.data.ragged import Ragged, bucket_widths, up_to
from hotloop.errors import HotloopError
from hotloop.tasks.characters import PAD, Characters, unknown_line
from hotloop.tasks.classify.encoder import Pieces


@dataclass(frozen=True)
class Graphemes:
    """Characters as people see them, one token each."""

    characters: Characters
    pad: int = PAD

    def encode(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """The ids of each text, cut to `longest`."""
        return [self.characters.encode(text)[:longest] for text in texts]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs."""
        return self.characters.to_json()


Tokens = Graphemes | Pieces


def from_json(saved: dict[str, Any]) -> Tokens:
    """The tokens that `to_json` described.

    Raises:
        HotloopError: they are damaged.
    """
    try:
        if saved.get("kind") == "tokenizer":
            return Pieces.from_json(saved)
        return Graphemes(Characters.from_json(saved))
    except (KeyError, TypeError, ValueError) as error:
        raise HotloopError(f"the saved tokens are damaged: {error!r}", where="assets") from error


def widths_for(lengths: Any, longest: int, count: int) -> tuple[int, ...]:
    """The padded widths of a run: `count` at most that fit the training rows, and one for any text cut to `longest`."""
    return up_to(bucket_widths(lengths, count), longest)


def told(part: str, tokens: Tokens, texts: Sequence[str], rows: Ragged, longest: int) -> str:
    """How long the rows of a part are, how many are cut or just as long, and what the tokens do not know."""
    cut = int((rows.lengths >= longest).sum())
    line = f"{part}: {rows.lengths.mean():.1f} tokens a text on average, {cut:,} texts of {longest} or more, cut there"
    if isinstance(tokens, Graphemes):
        return (
            f"{line}; {unknown_line('unknown', tokens.characters.unknown_by_script(texts)).removeprefix('unknown: ')}"
        )
    unknown = 0 if tokens.unknown is None else int((rows.flat == tokens.unknown).sum())
    return f"{line}; {unknown:,} of {len(rows.flat):,} tokens unknown ({unknown / max(1, len(rows.flat)):.2%})"
