"""What the tests of faults share: a quick `hotloop` command, a tiny run, and the comparison of two runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

VOLATILE = {  # may differ between two equal runs
    *("seconds", "eval_seconds", "samples_per_second"),
    *("gpu_memory", "memory_peak", "memory_reserved"),
}
TINY = [
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=16",
    "model.dropout=0.1",
    "data.path=text.txt",
    "training.batch_size=8",
    "training.max_steps=60",
    "training.precision=fp32",
    "training.compile=off",
    "training.device=cpu",
    "training.log_every=4",
    "training.eval_every=15",
    "callbacks.checkpoint_every=7",
    "callbacks.keep_last=2",
    "callbacks.save_top_k=2",
    "optimization.warmup_ratio=0.1",
    "experiment.name=tiny",
]


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: the signal that killed it), and what it said."""

    code: int
    out: str
    err: str


class Warm:
    """Runs `hotloop` commands in forks of one warm process."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("warm_start.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._number = 0

    def __call__(
        self,
        folder: Path,
        *arguments: str,
        moments: Sequence[dict[str, Any]] = (),
        signal_after: tuple[float, int] | None = None,
    ) -> Ended:
        """Run one command in `folder`; `signal_after` is (seconds, signal) from outside."""
        return self.together([(folder, arguments)], moments=moments, signal_after=signal_after)[0]

    def together(
        self,
        commands: Sequence[tuple[Path, Sequence[str]]],
        *,
        moments: Sequence[dict[str, Any]] = (),
        signal_after: tuple[float, int] | None = None,
    ) -> list[Ended]:
        """Run several commands at the same time."""
        jobs = []
        for folder, arguments in commands:
            self._number += 1
            out, err = (str(folder / f".{self._number}.{name}") for name in ("out", "err"))
            given = {"folder": str(folder), "arguments": list(arguments), "out": out, "err": err}
            jobs.append({**given, "moments": list(moments)})
        pids = self._exchange({"jobs": jobs})["pids"]
        timer = None
        if signal_after is not None:
            timer = threading.Timer(signal_after[0], lambda: [_send(pid, signal_after[1]) for pid in pids])
            timer.start()
        codes = self._exchange(None)["codes"]
        if timer is not None:
            timer.cancel()
            timer.join()
        return [
            Ended(code, Path(job["out"]).read_text(), Path(job["err"]).read_text())
            for code, job in zip(codes, jobs, strict=True)
        ]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _exchange(self, request: dict[str, Any] | None) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if request is not None:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """`warm(folder, "train", "gpt", ...)` runs the command line in `folder` and tells how it ended."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    process = Warm()
    yield process
    process.close()


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """The arguments of a tiny gpt run of 60 steps; `place` puts its text into a folder."""
    return ["train", "gpt", *TINY]


@pytest.fixture(scope="session")
def place() -> Callable[[Path], Path]:
    """Make a folder in which the tiny run finds its text; returns the folder."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        words = [line.strip() for line in ["the cat sat", "on a mat", "and saw", "two red hens", "go by"]]
        draw = random.Random(1)
        (folder / "text.txt").write_text("\n".join(" ".join(draw.choices(words, k=4)) for _ in range(160)))
        return folder

    return make


@pytest.fixture(scope="session")
def run_in() -> Callable[[Path], Path]:
    """The one run folder below a folder."""

    def find(folder: Path) -> Path:
        [found] = (folder / "experiments").iterdir()
        return found

    return find


@pytest.fixture(scope="session")
def finish(warm: Warm) -> Callable[[Path, list[str]], Path]:
    """Bring whatever a dead process left in a folder to its end, as a person would; returns the run's folder."""

    def go_on(folder: Path, arguments: list[str]) -> Path:
        root = folder / "experiments"
        runs = sorted(root.iterdir()) if root.is_dir() else []
        begun = [run for run in runs if (run / "config.json").is_file()]
        for run in runs:
            if run not in begun:  # died while the folder was being made: nothing was trained, and this is said
                ended = warm(folder, "resume", str(run))
                assert ended.code == 2, ended.err
                assert "Traceback" not in ended.err
        ended = warm(folder, "resume", str(begun[0])) if begun else warm(folder, *arguments)
        over = ended.code == 2 and "this run is over" in ended.err
        assert ended.code == 0 or over, ended.out + ended.err
        assert not ended.err or over
        return begun[0] if begun else next(run for run in root.iterdir() if (run / "config.json").is_file())

    return go_on


def _same_tensors(one: Any, other: Any, where: str = "") -> None:
    import torch

    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            _same_tensors(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            _same_tensors(*pair, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def _steady(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in VOLATILE}


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Two runs are equal: weights, optimizer, random state to the bit; records and summary in all but times.

    The same checkpoints are kept, unless one of the runs was `stopped`: that saves one more, in between.
    """
    import torch

    def compare(run: Path, other: Path, stopped: bool = False) -> None:
        for name in ("final_model.pt", "checkpoints/last.pt", "checkpoints/best_model.pt"):
            one, two = (torch.load(place / name, weights_only=True) for place in (run, other))
            for part in ("seconds", "plan"):
                one.pop(part, None), two.pop(part, None)
            for config in (one.get("config"), two.get("config")):
                config and config["data"].pop("path")  # each has its own folder
            _same_tensors(one, two, name)
        lines, others = ((place / "metrics.jsonl").read_text().splitlines() for place in (run, other))
        assert [_steady(json.loads(line)) for line in lines] == [_steady(json.loads(line)) for line in others]
        one, two = (json.loads((place / "training_summary.json").read_text()) for place in (run, other))
        for volatile in ("seconds", "peak_memory", "memory"):
            one.pop(volatile), two.pop(volatile)
        assert one == two
        logs = [(place / "training.log").read_text().splitlines() for place in (run, other)]
        assert all(log[-1].startswith("training took ") for log in logs)
        assert [[line for line in log if line.startswith("step")] for log in logs] == [logs[1][:-1]] * 2
        kept = [sorted(path.name for path in (place / "checkpoints").iterdir()) for place in (run, other)]
        assert stopped or kept[0] == kept[1]
        scores = [(place / "checkpoints" / "index.json").read_text() for place in (run, other)]
        assert scores[0] == scores[1]
        for path in (run / "checkpoints").glob("*.pt"):
            stated = path.with_name(path.name + ".sha256").read_text()
            assert stated == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"

    return compare


@pytest.fixture(scope="session")
def sigkill() -> int:
    """What a killed command ends with."""
    return -int(signal.SIGKILL)
