"""Between log points the host asks the device for nothing: no .item(), .tolist(), .cpu(), bool() or float().

Counted twice: Python calls on torch.Tensor, and the scalar reads that reach torch's dispatcher from C++ code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hotloop.engine.loop import steps

ASKING = ["item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__", "__array__"]
WAITING_OPS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class Asked:
    """How often a tensor was asked for its value, by the step after which it happened."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[int, str]] = Counter()
        self.step = 0

    def note(self, name: str) -> None:
        self.calls[self.step, name] += 1

    def after(self) -> set[int]:
        return {step for step, _ in self.calls}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    found = Asked()

    def counting(name: str):
        original = getattr(torch.Tensor, name)

        def call(self: Tensor, *arguments, **named):
            found.note(name)
            return original(self, *arguments, **named)

        return call

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), named=None):
            name = operation.__name__.partition(".")[0].removeprefix("aten::")
            if name in WAITING_OPS:
                found.note(name)
            return operation(*arguments, **(named or {}))

    for name in ASKING:
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    with Dispatch():
        yield found


class Net(nn.Module):
    """With BatchNorm: the step keeps its buffers, too, without a look at them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 8), nn.Linear(8, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def loss(model: nn.Module, batch: dict[str, Tensor], training: bool = True) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


X, Y = torch.randn(20, 4), torch.randint(3, (20,))
DATA = {"x": X, "y": Y, "weight": torch.rand(20)}
SHORT = {"batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 20}


def test_fit_asks_at_log_points_alone(quick, asked: Asked) -> None:
    def note(info) -> None:
        asked.step = info.step
        if info.step == 1:
            asked.calls.clear()  # what came before the first step is not training

    asked.step = -1
    run = quick(
        Net(), DATA, loss=loss, val=DATA, **SHORT, log_every=5, eval_every=10, checkpoint_every="off", callbacks=[note]
    )
    assert run.summary["steps"] == 20
    # What is asked after the callback of step n and before that of step n + 1 is counted under n.
    assert asked.after() == {5, 10, 15, 20}, asked.calls
    assert asked.calls[5, "tolist"] == asked.calls[15, "tolist"] == 1
    assert sum(asked.calls[5, name] for name in (*ASKING, *WAITING_OPS)) == 1, asked.calls


def test_a_callback_that_reads_the_loss_would_be_counted(quick, asked: Asked) -> None:
    def reading(info) -> None:
        asked.step = info.step
        float(info.loss)

    quick(Net(), DATA, loss=loss, **SHORT, log_every=20, callbacks=[reading])
    assert asked.after() >= set(range(1, 21))
    assert asked.calls[7, "__float__"] == 1
    assert asked.calls[7, "_local_scalar_dense"] == 1


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_step_of_any_kind_asks_nothing(build, asked: Asked, kind: str, precision: str, on_nan: str) -> None:
    changes = {"precision": precision}
    session = build(Net, DATA, loss, optimizer=kind, on_nan=on_nan, changes=changes, **{**SHORT, "max_steps": 6})
    asked.calls.clear()
    done = [info.step for info in steps(session.state, session.feed())]
    assert done == [1, 2, 3, 4, 5, 6]
    assert not asked.calls, asked.calls
