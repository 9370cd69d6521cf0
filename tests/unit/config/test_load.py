"""Who wins, what is moved, and what is refused when a configuration is put together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.config.options import TOY

from hotloop.config import to_plain, to_yaml
from hotloop.config.load import Loaded, load, read_saved
from hotloop.errors import ConfigError, HotloopError, Problem


def write(folder: Path, text: str) -> str:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def faults(*arguments: str, **sources: Any) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(TOY, arguments=arguments, **sources)
    return caught.value.problems


def only(*arguments: str, **sources: Any) -> Problem:
    problems = faults(*arguments, **sources)
    assert len(problems) == 1, problems
    return problems[0]


def test_without_any_source_the_default_template_applies() -> None:
    loaded = load(TOY)
    assert loaded.config.training.num_epochs == 10
    assert loaded.origins["training.num_epochs"] == "template default"
    assert loaded.origins["training.batch_size"] == "default"
    assert set(loaded.origins) == {f"{s}.{k}" for s, v in to_plain(loaded.config).items() if s != "task" for k in v}


SIZES = st.one_of(st.none(), st.integers(1, 5))


@settings(max_examples=40, deadline=None)
@given(template=SIZES, in_file=SIZES, on_line=SIZES)
def test_the_highest_layer_that_sets_a_key_wins(
    template: int | None, in_file: int | None, on_line: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("layers")
    templates = ["default", "fast_dev"] if template else ["default"]  # fast_dev sets log_every to 1
    text = "training:\n" + (f"  log_every: {in_file}\n" if in_file else "")
    line = [f"training.log_every={on_line}"] if on_line else []
    loaded = load(TOY, templates=templates, file=write(folder, text), arguments=line)
    expected = on_line or in_file or (1 if template else 10)
    assert loaded.config.training.log_every == expected
    origin = loaded.origins["training.log_every"]
    if on_line:
        assert origin == "command line"
    elif in_file:
        assert origin.endswith("my.yaml line 2")
    else:
        assert origin == ("template fast_dev" if template else "default")


def value_lists() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "training.num_epochs": st.integers(1, 9),
            "training.precision": st.sampled_from(["auto", "fp32", "bf16"]),
            "training.compile": st.sampled_from(["auto", "off", "default"]),
            "training.deterministic": st.booleans(),
            "training.threads": st.one_of(st.just("auto"), st.integers(1, 64)),
            "data.pin_memory": st.sampled_from(["auto", "on", "off"]),
            "optimization.learning_rate": st.floats(1e-12, 1e3),
            "optimization.betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(list),
            "experiment.notes": st.text(),
            "experiment.stop_at": st.dictionaries(st.sampled_from(["eval_loss", "eval_f1"]), st.floats(-9, 9)),
            "model.dropout": st.floats(0, 0.99),
            "data.column": st.one_of(st.none(), st.sampled_from(["1e5", "null", "off", "yes", "0x1", "a: b", "1:30"])),
        }
    )


@settings(max_examples=60, deadline=None)
@given(values=value_lists())
def test_what_is_written_loads_back_to_the_same(
    values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = load(TOY, overrides=values).config
    folder = tmp_path_factory.mktemp("round")
    assert load(TOY, file=write(folder, to_yaml(config))).config == config
    saved = folder / "config.json"
    saved.write_text(json.dumps(to_plain(config)))
    assert read_saved(saved, TOY) == config


def test_a_file_that_sets_the_length_removes_the_templates_length(tmp_path: Path) -> None:
    loaded = load(TOY, file=write(tmp_path, "training:\n  max_steps: 7\n"))
    assert (loaded.config.training.max_steps, loaded.config.training.num_epochs) == (7, None)
    assert loaded.notes == (
        f"training.max_steps = 7 ({tmp_path}/my.yaml line 2) replaces training.num_epochs = 10 (template default)",
    )


def test_both_lengths_in_one_layer_stay() -> None:
    training = load(TOY, arguments=["--max-steps", "7", "--epochs", "2"]).config.training
    assert (training.max_steps, training.num_epochs) == (7, 2)


@pytest.mark.parametrize("text", ["off", "false", "'off'"])
def test_off_means_off_in_yaml(text: str, tmp_path: Path) -> None:
    config = load(TOY, file=write(tmp_path, f"training:\n  compile: {text}\n  deterministic: {text}\n")).config
    assert config.training.compile == "off"
    assert config.training.deterministic is False


@pytest.mark.parametrize(
    ("line", "why", "fix"),
    [
        ("batch_size: yes", "must be a whole number (>= 1)", ""),
        ("batch_size: 1.5", "must be a whole number (>= 1)", ""),
        ("batch_size: 8.0", "must be a whole number (>= 1)", "write 8"),
        ("batch_size: true", "must be a whole number (>= 1)", ""),
        ('batch_size: "8"', "must be a whole number (>= 1)", "write 8 without quotes"),
        ("batch_size: 0", "must be a whole number (>= 1)", ""),
        ("threads: true", "must be auto or a whole number (>= 1)", ""),
        ("max_time: .inf", "must be a number (> 0) or null", ""),
        ("deterministic: 1", "must be true or false", ""),
        ("precision: fp61", "must be one of auto, fp32, tf32, bf16, fp16", "did you mean fp16?"),
        ("device: gpu", "is not of the right form. Where to train: auto, cpu, cuda", ""),
    ],
)
def test_nothing_is_coerced(line: str, why: str, fix: str, tmp_path: Path) -> None:
    problem = only(file=write(tmp_path, f"training:\n  {line}\n"))
    assert problem.why.startswith(why)
    assert problem.fix == fix
    assert problem.origin == f"{tmp_path}/my.yaml line 2"


def test_a_number_for_text_is_refused_in_yaml_with_the_quotes_to_write(tmp_path: Path) -> None:
    problem = only(file=write(tmp_path, "experiment:\n  name: 2024\n"))
    assert problem.fix == 'write it in quotes: "2024"'


def test_an_ambiguous_short_name_names_both() -> None:
    class Named(type(TOY.model())):  # type: ignore[misc]
        name: str = "a"

    options = type(TOY)("toy2", Named, TOY.data)
    with pytest.raises(ConfigError, match=r"can mean model\.name or experiment\.name"):
        load(options, overrides={"name": "x"})


def test_five_faults_are_five_problems_with_origin_and_nearest_name(tmp_path: Path) -> None:
    text = "training:\n  batch_size: 1.5\n  precison: bf16\nbatch_size: 8\noptimization:\n  optimizer: adamm\n"
    with pytest.raises(ConfigError) as caught:
        load(TOY, file=write(tmp_path, text), arguments=["--learning-rat", "1e-3"])
    shown = str(caught.value)
    assert shown.startswith("5 problems in the configuration\n")
    assert caught.value.exit_code == 2
    for line, origin, near in [
        ("training.batch_size = 1.5", "my.yaml line 2", "whole number"),
        ("training.precison = 'bf16'", "my.yaml line 3", "did you mean training.precision?"),
        ("batch_size = 8", "my.yaml line 4", "move it into its section: training.batch_size"),
        ("optimization.optimizer = 'adamm'", "my.yaml line 6", "did you mean adam"),
        ("learning_rat = 0.001", "command line", "did you mean optimization.learning_rate?"),
    ]:
        block = next(part for part in shown.split("\n  ")[1:] if part.strip()[3:].startswith(line) or line in part)
        assert origin in block
        assert near in shown


@pytest.mark.parametrize(
    ("values", "key", "expected"),
    [
        ({"batch_size": 3}, "training.batch_size", 3),
        ({"training": {"batch_size": 3}}, "training.batch_size", 3),
        ({"training.batch_size": 3}, "training.batch_size", 3),
        ({"learning_rate": "2e-5"}, "optimization.learning_rate", 2e-5),
        ({"fp16": True}, "training.precision", "fp16"),
        ({"path": Path("a")}, "data.path", "a"),
        ({"betas": (0.5, 0.6)}, "optimization.betas", (0.5, 0.6)),
        ({"compile": False}, "training.compile", "off"),
    ],
)
def test_notations_of_a_python_call(values: dict[str, Any], key: str, expected: Any) -> None:
    loaded = load(TOY, overrides=values)
    section, _, name = key.partition(".")
    assert getattr(getattr(loaded.config, section), name) == expected
    assert loaded.origins[key] == "Python call"


def test_numbers_of_numpy_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    config = load(TOY, overrides={"batch_size": numpy.int64(3), "learning_rate": numpy.float32(0.5)}).config
    assert (config.training.batch_size, config.optimization.learning_rate) == (3, 0.5)


def test_a_files_idle_knob_yields_to_the_command_line_with_a_note(tmp_path: Path) -> None:
    file = write(tmp_path, "optimization:\n  optimizer: muon\n  muon_learning_rate: 0.05\n")
    loaded: Loaded = load(TOY, file=file, arguments=["--optimizer", "adamw"])
    assert loaded.config.optimization.muon_learning_rate == 0.02
    assert "muon_learning_rate = 0.05" in loaded.notes[0]
    assert "has no effect beside optimization.optimizer = adamw" in loaded.notes[0]


def test_the_task_in_a_file_must_be_the_one_that_is_trained(tmp_path: Path) -> None:
    assert only(file=write(tmp_path, "task: lob\n")).why == "the task to train is toy"


def test_a_damaged_saved_configuration_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(HotloopError, match="cannot be read"):
        read_saved(path, TOY)
    path.write_text('{"training": {"batch_size": "x"}}')
    with pytest.raises(ConfigError, match="batch_size"):
        read_saved(path, TOY)


def test_a_configuration_is_frozen() -> None:
    config = load(TOY).config
    with pytest.raises(ValueError, match="frozen"):
        config.training.batch_size = 3  # type: ignore[misc]
