"""What a run writes down while it goes on: metrics.jsonl, training.log, trackers, the screen; all from one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hotloop.runs.reporter import Reporter
from hotloop.runs.store import RunFolder
from hotloop.runs.wording import evaluation_warning


class Tracker(Protocol):
    """A place that metrics go to besides the run's own files."""

    def record(self, record: Mapping[str, Any]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Recorder:
    """Listens to the loop and writes.

    Args:
        folder: the run's folder.
        reporter: the screen.
        trackers: further places.
    """

    def __init__(self, folder: RunFolder, reporter: Reporter, trackers: Sequence[Tracker]) -> None:
        self._folder, self._reporter, self._trackers = folder, reporter, list(trackers)
        losses = [record["train_loss"] for record in folder.read_metrics() if record.get("train_loss") is not None]
        self._train_loss: float = losses[-1] if losses else float("nan")

    def on_step(self, info: Any) -> None:
        self._reporter.progress(info.step)

    def on_record(self, record: Mapping[str, Any]) -> None:
        self._folder.append_metrics(record)
        self._reporter.record(record)
        for tracker in self._trackers:
            tracker.record(record)
        if "train_loss" in record:
            self._train_loss = record["train_loss"]
        if "eval_loss" in record:
            line = f"step {record['step']}: train loss {self._train_loss:.4f}, val loss {record['eval_loss']:.4f}"
            self._folder.log(line)
            if warning := evaluation_warning(record):
                self._reporter.note(f"step {record['step']}: {warning}", "warning")

    def on_save(self, step: int) -> None:
        for tracker in self._trackers:
            tracker.flush()

    def on_end(self, reason: str) -> None:
        for tracker in self._trackers:
            tracker.close()
