"""The run folder: one directory per run that holds everything known about it, written so that a crash loses nothing.

Invariants: no two runs share a folder; JSON files are whole or absent; metrics.jsonl and training.log grow by whole
lines, and a line torn by a crash is ignored when read and cut off before the next one is written; one process writes a
run at a time. Values that JSON cannot hold (NaN, infinity) are written as null.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotloop.disk import append, open_appending, telling, write_atomic
from hotloop.errors import HotloopError

METRICS, LOG, SUMMARY, LOCK = "metrics.jsonl", "training.log", "training_summary.json", ".lock"
_MARKS = ("config.json", "plan.json", METRICS, SUMMARY)  # a folder with any of these is a run
_NAME = re.compile(r"[^\x00-\x1f/\\]+")
_LOG_STEP = re.compile(r"^(?:\w+ at )?(?:step|iter)\s+(\d+)\b", re.IGNORECASE)


class RunFolder:
    """One run's directory; use `create` or `open`, not the constructor.

    Attributes:
        dir: the folder.
        checkpoints: its folder of checkpoints.
    """

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.checkpoints = directory / "checkpoints"
        self._files: dict[str, int] = {}  # name -> descriptor open for appending
        self._lock: int | None = None

    @classmethod
    def create(cls, root: Path, name: str) -> RunFolder:
        """Make NAME_YYYYMMDD_HHMMSS under `root`; a second run of the same second gets _2, _3 ...

        Raises:
            HotloopError: a name that is no folder name, or a place that cannot be written.
        """
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise HotloopError(
                f"{name!r} cannot be a folder's name", where="experiment.name", fix="use letters, digits, - and _"
            )
        base = f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"
        with telling("create", root / base):
            root.mkdir(parents=True, exist_ok=True)
            attempt = 1
            while True:
                directory = root / (base if attempt == 1 else f"{base}_{attempt}")
                try:
                    directory.mkdir()  # exclusive: of two processes only one makes it
                    break
                except FileExistsError:
                    attempt += 1
            (directory / "checkpoints").mkdir()
        return cls(directory)

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open an existing run; nothing is written before the first append.

        Raises:
            HotloopError: no such folder, or a folder that is not a run.
        """
        directory = Path(path)
        if is_run(directory):
            return cls(directory)
        place = str(directory.absolute())
        if not directory.exists():
            raise HotloopError(f"no run at {directory}", where=place, fix="`hotloop runs` lists them")
        raise HotloopError(f"{directory} is not a run folder", where=place, fix=_hint(directory))

    def write_json(self, name: str, value: Any) -> None:
        """Write RUN/name atomically. `value`: anything JSON can hold; paths, numpy numbers, NaN are converted."""
        write_atomic(self.dir / name, (json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n").encode())

    def write_text(self, name: str, text: str) -> None:
        """Write RUN/name atomically as UTF-8."""
        write_atomic(self.dir / name, text.encode())

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl; it survives the death of this process."""
        line = json.dumps(_plain(record), ensure_ascii=False, separators=(", ", ": ")) + "\n"
        self._append(METRICS, line)

    def log(self, line: str) -> None:
        """Append to training.log."""
        self._append(LOG, line.rstrip("\n") + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return every record; a last line torn by a crash is left out.

        Raises:
            HotloopError: a line before the last that is no record, with its number.
        """
        return read_records(self.dir / METRICS)

    def truncate_metrics(self, step: int) -> int:
        """Drop the records after `step` and a torn last line, atomically; returns how many records went."""
        records = self.read_metrics()
        kept = [record for record in records if record.get("step", 0) <= step]
        lines = [json.dumps(record, ensure_ascii=False, separators=(", ", ": ")) + "\n" for record in kept]
        self._replace(METRICS, "".join(lines))
        return len(records) - len(kept)

    def truncate_log(self, step: int) -> None:
        """Drop training.log from the first line about a later step on ("step 250: ...", "iter 250: ...")."""
        path = self.dir / LOG
        if not path.exists():
            return
        with telling("read", path):
            lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True)
        kept: list[str] = []
        for line in lines:
            match = _LOG_STEP.match(line)
            if (match and int(match[1]) > step) or not line.endswith("\n"):
                break
            kept.append(line)
        self._replace(LOG, "".join(kept))

    def sync(self) -> None:
        """Force what was appended onto the disk, so that it survives a power cut too."""
        for name, descriptor in self._files.items():
            with telling("sync", self.dir / name):
                os.fsync(descriptor)

    def close(self) -> None:
        """Close the files and let another process write this run; a later append opens them again."""
        for name in list(self._files):
            os.close(self._files.pop(name))
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def hold(self) -> None:
        """Claim the run for this process until `close` or its death; the first append does so by itself.

        Raises:
            HotloopError: another living process is writing this run.
        """
        if self._lock is None:
            self._lock = _claim(self.dir / LOCK)

    def _append(self, name: str, line: str) -> None:
        if name not in self._files:
            self.hold()
            self._files[name] = open_appending(self.dir / name)
        append(self._files[name], line.encode(), self.dir / name)

    def _replace(self, name: str, text: str) -> None:
        self.hold()
        if name in self._files:
            os.close(self._files.pop(name))
        write_atomic(self.dir / name, text.encode())


def is_run(directory: Path) -> bool:
    """Whether `directory` is a run's folder."""
    return any((directory / mark).is_file() for mark in _MARKS)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read a metrics.jsonl; a torn last line is left out, a missing file is empty."""
    if not path.exists():
        return []
    with telling("read", path):
        lines = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is a torn line, or nothing
        if not line.strip():
            continue
        record = _parse(line)
        if record is None:
            raise HotloopError(
                "a line of the metrics is not a JSON object", where=f"{path}, line {number}", fix="remove that line"
            )
        records.append(record)
    return records


def being_written(directory: Path) -> bool:
    """Whether another living process is writing the run in `directory`."""
    try:
        import fcntl

        descriptor = os.open(directory / LOCK, os.O_RDWR)
    except (ImportError, OSError):
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


def _claim(path: Path) -> int:
    """Lock `path`. A record lock: it dies with this process and is not inherited by its loader workers."""
    with telling("write", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # Windows: two writers are not told apart
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        folder = path.parent
        fix = "wait for it, or stop it first"
        raise HotloopError(f"another process is training {folder.name}", where=str(folder), fix=fix) from None
    except OSError:
        pass  # a file system without locks
    return descriptor


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:  # includes undecodable bytes
        return None
    return value if isinstance(value, dict) else None


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinity as null, numpy numbers as numbers, paths as text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _hint(directory: Path) -> str:
    inside = [child.name for child in sorted(directory.glob("*/")) if is_run(child)] if directory.is_dir() else []
    if inside:
        return f"name one of the runs in it, such as {directory / inside[-1]}"
    if is_run(directory.parent) or is_run(directory.parent.parent):
        return f"did you mean {directory.parent if is_run(directory.parent) else directory.parent.parent}?"
    return "a run folder holds config.json and metrics.jsonl; `hotloop runs` lists them"
