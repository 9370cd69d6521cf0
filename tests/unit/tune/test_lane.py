"""A lane makes the steps that training would, leaves the process as its plan says, and is told apart by its key."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import hotloop
from hotloop import assemble
from hotloop import device as machine
from hotloop.config.load import Loaded, load
from hotloop.engine.capture import Capture
from hotloop.errors import HotloopError
from hotloop.task import options_of
from hotloop.tune.lane import Lane, data_shape
from hotloop.tune.settings import PLAIN, is_open, with_knobs

from .planted import Blobs, loaded


def _lane(config: Loaded, task: Any = Blobs) -> Lane:
    def build(given: Loaded) -> assemble.Session:
        made = task(given.config.model, given.config.data, seed=given.config.experiment.seed)
        return assemble.build(given, made)

    return Lane(config, build)


def test_references_in_another_precision_leave_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = _lane(loaded(1))
    assert not machine.tf32_read_back()
    monkeypatch.setattr(lane, "_build", lambda _: machine.set_tf32(True) or assemble.build)
    with pytest.raises(AttributeError):
        lane.gradients("tf32")
    assert not machine.tf32_read_back()


def test_the_same_seed_gives_the_same_gradients_and_losses_whatever_was_trained_between() -> None:
    lane = _lane(loaded(1))
    first, losses = lane.gradients(), lane.losses([1, 2], 5)
    lane.warm()
    lane.run(0.05)
    again = lane.gradients()
    assert all(torch.equal(one[name], other[name]) for one, other in zip(first, again, strict=True) for name in one)
    assert lane.losses([1, 2], 5) == losses
    assert losses[0] != losses[1]


class Slow(Dataset[dict[str, torch.Tensor]]):
    """A row takes four milliseconds to read."""

    def __len__(self) -> int:
        return 2000

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        time.sleep(0.004)
        x = torch.full((12,), row / 2000)
        return {"x": x, "y": torch.tensor(row % 4)}


class SlowRows(Blobs):
    def sources(self) -> hotloop.Splits:
        return hotloop.Splits(Slow())


def test_what_workers_read_in_a_pause_does_not_count() -> None:
    """A batch of 32 rows takes 128 ms to read; one worker cannot make it quicker, whatever it has ready."""
    config = with_knobs(loaded(1), {"data.num_workers": 1, "training.batch_size": 32})
    lane = _lane(with_knobs(config, {"training.gradient_accumulation_steps": 1}), SlowRows)
    lane.warm()
    time.sleep(0.6)
    burst = lane.run(0.4)
    assert burst.seconds / burst.steps > 0.1


class Uneven(Blobs):
    """75 rows, of which 8 are held out: batches of 32, 32 and 3."""

    def sources(self) -> hotloop.Splits:
        train = super().sources().train
        return hotloop.Splits({name: value[:75] for name, value in train.items()})


class Coupled(Uneven):
    """Its last batch cannot be filled up with rows that count nothing."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def test_rows_of_a_step_are_those_of_an_epoch() -> None:
    burst = _lane(loaded(1), Uneven).run(0.05)
    assert burst.rows / burst.steps == pytest.approx(67 / 3)


@pytest.mark.parametrize(("task", "shapes"), [(Coupled, [32, 3]), (Uneven, [32])])
def test_a_shorter_last_batch_is_compiled_before_the_race(
    task: Any, shapes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler meets both shapes while the lane warms up, though the epoch's end is far."""
    seen: list[int] = []

    def compiled(share: Any, **_: Any) -> Any:
        def run(micro: Any, totals: Any) -> Any:
            seen.append(len(micro["x"]))
            return share(micro, totals)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    knobs = {"training.compile": "default", "training.batch_size": 32, "training.gradient_accumulation_steps": 1}
    lane = _lane(with_knobs(loaded(1), knobs), task)
    assert lane.facts().shapes == len(shapes)
    monkeypatch.setattr("hotloop.tune.lane._WARM", 1)
    lane.warm()
    assert list(dict.fromkeys(seen)) == shapes


class Refuses:
    """A recorder that cannot record."""

    def prepare(self, run: Any, watched: bool) -> Any:
        return run(), "the host waits for the GPU in loss.py:3" if watched else ""


def test_a_step_that_cannot_be_captured_is_no_candidate() -> None:
    lane = _lane(loaded(1))
    lane._session.state.captured = Capture(Refuses())  # type: ignore[arg-type]
    with (
        pytest.warns(UserWarning, match="cannot be captured"),
        pytest.raises(HotloopError, match="cannot be captured: the host waits for the GPU in loss.py:3"),
    ):
        lane.warm()


def _shape(config: Loaded) -> dict[str, Any]:
    task = Blobs(config.config.model, config.config.data, seed=config.config.experiment.seed)
    return data_shape(assemble.build(config, task))


def test_the_key_holds_what_decides_and_not_the_seed() -> None:
    base = _shape(loaded(1))
    assert base == _shape(loaded(2))
    for knobs in (
        {"training.batch_size": 16, "training.gradient_accumulation_steps": 2},
        {"training.max_steps": 2000},
        {"training.max_time": 600},
        {"training.deterministic": True},
        {"training.ema": 0.9},
        {"optimization.max_grad_norm": None},
    ):
        assert _shape(with_knobs(loaded(1), knobs)) != base, knobs
    machine.set_deterministic(False)


@pytest.mark.parametrize("name", ["default.yaml line 3", "template_x.yaml line 1", "measured.yaml line 9"])
def test_a_value_from_a_file_is_the_persons_whatever_the_files_name(name: str) -> None:
    assert not is_open({"training.precision": name}, "training.precision")
    assert is_open({"training.precision": "template default"}, "training.precision") and is_open({}, "data.resident")


def test_plain_is_plain() -> None:
    config = with_knobs(load(options_of(Blobs, "Blobs"), overrides={"max_steps": 5}), PLAIN).config
    assert (config.training.precision, config.training.compile, config.data.resident) == ("fp32", "off", "off")
