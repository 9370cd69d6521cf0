"""The loop: what comes after a step and in which order, and the rates, counters and sums that the step keeps."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from hotloop.engine import loop
from hotloop.engine.hooks import Ask, Hooks

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
SHORT = {"batch_size": 4, "max_steps": 6, "log_every": 2}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def loss(model: nn.Module, batch: dict[str, Tensor], training: bool = True) -> Tensor:
    return model(batch["x"]).square().mean(1)


class Poisoned:
    """A loss that is not finite in one step, counted from when the session is built."""

    def __init__(self) -> None:
        self.left = math.inf

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        self.left -= 1
        return loss(model, batch) * (math.nan if self.left == 0 else 1.0)


@pytest.fixture
def sicken(build):
    """`sicken(3)`: a session whose third step gives no finite loss."""

    def make(step: int, model=net, x: Tensor = X, **overrides):
        poisoned = Poisoned()
        session = build(model, {"x": x}, poisoned, **{**SHORT, **overrides})
        poisoned.left = step  # the probe before the run has looked at the loss, too
        return session

    return make


class Wants:
    """Writes down what it is told, and asks for everything at one step."""

    def __init__(self, step: int, told: list[str]) -> None:
        self.step, self.told = step, told

    def on_step(self, info) -> Ask | None:
        self.told.append(f"step {info.step}")
        everything = Ask(log=True, evaluate=True, save=True, stop="enough", rate_factor=0.5)
        return everything if info.step == self.step else None

    def on_epoch_end(self, info) -> None:
        self.told.append("epoch end")

    def on_evaluate(self, info, metrics) -> None:
        self.told.append("judge")

    def on_record(self, record) -> None:
        self.told.append("record " + ("train" if "train_loss" in record else "eval"))

    def on_save(self, step) -> None:
        self.told.append(f"saved {step}")

    def on_end(self, reason) -> None:
        self.told.append(f"end: {reason}")


def run(session, told: list[str], callback) -> loop.Outcome:
    def evaluation() -> dict[str, float]:
        told.append("evaluate")
        return {"eval_loss": 1.0}

    def save(outcome: loop.Outcome) -> None:
        told.append(f"save with {outcome.metrics}")

    return loop.fit(session.state, session.feed(), Hooks([callback]), evaluation, save)


def test_after_a_step_the_order_is_log_evaluate_save_stop(build) -> None:
    told: list[str] = []
    session = build(net, {"x": X}, loss, **SHORT)
    outcome = run(session, told, Wants(3, told))
    assert told == [
        "step 1", "step 2", "step 3", "epoch end", "record train", "evaluate", "judge", "record eval",
        "save with {'eval_loss': 1.0}", "saved 3", "end: enough",
    ]  # fmt: skip
    assert (outcome.status, outcome.reason, session.state.step) == ("stopped", "enough", 3)
    assert session.state.rate_scale == 0.5  # before the save, so that the checkpoint has it


def test_a_fault_comes_before_everything_that_was_asked(sicken) -> None:
    told: list[str] = []
    session = sicken(3)
    outcome = run(session, told, Wants(4, told))
    assert told == ["step 1", "step 2", "step 3", "epoch end", "step 4", "end: loss or gradient not finite at step 3"]
    assert outcome.status == "failed"
    assert session.state.step == 2


def weights(state) -> list[Tensor]:
    return [tensor.clone() for tensor in state.model.state_dict().values()]


def test_after_a_fault_weights_and_buffers_are_those_of_the_step_before(build, sicken) -> None:
    healthy = build(net, {"x": X}, loss, **SHORT).state
    sick = sicken(3)
    feed = build(net, {"x": X}, loss, **SHORT).feed()
    for _ in islice(loop.steps(healthy, feed), 2):
        pass
    for _ in loop.steps(sick.state, sick.feed()):  # goes on, held, until somebody looks
        pass
    assert all(torch.equal(a, b) for a, b in zip(weights(sick.state), weights(healthy), strict=True))
    readout = sick.state.read()
    assert (readout.held_at, readout.applied) == (3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_skip_the_update_is_left_out_and_the_run_goes_on(sicken, dtype: torch.dtype) -> None:
    session = sicken(3, lambda: net().to(dtype), X.to(dtype), on_nan="skip", lr_scheduler="cosine")
    rates = [
        float(session.state.optimizers[0].param_groups[0]["lr"]) for _ in loop.steps(session.state, session.feed())
    ]
    readout = session.state.read()
    assert (readout.skipped, readout.applied, readout.held_at) == (1, 5, 0)
    assert math.isfinite(readout.train_loss)
    assert all(torch.isfinite(tensor).all() for tensor in weights(session.state))
    assert rates[2] == rates[3]  # the skipped update did not use up its rate
    assert len(set(rates)) == 5


def test_the_logged_loss_is_the_mean_since_the_last_look(build) -> None:
    session = build(net, {"x": X}, loss, **SHORT)
    losses, read = [], []
    for info in loop.steps(session.state, session.feed()):
        losses.append(float(info.loss))
        if info.step in (2, 3, 6):
            read.append(session.state.read().train_loss)
    means = [sum(part) / len(part) for part in (losses[:2], losses[2:3], losses[3:])]
    assert read == pytest.approx(means, rel=1e-6)


def test_a_look_that_is_no_log_point_takes_nothing_away(build) -> None:
    """An evaluation between two log points reads the device, too."""
    session = build(net, {"x": X}, loss, **SHORT)
    losses = []
    for info in loop.steps(session.state, session.feed()):
        losses.append(float(info.loss))
        session.state.read(reset=False)
    assert session.state.read().train_loss == pytest.approx(sum(losses) / 6, rel=1e-6)


def test_the_gradient_norm_is_that_before_clipping_and_clipping_holds(build) -> None:
    used = []
    session = build(net, {"x": X * 100}, loss, max_grad_norm=0.5, **SHORT)

    def keep(optimizer) -> None:
        squares = [p.grad.square().sum() for group in optimizer.param_groups for p in group["params"]]
        used.append(float(torch.stack(squares).sum().sqrt()))

    session.state.updates.insert(0, lambda: keep(session.state.optimizers[0]))  # just before the update
    model = net()
    first = {"x": next(session.feed())["x"]}
    gradients = torch.autograd.grad(loss(model, first).mean(), list(model.parameters()))
    whole = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
    info = next(loop.steps(session.state, session.feed()))
    assert whole > 0.5
    assert float(info.grad_norm) == pytest.approx(whole, rel=1e-5)
    assert used == pytest.approx([0.5], rel=1e-4)


def test_no_gradient_is_left_after_a_step(build) -> None:
    session = build(net, {"x": X}, loss, **SHORT)
    next(loop.steps(session.state, session.feed()))
    assert all(parameter.grad is None for parameter in session.state.model.parameters())


def test_a_parameter_that_the_loss_does_not_use_stays(build) -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    session = build(Spare, {"x": X}, loss, **SHORT)
    before = session.state.model.spare.weight.detach().clone()
    for info in loop.steps(session.state, session.feed()):
        assert torch.isfinite(info.grad_norm)
    assert torch.equal(session.state.model.spare.weight.detach(), before)


def test_a_state_goes_on_to_the_bit_from_its_state_dict(build, tmp_path) -> None:
    """Through a file, as a checkpoint does; with dropout, so that the generators count."""

    def dropping() -> nn.Module:
        return nn.Sequential(net(), nn.Dropout(0.3), nn.Linear(2, 2))

    settings = {**SHORT, "max_steps": 11, "lr_scheduler": "cosine", "warmup_steps": 3, "optimizer": "adamw"}
    through = build(dropping, {"x": X}, loss, **settings)
    losses = []
    for info in loop.steps(through.state, through.feed()):
        losses.append(float(info.loss))
        if info.step == 4:
            torch.save(through.state.state_dict(), tmp_path / "state.pt")
    again = build(dropping, {"x": X}, loss, **settings)
    again.state.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.state.step == 4
    assert [float(info.loss) for info in loop.steps(again.state, again.feed())] == losses[4:]
    assert all(torch.equal(a, b) for a, b in zip(weights(again.state), weights(through.state), strict=True))


def test_a_rate_reduced_twice_goes_on_to_the_bit(build) -> None:
    """0.7 x 0.7 in float32, factor by factor, is another number than the product."""
    settings = {**SHORT, "max_steps": 40, "lr_scheduler": "cosine", "learning_rate": 0.1}
    through, again = (build(net, {"x": X}, loss, **settings).state for _ in range(2))
    through.scale_rates(0.7)
    through.scale_rates(0.7)
    again.load_state_dict(through.state_dict())
    assert torch.equal(again.table, through.table)
    assert again.rate_at(7) == through.rate_at(7)
