"""The rules across knobs, each met from the command line as a person would."""

from __future__ import annotations

import pytest
from tests.unit.config.options import TOY

from hotloop.config.guards import RULES, schedule_problems
from hotloop.config.load import load
from hotloop.errors import ConfigError

CASES = [
    ("run_has_a_length", ["training.num_epochs=null"], "training.num_epochs", "nothing says how long"),
    (
        "decay_has_an_end",
        ["--max-time", "60", "training.num_epochs=null"],
        "training.max_time",
        "cosine needs to know at which step it ends",
    ),
    (
        "decay_has_an_end",
        ["--max-time", "60", "training.num_epochs=null", "--lr-scheduler", "constant", "--warmup-ratio", "0.1"],
        "optimization.warmup_ratio",
        "a share of a run whose number of steps is not known",
    ),
    (
        "warmup_is_shorter_than_the_run",
        ["--max-steps", "100", "--warmup-steps", "100"],
        "optimization.warmup_steps",
        "warmup takes 100 steps and the run has 100: the rate never reaches its peak",
    ),
    (
        "warmup_is_shorter_than_the_run",
        ["--epochs", "2", "--warmup-epochs", "2.5"],
        "optimization.warmup_epochs",
        "warmup takes 2.5 epochs of 2",
    ),
    (
        "decay_fits_the_run",
        ["--max-steps", "90", "--warmup-steps", "50", "--decay-steps", "40"],
        "optimization.decay_steps",
        "the decay ends at step 40, and the warmup only at step 50",
    ),
    (
        "decay_fits_the_run",
        ["--max-steps", "90", "--decay-steps", "40"],
        "optimization.decay_steps",
        "the decay ends at step 40 of 90",
    ),
    ("fold_is_one_of_the_folds", ["data.folds=3", "data.fold=4"], "data.fold", "there are 3 folds, numbered from 1"),
    (
        "floor_is_below_the_peak",
        ["--min-lr", "1e-2"],
        "optimization.min_lr",
        "is above the peak, optimization.learning_rate=0.001",
    ),
    (
        "best_has_a_direction",
        ["callbacks.early_stopping_metric=eval_score"],
        "callbacks.early_stopping_metric",
        "does not tell whether more or less is better",
    ),
    (
        "best_has_a_direction",
        ["callbacks.early_stopping_metric=eval_accuracy", "callbacks.early_stopping_mode=min"],
        "callbacks.early_stopping_mode",
        "eval_accuracy is better when higher; min would keep the worst",
    ),
    (
        "best_has_a_direction",
        ["callbacks.early_stopping_metric=train_loss"],
        "callbacks.early_stopping_metric",
        "is no metric of validation",
    ),
    ("goal_has_a_direction", ["--stop-at", "eval_score=1"], "experiment.stop_at", "the name eval_score does not tell"),
    ("goal_has_a_direction", ["--stop-at", "train_loss=1"], "experiment.stop_at", "train_loss is no metric"),
    (
        "validation_feeds_its_readers",
        ["--eval-every", "off", "--early-stopping-patience", "3"],
        "callbacks.early_stopping_patience",
        "acts on validations, and training.eval_every is off",
    ),
    (
        "deterministic_means_fixed_kernels",
        ["--deterministic", "--compile", "max-autotune"],
        "training.deterministic",
        "contradicts training.compile=max-autotune",
    ),
    (
        "blocks_are_compiled_without_graphs",
        ["--compile", "reduce-overhead", "--compile-region", "blocks"],
        "training.compile_region",
        "does not go with training.compile=reduce-overhead",
    ),
    (
        "capture_takes_the_whole_step",
        ["--capture", "--compile", "max-autotune"],
        "training.capture",
        "which captures parts of the step itself",
    ),
    ("capture_takes_the_whole_step", ["--capture", "memory.offload=on"], "training.capture", "an update on the host"),
    (
        "capture_takes_the_whole_step",
        ["--capture", "--compile", "off", "--gradient-checkpointing"],
        "training.capture",
        "random state is put back from the host",
    ),
]
IDLE = [
    (["--polynomial-power", "3"], "optimization.polynomial_power", "optimization.lr_scheduler is 'cosine'"),
    (["--muon-learning-rate", "0.1"], "optimization.muon_learning_rate", "optimization.optimizer is 'adamw'"),
    (["--momentum", "0.5"], "optimization.momentum", "it needs the optimizers muon and sgd"),
    (["--betas", "0.5,0.5", "--optimizer", "sgd"], "optimization.betas", "optimization.optimizer is 'sgd'"),
    (["memory.offload=on", "--optimizer", "muon"], "memory.offload", "it needs the optimizers adamw and adam"),
    (["--resident", "--num-workers", "2"], "data.num_workers", "data.resident is 'on'"),
    (["--num-workers", "0", "--prefetch", "3"], "data.prefetch", "it needs workers, and data.num_workers is 0"),
    (["--compile-region", "blocks", "--compile", "off"], "training.compile_region", "it needs compilation"),
    (["--min-lr", "1e-6", "--lr-scheduler", "constant"], "optimization.min_lr", "a schedule that lowers the rate"),
]


@pytest.mark.parametrize(("rule", "tokens", "key", "why"), CASES)
def test_rules(rule: str, tokens: list[str], key: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(TOY, arguments=tokens)
    [problem] = caught.value.problems
    assert problem.key == key
    assert why in problem.why
    assert problem.fix


def test_every_rule_has_a_case() -> None:
    assert {rule.__name__ for rule in RULES} == {case[0] for case in CASES}


@pytest.mark.parametrize(("tokens", "key", "why"), IDLE)
def test_a_knob_without_effect_is_refused(tokens: list[str], key: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(TOY, arguments=tokens)
    [problem] = caught.value.problems
    assert problem.key == key
    assert why in problem.why


def test_a_stated_mode_serves_an_unknown_metric_in_both_places() -> None:
    tokens = [
        "callbacks.early_stopping_metric=eval_score",
        "callbacks.early_stopping_mode=max",
        "--stop-at",
        "eval_score=3",
    ]
    assert load(TOY, arguments=tokens).config.experiment.stop_at == {"eval_score": 3.0}


def test_a_rule_is_silent_about_a_knob_that_is_faulty_by_itself() -> None:
    with pytest.raises(ConfigError) as caught:
        load(TOY, arguments=["--min-lr", "5", "--learning-rate", "fast"])
    assert [problem.key for problem in caught.value.problems] == ["optimization.learning_rate"]


def test_the_schedule_is_checked_again_when_the_length_is_known() -> None:
    loaded = load(TOY, arguments=["--epochs", "2", "--warmup-steps", "30"])
    assert schedule_problems(loaded.config, loaded.origins, total_steps=31, steps_per_epoch=16) == []
    [problem] = schedule_problems(loaded.config, loaded.origins, total_steps=30, steps_per_epoch=15)
    assert problem.origin == "command line"
    assert problem.why.startswith("warmup takes 30 steps and the run has 30")
    loaded = load(TOY, arguments=["--epochs", "2", "--decay-steps", "20"])
    [problem] = schedule_problems(loaded.config, loaded.origins, total_steps=30, steps_per_epoch=15)
    assert problem.why.startswith("the decay ends at step 20 of 30")
