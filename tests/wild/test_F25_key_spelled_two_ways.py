"""F25: a key spelled two ways in the data, so that 935 pairs are found instead of 1,002 and nobody sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.unit.tasks.pair_files import hlbd, sample

from hotloop.tasks.translate.options import TranslateData
from hotloop.tasks.translate.read import read_pairs


def test_both_spellings_are_read_and_counted(shared_data: Callable[[str], Path]) -> None:
    pairs = read_pairs(shared_data("hlbd/hlbd_167_concepts.txt"), TranslateData())
    assert len(pairs) == 1002
    assert "level_8 is spelled in more than one way, all are read: 韩文 100, 韩문 67" in pairs.notes


def test_a_third_spelling_is_told_with_what_it_costs(tmp_path: Path) -> None:
    samples = [sample(1), sample(2, level_8={"朝鲜文": "한국어"}), sample(3, level_8={"朝鲜文": "한국어"})]
    pairs = read_pairs(hlbd(tmp_path / "a.txt", samples), TranslateData())
    assert len(pairs) == 16
    told = "\n".join(pairs.notes)
    assert "level_8.韩文 is missing in 2 samples, so no such pair is made: sample 2, sample 3" in told
    assert "level_8.朝鲜文 2" in told
