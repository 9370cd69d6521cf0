"""A vocabulary of characters as people see them: one token for each grapheme, an emoji with its modifiers included.

Complete and frozen once built: `encode` never adds a token, in whichever process it runs. What it does not hold becomes
UNK, and `unknown_by_script` tells of how many and of which script, so that no script is lost unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hotloop.errors import HotloopError

PAD, UNK, BOS, EOS = 0, 1, 2, 3
RESERVED = 4
"""Ids below this are no characters."""
UNKNOWN_SIGN = "\N{REPLACEMENT CHARACTER}"
_SCRIPTS = {
    "Han": r"\p{Script=Han}",
    "Hiragana": r"\p{Script=Hiragana}",
    "Katakana": r"\p{Script=Katakana}",
    "Hangul": r"\p{Script=Hangul}",
    "Bopomofo": r"\p{Script=Bopomofo}",
    "Latin": r"\p{Script=Latin}",
    "emoji": r"\p{Emoji_Presentation}|\p{Extended_Pictographic}|\p{Regional_Indicator}|.\uFE0F",
    "digits": r"\p{Nd}",
    "punctuation": r"[\p{P}\p{S}]",
    "space": r"\s",
}


def graphemes(text: str) -> list[str]:
    """A text cut into what people see as characters (Unicode's extended grapheme clusters)."""
    found: list[str] = _pattern(r"\X").findall(text)
    return found


def script_of(grapheme: str) -> str:
    """The script of a grapheme by its first code point: Han, Latin, emoji, ..., or other."""
    return next((name for name, pattern in _SCRIPTS.items() if _pattern(pattern).match(grapheme)), "other")


@cache
def _pattern(pattern: str) -> Any:
    import regex

    return regex.compile(pattern)


@dataclass(frozen=True)
class Characters:
    """Graphemes and whole words that stand for themselves ("specials", such as a tag), by number.

    Args:
        tokens: graphemes; the id of the first is RESERVED + the number of specials.
        specials: names that `special` finds; they never come out of a text.
    """

    tokens: tuple[str, ...]
    specials: tuple[str, ...] = ()
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        first = RESERVED + len(self.specials)
        object.__setattr__(self, "_ids", {token: first + place for place, token in enumerate(self.tokens)})

    @classmethod
    def build(cls, texts: Iterable[str], limit: int | None = None, specials: Sequence[str] = ()) -> Characters:
        """All graphemes of the texts, the most frequent first.

        Args:
            texts: of the training part.
            limit: tokens at most, reserved ids and specials included; None is no limit.
            specials: names with an id of their own.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(graphemes(text))
        room = None if limit is None else max(0, limit - RESERVED - len(specials))
        ordered = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(tuple(ordered[:room]), tuple(specials))

    @property
    def size(self) -> int:
        """Ids are 0 .. size - 1."""
        return RESERVED + len(self.specials) + len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; UNK for what the vocabulary does not hold."""
        return [self._ids.get(token, UNK) for token in graphemes(text)]

    def special(self, name: str) -> int:
        """The id of a special, UNK where there is none of that name."""
        return RESERVED + self.specials.index(name) if name in self.specials else UNK

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; specials and reserved ids have none, UNK is a sign."""
        first = RESERVED + len(self.specials)
        shown = (UNKNOWN_SIGN if i == UNK else self.tokens[i - first] for i in ids if i >= first or i == UNK)
        return "".join(shown)

    def unknown_by_script(self, texts: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Script -> (graphemes that are not in the vocabulary, all of them), for the scripts that occur."""
        total: Counter[str] = Counter()
        unknown: Counter[str] = Counter()
        scripts = cache(script_of)
        for text in texts:
            for token in graphemes(text):
                script = scripts(token)
                total[script] += 1
                unknown[script] += token not in self._ids
        return {script: (unknown[script], count) for script, count in total.most_common()}

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs."""
        return {"kind": "graphemes", "tokens": list(self.tokens), "specials": list(self.specials)}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Characters:
        """The vocabulary that `to_json` described.

        Raises:
            HotloopError: it is damaged.
        """
        try:
            return cls(tuple(map(str, saved["tokens"])), tuple(map(str, saved["specials"])))
        except (KeyError, TypeError) as error:
            raise HotloopError(f"the saved vocabulary is damaged: {error!r}", where="assets") from error


def unknown_line(part: str, found: dict[str, tuple[int, int]]) -> str:
    """`validation: 12 of 3,000 characters unknown: Han 10 of 900 (1.1%), emoji 2 of 20 (10.0%)`."""
    unknown, total = (sum(pair[place] for pair in found.values()) for place in (0, 1))
    scripts = [
        f"{script} {some:,} of {count:,} ({some / count:.1%})" for script, (some, count) in found.items() if some
    ]
    shown = f": {', '.join(scripts)}" if scripts else ""
    return f"{part}: {unknown:,} of {total:,} characters unknown{shown}"
