"""Corners of splitting and weighing that a person meets by accident: each is told, or right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotloop
from hotloop.data.ledger import lines_of
from hotloop.data.source import TensorSource
from hotloop.data.weights import Weighing, weigh

N = 200
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(1))
SORTED = (torch.arange(N) * 2 // N).long()  # all of class 0 first
GROUP = torch.arange(N) // 10
SMALL: dict[str, Any] = {"batch_size": 8, "max_steps": 3, "progress": False, "precision": "fp32", "compile": "off"}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def fit(data: dict[str, Tensor], **settings: Any) -> hotloop.Run:
    return hotloop.fit(nn.Linear(4, 2), data, loss=loss, **SMALL, **settings)


@pytest.mark.parametrize(
    "split", [{"split": "stratified", "val_fraction": 0.2}, {"folds": 4, "fold": 1}, {"split": "group", "folds": 4}]
)
def test_a_limit_takes_a_sample_and_not_one_class(split: dict[str, Any], experiments: Any) -> None:
    settings = {"fold": 1, **split} if "folds" in split else split
    run = fit({"x": X, "y": SORTED, "group": GROUP}, limit=24, **settings)
    lines = [line for line in (run.dir / "ledger.json").read_text().splitlines() if '"rows":' in line]
    counts = [int(line.partition(":")[2].strip(" ,")) for line in lines[:2]]
    assert sum(counts) == 24
    assert min(counts) >= 4


@pytest.mark.parametrize("more", [{}, {"val": {"x": X, "y": SORTED}}])
def test_a_split_that_holds_nothing_out_is_no_quiet_no(more: dict[str, Any]) -> None:
    with pytest.raises(hotloop.HotloopError, match="rows to hold out"):
        fit({"x": X, "y": SORTED, "group": GROUP}, split="group", **more)


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        ({}, {"class_weights": [0.0, 0.0]}),
        ({"y": torch.zeros(N).long()}, {"class_weights": [0.0, 1.0], "balance_sampler": True}),
        ({"sample_weight": torch.zeros(N)}, {"use_sample_weights": True, "weights_clip": [0.0, 10.0]}),
        ({"weight": torch.zeros(N)}, {}),
    ],
)
def test_weights_that_leave_nothing_are_refused(data: dict[str, Tensor], settings: dict[str, Any]) -> None:
    whole = {"x": X, "y": SORTED, **data}
    with pytest.raises(hotloop.HotloopError, match="every training row has the weight 0"):
        hotloop.fit(nn.Linear(4, 2), whole, loss=loss, val={"x": X, "y": SORTED}, **SMALL, **settings)


def test_weights_in_a_batch_of_one_row_have_no_effect_and_are_refused() -> None:
    settings = {**SMALL, "batch_size": 1}
    with pytest.raises(hotloop.HotloopError, match="weights would have no effect"):
        hotloop.fit(nn.Linear(4, 2), {"x": X, "y": SORTED}, loss=loss, class_weights=[1.0, 9.0], **settings)


def test_the_ledger_counts_a_column_weight_of_the_datas_own() -> None:
    weight = torch.where(SORTED == 1, 900.0, 100.0)
    ledger = weigh(TensorSource({"x": X, "y": SORTED, "weight": weight}), None, Weighing()).ledger
    assert ledger is not None
    assert [round(line.effective_share, 6) for line in ledger.lines] == [0.1, 0.9]
    assert ledger.effective_size == pytest.approx(N * 1000**2 / (2 * (900**2 + 100**2)))
    assert "1 x1.8 = 90.0% of the loss" in "\n".join(lines_of(ledger, weighed=False))


def test_a_negative_weight_of_the_datas_own_is_told_by_row() -> None:
    source = TensorSource({"x": X, "y": SORTED, "weight": torch.where(torch.arange(N) == 7, -1.0, 1.0)})
    with pytest.raises(hotloop.HotloopError, match="1 weights of the training rows are negative: rows 7"):
        weigh(source, None, Weighing())


def test_many_classes_that_one_part_lacks_are_few_lines() -> None:
    train, val = TensorSource({"y": torch.arange(200)}), TensorSource({"y": torch.arange(200) + 500})
    ledger = weigh(train, val, Weighing()).ledger
    assert ledger is not None
    assert len(ledger.missing) == 400
    told = lines_of(ledger, weighed=False)
    assert len(told) < 20
    assert "and 388 more classes that one part lacks" in told


def test_a_class_without_rows_is_drawn_never() -> None:
    ledger = weigh(TensorSource({"y": torch.tensor([0, 0, 2])}), None, Weighing(sampler=True)).ledger
    assert ledger is not None
    assert [line.sampler for line in ledger.lines] == [0.75, 0.0, 1.5]


def test_columns_that_nothing_uses_are_told(experiments: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0].numpy(), "price": ["1.5"] * N, "label": SORTED.numpy()})
    hotloop.fit(nn.Linear(1, 2), hotloop.from_table(frame), loss=loss, **{**SMALL, "progress": True})
    assert "not used, as they hold no numbers: price" in capsys.readouterr().out


def test_the_datas_own_weights_beside_another_way_to_weigh_stop_the_run() -> None:
    varying = {"x": X, "y": SORTED, "weight": torch.where(SORTED == 1, 9.0, 1.0)}
    with pytest.raises(hotloop.HotloopError, match="optimization.class_weights and weight multiply") as told:
        fit(varying, class_weights=[1.0, 9.0])
    assert "81 times" in str(told.value)
    assert told.value.where == "optimization.class_weights (Python call), weight (the data)"
    assert "leave the column weight out" in told.value.fix
    mask = {**varying, "weight": (torch.arange(N) % 3 > 0).float()}
    assert fit(mask, class_weights=[1.0, 9.0]).summary["status"] == "completed"
