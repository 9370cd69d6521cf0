"""The end of a run: the test part and the conclusion are of the best weights, baselines stand beside the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import hotloop
from hotloop import folds, launch
from hotloop.config.load import load
from hotloop.errors import ConfigError, HotloopError, Interrupted
from hotloop.runs.wording import beside, epoch_line, summary_rows
from hotloop.task import Tally, options_of
from hotloop.tasks import classification

RUN = {"batch_size": 20, "device": "cpu", "precision": "fp32", "compile": "off", "log_every": 5}


def rows(n, seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return {"x": F.one_hot(y, 3) + 0.8 * torch.randn(n, 3, generator=draw), "y": y, "group": torch.arange(n) // 10}


class Kinds(hotloop.Task):
    """Three classes, with everything that a task may say of itself."""

    obeys = classification.OBEYS
    epoch_line = True
    broken = False

    def sources(self):
        return hotloop.Splits(rows(90, 0), rows(60, 1), test=rows(50, 2))

    def model(self):
        return torch.nn.Linear(3, 3)

    def loss(self, model, batch, training):
        return classification.class_loss(model(batch["x"]), batch["y"], self.loss_options, training)

    def metrics(self, model, batch):
        return classification.class_tallies(model(batch["x"]), batch["y"], batch.get("weight"))

    def scores(self, tables):
        return classification.class_scores(tables["confusion"])

    def predict(self, model, batch):
        return {"logits": model(batch["x"]), "y": batch["y"]}

    def conclude(self, parts):
        if self.broken:
            raise ValueError("no conclusion today")
        return classification.conclusion(parts, ["one", "two", "three"])

    def baselines(self, splits):
        x, y = (splits.train.column(name) for name in ("x", "y"))
        held = splits.val
        return {"linear": classification.linear_scores(x, y, held.column("x"), held.column("y"), 3)}


def train(experiments: Path, task=Kinds, **settings):
    settings = {**RUN, "num_epochs": 3, "learning_rate": 0.1, "dir": str(experiments), **settings}
    return hotloop.train(task, progress=False, keys=settings)


def test_the_summary_tells_test_classes_calibration_and_baselines(experiments):
    run = train(experiments)
    summary = json.loads((run.dir / "training_summary.json").read_text())
    assert {"test_loss", "test_accuracy", "test_f1_macro", "test_mcc"} <= summary.keys()
    assert [row["class"] for row in summary["per_class"]] == ["one", "two", "three"]
    assert sum(map(sum, summary["test_confusion"])) == 50
    assert summary["weights"] == "best"
    assert (run.dir / "confusion.png").stat().st_size > 5000
    shown = dict(summary_rows(summary))
    assert shown["eval_f1_macro"].endswith(f"(linear {summary['baselines']['linear']['f1_macro']:.4g})")
    assert shown["class two"].startswith("precision 0.")
    assert "temperature" in shown["calibration"]


def test_it_is_of_the_best_weights_and_the_model_keeps_the_last(experiments):
    """The rate is absurd after the first epoch: the best weights are those before."""
    run = train(experiments, learning_rate=0.3, optimizer="sgd", momentum=0.0, lr_scheduler="constant", warmup_steps=14)
    best = torch.load(run.dir / "checkpoints" / "best_model.pt", weights_only=True)["model"]
    last = torch.load(run.dir / "final_model.pt", weights_only=True)
    assert all(torch.equal(run.model.state_dict()[name].cpu(), last[name]) for name in last)
    model = torch.nn.Linear(3, 3)
    model.load_state_dict(best)
    test = rows(50, 2)
    with torch.no_grad():
        expected = F.cross_entropy(model(test["x"]), test["y"]).item()
    assert run.summary["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_conclusion_that_fails_costs_nothing_that_was_trained(experiments):
    class Broken(Kinds):
        broken = True

    run = train(experiments, Broken)
    assert run.summary["status"] == "completed"
    assert "no conclusion today" in run.summary["conclusion_failed"]
    assert (run.dir / "final_model.pt").is_file()


def test_every_epoch_has_its_line(experiments):
    log = (train(experiments).dir / "training.log").read_text()
    assert [line[:11] for line in log.splitlines() if line.startswith("Epoch")] == [f"Epoch [{n}/3]" for n in (1, 2, 3)]
    assert epoch_line(1, 100, 0.234567, 0.345678, 45.23) == (
        "Epoch [1/100] - Train Loss: 0.234567, Val Loss: 0.345678, Time: 45.23s"
    )


def test_what_a_loss_does_not_obey_is_refused(experiments):
    class Plain(Kinds):
        obeys = frozenset()

    assert train(experiments, label_smoothing=0.1, focal_gamma=1.0).summary["status"] == "completed"
    with pytest.raises(ConfigError, match=r"focal_gamma.*\n.*has no effect: the loss of Plain does not apply it"):
        train(experiments, Plain, focal_gamma=1.0)


class Whole(Kinds):
    """The same rows without a validation part."""

    def sources(self):
        return hotloop.Splits(rows(90, 0))


@pytest.mark.parametrize("how", ["random", "stratified", "group", "time"])
def test_rows_are_held_out_as_the_split_says(experiments, how):
    run = train(experiments, Whole, split=how, val_fraction=1 / 3)
    support = [row["support"] for row in run.summary["per_class"]]
    assert sum(support) == 30
    if how == "stratified":
        assert support == [10, 10, 10]


def test_folds_are_one_run_each_with_mean_and_spread(experiments):
    settings = {**RUN, "num_epochs": 1, "dir": str(experiments), "folds": 3, "split": "stratified"}
    loaded = load(options_of(Whole, "Whole"), overrides=settings)
    assert folds.wanted(loaded)
    done = folds.train_folds(loaded, task=Whole)
    assert [run.dir.name.rpartition("_20")[0] for run in done.runs] == ["Whole_fold1", "Whole_fold2", "Whole_fold3"]
    values = torch.tensor([run.summary["eval_f1_macro"] for run in done.runs], dtype=torch.float64)
    written = json.loads(done.file.read_text())["scores"]["eval_f1_macro"]
    assert written == {"mean": pytest.approx(values.mean().item()), "std": pytest.approx(values.std().item())}


def test_a_call_trains_one_fold(experiments):
    with pytest.raises(HotloopError, match="a call trains one run, and 3 folds are 3 runs"):
        train(experiments, Whole, folds=3)
    one = train(experiments, Whole, folds=3, fold=2)
    assert sum(row["support"] for row in one.summary["per_class"]) == 30
    with pytest.raises(ConfigError, match="there are 3 folds, numbered from 1"):
        train(experiments, Whole, folds=3, fold=4)
    with pytest.raises(HotloopError, match="brings its own validation part"):
        train(experiments, folds=3, fold=1)


def test_an_interrupted_run_concludes_when_it_is_resumed(experiments):
    class Cut(Exception):
        pass

    def power(info):
        if info.step == 8:
            raise Cut

    settings = {**RUN, "num_epochs": 3, "learning_rate": 0.1, "dir": str(experiments)}
    whole = train(experiments)
    with pytest.raises(Cut):
        hotloop.train(Kinds, progress=False, callbacks=[power], keys=settings)
    [cut] = [run for run in experiments.iterdir() if not (run / "training_summary.json").exists()]
    loaded = load(options_of(Kinds, "Kinds"), overrides=settings).config
    resumed = launch.resume(cut, Kinds(loaded.model, loaded.data, seed=loaded.experiment.seed))
    for name in ("test_loss", "per_class", "baselines", "calibration"):
        assert resumed.summary[name] == whole.summary[name]


def test_figures_without_a_baseline_stand_alone():
    assert beside("eval_mse", {"naive": {"mse": 1.2216}, "linear": {"mse": 0.2968}}) == " (naive 1.222, linear 0.2968)"
    assert beside("eval_loss", {"naive": {"mse": 1.2}}) == ""
    assert beside("eval_mse", None) == ""


def test_a_table_is_no_mean():
    table = Tally(torch.eye(2), torch.ones(()))
    assert (table + table).sum.tolist() == [[2, 0], [0, 2]]


def test_a_full_disk_at_the_picture_costs_no_summary(experiments, monkeypatch):
    from hotloop import conclude

    def full(*_):
        raise HotloopError("cannot write confusion.png: the disk is full")

    monkeypatch.setattr(conclude, "plot_confusion", full)
    run = train(experiments)
    assert "disk is full" in run.summary["conclusion_failed"]
    assert dict(summary_rows(run.summary))["conclusion"].startswith("failed, the weights are kept: cannot write")


def test_interrupted_folds_say_what_is_left(experiments):
    import signal

    def stop(info):
        if info.step == 2:
            signal.raise_signal(signal.SIGINT)

    settings = {**RUN, "num_epochs": 3, "dir": str(experiments), "folds": 3}
    with pytest.raises(Interrupted, match="fold 1 of 3: interrupted after step 3") as told:
        folds.train_folds(load(options_of(Whole, "Whole"), overrides=settings), task=Whole, callbacks=[stop])
    assert told.value.fix.endswith("then train the rest one by one: data.fold=2 to 3")
