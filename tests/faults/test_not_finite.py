"""A loss or a gradient that is not finite stops before the update: good weights, the step named, exit code 3.

The poison is in one row of the data, so it meets exactly one step; a bare loop and a healthy run say what is right.
"""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn

import hotloop
from hotloop.config.load import load
from hotloop.data.sampler import Shuffle
from hotloop.engine import loop
from hotloop.errors import CheckStopped

ROWS, BATCH, SEED, STEPS = 96, 8, 42, 12
SAME = {"precision": "fp32", "compile": "off", "device": "cpu", "batch_size": BATCH, "seed": SEED, "progress": False}
SAME |= {"lr_scheduler": "constant", "learning_rate": 0.02, "weight_decay": 0.1, "warmup_steps": 0}
SETTINGS = {
    "adamw": {"optimizer": "adamw"},
    "adam": {"optimizer": "adam"},
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
    "muon": {"optimizer": "muon"},
    "unclipped": {"optimizer": "adamw", "max_grad_norm": None},
    "accumulated": {"optimizer": "adamw", "batch_size": 2, "gradient_accumulation_steps": 4},
}


class Explode(torch.autograd.Function):
    """The values as they are, and an infinite gradient in the rows marked bad."""

    @staticmethod
    def forward(ctx, values, bad):
        ctx.save_for_backward(bad)
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / (1 - ctx.saved_tensors[0]), None


def squared(model, batch, fault="nothing"):
    values = (model(batch["x"]).squeeze(-1) - batch["y"]) ** 2
    if fault == "loss":
        return torch.where(batch["bad"] > 0, math.nan, values)
    return Explode.apply(values, batch["bad"]) if fault == "gradient" else values


def network(normalised: bool) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(6)] if normalised else []
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))


def rows(bad_step: int) -> dict[str, torch.Tensor]:
    """Data whose one bad row is met at `bad_step`, counted from 1."""
    draw = torch.Generator().manual_seed(1)
    bad = torch.zeros(ROWS)
    bad[int(Shuffle(ROWS, BATCH, SEED).indices(0, bad_step - 1)[3])] = 1.0
    x = torch.randn(ROWS, 4, generator=draw)
    return {"x": x, "y": x.sum(1), "bad": bad}


def train(net, data, fault, folder, **settings):
    return hotloop.fit(net, data, loss=lambda m, b: squared(m, b, fault), **{**SAME, "dir": str(folder), **settings})


def stopped(net, data, fault, folder, **settings):
    with pytest.raises(CheckStopped) as caught:
        train(net, data, fault, folder, **settings)
    return caught.value


def newest(folder):
    [run] = folder.iterdir()
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True), run


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("fault", ["loss", "gradient"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_weights_of_the_step_before_are_kept(setting, fault, normalised, tmp_path):
    """Seven more steps follow before anybody looks; all of them are finite, and none may change anything."""
    settings, bad_step = SETTINGS[setting], 5
    healthy, ill = network(normalised), network(normalised)
    train(healthy, rows(bad_step), "nothing", tmp_path / "healthy", max_steps=bad_step - 1, **settings)
    error = stopped(ill, rows(bad_step), fault, tmp_path / "ill", max_steps=STEPS, log_every=STEPS, **settings)
    assert "step 5" in error.what
    assert error.exit_code == 3
    assert_equal(ill.state_dict(), healthy.state_dict())
    saved, run = newest(tmp_path / "ill")
    good, _ = newest(tmp_path / "healthy")
    assert saved["step"] == bad_step - 1
    assert_equal(saved["model"], good["model"])
    for one, other in zip(saved["optimizers"], good["optimizers"], strict=True):
        assert one["state"].keys() == other["state"].keys()
        for key in one["state"]:
            assert_equal(one["state"][key], other["state"][key])
    assert_equal(torch.load(run / "final_model.pt", weights_only=True), healthy.state_dict())
    summary = json.loads((run / "training_summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("failed", bad_step - 1)


def test_the_first_step_of_all(tmp_path):
    net = network(True)
    before = copy.deepcopy(net.state_dict())
    assert "step 1" in stopped(net, rows(1), "loss", tmp_path, max_steps=STEPS, log_every=STEPS).what
    assert_equal(net.state_dict(), before)


def test_the_last_step_of_all(tmp_path):
    error = stopped(network(True), rows(STEPS), "gradient", tmp_path, max_steps=STEPS, log_every=100)
    assert f"step {STEPS}" in error.what
    assert newest(tmp_path)[0]["step"] == STEPS - 1


def test_a_checkpoint_in_between_does_not_save_the_fault(tmp_path):
    """A checkpoint is due between the fault and the next look at the loss: the look comes first."""
    error = stopped(network(True), rows(5), "loss", tmp_path, max_steps=STEPS, log_every=STEPS, checkpoint_every=6)
    assert "step 5" in error.what
    saved, run = newest(tmp_path)
    assert saved["step"] == 4
    assert [path.name for path in (run / "checkpoints").glob("step_*.pt")] == ["step_4.pt"]


def test_nothing_of_it_is_logged_as_a_number(tmp_path):
    stopped(network(False), rows(5), "loss", tmp_path, max_steps=STEPS, log_every=2)
    _, run = newest(tmp_path)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4]
    assert all(record["train_loss"] > 0 for record in records)


def bare_loop(net, data, left_out):
    """The same updates by hand; returns the loss of each step, None where there was no update."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    order, losses = Shuffle(ROWS, BATCH, SEED), []
    for step in range(STEPS):
        batch = {name: value[torch.from_numpy(order.indices(0, step))] for name, value in data.items()}
        if step + 1 == left_out:
            losses.append(None)
            continue
        loss = squared(net, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_skip_leaves_out_exactly_that_update(fault, normalised, tmp_path):
    bare, net, data = network(normalised), network(normalised), rows(5)
    losses = bare_loop(bare, data, left_out=5)
    settings = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "max_grad_norm": None, "on_nan": "skip"}
    run = train(net, data, fault, tmp_path, max_steps=STEPS, log_every=4, **settings)
    assert run.summary["status"] == "completed"
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, bare.state_dict()[name], rtol=1e-5, atol=1e-6)
    shown = {record["step"]: record for record in run.history if "train_loss" in record}
    for last in (4, 8, 12):
        counted = [loss for loss in losses[last - 4 : last] if loss is not None]
        assert shown[last]["train_loss"] == pytest.approx(sum(counted) / len(counted), rel=1e-4)
    assert [shown[step].get("skipped_updates", 0) for step in (4, 8, 12)] == [0, 1, 1]


def test_an_interval_of_skipped_updates_alone_has_no_loss(tmp_path):
    run = train(network(False), rows(5), "loss", tmp_path, max_steps=6, log_every=1, on_nan="skip")
    text = (run.dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["train_loss"] is None for line in text] == [False, False, False, False, True, False]
    assert "NaN" not in "".join(text)


def test_a_skipped_update_does_not_use_up_a_rate(tmp_path):
    rising = {"lr_scheduler": "linear", "warmup_steps": 8, "on_nan": "skip", "log_every": 1, "max_steps": STEPS}
    clean = train(network(False), rows(5), "nothing", tmp_path / "clean", **rising)
    run = train(network(False), rows(5), "gradient", tmp_path / "ill", **rising)
    rates, skipping = ([record["learning_rate"] for record in r.history] for r in (clean, run))
    assert skipping[5:] == rates[4:-1]
    assert skipping[:4] == rates[:4]


MINE = """
import torch, hotloop
class Mine(hotloop.Task):
    def sources(self):
        x = torch.linspace(-1, 1, 64).unsqueeze(1)
        x[{bad}] = float("nan")
        return hotloop.Splits(hotloop.data.source.TensorSource({{"x": x, "y": x * 2}}))
    def model(self):
        return torch.nn.Linear(1, 1)
    def loss(self, model, batch, training):
        return (model(batch["x"]) - batch["y"]).square().squeeze(-1)
"""


def test_as_a_user_sees_it(warm, tmp_path):
    bad = int(Shuffle(64, 4, SEED).indices(0, 10)[0])
    (tmp_path / "mine.py").write_text("import hotloop.data.source" + MINE.format(bad=bad))
    words = "training.batch_size=4 training.max_steps=15 data.val_fraction=0 training.log_every=6 --device cpu"
    ended = warm(tmp_path, "train", "mine.py:Mine", *words.split(), "training.precision=fp32")
    assert ended.code == 3, ended.err
    assert "loss or gradient not finite at step 11; x of that batch holds NaN or infinities in 1 row" in ended.err
    assert f"({bad}; from 0) of the training part: training stopped before the update" in ended.err
    assert "where: " in ended.err
    assert "fix: " in ended.err
    assert "Traceback" not in ended.err


class Curve(hotloop.Task):
    """The rows above as a task, to train under a plan of our own."""

    fault = "nothing"

    def sources(self):
        return hotloop.Splits(hotloop.data.source.TensorSource(rows(5)))

    def model(self):
        return network(True)

    def loss(self, model, batch, training):
        return squared(model, batch, self.fault)


def scaled(fault: str, precision: str = "fp16", **settings):
    """A state in fp16 with its loss scale, on the CPU, where no plan of a person would choose it; and its feed."""
    from dataclasses import replace

    from hotloop import assemble
    from hotloop.config.schema import TaskOptions
    from hotloop.task import options_of

    options: TaskOptions = options_of(Curve, "curve")
    keys = {name: value for name, value in SAME.items() if name != "progress"}
    loaded = load(options, overrides={**keys, **settings, "max_steps": STEPS, "data.val_fraction": 0.0})
    task = Curve(loaded.config.model, loaded.config.data, seed=SEED)
    task.fault = fault
    plan = replace(assemble.build(loaded, task).plan, precision=precision)
    session = assemble.build(loaded, task, plan=plan)
    if session.state.scaler is not None:
        session.state.scaler.scale.fill_(256.0)  # where this little model does not overflow by itself
    return session.state, session.feed()


def test_fp16_an_overflowing_gradient_halves_the_scale_and_leaves_out_the_update():
    state, feed = scaled("gradient")
    before: dict[str, torch.Tensor] = {}
    for info in loop.steps(state, feed):
        if info.step == 4:
            before = copy.deepcopy(state.model.state_dict())
            assert float(state.scaler.scale) == 256.0
        if info.step == 5:
            assert_equal(state.model.state_dict(), before)
            assert float(state.scaler.scale) == 128.0
    seen = state.read()
    assert (seen.applied, seen.skipped, seen.held_at) == (STEPS - 1, 1, 0)
    assert math.isfinite(seen.train_loss)
    assert any(not torch.equal(value, before[name]) for name, value in state.model.state_dict().items())


def test_fp16_a_loss_that_is_not_finite_is_no_affair_of_the_scale():
    state, feed = scaled("loss")
    for info in loop.steps(state, feed):
        if info.step == 4:
            before = copy.deepcopy(state.model.state_dict())
    assert state.read().held_at == 5
    assert_equal(state.model.state_dict(), before)


def test_fp16_trains_like_fp32():
    """Scaling is undone before clipping: the same rows give nearly the same weights."""
    slow = {"optimizer": "sgd", "max_grad_norm": 0.5}  # Adam would blow up rounding where a gradient is zero
    half, feed = scaled("nothing", **slow)
    for _ in loop.steps(half, feed):
        pass
    full, feed = scaled("nothing", "fp32", **slow)
    for _ in loop.steps(full, feed):
        pass
    for name, value in half.model.state_dict().items():
        torch.testing.assert_close(value, full.model.state_dict()[name], rtol=0.01, atol=0.002)
