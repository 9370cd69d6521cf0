"""F49: `best` chosen in the wrong direction because mode defaulted to min. Here the metric's name tells, or it asks."""

from __future__ import annotations

import pytest
import torch

from hotloop.errors import ConfigError, HotloopError


def scores(values):
    """One value for each evaluation (a whole batch of 60 rows; fewer are the rehearsal before the run)."""
    left = list(values)
    return lambda net, batch: torch.full((len(batch["x"]),), left.pop(0) if len(batch["x"]) == 60 else 0.0)


def fit(tiny, values, name, **settings):
    more = {"eval_batch_size": 60, "early_stopping_metric": f"eval_{name}", "max_steps": 12, **settings}
    return tiny.fit(tiny.net(), metrics={name: scores(values)}, **more)


@pytest.mark.parametrize(("name", "step"), [("accuracy", 6), ("f1_macro", 6), ("error", 9), ("perplexity", 9)])
def test_the_direction_follows_the_name(name, step, tiny):
    run = fit(tiny, [0.4, 0.9, 0.1, 0.5], name)
    assert run.summary["best"] == {
        "metric": f"eval_{name}",
        "value": pytest.approx([0.9, 0.1][step == 9]),
        "step": step,
    }
    assert torch.load(run.dir / "checkpoints" / "best_model.pt", weights_only=True)["step"] == step


def test_a_direction_against_the_name_is_refused(tiny):
    with pytest.raises(ConfigError, match="eval_accuracy is better when higher; min would keep the worst"):
        fit(tiny, [0.1] * 4, "accuracy", early_stopping_mode="min")


def test_a_name_that_does_not_tell_is_asked_for(tiny):
    with pytest.raises(ConfigError, match="does not tell whether more or less is better"):
        fit(tiny, [0.1] * 4, "goodness")
    run = fit(tiny, [0.4, 0.9, 0.1, 0.5], "goodness", early_stopping_mode="max")
    assert run.summary["best"]["step"] == 6


def test_a_metric_that_is_not_measured_is_named(tiny):
    with pytest.raises(HotloopError, match="there is no metric 'eval_accuracy'") as caught:
        tiny.fit(tiny.net(), early_stopping_metric="eval_accuracy")
    assert "eval_loss" in caught.value.fix
