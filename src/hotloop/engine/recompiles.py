"""How often code was compiled anew while a run went on, and why, in plain words.

torch notes for everything it compiles whether that was a recompilation and which assumption had failed. These notes
are read at log points only; steps pay nothing. What differs by torch version is here: where the notes have no place for
a reason, the number of the compilation tells that there was one before.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

_SIZE = re.compile(r"tensor '(.+?)' (size|stride) mismatch at index (\d+)\. expected (-?\d+), actual (-?\d+)")
_TYPE = re.compile(r"tensor '(.+?)' (dtype|rank|requires_grad|device) mismatch\.? expected (.+?)[,.] actual (.+)")
_STATE = re.compile(r"GLOBAL_STATE changed: (.+)")
_PLAIN = re.compile(r"^(.+?) == (.+?)(?:\s+#.*)?$")
_NUMBER = re.compile(r"^\[?\d+/\d+(?:_\d+)?\]?:\s*")
_LONGEST = 200  # characters of a reason that is told as torch words it


class Recompiles:
    """Finds recompilations from where `begin` was called on; before that there are none.

    Args:
        notes: gives what was compiled so far; torch's own by default.
    """

    def __init__(self, notes: Callable[[], list[Any]] | None = None) -> None:
        self._notes = notes or _torchs_notes
        self._seen: set[str] | None = None

    def begin(self) -> None:
        """What was compiled up to now does not count."""
        self._seen = {_name(note) for note in self._notes()}

    def look(self) -> list[str]:
        """A line for each thing that was compiled anew since the last look."""
        if self._seen is None:
            return []
        fresh = [note for note in self._notes() if _name(note) not in self._seen]
        self._seen |= {_name(note) for note in fresh}
        again = [(note, reason) for note in fresh if (reason := _reason(note))]
        return [f"compiled again: {_whose(note)}{worded(reason)}" for note, reason in again]


def _torchs_notes() -> list[Any]:
    """One note for each thing that torch compiled in this process, the latest 64; none where the compiler never ran."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    read = getattr(dynamo, "get_compilation_metrics", None)
    return list(read()) if callable(read) else []


def _reason(note: Any) -> str:
    """Why this was compiled anew, as torch words it; empty for what was compiled for the first time."""
    if hasattr(note, "recompile_reason"):
        return note.recompile_reason or ""
    later = re.search(r"/[1-9]\d*", str(getattr(note, "compile_id", "")))
    return "this torch does not tell why" if later and getattr(note, "is_forward", True) else ""


def _name(note: Any) -> str:
    """What tells two notes apart: forward and backward parts of one compilation are notes of their own."""
    start = getattr(note, "start_time_us", None) or getattr(note, "start_time", None)
    return f"{getattr(note, 'compile_id', None)} {start} {getattr(note, 'is_forward', None)}"


def _whose(note: Any) -> str:
    name = getattr(note, "co_name", None)
    return f"{name}, because " if name else ""


def worded(reason: str) -> str:
    """A reason of torch's in plain words; as torch has it where it is of an unknown kind.

    `0/0: tensor 'micro['x']' size mismatch at index 0. expected 8, actual 4` becomes
    `the size of axis 0 of micro['x'] changed from 8 to 4`.
    """
    text = _NUMBER.sub("", reason.strip().splitlines()[0])
    if hit := _SIZE.search(text):
        return f"the {hit[2]} of axis {hit[3]} of {hit[1]} changed from {hit[4]} to {hit[5]}"
    if hit := _TYPE.search(text):
        return f"the {hit[2]} of {hit[1]} changed from {hit[3]} to {hit[4].strip()}"
    if hit := _STATE.search(text):
        return f"a setting of torch changed: {hit[1].strip()}"
    if (hit := _PLAIN.match(text)) and len(text) <= _LONGEST:
        return f"{hit[1]} is no longer {hit[2]}"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
