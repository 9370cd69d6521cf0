"""Where a run tells what happens: the protocol, and the reporter that shows nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hotloop.runs.wording import Baselines


class Reporter(Protocol):
    """Where a run tells what happens; called from the host only, never with device tensors."""

    def start(
        self,
        title: str,
        lines: Sequence[str],
        total_steps: int,
        *,
        first_step: int = 0,
        memory_total: int = 0,
        level: str = "info",
        baselines: Baselines | None = None,
    ) -> None:
        """Training begins.

        Args:
            title: one line, such as "gpt | demo_20260101_120000".
            lines: what to know before it starts (data, plan, notes).
            total_steps: optimizer steps of the whole run; 0 where only time or a metric ends it.
            first_step: steps already done (a resumed run).
            memory_total: bytes of the budget, or of a GPU's memory; 0 on a CPU without a budget.
            level: "debug" and "info" show everything, "warning" warnings and the summary, "error" nothing.
            baselines: of simple predictors, name -> metric -> value, shown beside each figure of validation.
        """

    def progress(self, step: int) -> None:
        """`step` optimizer steps are done; cheap enough for every step."""

    def phase(self, name: str) -> None:
        """Something other than a step is going on ("compiling", "evaluating"); "" when it is over."""

    def record(self, record: Mapping[str, Any]) -> None:
        """One record as it goes into metrics.jsonl; an evaluation that is the best so far carries `best: True`."""

    def note(self, text: str, level: str = "info") -> None:
        """One line for the reader; `level` is "info" or "warning"."""

    def confirm(self, question: str) -> bool:
        """Ask the person; True where nobody is there to answer, for a run must not wait a night for a word."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Training ended with this training_summary.json; `dir`, if there, is shown as the place."""

    def close(self) -> None:
        """Give the terminal back (after an error too); harmless when repeated."""


class Silent:
    """A reporter that shows nothing."""

    def start(
        self,
        title: str,
        lines: Sequence[str],
        total_steps: int,
        *,
        first_step: int = 0,
        memory_total: int = 0,
        level: str = "info",
        baselines: Baselines | None = None,
    ) -> None:
        """Show nothing."""

    def progress(self, step: int) -> None:
        """Show nothing."""

    def phase(self, name: str) -> None:
        """Show nothing."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Show nothing."""

    def note(self, text: str, level: str = "info") -> None:
        """Show nothing."""

    def confirm(self, question: str) -> bool:
        """Nobody is there to ask."""
        return True

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""
