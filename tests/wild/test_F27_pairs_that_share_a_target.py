"""F27: pairs split at random, so that every validation target was trained on five times already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hotloop.tasks.translate.options import TranslateData, TranslateModel
from hotloop.tasks.translate.task import Translate


def notes_of(path: Path, split: str) -> str:
    task = Translate(TranslateModel(hidden_size=16, n_head=2), TranslateData(path=str(path), split=split), seed=1)
    task.sources()
    return "\n".join(task.notes())


def test_no_target_is_on_both_sides(shared_data: Callable[[str], Path]) -> None:
    told = notes_of(shared_data("hlbd/pairs_600.tsv"), "group")
    assert "validation: 60 pairs, 10 different targets, 10 groups" in told
    assert "targets are trained on too" not in told


def test_a_random_split_says_how_many_are(shared_data: Callable[[str], Path]) -> None:
    told = notes_of(shared_data("hlbd/pairs_600.tsv"), "random")
    assert "60 of 60 validation targets are trained on too: what they show is memory" in told
