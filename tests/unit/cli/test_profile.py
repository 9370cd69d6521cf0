"""`hotloop profile` at its edge: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hotloop import ceilings
from hotloop.cli.main import main

MINE = """
import time

import torch

import hotloop
from hotloop.config.schema import DataSection, knob


class Rows(DataSection):
    nap: float = knob(0.0, "Sleep of an item.", unit="s", ge=0)


class Items(torch.utils.data.Dataset):
    def __init__(self, nap):
        self.nap = nap

    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep(self.nap)
        return {"x": torch.ones(8) * index, "y": torch.ones(1)}


class Mine(hotloop.Task):
    Data = Rows

    def sources(self):
        return hotloop.Splits(train=Items(self.data_options.nap), val=Items(0.0))

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

    def loss(self, model, batch, training):
        return (model(batch["x"]) - batch["y"]).square().mean(1)
"""
SPEC = ("profile", "mine.py:Mine", "--batch-size", "8", "training.precision=fp32", "training.compile=off")


@pytest.fixture(autouse=True)
def small(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own task here, an empty cache, and small things to measure."""
    Path("mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.setenv("HOTLOOP_CACHE", "cache")
    monkeypatch.setattr(ceilings, "_SIZES", {"cpu": (256,)})
    monkeypatch.setattr(ceilings, "_ROUNDS", 3)
    monkeypatch.setattr(ceilings, "_STREAMED", {"cpu": 2**23})
    monkeypatch.setattr(ceilings.Others, "took", lambda self: 0.0)
    return experiments


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    assert main([*SPEC, *words]) == 0
    return capsys.readouterr()


def test_it_tells_phases_shares_operators_and_a_verdict(capsys) -> None:
    out, err = answered(capsys, "--steps", "6")
    lines = out.splitlines()
    assert lines[0].startswith("mine: 6 steps of 8 rows on ")
    listed = [line.split("  ")[0] for line in lines[3:10]]
    assert listed == ["data", "copy", "forward", "backward", "optimizer", "host gap", "step"]
    for part in ("a validation about", "GFLOP/s in fp32", "GB a step", "without them a step took", "aten::addmm"):
        assert part in out
    assert any(f"\n{name}: " in out for name in ("launch-bound", "memory-bound", "compute-bound", "input-bound"))
    assert "drawn: profile.png" in lines[-1]
    assert Path("profile.png").read_bytes().startswith(b"\x89PNG")
    assert "measuring what this machine can do" in err
    assert not list(Path("experiments").iterdir()), "a profile is no run"


def test_json_is_all_that_is_printed(capsys) -> None:
    out, _ = answered(capsys, "--steps", "4", "--json", "--out", "mine.svg", "--trace", "trace.json")
    found = json.loads(out)
    assert list(found["phases"]) == ["data", "copy", "forward", "backward", "optimizer", "host gap"]
    assert sum(phase["share"] for phase in found["phases"].values()) == pytest.approx(1)
    assert sum(phase["ms"] for phase in found["phases"].values()) == pytest.approx(found["ms_per_step"], rel=0.05)
    assert (found["steps"], found["effective_batch"], found["threads"]) == (4, 8, 1)
    assert found["work"]["flops"] == 2 * 8 * (8 * 16 + 16) + 2 * 8 * (8 * 16 + 2 * 16)
    assert found["ceilings"]["matrix"]["fp32"] > 0
    assert found["evaluation_ms"] > 0
    assert found["first_step_ms"] > 0
    assert (found["picture"], found["trace"]) == ("mine.svg", "trace.json")
    assert "<svg" in Path("mine.svg").read_text()
    assert json.loads(Path("trace.json").read_text())["traceEvents"]


def test_a_task_that_waits_for_its_data_is_told_what_to_change(capsys) -> None:
    out, _ = answered(capsys, "--steps", "5", "data.nap=0.002")
    assert "input-bound: waiting for data takes" in out
    assert "try data.num_workers=2 fetches in 2 processes" in out


def test_the_ceilings_are_measured_once_and_shown_by_env(capsys) -> None:
    def env() -> dict:
        assert main(["env", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert env()["ceilings"] is None
    assert main(["env"]) == 0
    assert "not measured yet" in capsys.readouterr().out
    assert "measuring" in answered(capsys, "--steps", "1")[1]
    first = env()["ceilings"]
    assert first["matrix"]["fp32"] > 0
    assert "measuring" not in answered(capsys, "--steps", "1")[1]
    assert env()["ceilings"] == first
    assert "measuring" in answered(capsys, "--steps", "1", "--measure-again")[1]
    assert env()["ceilings"] != first
    assert main(["env"]) == 0
    assert "GFLOP/s; memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["profile"], "no task named"),
        (["profile", "--steps", "3"], "name one: hotloop profile gpt"),
        (["profile", "gtp"], "did you mean 'gpt'?"),
        ([*SPEC, "--steps", "0"], "'--steps'"),
        ([*SPEC, "--show-config"], "--show-config belongs to `hotloop train`"),
        ([*SPEC, "--resume-from-checkpoint", "x"], "--resume-from-checkpoint belongs to `hotloop train`"),
        ([*SPEC, "--out", "picture.txt"], "a picture cannot be written as .txt"),
        ([*SPEC, "--trace", "trace.txt"], "a trace cannot be written there"),
        ([*SPEC, "--trace", "absent/trace.json"], "there is no folder absent"),
        ([*SPEC, "--max-stepps", "3"], "max_steps"),
        ([*SPEC, "--gpu"], "a GPU was asked for"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_measured(words, says, capsys, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert "Traceback" not in err
    assert "measuring" not in err
    assert out == ""
    assert not Path("cache").exists()
