"""What a run writes down while it goes on: metrics.jsonl, training.log, trackers, the screen; all from one record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hotloop.runs.reporter import Reporter
from hotloop.runs.store import RunFolder
from hotloop.runs.wording import epoch_line, evaluation_warning


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
        epochs: of the whole run, for a line at the end of each; None says nothing of epochs.
    """

    def __init__(
        self, folder: RunFolder, reporter: Reporter, trackers: Sequence[Tracker], epochs: int | None = None
    ) -> None:
        self._folder, self._reporter, self._trackers = folder, reporter, list(trackers)
        losses = [record["train_loss"] for record in folder.read_metrics() if record.get("train_loss") is not None]
        self._epochs, self._epoch_began = epochs, time.perf_counter()
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
            self._tell_epoch(record)
            if warning := evaluation_warning(record):
                self._reporter.note(f"step {record['step']}: {warning}", "warning")

    def _tell_epoch(self, record: Mapping[str, Any]) -> None:
        """The line of an epoch that has just ended with a validation, in the form that other tools read."""
        epoch = record.get("epoch", 0.5)
        if self._epochs is None or epoch != int(epoch):
            return
        now = time.perf_counter()
        line = epoch_line(int(epoch), self._epochs, self._train_loss, record["eval_loss"], now - self._epoch_began)
        self._epoch_began = now
        self._folder.log(line)
        self._reporter.note(line)

    def on_note(self, text: str, level: str) -> None:
        self._folder.log(text)
        self._reporter.note(text, level)

    def on_save(self, step: int) -> None:
        for tracker in self._trackers:
            tracker.flush()

    def on_end(self, reason: str) -> None:
        for tracker in self._trackers:
            tracker.close()
