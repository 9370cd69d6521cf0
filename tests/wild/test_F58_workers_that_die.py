"""F58: data workers are killed (no memory, no shared memory) and the run ends. Here it goes on, from the same batch."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

import hotloop
from hotloop.data.survivors import worker_died
from hotloop.errors import HotloopError

ROWS, BATCH = 48, 4
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # the dead worker's end of a socket


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Each of `signals` ends, once each, the worker that reads the row of that number."""

    def __init__(self, folder: Path, signals: dict[int, int]) -> None:
        self.folder, self.signals, self.parent = folder, signals, os.getpid()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        mark = self.folder / f"died_{row}"
        if row in self.signals and os.getpid() != self.parent and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), self.signals[row])
        x = torch.tensor([row / ROWS, 1.0]) + 0.01 * torch.randn(2)
        return {"x": x, "y": x.sum(0, keepdim=True), "row": torch.tensor(row)}


def _train(folder: Path, data: Rows, workers: int) -> tuple[list[list[int]], Any, str]:
    folder.mkdir()
    seen: list[list[int]] = []

    def loss(net: Any, batch: Any) -> torch.Tensor:
        seen.append(batch["row"].tolist())
        return (net(batch["x"]) - batch["y"]).square()

    torch.manual_seed(0)
    keys = {"batch_size": BATCH, "num_epochs": 2, "num_workers": workers, "precision": "fp32", "compile": "off"}
    run = hotloop.fit(torch.nn.Linear(2, 1), data, loss=loss, progress=False, dir=str(folder), device="cpu", **keys)
    return seen[-2 * ROWS // BATCH :], run, (run.dir / "training.log").read_text(encoding="utf-8")


def test_training_goes_on_with_fewer_workers_from_the_same_batch(tmp_path: Path) -> None:
    calm, undisturbed, _ = _train(tmp_path / "calm", Rows(tmp_path, {}), 2)
    data = Rows(tmp_path, {17: signal.SIGKILL, 30: signal.SIGBUS})
    seen, run, log = _train(tmp_path / "deadly", data, 2)
    assert (tmp_path / "died_17").exists() and (tmp_path / "died_30").exists()
    assert seen == calm
    weights = zip(run.model.parameters(), undisturbed.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    assert "one of 2 data workers died" in log and "1 read on" in log
    assert "one of 1 data workers died" in log and "data is read in the training process" in log
    assert "SIGKILL" in log and "SIGBUS" in log and "MB in /dev/shm" in log  # the number behind a bus error


def test_a_worker_that_crashes_in_its_own_code_ends_the_run_with_the_step(tmp_path: Path) -> None:
    with pytest.raises(HotloopError, match="crashed at step"):
        _train(tmp_path / "crash", Rows(tmp_path, {5: signal.SIGSEGV}), 1)


def test_what_a_rows_own_code_raises_in_a_worker_is_no_death() -> None:
    assert worker_died(EOFError()) and worker_died(
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    )
    assert not worker_died(EOFError("Caught EOFError in DataLoader worker process 0."))
    assert not worker_died(RuntimeError("Caught RuntimeError in DataLoader worker process 0."))
