"""F57: eight workers for a data set of 600 rows. Here more workers are a candidate like any other, kept if faster."""

from __future__ import annotations

from pathlib import Path

from hotloop.config.load import load
from hotloop.runs.reporter import Silent
from hotloop.tasks.own import load_user_task
from hotloop.tune.knobs import rungs
from hotloop.tune.ladder import Ladder
from hotloop.tune.lanes import FreshTrack
from hotloop.tune.settings import PLAIN, with_knobs

TASK = """
import torch, hotloop

class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 600

    def __getitem__(self, row):
        x = torch.tensor([row / 600.0, 1.0])
        return {"x": x, "y": x.sum(0, keepdim=True)}

class Small(hotloop.Task):
    def sources(self):
        return hotloop.Splits(Items())

    def model(self):
        return torch.nn.Linear(2, 1)

    def loss(self, model, batch, training):
        return (model(batch["x"]) - batch["y"]).square()
"""


def test_workers_that_bring_nothing_are_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "small.py"
    file.write_text(TASK, encoding="utf-8")
    options, _ = load_user_task(f"{file}:Small")
    keys = {"batch_size": 2, "max_steps": 100, "eval_every": "off", "threads": 1, "device": "cpu"}
    climb = Ladder(FreshTrack(), with_knobs(load(options, overrides=keys), PLAIN), Silent(), minutes=2)
    try:
        [workers] = [group for group in rungs(climb.baseline, climb.facts) if "workers" in group[0].name]
        climb.climb([workers[-1:]])
    finally:
        climb.close()
    [row] = climb.rows
    assert row.knobs["data.num_workers"] > 1
    assert not row.kept and "slower" in row.reason, row
