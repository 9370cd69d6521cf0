"""Searches before real runs: from the command line in fresh processes, and for a model in hand on a copy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tune.owned import SETTINGS, write

import hotloop
from hotloop.errors import HotloopError

KEYS = [f"{name}={value}" for name, value in SETTINGS.items() if name != "trackers"]
X = torch.randn(96, 3, generator=torch.Generator().manual_seed(0))
DATA = {"x": X, "y": X.sum(1, keepdim=True)}


def hotloop_train(folder: Path, name: str, *words: str) -> tuple[str, Path]:
    done = subprocess.run(
        [sys.executable, "-m", "hotloop", "train", f"{write(folder)}:{name}", *KEYS, "experiment.trackers=[]", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, run = sorted((folder / "experiments").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return done.stdout, run


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record["train_loss"] for record in map(json.loads, lines) if "train_loss" in record]


def plan(run: Path) -> dict[str, Any]:
    return json.loads((run / "plan.json").read_text())


def test_the_knee_is_found_and_the_run_equals_one_with_that_size_stated(tmp_path: Path) -> None:
    out, run = hotloop_train(tmp_path, "Cliff", "batch_size=240", "auto_batch_size=true")
    size = plan(run)["micro_batch"]
    assert 54 <= size <= 60, out
    assert (plan(run)["effective_batch"], plan(run)["accumulation"]) == (240, 4)
    rows = json.loads((run / "search.json").read_text())
    [chosen] = [row for row in rows if row["chosen"]]
    assert chosen["micro_batch"] == size
    assert f"micro-batch {size} (4 pieces)" in out and "chosen" in out and "confirmed" in out
    _, plain = hotloop_train(tmp_path, "Cliff", f"batch_size={size}", f"gradient_accumulation_steps={240 // size}")
    assert losses(run) == losses(plain)
    assert len(losses(run)) == 4
    assert not (plain / "search.json").exists()


def test_a_budget_is_kept_and_the_table_is_in_the_folder(tmp_path: Path) -> None:
    out, run = hotloop_train(tmp_path, "Greedy", "batch_size=240", "memory.budget=400MB")
    rows = json.loads((run / "search.json").read_text())
    [chosen] = [row for row in rows if row["chosen"]]
    assert chosen["micro_batch"] == plan(run)["micro_batch"] < 100
    assert chosen["peak_memory"] <= 400 * 2**20 and chosen["fits"]
    assert any(row["fits"] is False for row in rows)
    assert "within 400MB" in out and "samples/s" in out


def test_a_search_for_a_model_in_hand_leaves_everything_as_it_was(tmp_path: Path) -> None:
    def net() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))

    def loss(model: Any, batch: Any) -> Any:
        return (model(batch["x"]) - batch["y"]).square()

    given = {**SETTINGS, "dir": str(tmp_path), "loss": loss, "progress": False}
    found = hotloop.fit(net(), DATA, batch_size=48, auto_batch_size=True, **given)
    size = plan(found.dir)["micro_batch"]
    stated = hotloop.fit(net(), DATA, batch_size=size, gradient_accumulation_steps=48 // size, **given)
    assert losses(found.dir) == losses(stated.dir)
    for one, other in zip(found.model.state_dict().values(), stated.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_steps_searches_alike(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 1)
    given = {name: value for name, value in SETTINGS.items() if name not in ("trackers", "log_every")}
    loss = lambda net, batch: (net(batch["x"]) - batch["y"]).square()  # noqa: E731
    infos = list(hotloop.steps(model, DATA, loss=loss, batch_size=48, auto_batch_size=True, **given))
    assert len(infos) == 4


def test_a_stream_in_hand_is_not_searched(tmp_path: Path) -> None:
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield {"x": torch.ones(3), "y": torch.ones(1)}

    loss = lambda net, batch: (net(batch["x"]) - batch["y"]).square()  # noqa: E731
    with pytest.raises(HotloopError, match="stream"):
        hotloop.fit(
            torch.nn.Linear(3, 1),
            Endless(),
            loss=loss,
            auto_batch_size=True,
            dir=str(tmp_path),
            progress=False,
            **SETTINGS,
        )


def test_showing_the_configuration_searches_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hotloop", "train", "gpt", "--show-config", "training.auto_batch_size=true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "auto_batch_size" in done.stdout and "looking for" not in done.stdout
