"""F11: a guard that switches weights off after the data set was already built with them. Here what is off is decided
from the configuration alone, before any data is read, so the training source has no weight at all.
"""

from __future__ import annotations

import torch

import hotloop
from hotloop import assemble
from hotloop.config.load import load
from hotloop.config.schema import RowsData
from hotloop.data.weights import asked_for
from hotloop.task import options_of

RATES = {"max_steps": 1, "batch_size": 8, "device": "cpu", "precision": "fp32", "compile": "off"}


class Rows(hotloop.Task):
    """Two classes, nine to one, with weights."""

    def sources(self):
        y = (torch.arange(40) % 10 == 0).long()
        return hotloop.Splits({"x": torch.randn(40, 3), "y": y, "sample_weight": 1.0 + 5.0 * y})

    def model(self):
        return torch.nn.Linear(3, 2)

    def loss(self, model, batch, training):
        return torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def session(**settings):
    loaded = load(options_of(Rows, "Rows"), overrides={**RATES, "val_fraction": 0.0, **settings})
    return assemble.build(loaded, Rows(loaded.config.model, loaded.config.data, seed=1))


def test_the_source_that_training_reads_carries_no_weight():
    built = session(balance_sampler=True, class_weights="auto", on_conflict="sampler_wins")
    assert "weight" not in next(built.feed())
    assert any("sampler_wins: optimization.class_weights is off" in line for line in built.remarks)


def test_without_the_sampler_the_same_source_is_weighed():
    weight = next(session(class_weights="auto").feed())["weight"]
    assert sorted({round(w, 4) for w in weight.tolist()} | {0.5556, 5.0}) == [0.5556, 5.0]


def test_it_is_decided_from_the_configuration_alone():
    data = RowsData(balance_sampler=True, use_sample_weights=True, on_conflict="sampler_wins")
    found = asked_for(data, load(options_of(Rows, "Rows"), overrides=RATES).config.optimization)
    assert found.active == ["data.balance_sampler"]
    assert found.left_out == ("data.use_sample_weights",)
