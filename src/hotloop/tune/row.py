"""A row of the ladder: for the screen, and under the names that other programs read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hotloop.runs.wording import thousands
from hotloop.tune.lanes import Runner
from hotloop.tune.race import middle_use
from hotloop.tune.tried import size_text

_BASELINE_ROUNDS, _SECONDS = 3, 0.5


@dataclass(frozen=True)
class Row:
    """One candidate with what it costs and whether it stays.

    Args:
        name: as shown.
        knobs: dotted key -> value that make it, with those kept before.
        ms_per_step, samples_per_second: medians; 0 where it did not run.
        spread: (largest - smallest) / median of the rounds.
        peak_memory: bytes of its process, above what it had without data and model.
        device_use: how busy the device was, 0 to 1 (`usage.Meter`); None where that is not told.
        compile_seconds: what the first step took beyond a later one.
        loss_difference: to the baseline after the same steps; None where it was not tested.
        loss_verdict: what the proof says.
        factor: samples per second over those of the baseline, in the same rounds.
        kept: it is faster beyond noise, and computes the same.
        reason: for either.
    """

    name: str
    knobs: dict[str, Any]
    ms_per_step: float = 0.0
    samples_per_second: float = 0.0
    spread: float = 0.0
    peak_memory: int = 0
    device_use: float | None = None
    compile_seconds: float = 0.0
    loss_difference: float | None = None
    loss_verdict: str = "not tested"
    factor: float = 0.0
    kept: bool = False
    reason: str = ""

    def rejected(self, reason: str, verdict: str = "") -> Row:
        """Not kept, and why."""
        return replace(self, kept=False, reason=reason, loss_verdict=verdict or self.loss_verdict)

    def measured(self, difference: float, verdict: str) -> Row:
        """With what the losses say."""
        return replace(self, loss_difference=difference, loss_verdict=verdict)

    def accepted(self, reason: str) -> Row:
        """Kept, and why."""
        return replace(self, kept=True, reason=reason)

    def to_json(self) -> dict[str, Any]:
        """For ladder.json; what was not measured is null."""
        ran = bool(self.ms_per_step)
        return {
            "name": self.name,
            "knobs": self.knobs,
            "ms_per_step": round(self.ms_per_step, 4) if ran else None,
            "samples_per_second": round(self.samples_per_second, 3) if ran else None,
            "spread": round(self.spread, 4) if ran else None,
            "peak_memory": self.peak_memory or None,
            "device_use": None if self.device_use is None else round(self.device_use, 3),
            "compile_seconds": round(self.compile_seconds, 3) if ran else None,
            "loss_difference": self.loss_difference,
            "loss_verdict": self.loss_verdict,
            "factor": round(self.factor, 4) if ran else None,
            "kept": self.kept,
            "reason": self.reason,
        }


def baseline_row(runner: Runner) -> Row:
    """The row that all others are compared with."""
    bursts = [runner.run(_SECONDS) for _ in range(_BASELINE_ROUNDS)]
    seconds = sorted(burst.seconds / burst.steps for burst in bursts)
    middle, rows = seconds[len(seconds) // 2], bursts[0].rows / bursts[0].steps
    spread = (seconds[-1] - seconds[0]) / middle
    return Row(
        "baseline", {}, 1e3 * middle, rows / middle, spread, runner.peak(), middle_use([one.use for one in bursts]),
        factor=1.0, kept=True, loss_verdict="same", loss_difference=0.0, reason="what the others are measured against",
    )  # fmt: skip


def line(row: Row, baseline: Row) -> str:
    """A row as it is known, in one line."""
    if not row.ms_per_step:
        return f"{row.name}: {row.reason}"
    speed = f"{row.ms_per_step:,.1f} ms a step, {thousands(row.samples_per_second)} samples/s"
    if row is baseline:
        return f"{row.name}: {speed}"
    return f"{row.name}: {speed}, {row.factor:.2f}x; {'kept' if row.kept else 'not kept'}: {row.reason}"


TITLES = ("", "ms/step", "samples/s", "+-", "peak", "use", "compile", "loss", "factor", "")


def table(baseline: Row, rows: Sequence[Row]) -> list[str]:
    """Aligned lines with headings."""
    cells = [list(TITLES)] + [_cells(row) for row in (baseline, *rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(TITLES))]
    last = len(TITLES) - 1
    return [
        "  ".join(
            text.ljust(widths[n]) if n in (0, last) else text.rjust(widths[n]) for n, text in enumerate(row)
        ).rstrip()
        for row in cells
    ]


def _cells(row: Row) -> list[str]:
    mark = "" if row.name == "baseline" else ("kept: " if row.kept else "")
    if not row.ms_per_step:
        return [row.name, *["-"] * (len(TITLES) - 2), row.reason]
    loss = row.loss_verdict if row.loss_difference is None else f"{row.loss_difference:+.1e}"
    return [
        row.name,
        f"{row.ms_per_step:,.1f}",
        thousands(row.samples_per_second),
        f"{row.spread:.0%}",
        size_text(row.peak_memory) if row.peak_memory else "-",
        "-" if row.device_use is None else f"{row.device_use:.0%}",
        f"{row.compile_seconds:.0f} s" if row.compile_seconds >= 0.5 else "-",
        loss,
        f"{row.factor:.2f}x",
        mark + row.reason,
    ]
