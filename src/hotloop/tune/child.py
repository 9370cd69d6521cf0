"""The parent's side of a trial in a process of its own: ask, wait, and turn whatever happens into an answer.

A child that is killed, aborts or takes too long has answered: nothing here raises for it. Nothing outlives `close`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from hotloop.memory import text_says_out_of_memory

_GOODBYE = 10.0  # seconds that a child has to end by itself
_TAIL = 4000


class Child:
    """One `python -m hotloop.tune.trial`.

    Args:
        request: its first line.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hotloop.tune.trial"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=_environment(),
        )
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._send(request)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone: the answer will say so
            self._process.stdin.write((json.dumps(value) + "\n").encode())
            self._process.stdin.flush()

    def ask(self, value: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What it answers; `{"kind": "gone", ...}` where it died or took more than `seconds`."""
        self._send(value)
        return self.answer(seconds)

    def answer(self, seconds: float) -> dict[str, Any]:
        """Its next answer; `gone` with `memory` (whether that was the reason) and `why` in a line."""
        if self._said.closed:
            return {"kind": "gone", "memory": False, "why": "it was ended before", "said": ""}
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.close(kill=True)
            return {"kind": "gone", "memory": False, "why": f"took more than {seconds:g} s", "said": ""}
        if line is not None:
            found: dict[str, Any] = json.loads(line)
            return found
        code = self._process.wait()
        said = self._tail()
        return {"kind": "gone", **_death(code, said), "said": said}

    def _tail(self) -> str:
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - _TAIL))
        return self._said.read().decode(errors="replace").strip()

    def close(self, kill: bool = False) -> None:
        """End it; harmless when repeated."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if kill:
            self._process.kill()
        try:
            self._process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_GOODBYE)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()
        self._said.close()


def _death(code: int, said: str) -> dict[str, Any]:
    """Why a process is gone, by its exit code and its last words."""
    killed = code in (-getattr(signal, "SIGKILL", 9), 128 + 9)
    if killed:
        return {"memory": True, "why": "the system ended the process (out of memory)"}
    if text_says_out_of_memory(said):
        return {"memory": True, "why": "out of memory"}
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return {"memory": False, "why": f"the process ended by itself ({name})"}


def _environment() -> dict[str, str]:
    """This process's, in which this very hotloop is found."""
    root = str(Path(__file__).resolve().parents[2])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
