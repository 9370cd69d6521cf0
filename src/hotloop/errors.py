"""The errors a user can meet: each says what is wrong, where, and how to mend it.

Everything raised for a user's fault is a `HotloopError`; the command line prints it without a traceback and exits
with its `exit_code`. An `assert` or any other exception is a bug of ours (exit code 1). This module imports nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HotloopError(Exception):
    """A fault on the user's side.

    Args:
        what: one sentence that says what is wrong.
        where: file, key, line or command that it concerns; empty where `what` already says it.
        fix: what to do about it, as an instruction.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(
            "\n".join([what, *([f"  where: {where}"] if where else []), *([f"  fix: {fix}"] if fix else [])])
        )


@dataclass(frozen=True)
class Problem:
    """One fault in a configuration: `key` as the user may write it, `origin` as a person can find it."""

    key: str
    value: object
    origin: str
    why: str
    fix: str = ""

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {self.value!r}"
        fix = f"\n      fix: {self.fix}" if self.fix else ""
        return f"{self.key}{shown}  ({self.origin})\n      {self.why}{fix}"


class ConfigError(HotloopError):
    """All faults of a configuration at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        title = "1 problem in the configuration" if count == 1 else f"{count} problems in the configuration"
        listed = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(self.problems, start=1))
        super().__init__(f"{title}\n{listed}")


class CheckStopped(HotloopError):
    """A check (non-finite values, ledger, doctor) stopped the run; what was trained so far is kept."""

    exit_code = 3


class Interrupted(HotloopError):
    """The run was interrupted from outside and can be resumed."""

    exit_code = 4


class NoMemory(Interrupted):
    """Memory ran out, and no smaller piece could be tried; the run can be resumed where there is more.

    Args:
        what, where, fix: as in HotloopError.
        row: of the effective batch, the first one of the piece that failed; None where none is to blame.
        intact: whether the weights in memory are those of the last whole step.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "", row: int | None = None, intact: bool) -> None:
        super().__init__(what, where=where, fix=fix)
        self.row, self.intact = row, intact


def first_line(error: BaseException) -> str:
    """What an error says, in its first line and at most 120 characters."""
    what = error.what if isinstance(error, HotloopError) else str(error)
    line = (what.strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 120 else f"{line[:117]}..."
