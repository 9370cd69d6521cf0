"""F47: resume drops the schedule, the scaler, the best score, early stopping. Here each goes on where it was."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

import hotloop
from hotloop import assemble
from hotloop.config.load import load
from hotloop.data.source import TensorSource
from hotloop.engine import loop
from hotloop.task import options_of


def column(run, name):
    return [record[name] for record in run.history if name in record]


class Scores:
    """A metric that is what we say, one value an evaluation, whatever the model does."""

    def __init__(self, values):
        self.values = values
        self.given = 0

    def __call__(self, net, batch):
        if len(batch["x"]) < 60:  # the rehearsal before the run; an evaluation is one whole batch
            return torch.zeros(len(batch["x"]))
        value = self.values[self.given]
        self.given += 1
        return torch.full((len(batch["x"]),), value)


def judged(tiny, values, cut_at, **settings):
    """An undisturbed run, and one that was cut and went on; both see the same scores, one evaluation in one batch."""
    more = {"eval_batch_size": 60, "early_stopping_metric": "eval_accuracy", "max_steps": 30, **settings}
    whole = tiny.fit(tiny.net(), metrics={"accuracy": Scores(values)}, **more)
    run = tiny.cut(at=cut_at, metrics={"accuracy": Scores(values)}, **more)
    later = Scores(values)
    later.given = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] // 3  # evaluated every 3
    return whole, tiny.go_on(run, metrics={"accuracy": later}, **more)


def test_the_schedule_goes_on(tiny):
    settings = {"lr_scheduler": "cosine", "warmup_steps": 4, "checkpoint_every": 3}
    whole = tiny.fit(tiny.net(), **settings)
    resumed = tiny.go_on(tiny.cut(at=11, **settings))
    rates = column(whole, "learning_rate")
    assert len(set(rates)) == 20
    assert column(resumed, "learning_rate") == rates


def test_early_stopping_counts_on_and_the_best_score_stays(tiny):
    values = [0.5, 0.9, 0.8, 0.7, 0.6, 0.85, 0.2, 0.2, 0.2, 0.2]
    whole, resumed = judged(tiny, values, cut_at=13, early_stopping_patience=4)
    for run in (whole, resumed):
        assert run.summary["status"] == "stopped"
        assert run.summary["steps"] == 18  # the best came at step 6; four evaluations later, whoever counts
        assert run.summary["best"]["step"] == 6
        best = torch.load(run.dir / "checkpoints" / "best_model.pt", weights_only=True)
        assert best["step"] == 6


def test_reduce_on_plateau_goes_on(tiny):
    settings = {"lr_scheduler": "plateau", "plateau_patience": 1, "learning_rate": 1e-9, "checkpoint_every": 1}
    whole = tiny.fit(tiny.net(), **settings)
    rates = column(whole, "learning_rate")
    assert len(set(rates)) > 2  # at such a rate nothing gets better, so the rate falls again and again
    assert column(tiny.go_on(tiny.cut(at=14, **settings)), "learning_rate") == rates


class Line(hotloop.Task):
    """Twenty points on a line."""

    def sources(self):
        x = torch.linspace(-1, 1, 20).unsqueeze(1)
        return hotloop.Splits(TensorSource({"x": x, "y": 2 * x}))

    def model(self):
        return torch.nn.Linear(1, 1)

    def loss(self, model, batch, training):
        return (model(batch["x"]) - batch["y"]).square()


def scaled_state():
    """In fp16 with its loss scale; on a CPU no configuration leads there."""
    settings = {"batch_size": 4, "max_steps": 9, "device": "cpu", "compile": "off", "data.val_fraction": 0.0}
    loaded = load(options_of(Line, "line"), overrides={**settings, "precision": "fp32"})
    task = Line(loaded.config.model, loaded.config.data, seed=1)
    plan = replace(assemble.build(loaded, task).plan, precision="fp16")
    return assemble.build(loaded, task, plan=plan)


def test_the_loss_scale_goes_on():
    first = scaled_state()
    first.state.scaler.scale.fill_(512.0)
    for info in loop.steps(first.state, first.feed()):
        if info.step == 5:
            break
    second = scaled_state()
    second.state.load_state_dict(first.state.state_dict())
    assert float(second.state.scaler.scale) == 512.0
    assert float(second.state.scaler.clean) == float(first.state.scaler.clean) == 5.0


def test_bf16_has_no_scale():
    session = scaled_state()
    loaded_plan = replace(session.plan, precision="bf16")
    settings = {"batch_size": 4, "max_steps": 9, "device": "cpu", "compile": "off", "data.val_fraction": 0.0}
    loaded = load(options_of(Line, "line"), overrides=settings)
    task = Line(loaded.config.model, loaded.config.data, seed=1)
    assert assemble.build(loaded, task, plan=loaded_plan).state.scaler is None
