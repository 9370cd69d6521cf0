"""F16: a cosine laid out for the wrong number of steps never reaches its minimum. Here steps taken are counted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hotloop
from hotloop.errors import ConfigError

ROWS, PEAK, FLOOR = 50, 1e-2, 1e-4


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).square().mean(1)


def learning_rates(experiments: Path, callbacks=(), **overrides) -> list[float]:
    run = hotloop.fit(
        nn.Linear(4, 2), {"x": torch.randn(ROWS, 4)}, loss=loss, precision="fp32", compile="off", progress=False,
        trackers=(), dir=str(experiments), log_every=1, lr_scheduler="cosine", learning_rate=PEAK, min_lr=FLOOR,
        warmup_steps=0, callbacks=callbacks, **overrides,
    )  # fmt: skip
    return [record["learning_rate"] for record in run.history if "learning_rate" in record]


@pytest.mark.parametrize(("batch", "accumulation", "epochs"), [(8, 1, 6), (4, 2, 6), (4, 3, 5), (7, 2, 9), (50, 1, 30)])
def test_the_last_step_is_one_step_from_the_floor(
    experiments: Path, batch: int, accumulation: int, epochs: int
) -> None:
    """Counted over micro-batches, or with the ragged last window left out, the length would be another."""
    steps = epochs * math.ceil(ROWS / (batch * accumulation))
    rates = learning_rates(experiments, batch_size=batch, gradient_accumulation_steps=accumulation, num_epochs=epochs)
    assert len(rates) == steps
    left = 0.5 * (1 + math.cos(math.pi * (steps - 1) / steps))
    assert rates[-1] == pytest.approx(FLOOR + (PEAK - FLOOR) * left, rel=1e-5)
    assert rates[steps // 2] == pytest.approx(
        FLOOR + (PEAK - FLOOR) * 0.5 * (1 + math.cos(math.pi * (steps // 2) / steps)), rel=1e-5
    )


def test_the_shorter_of_steps_and_epochs_is_the_length(experiments: Path) -> None:
    rates = learning_rates(experiments, batch_size=8, num_epochs=100, max_steps=20)
    assert len(rates) == 20
    assert rates[-1] < FLOOR + 0.01 * PEAK


def test_a_decay_that_ends_before_the_run_is_an_error(experiments: Path) -> None:
    with pytest.raises(ConfigError, match=r"the decay ends at step 10 of 20: the rest of the run would stay at min_lr"):
        learning_rates(experiments, batch_size=8, max_steps=20, decay_steps=10)


def test_a_decay_that_the_run_does_not_reach_the_end_of_is_told_before_the_first_step(
    experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hotloop.fit(
        nn.Linear(4, 2), {"x": torch.randn(ROWS, 4)}, loss=loss, precision="fp32", compile="off", trackers=(),
        dir=str(experiments), lr_scheduler="cosine", learning_rate=PEAK, min_lr=FLOOR, warmup_steps=0, batch_size=8,
        max_steps=20, decay_steps=40,
    )  # fmt: skip
    printed = " ".join(capsys.readouterr().out.split())
    told = printed.index("the decay is laid out for 40 steps and the run ends at 20")
    assert "not at min_lr 0.0001" in printed
    assert told < printed.lower().index("loss")
