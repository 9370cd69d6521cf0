"""What the tests of wild faults share: a tiny training that can lose its power, and go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class PowerCut(Exception):
    """The process is gone; what is on the disk is all there is."""


class Tiny:
    """A regression of 60 rows in batches of 8 (epochs of 8 steps, the last of 4 rows), with dropout."""

    def __init__(self, folder: Path) -> None:
        import torch

        self.folder, self.trained = folder, []
        draw = torch.Generator().manual_seed(3)
        x = torch.randn(60, 3, generator=draw)
        self.data = {"x": x, "y": x.sum(1, keepdim=True), "row": torch.arange(60)}

    def net(self) -> Any:
        import torch

        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))

    def loss(self, net: Any, batch: Any) -> Any:
        if net.training:
            self.trained.append(batch["row"].tolist())
        return (net(batch["x"]) - batch["y"]).square()

    def fit(self, net: Any, cut_at: int | None = None, **settings: Any) -> Any:
        """Train; with `cut_at` the power goes in the middle of that step, and PowerCut is raised."""
        import hotloop

        def power(info: Any) -> None:
            if info.step == cut_at:
                raise PowerCut

        defaults = {"batch_size": 8, "max_steps": 20, "log_every": 1, "eval_every": 3, "precision": "fp32"}
        settings = {**defaults, "compile": "off", "device": "cpu", "dir": str(self.folder), **settings}
        given = {"val": self.data, "data": self.data, **{k: settings.pop(k) for k in ("val", "data") if k in settings}}
        data = given.pop("data")
        self.trained = []
        loss = settings.pop("loss", self.loss)
        return hotloop.fit(net, data, loss=loss, callbacks=[power], progress=False, **given, **settings)

    def cut(self, at: int, **settings: Any) -> Path:
        """Train until the power goes; returns the run's folder."""
        before = set(self.folder.glob("*"))
        with pytest.raises(PowerCut):
            self.fit(self.net(), cut_at=at, **settings)
        [run] = set(self.folder.glob("*")) - before
        return run

    def go_on(self, run: Path, net: Any = None, **settings: Any) -> Any:
        """Resume `run` with a model that is made anew, as a new process would."""
        return self.fit(self.net() if net is None else net, resume_from_checkpoint=run, **settings)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A tiny training below a temporary folder."""
    return Tiny(tmp_path / "runs")


@pytest.fixture(scope="session")
def assert_equal() -> Callable[[Any, Any], None]:
    """Two models are equal to the bit."""
    import torch

    def compare(one: Any, other: Any) -> None:
        assert one.state_dict().keys() == other.state_dict().keys()
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name

    return compare
