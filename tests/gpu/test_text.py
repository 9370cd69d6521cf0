"""Short texts on a GPU: batches from the host, translations written there, and the figures that the CPU finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hotloop
from hotloop import assemble
from hotloop.cli.main import main
from hotloop.config.load import load
from hotloop.saved import find_task

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
SHORT = {"training.max_steps": 40, "training.eval_every": 20, "training.precision": "fp32", "training.compile": "off"}
OWN = {
    "translate": {"data.phrases": 400, "model.hidden_size": 32, "model.n_head": 2, "model.ff_size": 64},
    "classify": {"data.rows": 400, "model.hidden_size": 32, "model.n_head": 2},
}


def keys_of(task: str, folder: Path, **more: object) -> dict[str, object]:
    place = {"training.device": DEVICE, "experiment.dir": str(folder / "runs")}
    return {"training.batch_size": 32, **OWN[task], **SHORT, **place, **more}


def build(task: str, folder: Path, **more: object):
    options, found = find_task(task)
    loaded = load(options, overrides=keys_of(task, folder, **more), device_kind=DEVICE)
    return assemble.build(loaded, found(loaded.config.model, loaded.config.data, seed=1))


@pytest.mark.parametrize("task", ["translate", "classify"])
def test_no_step_makes_the_host_wait(task, tmp_path):
    from tests.gpu.test_no_waiting import step_without_waiting

    step_without_waiting(build(task, tmp_path), steps=10)


@pytest.mark.parametrize("task", ["translate", "classify"])
def test_what_is_evaluated_is_what_the_cpu_finds(task, tmp_path):
    there = build(task, tmp_path)
    here = build(task, tmp_path, **{"training.device": "cpu"})
    here.state.model.load_state_dict({name: part.cpu() for name, part in there.state.model.state_dict().items()})
    assert there.evaluate() == pytest.approx(here.evaluate(), rel=1e-3, abs=2e-2)


def test_a_beam_on_the_gpu_writes_what_the_cpu_writes(tmp_path):
    built = build("translate", tmp_path)
    model, task = built.state.model, built.task
    torch.nn.init.normal_(model.embedding.weight, std=1.0)  # decided, so that no two tokens are nearly as likely
    prompts = ["three hundred and twelve", "5 March 2019"]
    for beam in (1, 4):
        there = [task.write(model, text, beam=beam, device=DEVICE) for text in prompts]
        assert [task.write(model, text, beam=beam, device="cpu") for text in prompts] == there


@pytest.mark.parametrize("task", ["translate", "classify"])
def test_a_run_is_used_where_it_was_trained_and_on_the_cpu(task, tmp_path):
    run = hotloop.train(task, progress=False, keys=keys_of(task, tmp_path))
    assert run.summary["status"] == "completed"
    column, words = ("src", ["nine", "5 March 2019"]) if task == "translate" else ("text", ["謝謝你", "給我閉嘴"])
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(json.dumps({column: word}) for word in words), encoding="utf-8")
    found = []
    for device in (DEVICE, "cpu"):
        output = tmp_path / f"{device}.jsonl"
        words_of = ["predict", str(run.dir), "--input", str(source), "--output", str(output), "--device", device]
        assert main(words_of) == 0
        found.append([json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()])
    for here, there in zip(*found, strict=True):
        assert here.keys() == there.keys()
        names = [name for name, value in here.items() if isinstance(value, str)]
        assert [here[name] for name in names] == [there[name] for name in names]
