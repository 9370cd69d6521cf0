"""The commands that need no training: runs, plot, knobs, init, schema, env, and what `train` shows without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hotloop.cli.main import main
from hotloop.runs.store import RunFolder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def _run(name: str = "demo") -> Path:
    run = RunFolder.create(Path("experiments"), name)
    run.write_json("config.json", {"task": "gpt"})
    for step in (10, 20):
        run.append_metrics({"step": step, "train_loss": 4 / step, "learning_rate": 0.1})
    run.append_metrics({"step": 20, "train_loss": float("nan")})
    run.close()
    return run.dir


def test_runs_without_any_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == "no runs in experiments/ yet; `hotloop train gpt` makes one\n"
    assert main(["runs", "--json"]) == 0
    assert _json(capsys) == []


def test_runs_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    run = _run()
    assert main(["runs"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "task", "status", "steps", "train", "eval", "best", "time"]
    assert row.split()[:4] == [run.name, "gpt", "interrupted", "20"]
    assert main(["runs", "--root", "experiments", "--json"]) == 0
    (found,) = _json(capsys)
    assert found["dir"] == str(run)
    assert found["steps"] == 20
    assert found["eval_loss"] is None


def test_plot_draws_and_says_where_and_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    run = _run()
    assert main(["plot", str(run)]) == 0
    out, err = capsys.readouterr()
    assert out == f"drawn: {run / 'loss.png'}\n"
    assert (run / "loss.png").stat().st_size > 10_000
    assert "1 non-finite training losses left out" in err
    assert main(["plot", str(run), str(run / "metrics.jsonl"), "--out", "both.png", "--json"]) == 0
    assert _json(capsys)["picture"] == "both.png"
    assert Path("both.png").exists()


def test_knobs_names_unit_range_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["knobs", "gpt"]) == 0
    shown = capsys.readouterr().out
    assert "training.batch_size = 32  (int, >= 1, samples)\n      Samples in one forward pass" in shown
    assert main(["knobs", "gpt", "--json"]) == 0
    keys = {row["key"]: row for row in _json(capsys)}
    assert keys["training.batch_size"]["unit"] == "samples"
    assert "model.n_layer" in keys
    assert all(f"  {key} = " in shown for key in keys)


def test_knobs_of_all_tasks_mark_those_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["knobs", "--json"]) == 0
    rows = _json(capsys)
    keys = [row["key"] for row in rows]
    assert len(keys) == len(set(keys))
    marked = {row["key"] for row in rows if "gpt" in row.get("task", "").split(", ")}
    assert "model.n_layer" in marked
    assert "training.batch_size" in keys
    assert "training.batch_size" not in marked
    sections = [key.partition(".")[0] for key in keys]
    assert [name for i, name in enumerate(sections) if name != (sections[i - 1] if i else "")] == list(
        dict.fromkeys(sections)
    )


def test_init_writes_a_file_that_trains_and_never_replaces_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "gpt"]) == 0
    assert "hotloop train gpt --config gpt.yaml" in capsys.readouterr().out
    text = Path("gpt.yaml").read_text()
    assert main(["train", "gpt", "--config", "gpt.yaml", "--show-config", "--json"]) == 0
    from_file = _json(capsys)["config"]
    assert main(["train", "gpt", "--show-config", "--json"]) == 0
    assert _json(capsys)["config"] == from_file
    Path("gpt.yaml").write_text("mine")
    assert main(["init", "gpt"]) == 2
    assert "gpt.yaml is already there" in capsys.readouterr().err
    assert Path("gpt.yaml").read_text() == "mine"
    assert main(["init", "gpt", "--force"]) == 0
    assert Path("gpt.yaml").read_text() == text
    capsys.readouterr()
    assert main(["init", "gpt", "--output", "-"]) == 0
    assert capsys.readouterr().out == text


def test_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "gpt"]) == 0
    schema = _json(capsys)
    assert schema["properties"]["task"]["const"] == "gpt"
    assert "n_layer" in schema["properties"]["model"]["properties"]
    assert main(["schema", "gpt", "--output", "gpt.schema.json"]) == 0
    assert json.loads(Path("gpt.schema.json").read_text()) == schema


def test_env_tells_versions_and_machine(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["env", "--json"]) == 0
    facts = _json(capsys)
    assert facts["torch"] == torch.__version__
    assert facts["memory_bytes"] > 2**28
    assert isinstance(facts["gpus"], list)
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert f"torch           {torch.__version__}" in shown
    assert "GB" in shown


def test_show_config_tells_where_each_value_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.yaml").write_text("task: gpt\ntraining:\n  batch_size: 7\n")
    words = ["train", "gpt", "--config", "my.yaml", "optimization.learning_rate=3e-4", "--show-config"]
    assert main(words) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "." in line}
    assert "my.yaml" in lines["training.batch_size"]
    assert " 7 " in lines["training.batch_size"]
    assert "command line" in lines["optimization.learning_rate"]
    assert "0.0003" in lines["optimization.learning_rate"]
    assert not Path("experiments").exists()


def test_train_help_tells_keys_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert "--template NAME" in (shown := capsys.readouterr().out)
    assert "gpt  " in shown
    assert main(["train", "gpt", "-h"]) == 0
    assert "model.n_layer" in (shown := capsys.readouterr().out)
    assert "`hotloop knobs gpt`" in shown
    assert all(len(line) <= 90 for line in shown.splitlines())


def test_flags_before_the_task_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--max-steps", "5", "gpt"]) == 2
    assert "put the task first" in capsys.readouterr().err


def test_five_faults_are_five_problems(capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "train gpt training.batch_sise=8 training.num_epochs=-1 optimization.learning_rate=fast nonsense --what-ever 3"
    )
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: 5 problems in the configuration")
    assert "Traceback" not in err
    assert "training.batch_size" in err
    assert "command line" in err


def test_asking_a_resumed_run_for_another_configuration_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "gpt", "--show-config", "--json"]) == 0
    run = _run()
    (run / "config.json").write_text(json.dumps(_json(capsys)["config"]))
    assert main(["train", "gpt", "--resume-from-checkpoint", str(run), "training.batch_size=999"]) == 2
    err = capsys.readouterr().err
    assert "a resumed run keeps its own configuration" in err
    assert "training.batch_size" in err
    assert "999" in err
