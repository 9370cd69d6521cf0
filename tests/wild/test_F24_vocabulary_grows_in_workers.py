"""F24: the vocabulary grows inside loader workers, so that the process that trains knows ten tokens of a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.tasks.pair_files import concepts, tsv

import hotloop
from hotloop.tasks.characters import UNK, Characters
from hotloop.tasks.translate.options import TranslateData, TranslateModel
from hotloop.tasks.translate.task import Translate


def test_the_vocabulary_is_whole_before_the_first_batch_and_nothing_adds_to_it(tmp_path: Path) -> None:
    data = TranslateData(path=str(tsv(tmp_path / "a.tsv", concepts())), val_fraction=0.0)
    task = Translate(TranslateModel(hidden_size=16, n_head=2), data, seed=1)
    source = task.sources().train
    size = task.tokens.size
    every = set(source.batch(torch.arange(24))["y"].flatten().tolist())
    assert UNK not in every and len(every) > 10
    assert task.tokens.encode("new 新") and task.tokens.size == size
    assert task.model().embedding.num_embeddings == size
    with pytest.raises(AttributeError):
        task.tokens.tokens = ()


def test_encoding_never_adds() -> None:
    characters = Characters.build(["ab"])
    assert characters.encode("abc")[2] == UNK
    assert characters.size == Characters.build(["ab"]).size


def test_workers_give_the_run_that_one_process_gives(tmp_path: Path) -> None:
    path = tsv(tmp_path / "a.tsv", concepts())
    keys = {"data.path": str(path), "model.hidden_size": 16, "model.n_head": 2, "num_epochs": 2, "batch_size": 8}
    keys |= {"device": "cpu", "precision": "fp32", "compile": "off", "threads": 1, "data.val_fraction": 0.0}
    losses = []
    for workers in (0, 1):
        folder = str(tmp_path / f"runs{workers}")
        run = hotloop.train("translate", progress=False, keys={**keys, "data.num_workers": workers, "dir": folder})
        losses.append(run.summary["train_loss"])
    assert losses[0] == losses[1]
