"""What is finished, kept so that a kill at any moment loses only the symbols in flight.

While preparing, `done.jsonl` holds a first line that says what is being prepared, and a line for each finished symbol,
written after its file. At the end the manifest takes its place. Invariants: only this process writes into the folder;
a symbol is recorded once its file is whole; the finished folder holds nothing that depends on time, order or workers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotloop.data.prepare.cache import BARS, MANIFEST, UNFINISHED, VERSION, checksum, read_manifest
from hotloop.data.prepare.symbol import FAILED, PREPARED, SHORT, Outcome
from hotloop.disk import append, open_appending, telling, write_atomic
from hotloop.errors import HotloopError

Head = dict[str, Any]  # what the manifest says apart from the symbols
_PARTS = ("source", "options", "features", "columns")  # of a head: these must be equal to go on


class Record:
    """The state of a cache that is being prepared.

    Args:
        folder: is made.
        head: what is being prepared.
        resume: go on with what is there; without it, a folder that holds a cache is refused.

    Attributes:
        kept: the entries of symbols that earlier calls finished, with their files compared.

    Raises:
        HotloopError: the folder holds a cache and `resume` is not given, or one of other options; another process is
            preparing it; it cannot be written.
    """

    def __init__(self, folder: Path, head: Head, *, resume: bool) -> None:
        self._folder, self._head, self._path = folder, head, folder / UNFINISHED
        with telling("make", folder):
            (folder / BARS).mkdir(parents=True, exist_ok=True)
        manifest = read_manifest(folder)
        if manifest is not None and not manifest["symbols"]:
            manifest = None  # an attempt that prepared nothing binds nobody
        if not resume and (manifest is not None or self._path.exists() or any((folder / BARS).iterdir())):
            raise HotloopError(
                "the folder already holds prepared bars",
                where=str(folder),
                fix="go on with it with --resume, or choose another folder",
            )
        if manifest is not None and not self._path.exists():
            self._compare(manifest)
        self._descriptor = open_appending(self._path)
        try:
            self._lock()
            self.kept = self._take_over(manifest)
        except BaseException:
            self.close()
            raise
        self.symbols, self.failed, self.short = dict(self.kept), dict[str, Any](), dict[str, Any]()

    def add(self, outcome: Outcome) -> None:
        """Keep what became of a symbol: its file first, then the line that says so."""
        if outcome.kind == PREPARED:
            write_atomic(self._folder / outcome.entry["file"], outcome.content)
            self._append({"symbol": outcome.symbol, **outcome.entry})
        {PREPARED: self.symbols, FAILED: self.failed, SHORT: self.short}[outcome.kind][outcome.symbol] = outcome.entry

    def finish(self, absent: list[str]) -> dict[str, Any]:
        """Write the manifest, and drop what it replaces."""
        manifest = {
            **self._head,
            "symbols": dict(sorted(self.symbols.items())),
            "failed": dict(sorted(self.failed.items())),
            "short": dict(sorted(self.short.items())),
            "absent": sorted(absent),
        }
        self._drop_leftovers()
        write_atomic(self._folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n")
        with telling("remove", self._path):
            self._path.unlink()
        return manifest

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._descriptor)

    def _append(self, line: Mapping[str, Any]) -> None:
        append(self._descriptor, json.dumps(line, ensure_ascii=False).encode() + b"\n", self._path)
        with telling("write", self._path):
            os.fsync(self._descriptor)

    def _lock(self) -> None:
        """Keep a second process out; the system lets go of the lock when this one ends, however it ends."""
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HotloopError(
                "another process is preparing this folder", where=str(self._folder), fix="wait for it, or stop it"
            ) from None

    def _take_over(self, manifest: dict[str, Any] | None) -> dict[str, Any]:
        """The entries that hold still; the unfinished record is newer than a manifest beside it."""
        with telling("read", self._path):
            lines = [json.loads(line) for line in self._path.read_bytes().splitlines()]
        if lines:
            old, entries = lines[0], {line["symbol"]: line for line in lines[1:]}
        else:
            old, entries = manifest, {} if manifest is None else dict(manifest["symbols"])
        if old is not None:
            self._compare(old)
        kept = {symbol: self._entry(entry) for symbol, entry in entries.items() if self._holds(entry)}
        if not lines:
            self._append(self._head)
            for symbol, entry in kept.items():
                self._append({"symbol": symbol, **entry})
        return kept

    def _compare(self, old: Mapping[str, Any]) -> None:
        """Refuse to mix two ways of preparing in one folder."""
        differing = []
        for part in _PARTS:
            before, now = old.get(part), self._head[part]
            if isinstance(before, dict) and isinstance(now, dict):
                keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
                differing += [f"{key}: {_shown(before.get(key))} before, {_shown(now.get(key))} now" for key in keys]
            elif before != now:
                differing.append(f"the {part} differ")
        if differing or old.get("version") != VERSION:
            raise HotloopError(
                f"the folder was begun with other options ({'; '.join(differing) or 'version'})",
                where=str(self._folder),
                fix="give the same options as before, or choose another folder",
            )

    def _entry(self, line: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in line.items() if key != "symbol"}

    def _holds(self, entry: Mapping[str, Any]) -> bool:
        path = self._folder / str(entry["file"])
        with telling("read", path):
            return path.is_file() and checksum(path.read_bytes()) == entry["sha256"]

    def _drop_leftovers(self) -> None:
        """Remove what a kill left in the folder of bars: a half-written file, or one that was not recorded yet."""
        wanted = {entry["file"] for entry in self.symbols.values()}
        for path in (self._folder / BARS).iterdir():
            if f"{BARS}/{path.name}" not in wanted:
                with telling("remove", path):
                    path.unlink()


def _shown(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
