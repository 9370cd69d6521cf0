"""Whole steps as CUDA graphs: the same training as without, and back to the ordinary way where a step cannot be one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotloop
from hotloop import launch
from hotloop.engine import loop

pytestmark = pytest.mark.gpu

X = torch.randn(88, 6, generator=torch.Generator().manual_seed(0))
DATA = {"x": X, "y": X.sum(1, keepdim=True)}


class Notes:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_note(self, text: str, level: str) -> None:
        self.lines.append(text)


def series(built: Any) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of every step."""
    kept = [(info.loss, info.grad_norm) for info in loop.steps(built.state, built.feed())]
    losses, norms = zip(*kept, strict=True)
    return torch.stack(losses).tolist(), torch.stack(norms).tolist()


def assert_alike(one: Any, other: Any) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adam"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "muon"},
        {"optimizer": "adamw8bit"},
        {"precision": "fp16"},
        {"batch_size": 4, "gradient_accumulation_steps": 4},
        {"max_grad_norm": None, "ema": 0.99},
        {"data.sampling": "shifted", "batch_size": 24},
    ],
    ids=["adamw", "adam", "sgd", "muon", "8bit", "fp16", "accumulation", "ema", "ragged"],
)
def test_the_same_training(session, settings):
    """With dropout: a replay draws from the same place of the generator's sequence as an ordinary step."""
    common = {"deterministic": True, "dropout": 0.1, **settings}
    plain = session(**common)
    expected = series(plain)
    captured = session(capture="on", **common)
    found = series(captured)
    assert captured.plan.capture and captured.state.captured.off == ""
    assert captured.state.captured.graphs >= 1
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert found[1] == pytest.approx(expected[1], rel=1e-4, abs=1e-6)
    assert_alike(plain.state.model, captured.state.model)
    one, other = plain.state.read(), captured.state.read()
    assert (one.applied, one.skipped, one.held_at) == (other.applied, other.skipped, other.held_at)


def test_a_changed_schedule_reaches_the_graph(session):
    runs = []
    for how in ("off", "on"):
        built = session(capture=how, deterministic=True, max_steps=30)
        stepping = loop.steps(built.state, built.feed())
        for _ in range(15):
            next(stepping)
        built.state.scale_rates(0.1)
        for _ in stepping:
            pass
        runs.append(built)
    assert_alike(runs[0].state.model, runs[1].state.model)


def test_a_value_that_is_not_finite_holds_the_graphs_update(session):
    built = session(capture="on", max_steps=30)
    stepping = loop.steps(built.state, built.feed())
    for _ in range(10):
        next(stepping)
    assert built.state.captured.graphs == 1
    built.state.parameters[0].data[0].fill_(float("nan"))
    poisoned = [parameter.detach().clone() for parameter in built.state.parameters]
    next(stepping)
    assert built.state.read(reset=False).held_at == 11
    for before, now in zip(poisoned[1:], built.state.parameters[1:], strict=True):
        assert torch.equal(before, now)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resumed_in_the_middle_of_an_epoch(precision, gpt, tmp_path):
    settings = {"precision": precision, "deterministic": True, "dropout": 0.1, "capture": "on", "checkpoint_every": 7}
    whole = gpt(**settings)

    def power(info: Any) -> None:
        if info.step == 45:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gpt(callbacks=[power], **settings)
    [cut] = [run for run in (tmp_path / "runs").iterdir() if run != whole.dir]
    torch.cuda.manual_seed(999)
    resumed = launch.resume(cut)
    states = [torch.load(run.dir / "final_model.pt", weights_only=True) for run in (resumed, whole)]
    for name, value in states[1].items():
        torch.testing.assert_close(states[0][name], value, rtol=1e-5, atol=1e-6)


def test_nothing_waits_once_it_is_captured(session):
    built = session(capture="on", resident="on")
    stepping = loop.steps(built.state, built.feed())
    for _ in range(8):
        next(stepping)
    assert built.state.captured.graphs == 1
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(30):
            next(stepping)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert built.state.read().applied == 38


@pytest.mark.parametrize("feed", [{"pin_memory": "on", "num_workers": 0}, {"pin_memory": "on", "num_workers": 2}])
def test_batches_from_the_host_arrive_before_the_replay(feed, session):
    resident = session(capture="on", deterministic=True)
    expected = series(resident)[0]
    fed = session(capture="on", deterministic=True, resident="off", **feed)
    assert series(fed)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_with_the_compiler(session):
    pytest.importorskip("triton", reason="torch.compile on a GPU needs triton")
    torch._dynamo.reset()
    built = session(capture="on", compile="default", max_steps=30)
    losses = series(built)[0]
    assert built.state.captured.off == "" and built.state.captured.graphs >= 1
    assert losses[-1] < losses[0]


def fit(loss: Any, net: nn.Module, **settings: Any) -> tuple[Any, list[str]]:
    notes = Notes()
    given = {"max_steps": 30, "batch_size": 8, "precision": "fp32", "compile": "off", "capture": "on", **settings}
    run = hotloop.fit(net, DATA, loss=loss, device="cuda", callbacks=[notes], progress=False, trackers=(), **given)
    return run, notes.lines


def squared(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (net(batch["x"]) - batch["y"]).square()


def test_a_step_that_waits_is_trained_as_ever(tmp_path):
    def waits(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return squared(net, batch) * (1.0 if batch["x"].sum().item() > -1e9 else 0.0)

    run, lines = fit(waits, nn.Linear(6, 1), dir=str(tmp_path))
    assert run.summary["status"] == "completed"
    [line] = [line for line in lines if "CUDA graph" in line]
    assert "the host waits for the GPU" in line and "trained without" in line


@pytest.mark.parametrize("draw", ["cpu", "own"])
def test_random_numbers_that_cannot_be_replayed(draw, tmp_path):
    """From the CPU's generator, or from one of the loss's own; afterwards the GPU's own generator still works."""
    own = torch.Generator("cuda").manual_seed(1)

    def noisy(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        if draw == "cpu":
            return squared(net, batch) * (1 + torch.rand(()).item())
        return squared(net, batch) * torch.rand((), device="cuda", generator=own)

    run, lines = fit(noisy, nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 1)), dir=str(tmp_path))
    assert run.summary["status"] == "completed"
    assert [line for line in lines if "trained without" in line]
    assert torch.isfinite(torch.rand(4, device="cuda")).all()


def test_the_captured_run_tells_and_gives_its_evaluation(tmp_path):
    """Evaluations between replays see the weights that the graph writes."""
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    run, lines = fit(squared, net, dir=str(tmp_path), max_steps=120, eval_every=20, val_fraction=0.2)
    assert [line for line in lines if "the whole step is captured in a CUDA graph" in line]
    values = [record["eval_loss"] for record in run.history if "eval_loss" in record]
    assert len(values) == 6 and values[-1] < values[0]
