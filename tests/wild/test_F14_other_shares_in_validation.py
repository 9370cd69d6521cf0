"""F14: the class prior differs between train and validation (one public set: 49.5 % positive in train, 39.6 % in test).
Here the shares of both are told before training, beside each other.
"""

from __future__ import annotations

import csv

import torch
import torch.nn.functional as F

from hotloop.data.ledger import lines_of
from hotloop.data.source import TensorSource
from hotloop.data.weights import Weighing, weigh


def rows(positive, total=1000):
    y = (torch.arange(total) < positive).long()
    return {"x": torch.randn(total, 2, generator=torch.Generator().manual_seed(0)), "y": y}


def told(train, val):
    return lines_of(weigh(TensorSource(train), TensorSource(val), Weighing(), ("fine", "offensive")).ledger, False)


def test_both_shares_are_told():
    [_, line] = told(rows(495), rows(396))
    assert line == (
        "class shares differ between training and validation by 9.9%: "
        "fine 50.5% against 60.4%, offensive 49.5% against 39.6%"
    )


def test_like_shares_are_not_told():
    assert len(told(rows(495), rows(480))) == 1


def test_a_class_that_validation_lacks_is_told():
    assert any("class offensive" in line and "not measured" in line for line in told(rows(495), rows(0)))


def test_a_run_says_it_and_keeps_it(tiny, capsys):
    run = tiny.fit(
        torch.nn.Linear(2, 2),
        data=rows(495),
        val=rows(396),
        loss=lambda net, b: F.cross_entropy(net(b["x"]), b["y"], reduction="none"),
        max_steps=1,
        log_level="info",
    )
    import json

    ledger = json.loads((run.dir / "ledger.json").read_text())
    assert round(ledger["shift"], 3) == 0.099
    assert [round(line["val_share"], 3) for line in ledger["lines"]] == [0.604, 0.396]


def test_the_public_set_is_one_of_these(shared_data):
    def labels(name):
        with shared_data(f"cold/{name}").open(encoding="utf-8", newline="") as file:
            return [int(row["label"]) for row in csv.DictReader(file)]

    train, test = ({"x": torch.zeros(len(y), 1), "y": torch.tensor(y)} for y in map(labels, ("train.csv", "test.csv")))
    assert any("differ between training and validation by 9.9%" in line for line in told(train, test))
