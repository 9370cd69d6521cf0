"""TensorBoard event files, written with tensorboard's own writer (torch is not needed).

Invariants: one event per record, holding all its numbers; the writer's thread flushes, so `record` never waits for the
disk; a resumed run purges what it is about to write again. Event files can lose their last seconds in a crash:
metrics.jsonl is the record, this is a view of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NOT_DRAWN = {"step"}
_FLUSH_SECONDS = 30


class TensorBoard:
    """Write records for TensorBoard.

    Args:
        directory: the folder of event files; made if missing.
        purge_step: a resumed run's first step to come (the checkpoint's step + 1): TensorBoard drops what an earlier
            process wrote from that step on. None for a new run.
    """

    def __init__(self, directory: Path, purge_step: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(directory), flush_secs=_FLUSH_SECONDS)
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def record(self, record: Mapping[str, Any]) -> None:
        """Add a record of metrics.jsonl; its numbers become scalars named like their keys (NaN included)."""
        values = [
            self._summary.Value(tag=key, simple_value=float(value))
            for key, value in record.items()
            if key not in _NOT_DRAWN and isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        event = self._event(wall_time=time.time(), step=record["step"], summary=self._summary(value=values))
        self._writer.add_event(event)

    def flush(self) -> None:
        """Write out what is buffered; worth calling after a checkpoint."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close; harmless when repeated."""
        self._writer.close()
