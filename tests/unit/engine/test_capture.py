"""Steps by replay, with a recorder that runs the step again on the kept inputs instead of a GPU's graph.

What is tested here is everything but the graph itself: inputs that stay in place, shapes, falling back, counters.
tests/gpu/test_capture.py does the same with real graphs.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hotloop.engine import capture as module
from hotloop.engine import loop
from hotloop.engine.capture import Capture, leaves, signature

X = torch.randn(44, 5, generator=torch.Generator().manual_seed(0))
DATA = {"x": X, "y": X.sum(1, keepdim=True)}
SHORT = {"max_steps": 24, "batch_size": 8, "val_fraction": 0.0}


class Rerun:
    """Records by keeping the function, replays by running it; `waits` is what the watched step is said to do."""

    def __init__(
        self, waits: str = "", error: Exception | None = None, on_record: Callable[..., Any] = lambda run: None
    ) -> None:
        self.waits, self.error, self.on_record = waits, error, on_record
        self.prepared = self.recorded = self.replayed = self.abandoned = 0
        self.watched: list[bool] = []

    def prepare(self, run: Callable[[], Any], watched: bool) -> tuple[Any, str]:
        self.prepared += 1
        self.watched.append(watched)
        return run(), self.waits if watched else ""

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        self.on_record(run)
        if self.error is not None:
            raise self.error

        def replay() -> Tensor:
            self.replayed += 1
            return run()

        return replay

    def abandon(self) -> None:
        self.abandoned += 1


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 1))


def loss(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
    return (model(batch["x"]) - batch["y"]).square()


@pytest.fixture
def trained(build) -> Callable[..., Any]:
    """`trained(recorder)`: a session after its steps, the losses of each step, and what was told."""

    def train(recorder: Rerun | None = None, model: Any = net, loss: Any = loss, **settings: Any) -> Any:
        session = build(model, DATA, loss, **{**SHORT, **settings})
        told: list[str] = []
        session.state.tell = lambda text, level: told.append(text)
        if recorder is not None:
            session.state.captured = Capture(recorder)
        infos = list(loop.steps(session.state, session.feed()))
        return session, [(info.loss.item(), info.grad_norm.item()) for info in infos], told

    return train


def same(one: nn.Module, other: nn.Module) -> bool:
    values = other.state_dict()
    return all(torch.equal(value, values[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 3, "batch_size": 3},
        {"optimizer": "sgd", "max_grad_norm": None},
        {"ema": 0.9, "lr_scheduler": "linear", "warmup_steps": 4},
    ],
)
def test_replayed_steps_are_the_steps(trained, settings):
    """To the bit: dropout, statistics, the schedule, the ragged last batch of each epoch, counters."""
    plain, expected, _ = trained(**settings)
    recorder = Rerun()
    session, found, told = trained(recorder, **settings)
    assert found == expected
    assert same(session.state.model, plain.state.model)
    one, other = (s.state.read() for s in (session, plain))
    assert one == other
    assert recorder.replayed and recorder.recorded == session.state.captured.graphs == 2  # 8 rows, and the last 4
    assert sum("captured in a CUDA graph" in line for line in told) == 1
    assert session.state.pieces.begun == plain.state.pieces.begun


def test_each_shape_is_prepared_three_times_and_then_recorded(trained):
    recorder = Rerun()
    trained(recorder)  # epochs of 5 batches of 8 and one of 4: 24 steps are 20 and 4
    assert recorder.prepared == 6 and recorder.watched.count(True) == 2
    assert recorder.replayed == 18


def test_the_inputs_stay_where_they_are(build):
    session = build(net, DATA, loss, **SHORT)
    places: list[tuple[int, ...]] = []

    class Places(Rerun):
        def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
            replay = super().record(run)

            def looked() -> Tensor:
                [known] = session.state.captured._graphs.values()
                places.append(tuple(leaf.data_ptr() for leaf in known.inputs))
                assert torch.equal(known.inputs[0], batch["x"]) and known.inputs[0] is not batch["x"]
                return replay()

            return looked

    session.state.captured = Capture(Places())
    feed = session.feed()
    for _ in range(5):
        batch = next(feed)
        session.state.captured(session.state, batch)
    assert len(places) == 2 and places[0] == places[1]


def test_a_held_update_stays_held_under_replay(trained):
    """A value that is not finite in a replayed step holds the update, and the step is known afterwards."""

    def broken(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        calls[0] += 1
        return loss(model, batch, training) * (float("nan") if calls[0] == 15 else 1.0)

    calls = [-1]  # the probe calls it once
    recorder = Rerun()
    session, _, _ = trained(recorder, loss=broken, on_nan="skip", optimizer="sgd")
    assert recorder.replayed
    readout = session.state.read()
    assert (readout.applied, readout.skipped) == (23, 1)
    assert all(torch.isfinite(parameter).all() for parameter in session.state.parameters)


def test_what_waits_for_the_device_is_trained_as_ever(trained):
    _, expected, _ = trained()
    recorder = Rerun(waits="the host waits for the GPU in net.py:7")
    session, found, told = trained(recorder)
    assert found == expected and recorder.recorded == 0 and recorder.prepared == 3
    [line] = told
    assert line.startswith("step 3:") and "trained without: the host waits for the GPU in net.py:7" in line
    assert session.state.captured.off


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("operation not permitted when stream is capturing"), "not permitted"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: CUDA out of memory"),
    ],
)
def test_a_recording_that_fails_costs_a_line(trained, error, says):
    plain, expected, _ = trained()
    recorder = Rerun(error=error)
    session, found, told = trained(recorder)
    assert found == expected and same(session.state.model, plain.state.model)
    assert (recorder.recorded, recorder.abandoned, recorder.replayed) == (1, 1, 0)
    [line] = told
    assert says in line and line.startswith("step 4:")
    assert not session.state.updating


def test_the_steps_own_fault_is_told_and_not_the_one_on_top_of_it(trained):
    def breaks(run: Callable[[], Tensor]) -> None:
        recording.append(True)
        try:
            run()
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture") from None

    def strange(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        if recording:
            recording.pop()
            raise RuntimeError("a generator of its own")
        return loss(model, batch, training)

    recording: list[bool] = []
    _, _, told = trained(Rerun(on_record=breaks), loss=strange)
    assert "a generator of its own" in told[0] and "previous error" not in told[0]


@pytest.mark.parametrize("draw", [random.random, np.random.rand], ids=["python", "numpy"])
def test_random_numbers_of_the_host_are_not_repeated(trained, draw):
    def noisy(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        return loss(model, batch, training) * (1 + float(draw()))

    recorder = Rerun()
    _, _, told = trained(recorder, loss=noisy)
    assert recorder.recorded == 0
    assert "random numbers on the host" in told[0]


def test_a_buffer_that_is_replaced_cannot_be_captured(trained):
    """A graph would read the first tensor for ever and write to another one."""

    class Counts(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 1)
            self.register_buffer("mean", torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return super().forward(x)

    recorder = Rerun(on_record=lambda run: run())
    session, _, told = trained(recorder, model=Counts)
    assert recorder.recorded == recorder.abandoned == 1 and "puts another tensor in a buffer's place" in told[0]
    assert session.state.captured.off and session.state.captured.graphs == 0


def test_loading_a_state_records_anew(build):
    """What is loaded is in other tensors: an old graph would go on with the old ones."""
    session = build(net, DATA, loss, **SHORT)
    recorder = Rerun()
    session.state.captured = Capture(recorder)
    stepping = loop.steps(session.state, session.feed())
    for _ in range(5):
        next(stepping)
    assert session.state.captured.graphs == 1
    session.state.load_state_dict(copy.deepcopy(session.state.state_dict()))
    assert session.state.captured.graphs == 0
    for _ in stepping:
        pass
    assert recorder.recorded == 3


def test_an_optimizer_is_told_that_it_may_be_captured_only_meanwhile(build):
    session = build(net, DATA, loss, **SHORT)
    groups = [group for optimizer in session.state.optimizers for group in optimizer.param_groups]
    seen: list[bool] = []
    session.state.captured = Capture(Rerun(on_record=lambda run: seen.extend(g["capturable"] for g in groups)))
    for _ in loop.steps(session.state, session.feed()):
        pass
    assert seen and all(seen)
    assert not any(group["capturable"] for group in groups)


def test_there_are_only_so_many_graphs(trained, monkeypatch):
    monkeypatch.setattr(module, "MOST", 1)
    recorder = Rerun()
    session, found, _ = trained(recorder)
    assert found == trained()[1]
    assert recorder.recorded == session.state.captured.graphs == 1


def test_out_of_memory_beside_the_graph_is_a_step_repeated(build, monkeypatch):
    """The transaction stands around captured steps too; pieces of another size are another graph."""
    session = build(net, DATA, loss, **SHORT)
    capture = session.state.captured = Capture(Rerun())
    told: list[str] = []
    session.state.tell = lambda text, level: told.append(text)
    real, pending = Rerun.prepare, [1]

    def short(self: Rerun, run: Callable[[], Any], watched: bool) -> Any:
        if pending and session.state.step >= 2:
            pending.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, run, watched)

    monkeypatch.setattr(Rerun, "prepare", short)
    for _ in loop.steps(session.state, session.feed()):
        pass
    assert "OOM at step 3: unused memory given back" in told[0]
    assert capture.graphs == 2 and session.state.read().applied == 24


def test_what_a_graph_is_for(build):
    state = build(net, DATA, loss, **SHORT).state
    one = {"x": torch.zeros(8, 5), "weight": {"b": torch.ones(8), "a": torch.zeros(8)}}
    other = {"weight": {"a": torch.ones(8), "b": torch.ones(8)}, "x": torch.ones(8, 5)}
    assert signature(one, state) == signature(other, state)
    assert [leaf.sum().item() for leaf in leaves(one)] == [0, 8, 0]
    assert signature({**one, "x": torch.zeros(8, 6)}, state) != signature(one, state)
    assert signature({**one, "x": torch.zeros(8, 5).double()}, state) != signature(one, state)
    state.pieces.shrink(4)
    assert signature(one, state) != signature(other, build(net, DATA, loss, **SHORT).state)
