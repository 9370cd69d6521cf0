"""Rates that shrink with depth: by the model's own list, by its blocks, and refused where there is no depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hotloop.engine.depth import rate_factors
from hotloop.engine.optim import build_optimizers
from hotloop.errors import HotloopError


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 2)


def test_each_layer_has_the_share_of_the_one_above() -> None:
    model = Deep()
    found = rate_factors(model, 0.5)
    assert found[id(model.embedding.weight)] == 0.0625
    assert [found[id(block.weight)] for block in model.blocks] == [0.125, 0.25, 0.5]
    assert id(model.head.weight) not in found


def test_a_model_can_say_its_own_order() -> None:
    model = Deep()
    model.depth_groups = lambda: [model.blocks, model.head]
    found = rate_factors(model, 0.1)
    assert found[id(model.blocks[2].bias)] == pytest.approx(0.01) and found[id(model.head.weight)] == 0.1
    assert id(model.embedding.weight) not in found


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_optimizer_gets_the_rates_and_no_parameter_twice(optimizer, options) -> None:
    model = Deep()
    chosen = options(optimizer=optimizer, layerwise_decay=0.5, learning_rate=0.8, weight_decay=0.1)
    (made,) = build_optimizers(model, chosen, torch.device("cpu"))
    rates = {id(p): (group["base_lr"], group["weight_decay"]) for group in made.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters())) == sum(len(group["params"]) for group in made.param_groups)
    assert rates[id(model.head.weight)] == (0.8, 0.1) and rates[id(model.head.bias)] == (0.8, 0.0)
    assert rates[id(model.blocks[0].weight)] == (pytest.approx(0.1), 0.1)


def test_a_model_without_depth_is_refused() -> None:
    with pytest.raises(HotloopError, match="no list of blocks"):
        rate_factors(nn.Linear(2, 2), 0.9)
