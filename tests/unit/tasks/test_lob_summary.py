"""The summary of a window: finite for every book, alike for every symbol, rebuilt without data, and better unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hotloop
from hotloop.errors import HotloopError
from hotloop.tasks.lob.options import LobData, LobModel
from hotloop.tasks.lob.summary import Summary, SummaryNet
from hotloop.tasks.lob.task import Lob

SMALL = LobModel(name="summary", hidden_size=8)


def summary_task(**data) -> Lob:
    return Lob(SMALL, LobData(symbols=16, rows=600, **data), seed=1)


@pytest.mark.parametrize(("columns", "rows"), [(4, 20), (20, 100), (40, 37)])
def test_it_takes_books_of_any_depth_and_length(columns, rows):
    summary = Summary(columns)
    x = torch.rand(3, rows, columns) + 50.0
    numbers = summary(x)
    assert numbers.shape == (3, summary.size) and numbers.isfinite().all()
    logits = SummaryNet(SMALL, summary.size)(numbers)
    assert logits.shape == (3, 3)


def test_the_numbers_are_standardised_by_the_training_part():
    train = summary_task().sources().train
    summary = Summary(train.books.rows.shape[1]).fit(train)
    numbers = summary(train.batch(torch.arange(0, len(train), 7))["x"])
    assert numbers.mean(0).abs().max() < 0.2
    assert numbers.std(0).max() < 1.3


def test_a_still_book_gives_finite_numbers():
    summary = Summary(20).fit(summary_task().sources().train)
    assert summary(torch.full((2, 100, 20), 30.0)).isfinite().all()


def test_another_price_level_changes_the_level_alone():
    train = summary_task().sources().train
    summary = Summary(20).fit(train)
    x = train.batch(torch.arange(0, len(train), 50))["x"].double()
    dearer = x.clone()
    dearer[..., 0::2] = (x[..., 0::2] + summary.floors[0]) * 1.3 - summary.floors[0]
    changed = ((summary(x) - summary(dearer)).abs() > 1e-2).any(dim=0)
    assert changed.nonzero().flatten().tolist() == [18]


def test_it_is_rebuilt_from_its_assets_alone():
    task = summary_task()
    splits = task.sources()
    model = task.model().eval()
    again = Lob(SMALL, LobData(path="absent.npz"), seed=1)
    again.use_assets(json.loads(json.dumps(task.assets())))
    other = again.model().eval()
    other.load_state_dict(model.state_dict())
    x = splits.val.batch(torch.arange(4))["x"]
    assert torch.equal(model(x), other(x))


def test_what_has_no_effect_is_refused():
    with pytest.raises(HotloopError, match="makes its own features"):
        summary_task(features="relative").sources()
    assert [key for key, _, _ in LobModel(name="summary", channels=8).problems()] == ["channels"]
    assert not LobModel(channels=8).problems()


def test_on_real_books_it_beats_the_linear_baseline_on_unseen_symbols(shared_data, experiments: Path):
    path, split = str(shared_data("tw-lob/tw_lob_rows.npz")), 2
    task = Lob(LobModel(), LobData(path=path, split_seed=split), seed=1)
    linear = task.baselines(task.sources())["linear"]["balanced_accuracy"]
    run = hotloop.train("lob", template="tw_lob", progress=False, keys={"data.path": path, "data.split_seed": split})
    assert run.summary["eval_balanced_accuracy"] > linear + 0.02
