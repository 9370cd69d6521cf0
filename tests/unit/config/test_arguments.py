"""What a person may write after the task, and what is said where it means nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.config.options import TOY

from hotloop.config.load import load
from hotloop.errors import ConfigError, Problem
from hotloop.tasks.classify.options import OPTIONS as CLASSIFY


def only(*arguments: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        load(TOY, arguments=arguments)
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("tokens", "key", "value"),
    [
        (["--batch-size", "8"], "training.batch_size", 8),
        (["--batch-size=8"], "training.batch_size", 8),
        (["--training-batch-size", "8"], "training.batch_size", 8),
        (["training.batch_size=8"], "training.batch_size", 8),
        (["--epochs", "3"], "training.num_epochs", 3),
        (["--max-iters", "30"], "training.max_steps", 30),
        (["--max-steps", "30"], "training.max_steps", 30),
        (["--max-time", "1h30m"], "training.max_time", 5400.0),
        (["--amp"], "training.precision", "auto"),
        (["--fp16"], "training.precision", "fp16"),
        (["--bf16"], "training.precision", "bf16"),
        (["training.bf16=false"], "training.precision", "fp32"),
        (["--gpu"], "training.device", "cuda"),
        (["--gpu=1"], "training.device", "cuda:1"),
        (["--device", "cpu"], "training.device", "cpu"),
        (["--experiment-name", "7"], "experiment.name", "7"),
        (["--out-dir", "x"], "experiment.dir", "x"),
        (["--limit", "5"], "data.limit", 5),
        (["--dropout", "0.5"], "model.dropout", 0.5),
        (["model.dropout_rate=0.5"], "model.dropout", 0.5),
        (["--learning-rate", "2e-5"], "optimization.learning_rate", 2e-5),
        (["--grad-clip", "0.5"], "optimization.max_grad_norm", 0.5),
        (["--max-grad-norm", "null"], "optimization.max_grad_norm", None),
        (["--betas", "0.8,0.9"], "optimization.betas", (0.8, 0.9)),
        (["optimization.betas=[0.8, 0.9]"], "optimization.betas", (0.8, 0.9)),
        (["--deterministic"], "training.deterministic", True),
        (["--no-deterministic"], "training.deterministic", False),
        (["--deterministic", "false"], "training.deterministic", False),
        (["--pin-memory", "true"], "data.pin_memory", "on"),
        (["--resident"], "data.resident", "on"),
        (["--compile", "off"], "training.compile", "off"),
        (["--stop-at", "eval_loss=1.5"], "experiment.stop_at", {"eval_loss": 1.5}),
        (["experiment.stop_at={eval_loss: 1.5}"], "experiment.stop_at", {"eval_loss": 1.5}),
        (["experiment.stop_at.eval_loss=1.5"], "experiment.stop_at", {"eval_loss": 1.5}),
        (["--user", "a.py:A,b.py:B"], "callbacks.user", ("a.py:A", "b.py:B")),
        (["--gradient-checkpointing"], "optimization.gradient_checkpointing", True),
        (["--gradient-checkpointing=off"], "optimization.gradient_checkpointing", False),
        (["--gradient-checkpointing", "0.5"], "optimization.gradient_checkpointing", 0.5),
        (["--gradient-checkpointing", "[a.*]"], "optimization.gradient_checkpointing", ("a.*",)),
        (["optimization.gradient_checkpointing=[a.*, b]"], "optimization.gradient_checkpointing", ("a.*", "b")),
    ],
)
def test_notations_of_the_command_line(tokens: list[str], key: str, value: Any) -> None:
    tokens = ["--lr-scheduler", "constant", "--warmup-ratio", "0", *tokens]
    loaded = load(TOY, arguments=tokens)
    section, _, name = key.partition(".")
    assert getattr(getattr(loaded.config, section), name) == value
    assert loaded.origins[key] == "command line"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("{offensive: [no, yes], target: 5}", "tasks", {"offensive": ["no", "yes"], "target": 5}),
        ("offensive=2,target=5", "tasks", {"offensive": 2, "target": 5}),
        ('{sexist: "swsr*.csv:label", rude: label}', "label_columns", {"sexist": "swsr*.csv:label", "rude": "label"}),
        ("sexist=swsr*.csv:label", "label_columns", {"sexist": "swsr*.csv:label"}),
    ],
)
def test_mappings_of_the_command_line(text: str, key: str, value: Any) -> None:
    section = "model" if key == "tasks" else "data"
    config = load(CLASSIFY, arguments=[f"{section}.{key}={text}", "data.path=a.jsonl"]).config
    assert getattr(getattr(config, section), key) == value


def test_switches_are_handed_on() -> None:
    said = load(TOY, arguments=["--show-config", "--json", "--resume-from-checkpoint", "runs/a"]).arguments
    assert said.switches == {"show_config", "json"}
    assert said.resume_from == "runs/a"


@pytest.mark.parametrize(
    ("tokens", "key", "why", "fix"),
    [
        (["training.batch_siz=8"], "training.batch_siz", "hotloop knows", "did you mean training.batch_size?"),
        (["trainig.batch_size=8"], "trainig.batch_size", "is no key", "write training.batch_size"),
        (["--lerning-rate", "1"], "lerning_rate", "hotloop knows", "did you mean optimization.learning_rate?"),
        (["--lr", "1"], "lr", "is no key", "write optimization.learning_rate"),
        (
            ["optimization.batch_size=8"],
            "optimization.batch_size",
            "no key of optimization",
            "write training.batch_size",
        ),
        (["training.parallel=true"], "training.parallel", "not available in this version", "leave it out"),
        (["--hidden-size", "3"], "model.hidden_size", "not available in this version for the task toy", "leave it out"),
        (["--model-type", "x"], "model.name", "not available in this version for the task toy", "leave it out"),
        (["--optimizer", "adam8bit"], "optimization.optimizer", "not available", "use one of adamw, adam, sgd, muon"),
        (["--trackers", "wandb"], "experiment.trackers", "is not available in this version", "use tensorboard"),
        (["--batch-size"], "--batch-size", "needs a value", "write --batch-size VALUE"),
        (["training.batch_size="], "training.batch_size=", "needs a value", "write a value after ="),
        (
            ["--batch-size", "8", "--batch-size=9"],
            "training.batch_size",
            "is set twice, to 8 (command line) and to 9",
            "",
        ),
        (["--gpu", "--device", "cpu"], "training.device", "is set twice", ""),
        (["--fp16", "--bf16"], "training.fp16", "two precisions are asked for", ""),
        (["--fp16", "--precision", "bf16"], "training.fp16", "says fp16, but training.precision is 'bf16'", ""),
        (["8"], "8", "is neither key=value nor a flag", ""),
        (["-x"], "-x", "is neither key=value nor a flag", ""),
        (["--template", "fast_def"], "--template", "no such template for toy", "did you mean fast_dev?"),
        (["--config", "none.yaml"], "none.yaml", "there is no such file", "check the path"),
        (["--json=1"], "--json", "takes no value", "write --json alone"),
        (
            ["--gradient-checkpointing", "model.gradient_checkpointing=false"],
            "model.gradient_checkpointing",
            "means",
            "",
        ),
        (["model.heads=3"], "model.heads", "3 heads do not divide width=8", "use heads=1"),
        (["--experiment-name", "a/b"], "experiment.name", "becomes the name of a folder", ""),
    ],
)
def test_each_fault_says_what_and_how(tokens: list[str], key: str, why: str, fix: str) -> None:
    problem = only(*tokens)
    assert problem.key == key
    assert why in problem.why
    assert fix in problem.fix
    assert problem.origin
