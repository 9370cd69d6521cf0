"""F41: micro-batching a model with BatchNorm changes its result. Here it is allowed and never silent, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import hotloop
from hotloop.errors import NoMemory

from ..unit.engine.trouble import Trouble, drawing_net, fit


class Told(hotloop.Callback):
    def on_note(self, text: str, level: str) -> None: ...


def test_a_split_says_what_it_means(experiments: Path) -> None:
    trouble = Trouble(above=4)
    fit(experiments, trouble, drawing_net())
    [line] = [line for line in trouble.notes if "->" in line]
    assert "BatchNorm" in line and "so the result is not the one of an unsplit step" in line
    [folder] = experiments.iterdir()
    assert line in (folder / "training.log").read_text()


def test_a_split_can_be_refused(experiments: Path) -> None:
    with pytest.raises(NoMemory, match="BatchNorm"):
        fit(experiments, Trouble(above=4), drawing_net(), on_batchnorm="refuse")


def test_accumulation_is_told_at_the_start(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ..unit.engine.trouble import data

    trouble = Trouble()
    hotloop.fit(
        drawing_net(), data(), loss=trouble.loss, batch_size=4, gradient_accumulation_steps=2, max_steps=1,
        precision="fp32", compile="off", device="cpu", dir=str(experiments),
    )  # fmt: skip
    assert "BatchNorm (or another layer that mixes rows) sees micro-batches of 4 rows" in capsys.readouterr().out


def test_accumulation_can_be_refused(experiments: Path) -> None:
    with pytest.raises(hotloop.HotloopError, match="not the effective batch of 8"):
        fit(experiments, Trouble(), drawing_net(), batch_size=4, gradient_accumulation_steps=2, on_batchnorm="refuse")


def test_a_layer_of_ones_own_declares_that_it_mixes_rows(experiments: Path) -> None:
    net = drawing_net()
    net[1] = __import__("torch").nn.Identity()
    net.couples_the_batch = True
    with pytest.raises(NoMemory, match="another layer that mixes rows"):
        fit(experiments, Trouble(above=4), net, on_batchnorm="refuse")
