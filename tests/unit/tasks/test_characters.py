"""The vocabulary of graphemes: emoji whole, frozen once built, unknowns told by script."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop.errors import HotloopError
from hotloop.tasks.characters import BOS, EOS, PAD, UNK, Characters, graphemes, script_of, unknown_line

FAMILY, FLAG, RAIN, THUMB = "👨‍👩‍👧", "🇹🇼", "🌧️", "👍🏽"


@pytest.mark.parametrize("emoji", [FAMILY, FLAG, RAIN, THUMB])
def test_an_emoji_with_its_modifiers_is_one_token(emoji: str) -> None:
    vocabulary = Characters.build([f"下雨{emoji}"])
    assert len(vocabulary.encode(emoji)) == 1 and vocabulary.encode(emoji) != [UNK]
    assert vocabulary.decode(vocabulary.encode(f"雨{emoji}下")) == f"雨{emoji}下"


def test_frozen_once_built() -> None:
    vocabulary = Characters.build(["ab"])
    size = vocabulary.size
    assert vocabulary.encode("axb").count(UNK) == 1 and vocabulary.size == size


def test_the_most_frequent_stay_when_there_is_a_limit() -> None:
    vocabulary = Characters.build(["aaabbc"], limit=7, specials=("[EN]",))
    assert vocabulary.tokens == ("a", "b") and vocabulary.size == 7
    assert vocabulary.encode("c") == [UNK]


def test_specials_have_ids_of_their_own_and_never_come_out_of_text() -> None:
    vocabulary = Characters.build(["[EN] hi"], specials=("[EN]",))
    assert vocabulary.special("[EN]") == 4 and vocabulary.special("[XX]") == UNK
    assert 4 not in vocabulary.encode("[EN]")
    assert vocabulary.decode([BOS, 4, *vocabulary.encode("hi"), EOS, PAD]) == "hi"


@pytest.mark.parametrize(
    ("text", "script"),
    [("汉", "Han"), ("ひ", "Hiragana"), ("カ", "Katakana"), ("한", "Hangul"), ("é", "Latin"), (RAIN, "emoji"),
     (FLAG, "emoji"), ("7", "digits"), ("。", "punctuation"), ("ж", "other")],
)  # fmt: skip
def test_scripts(text: str, script: str) -> None:
    assert script_of(text) == script


def test_unknowns_are_told_by_script() -> None:
    found = Characters.build(["下雨 rain"]).unknown_by_script(["下雪 rain", RAIN])
    assert found["Han"] == (1, 2) and found["Latin"] == (0, 4) and found["emoji"] == (1, 1)
    line = unknown_line("validation", found)
    assert line == "validation: 2 of 8 characters unknown: Han 1 of 2 (50.0%), emoji 1 of 1 (100.0%)"


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=40))
def test_what_was_seen_comes_back(text: str) -> None:
    vocabulary = Characters.build([text])
    again = Characters.from_json(vocabulary.to_json())
    assert again == vocabulary and again.decode(again.encode(text)) == text
    assert len(again.encode(text)) == len(graphemes(text))


def test_a_damaged_vocabulary_is_told() -> None:
    with pytest.raises(HotloopError, match="damaged"):
        Characters.from_json({"tokens": 3})
