"""Steps that run out of memory: taken back and repeated, the same batch in full, wherever it happens."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hotloop
from hotloop.errors import NoMemory

from .trouble import Trouble, data, drawing_net, fit, plain_net, weights

ONCE = {
    "forward": Trouble("forward"),
    "backward": Trouble("backward"),
    "first step": Trouble("forward", step=1),
    "last step": Trouble("backward", step=20),
    "mid-accumulation": Trouble("forward", micro=3),
    "mid-accumulation, backward": Trouble("backward", micro=4),
    "last ragged batch": Trouble("backward", step=6),
    "first of an epoch": Trouble("forward", step=7),
    "before a validation": Trouble("backward", step=5),
}


def _again(trouble: Trouble, **changes: Any) -> Trouble:
    """A fresh one of the same kind: parametrised objects must not carry what a test left in them."""
    kept = {name: getattr(trouble, name) for name in ("step", "micro", "times", "above", "error")}
    return Trouble(trouble.place, **{**kept, **changes})


def _cut(where: str) -> dict[str, int]:
    return {"batch_size": 2, "gradient_accumulation_steps": 4} if "accumulation" in where else {}


@pytest.mark.parametrize("net", [plain_net, drawing_net], ids=["plain", "BatchNorm and dropout"])
@pytest.mark.parametrize("where", ONCE)
def test_a_retry_at_the_same_size_is_equal_to_the_bit(tmp_path: Path, where: str, net: Any) -> None:
    still, trouble = Trouble(), _again(ONCE[where])
    calm = fit(tmp_path / "calm", still, net(), **_cut(where))
    run = fit(tmp_path / "troubled", trouble, net(), **_cut(where))
    assert trouble.struck == 1
    assert trouble.losses == still.losses
    assert trouble.seen == still.seen
    assert all(torch.equal(one, other) for one, other in zip(weights(run.model), weights(calm.model), strict=True))
    assert [line for line in trouble.notes if "repeated" in line] == [
        f"OOM at step {trouble.step}: unused memory given back, repeated in micro-batches of "
        f"{2 if 'accumulation' in where else 4 if trouble.step in (6, 12, 18) else 8} rows"
    ]
    volatile = ("seconds", "eval_seconds", "samples_per_second", "memory", "oom")
    kept = [
        [{k: v for k, v in record.items() if not k.startswith(volatile)} for record in history]
        for history in (run.history, calm.history)
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("where", ONCE)
def test_after_a_split_the_sum_is_the_same(tmp_path: Path, where: str) -> None:
    """Twice in a row: the second failure halves the micro-batch. Without layers that draw or couple, only rounding."""
    still, trouble = Trouble(), _again(ONCE[where], times=2)
    calm = fit(tmp_path / "calm", still, plain_net(), **_cut(where))
    run = fit(tmp_path / "troubled", trouble, plain_net(), **_cut(where))
    assert trouble.struck == 2
    assert trouble.seen == still.seen
    for step, loss in still.losses.items():
        assert trouble.losses[step] == pytest.approx(loss, rel=1e-6), step
    for one, other in zip(weights(run.model), weights(calm.model), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    [line] = [line for line in trouble.notes if "->" in line]
    assert line.startswith(f"OOM at step {trouble.step}: micro-batch ") and line.endswith("effective batch unchanged")


def test_the_line_of_a_split(tmp_path: Path) -> None:
    trouble = Trouble(above=4)
    fit(tmp_path, trouble, plain_net())
    assert trouble.notes[1] == "OOM at step 1: micro-batch 8 -> 4, accumulation 1 -> 2, effective batch unchanged"
    assert len(trouble.notes) == 2  # once it fits nothing more is said


def test_what_differs_after_a_split_is_said(tmp_path: Path) -> None:
    trouble = Trouble(above=4)
    fit(tmp_path, trouble, drawing_net())
    assert "BatchNorm (or another layer that mixes rows) sees fewer rows at a time" in trouble.notes[1]
    assert "dropout draws other masks" in trouble.notes[1]
    assert sorted(trouble.seen) == list(range(1, 21))


@pytest.mark.parametrize("net", [plain_net, drawing_net], ids=["plain", "BatchNorm and dropout"])
def test_evaluation_shrinks_by_itself(tmp_path: Path, net: Any) -> None:
    still, trouble = Trouble(), Trouble("evaluation", times=3)
    calm = fit(tmp_path / "calm", still, net())
    run = fit(tmp_path / "troubled", trouble, net())
    assert trouble.losses == still.losses  # training never notices
    assert run.summary["eval_loss"] == pytest.approx(calm.summary["eval_loss"], rel=1e-6)
    assert sorted(trouble.evaluated[:44]) == sorted(still.evaluated[:44])
    assert trouble.notes[0] == "OOM in evaluation: its batch 16 -> 8, training's is untouched"
    assert len(trouble.notes) == 3  # 16 -> 8 -> 4 -> 2, and kept for the evaluations that follow


def test_an_update_that_failed_in_part_is_not_repeated(tmp_path: Path) -> None:
    """F62: the run ends with its last checkpoint whole, and goes on from there as an undisturbed one."""
    still, trouble = Trouble(), Trouble("update, in part", step=8)
    calm = fit(tmp_path / "calm", still, plain_net(), checkpoint_every=5)
    with pytest.raises(NoMemory, match="update of step 8") as told:
        fit(tmp_path / "troubled", trouble, plain_net(), checkpoint_every=5)
    assert told.value.exit_code == 4
    assert "the checkpoint of step 5 is safe" in str(told.value)
    [folder] = (tmp_path / "troubled").iterdir()
    assert not (folder / "checkpoints" / "step_7.pt").exists()
    on = Trouble()
    run = hotloop.fit(
        plain_net(), data(), loss=on.loss, val=data(), callbacks=[on], progress=False, resume_from_checkpoint=folder
    )
    assert {**{step: trouble.losses[step] for step in range(1, 6)}, **on.losses} == still.losses
    assert all(torch.equal(one, other) for one, other in zip(weights(run.model), weights(calm.model), strict=True))


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_a_single_row_that_does_not_fit(tmp_path: Path, place: str) -> None:
    """The end names the sample, keeps the weights of the last whole step, and offers three ways on."""
    still = Trouble()
    fit(tmp_path / "calm", still, plain_net())
    row = still.seen[9][5]
    trouble = Trouble(place, step=9, row=row, times=99)
    with pytest.raises(NoMemory) as told:
        fit(tmp_path / "troubled", trouble, plain_net())
    text = str(told.value)
    [folder] = (tmp_path / "troubled").iterdir()
    assert "out of memory at step 9 on a single row" in text
    assert "the checkpoint of step 8 is safe" in text
    assert (folder / "checkpoints" / "step_8.pt").is_file()
    assert f"row {row} of the training part: x (1, 6) float32" in text
    assert all(f"{number}. " in text for number in (1, 2, 3)) and f"hotloop resume {folder}" in text
    on = Trouble()
    hotloop.fit(
        plain_net(), data(), loss=on.loss, val=data(), callbacks=[on], progress=False, resume_from_checkpoint=folder
    )
    for step, loss in on.losses.items():
        assert loss == pytest.approx(still.losses[step], rel=1e-5)


def test_refused_where_batchnorm_would_see_other_batches(tmp_path: Path) -> None:
    with pytest.raises(NoMemory, match="on_batchnorm=refuse"):
        fit(tmp_path, Trouble("forward", times=2), drawing_net(), on_batchnorm="refuse")


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked(tmp_path: Path, answer: bool) -> None:
    asked: list[str] = []

    class Asks(Trouble):
        def on_start(self, state: Any) -> None:
            super().on_start(state)
            state.ask = lambda question: asked.append(question) or answer

    trouble = Asks("forward", times=2)
    if answer:
        assert fit(tmp_path, trouble, drawing_net()).summary["status"] == "completed"
    else:
        with pytest.raises(NoMemory, match="refused"):
            fit(tmp_path, trouble, drawing_net())
    assert len(asked) == 1 and asked[0].endswith("Go on with them?")


def test_recovery_can_be_switched_off(tmp_path: Path) -> None:
    with pytest.raises(NoMemory, match="memory.recover is off"):
        fit(tmp_path, Trouble("forward"), plain_net(), recover="off")


def test_a_mean_cannot_be_split(tmp_path: Path) -> None:
    trouble = Trouble("forward", times=2)
    with pytest.raises(NoMemory, match="cannot be split: the loss is a single number"):
        hotloop.fit(
            plain_net(), data(), loss=lambda net, batch: trouble.loss(net, batch).mean(), callbacks=[trouble],
            batch_size=8, max_steps=5, precision="fp32", compile="off", device="cpu", progress=False, dir=str(tmp_path),
        )  # fmt: skip


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(tmp_path, Trouble("forward", error=RuntimeError("mat1 and mat2 shapes cannot be multiplied")), plain_net())


def test_a_loop_of_ones_own_is_warned() -> None:
    trouble = Trouble(above=4)
    steps = hotloop.steps(
        plain_net(), data(), loss=trouble.loss, batch_size=8, max_steps=3, precision="fp32", compile="off", device="cpu"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for info in steps:
            trouble.state = info.state
            trouble.done = info.step
    assert "repeated in micro-batches" in str(told[0].message)
    assert "micro-batch 8 -> 4" in str(told[1].message)


def test_a_loop_of_ones_own_is_told_the_sample_and_the_ways_on() -> None:
    trouble = Trouble("forward", step=2, times=99)
    steps = hotloop.steps(
        plain_net(), data(), loss=trouble.loss, batch_size=2, max_steps=3, precision="fp32", compile="off", device="cpu"
    )
    trouble.state = next(steps).state
    trouble.done = 1
    with pytest.warns(UserWarning, match="OOM at step 2"), pytest.raises(NoMemory) as told:
        next(steps)
    row = trouble.seen[2][0]
    assert f"row {row} of the training part" in str(told.value) and "the model has the weights of step 1" in str(
        told.value
    )
    assert "1. " in told.value.fix and "hotloop resume" not in told.value.fix


def test_it_grows_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After quiet steps a larger micro-batch is tried; a try that fails is taken back and put off for longer."""
    monkeypatch.setattr("hotloop.engine.pieces._WAIT", 4)
    still, trouble = Trouble(), Trouble(above=2)
    fit(tmp_path / "calm", still, plain_net(), max_steps=40)

    class Eases(Trouble):
        def on_step(self, info: Any) -> None:
            super().on_step(info)
            self.above = 2 if info.step < 12 else 0

    trouble = Eases(above=2)
    fit(tmp_path / "troubled", trouble, plain_net(), max_steps=40)
    assert trouble.seen == still.seen
    later = trouble.notes[3:]
    assert later == [
        "step 5: micro-batch 4 still does not fit; tried again after 8 quiet steps",
        "step 13: memory allows it again: micro-batch 2 -> 4, accumulation 4 -> 2, effective batch unchanged",
        "step 21: memory allows it again: micro-batch 4 -> 8, accumulation 2 -> 1, effective batch unchanged",
    ]
    for step, loss in still.losses.items():
        assert trouble.losses[step] == pytest.approx(loss, rel=1e-5)


def test_the_state_of_the_pieces_is_in_the_checkpoint(tmp_path: Path) -> None:
    trouble = Trouble(above=2)
    fit(tmp_path, trouble, plain_net(), max_steps=10, checkpoint_every=5)
    [folder] = tmp_path.iterdir()
    stored = torch.load(folder / "checkpoints" / "step_10.pt", weights_only=True)["pieces"]
    assert stored["rows"] == 2 and stored["retries"] == 3


def test_fp16_scaling(build: Any) -> None:
    """Under a loss scale: neither the scale nor its count of clean steps moves in an attempt that is taken back."""

    def trained(trouble: Trouble) -> tuple[list[float], float, float]:
        session = build(
            plain_net, data(), lambda net, batch, training: trouble.loss(net, batch), changes={"precision": "fp16"},
            batch_size=8, max_steps=12, eval_every="off",
        )  # fmt: skip
        state, losses = session.state, []
        trouble.on_start(state)
        from hotloop.engine.loop import steps

        for info in steps(state, session.feed()):
            trouble.on_step(info)
            losses.append(float(info.loss))
        assert state.scaler is not None
        return losses, float(state.scaler.scale), float(state.scaler.clean)

    with pytest.warns(UserWarning, match="repeated in micro-batches"):
        troubled = trained(Trouble("backward", step=5))
    assert troubled == trained(Trouble())


def test_generators_of_the_host_are_put_back(tmp_path: Path) -> None:
    """A loss that draws from Python's or NumPy's generator is repeated with the same draws."""
    import random

    import numpy as np

    def drawn(trouble: Trouble) -> dict[int, float]:
        def loss(net: nn.Module, batch: Any) -> Any:
            noise = random.random() + np.random.rand()
            return trouble.loss(net, batch) * noise

        hotloop.fit(
            plain_net(), data(), loss=loss, callbacks=[trouble], batch_size=8, max_steps=8, precision="fp32",
            compile="off", device="cpu", progress=False, dir=str(tmp_path),
        )  # fmt: skip
        return trouble.losses

    assert drawn(Trouble("forward", step=4)) == drawn(Trouble())
