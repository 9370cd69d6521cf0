"""F17: a schedule stepped per epoch, per micro-batch, or times the number of processes. Here it is a table by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hotloop
from hotloop.errors import HotloopError


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).square().mean(1)


def run(experiments: Path, **overrides):
    return hotloop.fit(
        nn.Linear(4, 2), {"x": torch.randn(24, 4)}, loss=loss, precision="fp32", compile="off", progress=False,
        trackers=(), dir=str(experiments), log_every=1, lr_scheduler="linear", learning_rate=0.1, min_lr=0.0,
        warmup_steps=2, **overrides,
    )  # fmt: skip


def rates(found) -> list[float]:
    return [record["learning_rate"] for record in found.history if "learning_rate" in record]


EXPECTED = [0.1 / 3, 0.2 / 3, *(0.1 * (12 - step) / 10 for step in range(2, 12))]


@pytest.mark.parametrize(("batch", "accumulation"), [(6, 1), (3, 2), (1, 6)])
def test_one_entry_of_the_table_a_step_whatever_the_epochs_and_micro_batches(
    experiments: Path, batch: int, accumulation: int
) -> None:
    """3 epochs of 4 steps: 12 rates, all different, none used twice and none left out."""
    found = run(experiments, batch_size=batch, gradient_accumulation_steps=accumulation, num_epochs=3)
    assert rates(found) == pytest.approx(EXPECTED, rel=1e-5)


def test_evaluating_and_saving_often_does_not_step_it(experiments: Path) -> None:
    found = run(experiments, batch_size=6, num_epochs=3, eval_every=1, checkpoint_every=1, val_fraction=0.0)
    assert rates(found) == pytest.approx(EXPECTED, rel=1e-5)


def test_a_resumed_run_goes_on_in_the_table(experiments: Path) -> None:
    """Neither from its start nor one entry further."""
    data, model = {"x": torch.randn(24, 4)}, nn.Linear(4, 2)
    settings = {"loss": loss, "progress": False, "batch_size": 6, "num_epochs": 3}
    plain = {"precision": "fp32", "compile": "off", "trackers": (), "dir": str(experiments), "log_every": 1}
    slope = {"lr_scheduler": "linear", "learning_rate": 0.1, "min_lr": 0.0, "warmup_steps": 2, "checkpoint_every": 5}

    def fall(info) -> None:
        if info.step == 8:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        hotloop.fit(model, data, callbacks=[fall], **settings, **plain, **slope)
    [folder] = experiments.iterdir()
    found = hotloop.fit(model, data, resume_from_checkpoint=folder, **settings, **plain, **slope)
    assert rates(found) == pytest.approx(EXPECTED, rel=1e-5)


def test_several_processes_are_refused_rather_than_counted_wrong(
    experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(HotloopError, match="one of 4 ranks"):
        run(experiments, batch_size=6, num_epochs=3)
