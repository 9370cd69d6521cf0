"""Code that is compiled anew during a run is counted, and the reason is told in words that a person can act on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop.engine import loop
from hotloop.engine.recompiles import Recompiles, worded

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def counting_only(monkeypatch):
    """torch.compile without a compiler behind it."""
    import torch._dynamo

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, mode=None, dynamic=None: real(f, backend="eager", dynamic=dynamic))
    monkeypatch.setattr("shutil.which", lambda name: "here")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Coupled, so that a ragged last batch is a shape of its own."""
    return (net(batch["x"])[:, 0] - batch["x"].sum(1)).square()


def test_a_second_shape_is_one_recompilation_with_its_reason(quick):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    notes: list[str] = []

    class Listener:
        def on_note(self, text: str, level: str) -> None:
            notes.append(text)

    run = quick(
        net, {"x": X}, loss=loss, val_fraction=0.0, max_steps=12, batch_size=16, log_every=3, eval_every="off",
        compile="default", callbacks=[Listener()],
    )  # fmt: skip
    assert run.summary["recompiles"] == 1
    assert [record.get("recompiles") for record in run.history if "train_loss" in record] == [1, None, None, None]
    [line] = [line for line in (run.dir / "training.log").read_text().splitlines() if "compiled again" in line]
    assert line.startswith("by step 3: compiled again: ") and "size of axis 0 of " in line
    assert line.endswith("changed from 16 to 8")
    assert [note for note in notes if "compiled again" in note] == [line]


def test_one_shape_is_none_and_no_compiler_is_none(quick):
    for mode in ("off", "default"):
        settings = {"val_fraction": 0.0, "max_steps": 6, "batch_size": 10, "compile": mode}
        run = quick(nn.Linear(3, 1), {"x": X}, loss=loss, **settings)
        assert run.summary["recompiles"] == 0
        assert "compiled again" not in (run.dir / "training.log").read_text()


def test_what_others_compiled_before_does_not_count():
    other = torch.compile(lambda x: x + 1, dynamic=False)
    other(torch.ones(2))
    counted = Recompiles()
    assert counted.look() == [], "nothing has begun"
    counted.begin()
    assert counted.look() == []
    other(torch.ones(3))
    [line] = counted.look()
    assert "changed from 2 to 3" in line
    assert counted.look() == []


def test_a_torch_that_tells_no_reasons_is_counted_by_number():
    notes: list[Any] = [SimpleNamespace(compile_id="0/0", start_time=1.0)]
    counted = Recompiles(lambda: notes)
    counted.begin()
    notes += [SimpleNamespace(compile_id="0/1", start_time=2.0), SimpleNamespace(compile_id="1/0", start_time=3.0)]
    assert counted.look() == ["compiled again: this torch does not tell why"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            "0/0: tensor 'micro['x']' size mismatch at index 1. expected 8, actual 4",
            "the size of axis 1 of micro['x'] changed from 8 to 4",
        ),
        (
            "0/3: tensor 'x' dtype mismatch. expected Float, actual Double",
            "the dtype of x changed from Float to Double",
        ),
        ("1/0: GLOBAL_STATE changed: grad_mode ", "a setting of torch changed: grad_mode"),
        ("0/0: self.index == 0                  # return x * self.index", "self.index is no longer 0"),
        ("2/1: ___check_obj_id(a, 7)", "___check_obj_id(a, 7)"),
        ("0/0: " + "z" * 500, "z" * 200 + " ..."),
    ],
)
def test_reasons_in_plain_words(reason, words):
    assert worded(reason) == words


def test_steps_pay_nothing(build, monkeypatch):
    """The notes are read at log points, not in steps."""
    session = build(lambda: nn.Linear(3, 1), {"x": X}, lambda m, b, t: loss(m, b), compile="default", batch_size=10)
    looks: list[int] = []
    real = Recompiles.look
    monkeypatch.setattr(Recompiles, "look", lambda self: looks.append(session.state.step) or real(self))
    for _ in loop.steps(session.state, session.feed()):
        pass
    assert looks == []
