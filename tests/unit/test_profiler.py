"""A profile of a real step: each phase gets its own time, they add up, and the step stays what it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop import assemble
from hotloop.ceilings import Ceilings, _operation
from hotloop.config.load import load
from hotloop.data.source import as_source
from hotloop.profiler.marks import BACKWARD, COPY, DATA, FORWARD, GAP, OPTIMIZER, PHASES, Marks, marked
from hotloop.profiler.measure import profile
from hotloop.profiler.work import count_work
from hotloop.task import Splits, Task, options_of

CEILINGS = Ceilings("a processor", 1, "2", {"fp32": 1e11, "bf16": 2e11}, 1e10, 2e-6)
NAP = 0.01  # seconds


def session(net: nn.Module, data: Any, loss: Callable, **overrides: Any) -> assemble.Session:
    """A run put together from functions; `loss` takes (model, batch)."""

    class Own(Task):
        def sources(self) -> Splits:
            return Splits(as_source(data), None)

        def model(self) -> nn.Module:
            return net

        def loss(self, model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
            return loss(model, batch)

    keys = {"precision": "fp32", "compile": "off", "max_steps": 40, "data.val_fraction": 0.0, "batch_size": 8}
    loaded = load(options_of(Own, "own"), overrides={**keys, **overrides})
    task = Own(loaded.config.model, loaded.config.data, seed=1)
    return assemble.build(loaded, task)


def squares(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (model(batch["x"]) - batch["y"]).square().mean(1)


def data(rows: int = 64, width: int = 4) -> dict[str, Tensor]:
    return {"x": torch.randn(rows, width), "y": torch.randn(rows, 2)}


class Napping(torch.autograd.Function):
    """Sleeps in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        time.sleep(NAP)
        return gradient


class Slow(nn.Module):
    """A line that sleeps in one of its passes."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.line, self.where = nn.Linear(4, 2), where

    def forward(self, x: Tensor) -> Tensor:
        if self.where == FORWARD:
            time.sleep(NAP)
        out = self.line(x)
        return Napping.apply(out) if self.where == BACKWARD else out


class Fetched(torch.utils.data.Dataset):
    """Items that take their time."""

    def __init__(self, nap: float) -> None:
        self.nap = nap

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        time.sleep(self.nap)
        return {"x": torch.randn(4), "y": torch.zeros(2)}


def slowed(where: str) -> assemble.Session:
    built = session(Slow(where), Fetched(NAP / 8) if where == DATA else data(), squares)
    if where == OPTIMIZER:
        update = built.state.updates[0]
        built.state.updates[0] = lambda: (time.sleep(NAP), update())[1]
    if where == GAP:
        totals = built.state.totals
        built.state.totals = lambda batch: (time.sleep(NAP), totals(batch))[1]
    return built


@pytest.mark.parametrize("where", [DATA, FORWARD, BACKWARD, OPTIMIZER, GAP])
def test_time_is_put_down_to_the_phase_that_took_it(where: str) -> None:
    phases = profile(slowed(where), CEILINGS, steps=10).timing.phases
    assert set(phases) == set(PHASES)
    assert phases[where] >= NAP
    assert max(phases, key=phases.__getitem__) == where
    assert phases[where] > 0.6 * sum(phases.values())


def test_phases_add_up_to_the_wall_time() -> None:
    net = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 2))
    found = profile(session(net, data(64, 256), squares, batch_size=64), CEILINGS, steps=60)
    assert sum(found.timing.phases.values()) == pytest.approx(found.timing.seconds, rel=0.02)
    assert found.timing.lowest <= found.timing.seconds <= found.timing.highest
    assert found.timing.steps == 60
    rows = found.phase_rows()
    assert rows[-1][0] == "step"
    assert sum(float(row[1]) for row in rows[:-1]) == pytest.approx(float(rows[-1][1]), rel=0.02, abs=0.004)


def test_micro_batches_are_forward_and_backward_each_time() -> None:
    built = session(Slow(BACKWARD), data(64), squares, gradient_accumulation_steps=3)
    timing = profile(built, CEILINGS, steps=6).timing  # epochs of 24, 24 and 16 rows, so of 8 micro-batches
    phases = timing.phases
    assert phases[BACKWARD] >= 8 / 3 * NAP
    assert 16 < timing.rows < 24
    assert phases[OPTIMIZER] < NAP


def taken(steps: int, with_marks: bool) -> tuple[list[Tensor], Marks]:
    torch.manual_seed(5)
    rows = data()
    torch.manual_seed(6)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    built, marks = session(net, rows, squares), Marks(torch.device("cpu"))
    from hotloop.engine.loop import steps as stepping

    marks.on = with_marks
    run = stepping(built.state, built.feed(marks.watch))
    if with_marks:
        with marked(built.state, marks):
            done = [next(run) for _ in range(steps)]
    else:
        done = [next(run) for _ in range(steps)]
    assert len(done) == steps
    assert "settle" not in vars(built.state)
    assert "check" not in vars(built.state.guard)
    return [value.clone() for value in built.state.model.state_dict().values()], marks


def test_a_marked_step_is_the_step_to_the_bit_and_leaves_nothing_behind() -> None:
    (plain, none), (with_marks, marks) = taken(6, False), taken(6, True)
    assert all(torch.equal(one, other) for one, other in zip(plain, with_marks, strict=True))
    assert not none.taken
    assert [name for name, _ in marks.taken].count(OPTIMIZER) == 6


def test_slow_items_are_input_bound_and_workers_are_named() -> None:
    found = profile(slowed(DATA), CEILINGS, steps=8)
    assert found.verdict.name == "input-bound"
    assert "waiting for data takes" in found.verdict.reason
    assert "data.num_workers=2" in found.verdict.options[0]
    assert found.timing.phases[COPY] < 0.1 * found.timing.phases[DATA]


def test_many_small_operations_are_launch_bound() -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = self.line(x)
            for _ in range(300):
                out = out * 1.001
            return out

    dear = replace(CEILINGS, operation=20e-6)  # so that a busy machine cannot make the steps too long for the rule
    found = profile(session(Tiny(), data(), squares), dear, steps=20)
    assert found.work.operations > 600
    calling = found.work.operations * _operation(torch.device("cpu")) / found.timing.lowest
    assert 0.1 < calling < 3, "the figure that is measured is of the right order"
    assert found.verdict.name == "launch-bound", found.verdict
    assert any("training.batch_size" in option for option in found.verdict.options)


def test_more_steps_than_the_run_has_and_fewer() -> None:
    built = session(nn.Linear(4, 2), data(), squares, max_steps=3)
    found = profile(built, CEILINGS, steps=10)
    assert found.timing.steps == 10
    assert profile(session(nn.Linear(4, 2), data(), squares), CEILINGS, steps=1).timing.steps == 1


def flops(net: nn.Module, rows: dict[str, Tensor], loss: Callable = squares, **overrides: Any) -> float:
    built = session(net, rows, loss, **overrides)
    before = [value.clone() for value in built.state.model.state_dict().values()]
    work = count_work(built, built.feed())
    assert not work.uncounted
    after = built.state.model.state_dict().values()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in built.state.parameters)
    return work.flops


def test_flops_of_a_perceptron() -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    # forward, and both gradients but for the one of the data
    assert flops(net, data()) == 2 * 8 * (4 * 16 + 16 * 2) + 2 * 8 * (4 * 16 + 2 * 16 * 2)
    assert flops(net, data(), gradient_accumulation_steps=2) == 2 * (2 * 8 * (96) + 2 * 8 * 128)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cells, self.line = kind(6, 10, num_layers=2, batch_first=True, bidirectional=True), nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.cells(x.view(len(x), 5, 6))[0][:, -1])


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_flops_of_recurrent_layers(kind: type[nn.Module], gates: int) -> None:
    per_row = 2 * gates * 10 * ((6 + 10) + (20 + 10))  # both directions, two layers
    forward = 2 * 8 * 5 * per_row + 2 * 8 * 20 * 2
    found = flops(Recurrent(kind), data(width=30))
    # A kernel of its own may leave out the gradient of the data, or the first state's product.
    assert 2.4 * forward < found <= 3.02 * forward


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.line = nn.Linear(8, 24, bias=False), nn.Linear(8, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.view(len(x), 16, 8)).view(len(x), 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.line(out.transpose(1, 2).reshape(len(x), 16, 8).mean(1))


def test_flops_of_attention() -> None:
    attention = 2 * 2 * (8 * 2) * 16 * 16 * 4  # two products of (B x heads) squares of 16, 4 wide
    lines = 2 * 8 * 16 * 8 * 24 * 2 + 3 * 2 * 8 * 8 * 2  # no gradient of the data
    found = flops(Attentive(), data(width=128))
    assert lines + 3 * attention <= found <= lines + 3.5 * attention  # a fused kernel works a product out again


def test_a_trace_is_written_whole(tmp_path: Path) -> None:
    import gzip
    import json

    for name in ("trace.json", "trace.json.gz"):
        profile(session(nn.Linear(4, 2), data(), squares), CEILINGS, steps=2, trace=tmp_path / name)
        content = (tmp_path / name).read_bytes()
        events = json.loads(gzip.decompress(content) if name.endswith(".gz") else content)["traceEvents"]
        assert any("mm" in str(event.get("name")) for event in events)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.json", "trace.json.gz"]


def test_marks_of_very_short_steps_are_told() -> None:
    found = profile(session(nn.Linear(4, 2), data(), squares), CEILINGS, steps=50)
    assert 0 < found.timing.cost < 0.05
    dear = replace(found, timing=replace(found.timing, mark=found.timing.seconds / 10))
    assert any("steps are so short that the marks take" in note for note in dear.notes())
    assert not any("so short" in note for note in replace(found, timing=replace(found.timing, mark=1e-9)).notes())


def test_on_a_gpu_marks_are_events_of_its_stream_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for CUDA's events: nothing is asked of them before the end."""
    clock = iter([0.0, 2.0, 5.0, 9.0, 9.5, 14.0])

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda:1"
            self.at = next(clock)

        def elapsed_time(self, end: Event) -> float:
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    marks = Marks(torch.device("cuda:1"))
    marks(DATA)
    assert not marks.taken, "they are off"
    marks.on = True
    for phase in (FORWARD, BACKWARD, OPTIMIZER, FORWARD, BACKWARD, GAP):
        marks(phase)
    found = marks.seconds()
    assert found[FORWARD] == pytest.approx(0.002 + 0.0005)
    assert found[BACKWARD] == pytest.approx(0.003 + 0.004 + 0.0045), "no update comes before another forward pass"
    assert found[OPTIMIZER] == 0
