"""Vocabularies: text to ids and back without loss, unknown characters named, saved as JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotloop.errors import HotloopError
from hotloop.tasks import byte_pairs as module
from hotloop.tasks.byte_pairs import BytePairs
from hotloop.tasks.gpt.vocabulary import BareIds, Characters, from_json

TEXT = "To be, or not to be: that is the question.\n" * 40


def test_characters_are_numbered_by_code_point():
    vocabulary = Characters.of("banana \U0001f600\u4e2d")
    assert vocabulary.characters == " abn\u4e2d\U0001f600"
    assert vocabulary.encode("ban").tolist() == [2, 1, 3]
    assert vocabulary.encode("").tolist() == []


@given(st.text(min_size=1))
def test_characters_come_back_whole(text):
    vocabulary = Characters.of(text)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.uint16
    assert ids.max() < vocabulary.size
    assert vocabulary.decode(ids.tolist()) == text


def test_an_order_other_than_by_code_point_is_kept():
    vocabulary = Characters("zay")
    assert vocabulary.encode("ayz").tolist() == [1, 2, 0]


def test_unknown_characters_are_named_once():
    with pytest.raises(HotloopError, match=r"2 characters are not in the vocabulary: '\?', '\u00df'"):
        Characters("abc").encode("a?b\u00df?")


def test_saved_vocabularies_are_read_back():
    for vocabulary in (Characters("ab\n\u00e9"), BareIds(7)):
        assert from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@pytest.mark.parametrize(
    "damaged", [{}, {"kind": "char", "characters": "aa"}, {"kind": "char"}, {"kind": "ids", "size": 0}, {"kind": "os"}]
)
def test_a_damaged_vocabulary_is_refused(damaged):
    with pytest.raises(HotloopError, match="saved vocabulary"):
        from_json(damaged)


def test_bare_ids_read_and_write_numbers():
    vocabulary = BareIds(10)
    assert vocabulary.encode(vocabulary.decode([3, 9, 0])).tolist() == [3, 9, 0]
    with pytest.raises(HotloopError, match="'10' is not a token id from 0 to 9"):
        vocabulary.encode("3 10")


def test_byte_pairs_come_back_whole_for_any_text():
    pytest.importorskip("tokenizers")
    vocabulary = BytePairs.learn(TEXT, 280)
    assert 256 < vocabulary.size <= 280
    for text in (TEXT, "never seen: \u4e2d\u6587 \U0001f600\r\n\t  end ", ""):
        assert vocabulary.decode(vocabulary.encode(text).tolist()) == text
    assert len(vocabulary.encode(TEXT)) < len(TEXT) / 2
    again = from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again.encode(TEXT).tolist() == vocabulary.encode(TEXT).tolist()


def test_byte_pairs_do_not_depend_on_the_pieces(monkeypatch):
    pytest.importorskip("tokenizers")
    vocabulary = BytePairs.learn(TEXT, 300)
    spaced = TEXT.replace("\n", "  \n\n   ")
    whole = vocabulary.encode(spaced).tolist()
    monkeypatch.setattr(module, "_PIECE", 37)
    assert len(list(module._pieces(spaced))) > 20
    assert vocabulary.encode(spaced).tolist() == whole


def test_a_missing_library_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(HotloopError, match=r"pip install 'hotloop\[text\]'"):
        BytePairs.learn(TEXT, 300)
