"""What a search tried, as rows for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hotloop.engine.plan import Choice
from hotloop.runs.wording import thousands
from hotloop.tune.gauge import Cost
from hotloop.tune.knee import pieces_of

_DISTURBED = 3.0


@dataclass(frozen=True)
class Tried:
    """One combination with what it costs.

    Args:
        choice: precision, micro-batch, recompute, optimizer, offload.
        rows: of the effective batch.
        cost: as measured; None where it was not tried.
        fits: it ran, within the budget where there is one.
        chosen: it is what the run will use.
        reason: why it was taken or not.
    """

    choice: Choice
    rows: int
    cost: Cost | None = None
    fits: bool = False
    chosen: bool = False
    reason: str = ""

    @property
    def pieces(self) -> int:
        """Micro-batches of a step."""
        return pieces_of(self.rows, self.choice.micro_batch or self.rows)

    @property
    def step_seconds(self) -> float:
        """Seconds of a whole step, 0 where it did not run."""
        cost = self.cost
        return self.pieces * cost.seconds + cost.update if cost is not None and cost.ran else 0.0

    @property
    def rate(self) -> float:
        """Samples per second of the whole step, 0 where it did not run."""
        return self.rows / self.step_seconds if self.step_seconds else 0.0

    @property
    def peak(self) -> int:
        """Bytes at the highest point, 0 where it is not known."""
        return self.cost.peak if self.cost is not None else 0

    def to_json(self) -> dict[str, Any]:
        """For search.json."""
        choice, ran = self.choice, bool(self.step_seconds)
        return {
            "precision": choice.precision,
            "micro_batch": choice.micro_batch,
            "pieces": self.pieces,
            "recompute": choice.recompute,
            "optimizer": choice.optimizer,
            "offload": choice.offload,
            "ms_per_step": round(1e3 * self.step_seconds, 3) if ran else None,
            "samples_per_second": round(self.rate, 3) if ran else None,
            "peak_memory": self.peak or None,
            "fits": self.fits if self.cost is not None else None,
            "chosen": self.chosen,
            "reason": self.reason,
        }


def size_text(size: int) -> str:
    """Bytes as MB below 1 GB, so that a table of small models tells them apart."""
    return f"{size / 2**30:.2f}GB" if size >= 2**30 else f"{size / 2**20:.0f}MB"


def setting_text(choice: Choice) -> str:
    """What differs between combinations, in a few words: `bf16, recompute, adamw8bit`."""
    words = [choice.precision or ""]
    if choice.recompute:
        words.append("recompute" if choice.recompute is True else f"recompute {choice.recompute:g}")
    words += [choice.optimizer] if choice.optimizer else []
    words += ["offload"] if choice.offload else []
    return ", ".join(filter(None, words))


def table(tried: Sequence[Tried], *, settings: bool) -> list[str]:
    """Aligned lines with headings; `settings` shows what else than the size differs."""
    titles = ["size", "pieces", "ms/step", "samples/s", "peak", "note"]
    rows = [titles] + [
        [
            str(one.choice.micro_batch or "-"),
            str(one.pieces) if one.choice.micro_batch else "-",
            f"{1e3 * one.step_seconds:,.1f}" if one.step_seconds else "-",
            thousands(one.rate) if one.rate else "-",
            size_text(one.peak) if one.peak else "-",
            one.reason,
        ]
        for one in tried
    ]
    if settings:
        for row, text in zip(rows, ["settings", *(setting_text(one.choice) for one in tried)], strict=True):
            row.insert(0, text)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    left = {0, len(widths) - 1} if settings else {len(widths) - 1}
    places = list(enumerate(widths))
    return [
        "  ".join(row[n].ljust(width) if n in left else row[n].rjust(width) for n, width in places).rstrip()
        for row in rows
    ]


def disturbed(whole: float, parts: float) -> list[str]:
    """A line where whole steps took far longer than what they are made of; both in seconds."""
    if not parts or whole < _DISTURBED * parts:
        return []
    return [
        f"whole steps took {whole / parts:.0f} times as long as their parts: other work disturbed the measurement, so "
        "the choice may be wrong; search again on a quiet machine, or with fewer training.threads"
    ]
