"""What people read: the table of knobs, the file that `init` writes, the origins, the JSON Schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.config.options import TOY

from hotloop.config import knobs, show, to_plain
from hotloop.config.direction import mode_of
from hotloop.config.load import load
from hotloop.config.schema import TaskOptions
from hotloop.config.starter import init_yaml
from hotloop.tasks.gpt.options import OPTIONS as GPT

TASKS = pytest.mark.parametrize("options", [TOY, GPT], ids=lambda options: options.name)


@TASKS
def test_every_knob_has_a_meaning_and_a_flag_that_reaches_it(options: TaskOptions) -> None:
    table = knobs.rows(options)
    assert len(table) > 45
    for row in table:
        assert row["meaning"].endswith("."), row
        assert row["type"], row
    flags = [row["flag"] for row in table]
    assert len(set(flags)) == len(flags)


@TASKS
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_file_that_init_writes_loads_back_to_the_same(options: TaskOptions, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "init.yaml"
    path.write_text(init_yaml(options, kind), encoding="utf-8")
    loaded = load(options, file=path, device_kind=kind)
    assert loaded.config == load(options, device_kind=kind).config
    assert loaded.notes == ()
    assert all(origin.startswith(f"{path} line ") for origin in loaded.origins.values())
    for row in knobs.rows(options):
        assert row["meaning"] in path.read_text(encoding="utf-8")


def test_the_schema_knows_what_the_loader_knows() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = knobs.json_schema(GPT)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    plain = to_plain(load(GPT).config)
    assert list(validator.iter_errors(plain)) == []
    for key, value in [("batch_size", 0), ("batch_size", "8"), ("precision", "fp61"), ("unknown", 1)]:
        broken = json.loads(json.dumps(plain))
        broken["training"][key] = value
        assert list(validator.iter_errors(broken)), key


def test_the_schema_holds_every_knob_with_its_meaning() -> None:
    properties = knobs.json_schema(GPT)["properties"]
    for row in knobs.rows(GPT):
        section, _, name = row["key"].partition(".")
        assert properties[section]["properties"][name]["description"] == row["meaning"]
        assert properties[section]["additionalProperties"] is False


def test_each_value_is_shown_with_its_origin() -> None:
    lines = show.config_lines(load(TOY, arguments=["--batch-size", "8", "--fp16"]))
    [line] = [line for line in lines if line.startswith("training.batch_size ")]
    assert line.split() == ["training.batch_size", "8", "command", "line"]
    assert lines[-1] == "note: training.fp16 = true (command line) is read as training.precision = fp16"


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("eval_loss", "min"), ("eval_mae_scaled", "min"), ("eval_perplexity", "min"), ("eval_accuracy", "max"),
        ("eval_f1_macro", "max"), ("eval_balanced_accuracy", "max"), ("eval_exact_match", "max"), ("eval_score", None),
    ],
)  # fmt: skip
def test_directions(metric: str, mode: str | None) -> None:
    assert mode_of(metric) == mode


def test_loading_a_configuration_imports_no_torch() -> None:
    code = (
        "import sys; from hotloop.config.load import load; from hotloop.tasks.gpt.options import OPTIONS;"
        "load(OPTIONS);"
        "print([name for name in ('torch', 'numpy', 'rich', 'matplotlib') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
