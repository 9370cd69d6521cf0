"""F10: balanced sampler x class weights x sample weights, a rare class counted 300 times. Here the run stops with the
product of each class; `sampler_wins` trains with the others really off, seen in the gradient.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hotloop.cli.main import main
from hotloop.errors import HotloopError

RARE, ROWS = 20, 220
THREE = {"balance_sampler": True, "class_weights": "auto", "use_sample_weights": True}


def data():
    draw = torch.Generator().manual_seed(1)
    y = torch.cat([torch.zeros(ROWS - RARE), torch.ones(RARE)]).long()
    weight = torch.where(y == 1, 10.0, 1.0)
    return {"x": torch.randn(ROWS, 4, generator=draw) + y[:, None], "y": y, "sample_weight": weight}


def loss(net, batch):
    return F.cross_entropy(net(batch["x"]), batch["y"], reduction="none")


def net():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 2)


def fit(tiny, model, **settings):
    given = {"data": data(), "val": None, "eval_every": "off", "batch_size": 32, "max_steps": 4, **settings}
    return tiny.fit(model, loss=loss, **given)


def test_all_three_stop_with_the_product_of_each_class(tiny):
    with pytest.raises(HotloopError) as told:
        fit(tiny, net(), **THREE)
    text = str(told.value)
    assert told.value.exit_code == 2
    # one rare row to 10 others: each of the three counts it 10 times
    assert "a row counts up to 1,000 times one of another class" in text
    assert "20 rows: sampler 5.5 x class weight 5.5 x sample weight 5.5" in text
    assert "= 166" in text
    assert "optimization.class_weights=none data.use_sample_weights=false" in told.value.fix
    assert not list(tiny.folder.glob("*")), "nothing was trained"


@pytest.mark.parametrize("left_out", THREE)
def test_any_two_stop_as_well(tiny, left_out):
    with pytest.raises(HotloopError, match="multiply: a row counts up to 100 times"):
        fit(tiny, net(), **{key: value for key, value in THREE.items() if key != left_out})


@pytest.mark.parametrize("alone", THREE)
def test_each_alone_trains(tiny, alone):
    assert fit(tiny, net(), **{alone: THREE[alone]}).summary["status"] == "completed"


def gradients(tiny, **settings):
    """The gradient of the first step, read off the parameters: plain SGD at rate 1 moves them by it."""
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 1.0, "max_grad_norm": None}
    fit(tiny, model, max_steps=1, lr_scheduler="constant", warmup_ratio=0.0, **plain, **settings)
    return torch.cat([(b - p.detach()).flatten() for b, p in zip(before, model.parameters(), strict=True)])


def test_sampler_wins_trains_with_the_others_really_off(tiny):
    alone = gradients(tiny, balance_sampler=True)
    wins = gradients(tiny, **THREE, on_conflict="sampler_wins")
    assert torch.equal(wins, alone)
    assert (gradients(tiny, use_sample_weights=True) - gradients(tiny)).norm() > 0.01, "weights do show in a gradient"


def test_without_a_sampler_there_is_none_to_win(tiny):
    with pytest.raises(HotloopError, match="on_conflict"):
        fit(tiny, net(), class_weights="auto", use_sample_weights=True, on_conflict="sampler_wins")


def test_validation_is_plain_whatever_weighs(tiny):
    runs = [
        fit(tiny, net(), val=data(), eval_every=1, max_steps=1, learning_rate=1e-12, **settings)
        for settings in ({}, {"class_weights": [1.0, 300.0]}, {"balance_sampler": True}, {"use_sample_weights": True})
    ]
    assert len({round(run.summary["eval_loss"], 6) for run in runs}) == 1


def test_the_command_line_stops_with_exit_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "lob",
        "data.symbols=6",
        "data.rows=260",
        "data.balance_sampler=true",
        "optimization.class_weights=auto",
    ]
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert "data.balance_sampler and optimization.class_weights multiply" in shown
    assert "data.on_conflict=sampler_wins" in shown
    assert not (tmp_path / "experiments").exists()
