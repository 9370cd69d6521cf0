"""Mistakes of a tired person with a model and data of their own: each is told with what, where and how to fix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import hotloop
from hotloop.errors import HotloopError

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


@pytest.fixture
def fit(experiments: Path) -> Callable[..., Any]:
    still = {"precision": "fp32", "compile": "off", "trackers": (), "dir": str(experiments)}
    return partial(hotloop.fit, progress=False, max_steps=3, batch_size=32, **still)


DATA = {"x": X, "y": Y}
ONES = torch.ones_like(Y)
LOSSES = [
    ({"data": {"x": X, "y": Y.float()}}, r"raised RuntimeError(.|\n)*y.long\(\)(.|\n)*y \(\d+,\) float32"),
    ({"data": {"x": X, "y": Y.int()}}, r"raised RuntimeError(.|\n)*y.long\(\)(.|\n)*y \(\d+,\) int32"),
    ({"data": {"x": X, "y": ONES * 2}}, r"Target 2 is out of bounds(.|\n)*test_mistakes.py(.|\n)*count from 0"),
    ({"data": {"x": X, "y": Y[:, None]}}, r"y.squeeze\(1\)"),
    ({"model": nn.Linear(9, 2)}, r"cannot be multiplied(.|\n)*another number of features(.|\n)*x \(\d+, 8\)"),
    ({"val": {"features": X, "y": Y}}, r"in validation, raised KeyError(.|\n)*has no 'x'(.|\n)*features \(2, 8\)"),
    ({"val": {"x": X.double(), "y": Y}}, r"in validation, raised(.|\n)*float32"),
    ({"loss": lambda batch, model: loss(model, batch)}, r"the arguments are \(model, batch\)"),
    ({"loss": nn.CrossEntropyLoss()}, r"CrossEntropyLoss takes \(output, target\)(.|\n)*reduction='none'"),
    ({"loss": F.cross_entropy}, r"cross_entropy takes \(output, target\)(.|\n)*reduction='none'"),
    ({"loss": None}, r"there is no loss(.|\n)*pass loss="),
    ({"data": {"x": X.tolist(), "y": Y}}, r"other than tensors and arrays: \{'x': 'list'\}(.|\n)*torch.tensor\(x\)"),
]


@pytest.mark.parametrize(("given", "says"), LOSSES, ids=[str(n) for n in range(len(LOSSES))])
def test_a_loss_and_data_that_do_not_go_together(fit, given: dict[str, Any], says: str) -> None:
    call = {"model": nn.Linear(8, 2), "data": DATA, "loss": loss, **given}
    with pytest.raises(HotloopError, match=says):
        fit(call.pop("model"), call.pop("data"), **call)


class Items(Dataset[Any]):
    """Sixty-four items, as `make` gives them."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 64

    def __getitem__(self, row: int) -> Any:
        return self.make(row)


ITEMS = [
    (lambda n: (X[n][: 5 + n % 3], Y[n]), r"differ in the shape of 'x': \(5,\) and \(7,\)(.|\n)*collate_fn"),
    (lambda n: {"x": X[n], "y": None}, r"'y' of the items of a batch is NoneType"),
    (lambda n: {"x": X[n], "y": None if n % 2 else 1}, r"'y' of the items of a batch is NoneType and int"),
    (lambda n: {"x": X[n], "y": Y[n], "name": "n"}, r"'name' in a batch is a list"),
    (lambda n: ("text", "label"), r"cannot be turned into named tensors"),
]


@pytest.mark.parametrize(("make", "says"), ITEMS, ids=[str(n) for n in range(len(ITEMS))])
def test_items_that_make_no_batch(fit, make: Callable[[int], Any], says: str) -> None:
    with pytest.raises(HotloopError, match=says):
        fit(nn.Linear(8, 2), Items(make), loss=loss)


class Words(hotloop.Callback):
    """Stops as another library would."""

    def on_step(self, info: Any) -> Any:
        return "stop"


class Few(hotloop.Callback):
    """Forgot what it is given."""

    def on_evaluate(self, info: Any) -> None:  # type: ignore[override]
        return None


CALLBACKS = [
    ([Words()], r"Words.on_step gave 'stop', which asks for nothing(.|\n)*hotloop.Ask\(stop="),
    ([lambda info: True], r"gave True, which asks for nothing"),
    ([Few()], r"Few.on_evaluate cannot be called with \(info, metrics\)(.|\n)*def on_evaluate\(self, info, metrics\)"),
    ([lambda: None], r"cannot be called with \(info\)(.|\n)*let it take \(info\)"),
    (Words(), r"callbacks is a Words, not a list"),
    ([Words], r"Words is a class, not an object"),
]


@pytest.mark.parametrize(("callbacks", "says"), CALLBACKS, ids=[str(n) for n in range(len(CALLBACKS))])
def test_callbacks_that_would_not_do_what_they_should(fit, callbacks: Any, says: str) -> None:
    with pytest.raises(HotloopError, match=says):
        fit(nn.Linear(8, 2), DATA, loss=loss, callbacks=callbacks)


def test_what_a_callback_raises_on_purpose_comes_out_as_it_is(fit) -> None:
    class Enough(Exception):
        pass

    def enough(info: Any) -> None:
        raise Enough

    with pytest.raises(Enough):
        fit(nn.Linear(8, 2), DATA, loss=loss, callbacks=[enough])


def test_a_class_of_a_task_is_looked_at_in_python_too() -> None:
    class Half(hotloop.Task):
        def sources(self) -> Any:
            return {}

    with pytest.raises(HotloopError, match=r"Half has no model\(\) and loss\(\)(.|\n)*def model\(self\)"):
        hotloop.train(Half)
    with pytest.raises(HotloopError, match=r"Linear is not a Task class"):
        hotloop.train(nn.Linear)  # type: ignore[arg-type]
