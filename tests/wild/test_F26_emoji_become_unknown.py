"""F26: a tokenizer that maps every emoji to [UNK], so that one level of the data says nothing."""

from __future__ import annotations

from pathlib import Path

from tests.unit.tasks.pair_files import tsv

from hotloop.tasks.characters import UNK
from hotloop.tasks.translate.options import TranslateData, TranslateModel
from hotloop.tasks.translate.task import Translate

EMOJI = ["🌧️", "❤️", "🏃‍♂️", "👩‍👩‍👧", "🇨🇳", "👍🏽"]


def task_of(**data: object) -> Translate:
    return Translate(TranslateModel(hidden_size=16, n_head=2), TranslateData(**data), seed=1)


def test_every_emoji_is_one_token_of_its_own(tmp_path: Path) -> None:
    path = tsv(tmp_path / "a.tsv", [(sign, f"第{n}句") for n, sign in enumerate(EMOJI)], ("src", "tgt"))
    task = task_of(path=str(path), val_fraction=0.0)
    task.sources()
    ids = [task.tokens.encode(sign) for sign in EMOJI]
    assert all(len(found) == 1 and found[0] != UNK for found in ids)
    assert len({found[0] for found in ids}) == len(EMOJI)


def test_emoji_that_are_unknown_are_told_by_script(tmp_path: Path) -> None:
    train = tsv(tmp_path / "train.tsv", [("🌧️ ab", "雨"), ("ba", "人")], ("src", "tgt"))
    val = tsv(tmp_path / "val.tsv", [("❤️🏃‍♂️", "雨"), ("🌧️", "猫")], ("src", "tgt"))
    task = task_of(train_path=str(train), val_path=str(val))
    task.sources()
    [line] = [line for line in task.notes() if "characters unknown" in line]
    assert line == "validation: 3 of 5 characters unknown: emoji 2 of 3 (66.7%), Han 1 of 2 (50.0%)"
