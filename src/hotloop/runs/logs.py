"""Loss curves from what is on disk: run folders, metrics.jsonl files, and the logs that other trainers print.

Read from logs: `step 250: train loss 1.9643, val loss 2.0652` and `iter 10: loss 3.1, time 12.3ms, mfu 1.2%` (nanoGPT),
`Step 100 | Loss: 0.45 | LR: 1.25e-05` and `Step 250 | Eval loss: 2.06` (our console), and
`Epoch [1/100] - Train Loss: 0.23, Val Loss: 0.34`. Invariants: points are in step order; a step told twice (a resumed
run) counts as told last; non-finite values are left out and counted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hotloop.disk import telling
from hotloop.errors import HotloopError
from hotloop.runs.store import METRICS, is_run, read_records

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf))"
_LINES = {
    "step": re.compile(rf"^\s*step (\d+): train loss {_NUMBER}, val loss {_NUMBER}", re.I),
    "iter": re.compile(rf"^\s*iter (\d+): loss {_NUMBER}", re.I),
    "train": re.compile(rf"^\s*step (\d+) \| loss: {_NUMBER}(?:.*?\| LR: {_NUMBER})?", re.I),
    "eval": re.compile(rf"^\s*step (\d+) \| eval loss: {_NUMBER}", re.I),
    "epoch": re.compile(rf"^\s*epoch \[(\d+)/\d+\] - train loss: {_NUMBER}, val loss: {_NUMBER}", re.I),
}
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Curves:
    """What one run's pictures are drawn from.

    Attributes:
        name: the run's or the file's name.
        unit: what the horizontal axis counts, "step" or "epoch".
        train, eval, learning_rate: step -> finite value, in step order.
        skipped: how many non-finite values were left out, per curve's name.
    """

    name: str
    unit: str = "step"
    train: dict[int, float] = field(default_factory=dict)
    eval: dict[int, float] = field(default_factory=dict)
    learning_rate: dict[int, float] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def add(self, curve: str, step: int, value: float | None) -> None:
        """Set a point; None (a NaN written as JSON) and non-finite values are only counted."""
        points: dict[int, float] = getattr(self, curve)
        points.pop(step, None)
        if value is None or not math.isfinite(value):
            self.skipped[curve] = self.skipped.get(curve, 0) + 1
        else:
            points[step] = float(value)

    def notes(self) -> list[str]:
        """One line per curve with values left out."""
        names = {"train": "training losses", "eval": "evaluation losses", "learning_rate": "learning rates"}
        return [f"{self.name}: {count} non-finite {names[curve]} left out" for curve, count in self.skipped.items()]

    def in_order(self) -> Curves:
        """Sort every curve by step; returns itself."""
        self.train, self.eval = dict(sorted(self.train.items())), dict(sorted(self.eval.items()))
        self.learning_rate = dict(sorted(self.learning_rate.items()))
        return self


def read_curves(path: Path | str) -> Curves:
    """Read the curves of a run folder, a metrics.jsonl or a log.

    Raises:
        HotloopError: nothing there, nothing readable, or no loss in it.
    """
    place = Path(path)
    if not place.exists():
        raise HotloopError(f"no run or log at {place}", where=str(place.absolute()), fix="`hotloop runs` lists runs")
    if place.is_dir():
        curves = _from_folder(place)
    elif place.suffix == ".jsonl":
        curves = _from_records(place, place.resolve().parent.name)
    else:
        curves = _from_log(place)
    if not curves.train and not curves.eval:
        raise HotloopError(_nothing(place, curves), where=str(place.absolute()), fix=_WHAT_IS_READ)
    return curves.in_order()


_WHAT_IS_READ = (
    "give a run folder, a metrics.jsonl, or a log with lines such as\n"
    "       step 250: train loss 1.9643, val loss 2.0652\n"
    "       iter 10: loss 3.1, time 12.3ms, mfu 1.2%"
)


def _nothing(place: Path, curves: Curves) -> str:
    if place.is_file() and place.stat().st_size == 0:
        return f"{place.name} is empty"
    if curves.skipped:
        return f"every loss in {place.name} is NaN or infinite; nothing to draw"
    return f"no losses found in {place.resolve().name}"


def _from_folder(folder: Path) -> Curves:
    if not is_run(folder):
        fix = f"name one of the runs in it, or a log file: hotloop plot {folder}/NAME"
        raise HotloopError(f"{folder} is not a run folder", where=str(folder.absolute()), fix=fix)
    return _from_records(folder / METRICS, folder.resolve().name)


def _from_records(path: Path, name: str) -> Curves:
    curves = Curves(name)
    for record in read_records(path):
        for curve, key in (("train", "train_loss"), ("eval", "eval_loss"), ("learning_rate", "learning_rate")):
            if key in record and "step" in record:
                curves.add(curve, int(record["step"]), record[key])
    return curves


def _from_log(path: Path) -> Curves:
    with telling("read", path):
        content = path.read_bytes()
    if b"\0" in content[:4096]:
        raise HotloopError(f"{path.name} is not a text file", where=str(path.absolute()), fix=_WHAT_IS_READ)
    text = _ESCAPES.sub("", content.decode(errors="replace"))
    if text.lstrip().startswith("{") and _is_json(text):
        raise HotloopError(f"{path.name} is JSON, not a log", where=str(path.absolute()), fix=_WHAT_IS_READ)
    curves = Curves(path.stem)
    estimates = Curves(path.stem)  # nanoGPT's sampled training loss, drawn only where no other is told
    for line in re.split(r"[\r\n]+", text):
        _read_line(line, curves, estimates)
    if not curves.train:
        curves.train = estimates.train
        if "train" in estimates.skipped:
            curves.skipped["train"] = estimates.skipped["train"]
    return curves


def _read_line(line: str, curves: Curves, estimates: Curves) -> None:
    for kind, pattern in _LINES.items():
        match = pattern.match(line)
        if match is None:
            continue
        step, first, second = int(match[1]), float(match[2]), _second(match.groups())
        if kind in ("step", "epoch"):
            estimates.add("train", step, first)
            curves.add("eval", step, second)
            curves.unit = kind
        else:
            curves.add("eval" if kind == "eval" else "train", step, first)
            if second is not None:
                curves.add("learning_rate", step, second)
        return


def _second(groups: Iterable[str | None]) -> float | None:
    rest = list(groups)[2:]
    return float(rest[0]) if rest and rest[0] is not None else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
