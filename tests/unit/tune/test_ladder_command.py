"""`hotloop ladder` and `hotloop tune` as a person calls them: files, table, messages, what a later run makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import hotloop
from hotloop import assemble
from hotloop.cli.main import main
from hotloop.cli.tune import _keep
from hotloop.config.load import load
from hotloop.errors import HotloopError
from hotloop.runs.reporter import Silent
from hotloop.saved import make_task
from hotloop.tasks import options_of
from hotloop.tasks.own import load_user_task
from hotloop.tune.auto import settle
from hotloop.tune.row import Row
from hotloop.tune.search import Climbed

from .owned import write
from .planted import Blobs
from .test_ladder import Made

ROW = {
    *("name", "knobs", "ms_per_step", "samples_per_second", "spread", "peak_memory", "device_use"),
    *("compile_seconds", "loss_difference", "loss_verdict", "factor", "kept", "reason"),
}
FIXED = ["training.precision=fp32", "training.compile=off", "training.threads=1", "training.device=cpu"]
FIXED += [
    "training.batch_size=16",
    "training.gradient_accumulation_steps=2",
    "data.resident=on",
    "training.max_steps=40",
]
FIXED += ["experiment.trackers=[]", "training.eval_every=off"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A task whose passes cost 8 ms each whatever their size, tuned: fewer and larger micro-batches pay."""
    folder = tmp_path_factory.mktemp("tuned")
    task = f"{write(folder)}:Cliff"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOTLOOP_CACHE", str(folder / "cache"))
        assert main(["tune", task, *FIXED, "--minutes", "3", "--out", str(folder / "out")]) == 0
    return folder, task


def _ladder(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "ladder.json").read_text(encoding="utf-8"))
    return found


def test_what_is_written_has_the_names_that_others_read(tuned: tuple[Path, str]) -> None:
    found = _ladder(tuned[0])
    assert set(found["baseline"]) == ROW and all(set(row) == ROW for row in found["rows"])
    assert found["baseline"]["factor"] == 1.0 and found["environment"]["torch"]
    assert (tuned[0] / "out" / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_the_micro_batch_that_pays_is_kept_with_the_same_result(tuned: tuple[Path, str]) -> None:
    found = _ladder(tuned[0])
    kept = [row for row in found["rows"] if row["kept"] and "micro-batch" in row["name"]]
    assert kept and found["best"]["factor"] > 1.2
    assert all(row["loss_verdict"] == "same" and abs(row["loss_difference"]) < 0.05 for row in kept)
    assert found["best"]["knobs"]["training.batch_size"] == 32


def test_the_yaml_trains_what_was_stated_with_what_was_found(
    tuned: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tuned[0] / "out" / "tuned.yaml"
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["training"]["max_steps"] == 40
    assert main(["train", tuned[1], "--config", str(file), f"experiment.dir={tmp_path}", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["effective_batch"] == 32 and summary["steps"] == 40


def test_without_time_no_candidate_is_begun_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ladder", f"{write(tmp_path)}:Line", *FIXED, "--minutes", "0.001", "--out", str(tmp_path), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] and all("not tried" in row["reason"] for row in found["rows"])
    assert found["best"]["factor"] == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tune"], "no task named"),
        (["ladder", "gtp"], "gtp"),
        (["tune", "gpt", "training.batchsize=4"], "batch_size"),
        (["tune", "gpt", "--show-config"], "belongs to `hotloop train`"),
        (["ladder", "gpt", "--minutes", "0"], "minutes"),
        (["tune", "gpt", "--out", f"{__file__}/below"], "write to"),
        (["ladder", "gpt", "--out", __file__], "is a file"),
    ],
)
def test_mistakes_are_told_without_a_traceback(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown


def test_a_later_run_finds_what_was_tuned(tuned: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, task = tuned
    monkeypatch.setenv("HOTLOOP_CACHE", str(folder / "cache"))
    options, _ = load_user_task(task)
    config = load(options, arguments=FIXED)
    session = assemble.build(config, make_task(config.config))
    session.predicted_seconds = 60.0
    other = settle(config, session, Silent())
    assert other is not None and other.config.training.batch_size == 32
    assert other.config.training.gradient_accumulation_steps == 1 and "measured on" in other.notes[-1]


def test_a_cache_that_cannot_be_written_takes_nothing_away(
    tuned: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in_the_way"
    file.touch()
    monkeypatch.setenv("HOTLOOP_CACHE", str(file / "cache"))
    found = Climbed(Row("baseline", {}), (), load(options_of("gpt")), {}, 1.0, Made(load(options_of("gpt")), {}).facts)
    _keep(load(options_of("gpt")), found)
    assert "not kept for later runs" in capsys.readouterr().err


def test_a_runs_own_file_asks_for_nothing(tmp_path: Path) -> None:
    """config.yaml holds every key, training.tune=auto too: it can be trained with again where nothing is tuned."""
    data = {"x": torch.ones(8, 1)}

    def loss(net: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return net(batch["x"])

    config = {"max_steps": 1, "experiment.dir": str(tmp_path)}
    first = hotloop.fit(torch.nn.Linear(1, 1), data, loss=loss, config=config, progress=False)
    file = first.dir / "config.yaml"
    assert "tune: auto" in file.read_text(encoding="utf-8")
    again = hotloop.fit(torch.nn.Linear(1, 1), data, loss=loss, config=file, progress=False)
    assert again.dir != first.dir


def test_tuning_that_is_asked_for_where_it_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "classify", "training.tune=auto", "data.folds=3"]) == 2
    assert main(["train", "gpt", "training.tune=auto", "training.auto_batch_size=true"]) == 2
    assert capsys.readouterr().err.count("training.tune=auto has no effect here") == 2
    data = {"x": torch.ones(4, 1)}
    with pytest.raises(HotloopError, match="has no effect here"):
        hotloop.train(Blobs, tune="auto", progress=False)
    with pytest.raises(HotloopError, match="has no effect here"):
        hotloop.fit(torch.nn.Linear(1, 1), data, loss=lambda net, batch: net(batch["x"]), tune="auto", progress=False)
