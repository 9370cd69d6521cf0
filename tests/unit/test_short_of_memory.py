"""What a person is told and left with where memory is short: shares, ways on, gradients and limits left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotloop
from hotloop.config.load import load
from hotloop.engine.guard import Guard
from hotloop.errors import HotloopError, NoMemory
from hotloop.given import Given
from hotloop.shortage import Using, options
from hotloop.task import Batch, options_of

ROWS = {"x": torch.arange(48.0).view(12, 4) / 48, "y": torch.arange(12.0) / 12}


def loss(model: Any, batch: Batch) -> Tensor:
    return (model(batch["x"]).squeeze(-1) - batch["y"]).square()


def loaded(*arguments: str, **overrides: Any) -> Any:
    return load(options_of(Given, "fit"), arguments=arguments, overrides=overrides).config


def test_a_budget_on_the_command_line_may_be_a_share():
    assert loaded("memory.budget=0.5").memory.budget == 0.5
    assert loaded("memory.budget=900MB").memory.budget == "900MB"


@pytest.mark.parametrize("given", [{"arguments": ("memory.budget=4",)}, {"overrides": {"memory.budget": 4}}])
def test_a_budget_without_a_unit_is_told_the_unit_and_nothing_of_quotes(given):
    with pytest.raises(HotloopError) as caught:
        load(options_of(Given, "fit"), **given)
    assert "needs a unit: 4GB" in str(caught.value)
    assert "quotes" not in str(caught.value)


def test_gradients_that_a_failed_run_left_are_no_part_of_the_next_one(tmp_path):
    def trained(fails: int) -> list[float]:
        torch.manual_seed(0)
        model, calls = nn.Linear(4, 1), [0]

        def own(net: Any, batch: Batch) -> Tensor:
            calls[0] += reached[0] >= 2
            if fails and calls[0] == fails:
                raise RuntimeError("the person's own")
            return loss(net, batch)

        reached = [0]
        keys: dict[str, Any] = {"batch_size": 3, "gradient_accumulation_steps": 4, "max_steps": 4, "progress": False}
        keys["config"] = {"callbacks.checkpoint_every": 1, "experiment.dir": str(tmp_path / str(fails))}
        keys["callbacks"] = [lambda info: reached.__setitem__(0, info.step)]
        if fails:
            with pytest.raises(RuntimeError):
                hotloop.fit(model, ROWS, loss=own, **keys)
            assert any(weight.grad is not None for weight in model.parameters())
            calls[0] = fails
            keys["resume_from_checkpoint"] = next((tmp_path / str(fails)).iterdir())
        hotloop.fit(model, ROWS, loss=own, **keys)
        return model.weight.flatten().tolist()

    assert trained(3) == trained(0)


def test_a_loop_that_is_left_early_lets_go_of_the_limit(monkeypatch):
    closed: list[bool] = []
    whole = Guard.close
    monkeypatch.setattr(Guard, "close", lambda self: (closed.append(True), whole(self))[1])
    loop = hotloop.steps(nn.Linear(4, 1), ROWS, loss=loss, batch_size=4, max_steps=5)
    next(loop)
    assert not closed
    loop.close()
    assert closed


def using(device: str, optimizer: str, recomputes: bool) -> Using:
    return Using(torch.device(device), "bf16", False, optimizer, False, 2**28, recomputes)


def test_only_what_the_run_can_do_is_offered(monkeypatch):
    monkeypatch.setattr("hotloop.device.native_precision", lambda device: "bf16")
    config = loaded()
    assert not any("gradient_checkpointing" in way for way in options(config, using("cpu", "adamw", False)))
    assert not any("memory.offload" in way for way in options(config, using("cuda", "muon", True)))
    assert any("memory.offload" in way for way in options(config, using("cuda", "adamw", True)))


def test_in_an_update_the_ways_begin_with_the_optimizers_state():
    ways = options(loaded(), using("cpu", "adamw", True), in_update=True)
    assert ways[0].startswith("optimization.optimizer=adamw8bit")


@pytest.mark.parametrize("at", [2, 4])
def test_an_evaluation_without_memory_is_made_up_for_when_the_run_goes_on(tmp_path, at):
    short = [False]

    def own(net: Any, batch: Batch) -> Tensor:
        if short[0] and not net.training:
            raise MemoryError("out of memory")
        return loss(net, batch)

    keys: dict[str, Any] = {"batch_size": 4, "max_steps": 4, "eval_every": 2, "progress": False, "val": ROWS}
    keys["config"] = {"experiment.dir": str(tmp_path)}
    keys["callbacks"] = [lambda info: short.__setitem__(0, info.step == at and not keys.get("resume_from_checkpoint"))]
    model = nn.Linear(4, 1)
    with pytest.raises(NoMemory):
        hotloop.fit(model, ROWS, loss=own, **keys)
    short[0] = False
    keys["resume_from_checkpoint"] = next(tmp_path.iterdir())
    run = hotloop.fit(model, ROWS, loss=own, **keys)
    assert [record["step"] for record in run.history if "eval_loss" in record] == [2, 4]
    assert run.summary["status"] == "completed"
    assert run.summary["best"] is not None
