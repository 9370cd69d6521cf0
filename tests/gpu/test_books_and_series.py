"""Order books and series on a GPU: gathered on the device, weighed and balanced there, without the host waiting."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

import hotloop
from hotloop import assemble
from hotloop.config.load import load
from hotloop.saved import find_task

pytestmark = pytest.mark.gpu

BOOKS = {"data.symbols": 6, "data.rows": 400, "training.batch_size": 32}
SHORT = {"training.max_steps": 30, "training.eval_every": 15, "training.precision": "fp32", "training.compile": "off"}


def waves(folder: Path) -> dict[str, object]:
    path = folder / "waves.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["date", "a", "b"])
        for hour in range(800):
            day, rest = divmod(hour, 24)
            stamp = f"2020-{1 + day // 28:02}-{1 + day % 28:02} {rest:02}:00:00"
            writer.writerow([stamp, math.sin(hour / 7), math.cos(hour / 11)])
    return {"data.path": str(path), "data.sequence": 48, "data.horizon": 4, "training.batch_size": 32}


def keys_of(task: str, folder: Path, **more: object) -> dict[str, object]:
    own = BOOKS if task == "lob" else waves(folder)
    return {**own, **SHORT, "training.device": "cuda", "experiment.dir": str(folder / "runs"), **more}


def build(task: str, folder: Path, **more: object):
    options, found = find_task(task)
    loaded = load(options, overrides=keys_of(task, folder, **more), device_kind="cuda")
    return assemble.build(loaded, found(loaded.config.model, loaded.config.data, seed=1))


WAYS = [
    ("lob", {}),
    ("lob", {"optimization.class_weights": "none", "data.balance_sampler": True}),
    ("lob", {"data.features": "relative", "data.scaling": "none", "data.mirror": True}),
    ("forecast", {}),
    ("forecast", {"model.name": "transformer", "model.hidden_size": 32, "model.n_head": 4}),
]


@pytest.mark.parametrize(("task", "more"), WAYS)
def test_no_step_makes_the_host_wait(task, more, tmp_path):
    from tests.gpu.test_no_waiting import step_without_waiting

    built = build(task, tmp_path, **more)
    assert built.plan.resident
    assert next(built.feed())["x"].device.type == "cuda"
    step_without_waiting(built, steps=20)


@pytest.mark.parametrize("task", ["lob", "forecast"])
def test_a_run_ends_with_its_conclusion(task, tmp_path):
    run = hotloop.train(task, progress=False, keys=keys_of(task, tmp_path))
    assert run.summary["status"] == "completed"
    assert run.summary["baselines"]["linear"]
    assert "calibration" in run.summary or "per_step_mse" in run.summary


@pytest.mark.parametrize("task", ["lob", "forecast"])
def test_what_is_evaluated_is_what_the_cpu_finds(task, tmp_path):
    built = build(task, tmp_path)
    on_gpu = built.evaluate()
    there = build(task, tmp_path, **{"training.device": "cpu"})
    there.state.model.load_state_dict({name: value.cpu() for name, value in built.state.model.state_dict().items()})
    on_cpu = there.evaluate()
    assert on_gpu.keys() == on_cpu.keys()
    assert on_gpu["eval_loss"] == pytest.approx(on_cpu["eval_loss"], rel=1e-3)


def test_the_confusion_matrix_is_counted_on_the_device():
    from hotloop.tasks.classification import class_tallies

    logits, y = torch.randn(300, 3), torch.randint(3, (300,))
    here, there = class_tallies(logits, y, None), class_tallies(logits.cuda(), y.cuda(), None)
    assert torch.equal(here["confusion"].sum, there["confusion"].sum.cpu())
