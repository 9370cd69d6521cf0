"""What a person sees while a run trains: a title, one line per record, a progress bar with the time left, a summary.

Invariants: on a terminal the bar stays below the lines; elsewhere (a pipe, a file) only plain, flushed lines appear,
without control codes. `progress` is in the hot loop: when nothing is due it is one clock reading, and it draws at most
four times a second. Nothing here asks the device for anything. Memory is in bytes and shown in units of 2**30 as GB.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

from hotloop.runs.wording import Baselines, duration, evaluation_line, summary_rows, training_line

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress, TaskID

_REDRAW_SECONDS = 0.25
_PATIENCE = 60  # seconds that a question waits
_QUIET = ("warning", "error")


class Console:
    """The reporter of the command line.

    Args:
        file: where to write; standard output by default.
        live: colours and a bar, or plain lines; None asks the file whether it is a terminal.
    """

    def __init__(self, file: TextIO | None = None, *, live: bool | None = None) -> None:
        self._file = sys.stdout if file is None else file
        self._live = _is_terminal(self._file) if live is None else live
        self._rich: RichConsole | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._due = float("inf")  # when the bar is drawn again; never, without a bar
        self._began = perf_counter()
        self._first_at: float | None = None  # when the first step was done: it pays for compiling, so rates start there
        self._first_step = self._total = self._step = self._memory_total = 0
        self._loss: float | None = None
        self._phase = ""
        self._level = "info"
        self._baselines: Baselines = {}

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
        """Print title and lines, and open the bar."""
        self._began, self._first_at, self._baselines = perf_counter(), None, baselines or {}
        self._first_step = self._step = first_step
        self._total, self._memory_total, self._level = total_steps, memory_total, level
        if level in _QUIET:
            return
        self._print(title, "bold cyan")
        for line in lines:
            self._print(self._fitted(f"  {line}"))
        if self._live and self._bar is None:
            self._open_bar()

    def progress(self, step: int) -> None:
        """Move the bar, if a redraw is due."""
        if perf_counter() < self._due:
            return
        if self._first_at is None:
            self._first_at, self._first_step = perf_counter(), step
        self._step = step
        self._draw()

    def phase(self, name: str) -> None:
        """Show at once what is going on; on a terminal only."""
        self._phase = name
        if self._bar is not None:
            self._draw()

    def record(self, record: Mapping[str, Any]) -> None:
        """Print a record's line: training, evaluation, or both."""
        if self._level in _QUIET:
            return
        self._step = max(self._step, record.get("step", 0))
        if "train_loss" in record:
            self._loss = record["train_loss"]
        if self._bar is not None and self._task is not None:  # printing below draws the bar anew, so it must be current
            self._bar.update(self._task, completed=self._step, **self._fields())
        if "train_loss" in record:
            self._print_fields(training_line(record, self._memory_total), "")
        if any(key.startswith("eval_") for key in record):
            self._print_fields(
                evaluation_line(record, self._baselines), "bold green" if record.get("best") else "green"
            )

    def note(self, text: str, level: str = "info") -> None:
        """Print a line; warnings are marked, on a plain stream too."""
        if self._level == "error" or (self._level == "warning" and level != "warning"):
            return
        if level == "warning":
            self._print(f"Warning: {text}", "bold yellow")
        else:
            self._print(text, "dim")

    def confirm(self, question: str) -> bool:
        """Ask at a terminal, and go on by itself after a minute; elsewhere at once."""
        if not self._live or not sys.stdin.isatty():
            return True
        self._print(f"{question} [Y/n, goes on after {_PATIENCE} s] ", "bold yellow")
        return answered(sys.stdin, _PATIENCE).lower() not in ("n", "no")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the bar and print the summary as a small table."""
        self.close()
        if self._level == "error":
            return
        rows = summary_rows(summary)
        if self._live:
            table = _summary_table(summary, rows)
            self._write(lambda: self._console().print(table))
            return
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            self._print(f"{name:<{width}}  {value}")

    def close(self) -> None:
        """Remove the bar; what was printed stays."""
        self._due = float("inf")
        if self._bar is not None:
            self._write(self._bar.stop)
            self._bar = self._task = None

    def _print(self, text: str, style: str = "") -> None:
        if self._live:
            from rich.text import Text

            line = Text(text, style=style)  # a style given to `print` would colour the bar too
            self._write(lambda: self._console().print(line))
        else:
            self._write(lambda: print(text, file=self._file, flush=True))

    def _fitted(self, line: str) -> str:
        """On a terminal: broken at words, the rest indented. Elsewhere a line stays one line."""
        if not self._live:
            return line
        from textwrap import fill

        width = max(20, self._console().width)
        return fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)

    def _print_fields(self, line: str, style: str) -> None:
        """Print `a: 1 | b: 2` with quiet names and separators, so that the numbers stand out."""
        if not self._live:
            self._print(line)
            return
        from rich.text import Text

        text = Text()
        for position, part in enumerate(line.split(" | ")):
            name, colon, value = part.partition(": ")
            text.append(" | " if position else "", "bright_black")
            text.append(name + colon, "bright_black" if colon else style or "cyan")
            text.append(value, style or ("bold" if name == "Loss" else ""))
        self._write(lambda: self._console().print(text))

    def _write(self, show: Callable[[], object]) -> None:
        """Show something; when the reader is gone (a closed pipe, a lost terminal) the run goes on in silence."""
        try:
            show()
        except OSError:
            self._live, self._bar, self._due = False, None, float("inf")
            self._file = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the run

    def _console(self) -> RichConsole:
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(file=self._file, force_terminal=True, highlight=False, soft_wrap=True)
        return self._rich

    def _open_bar(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        total = self._total or None
        bar_width = min(40, max(10, self._console().width - 56))  # room at the end of the line for the ^C of a terminal
        columns = [
            TextColumn("[cyan]{task.fields[done]}"),
            BarColumn(bar_width=bar_width, complete_style="cyan", finished_style="green", pulse_style="cyan"),
            TextColumn("{task.fields[percent]}"),
            TextColumn("[bold]{task.fields[loss]}"),
            TextColumn("[dim]{task.fields[times]}"),
        ]
        # No refresh thread: it would fight the training loop for the interpreter. A transient bar leaves no trace.
        bar = Progress(*columns, console=self._console(), auto_refresh=False, transient=True)
        self._task = bar.add_task("", total=total, **self._fields())
        bar.start()
        self._console().show_cursor(True)  # a killed run must not leave a terminal without a cursor
        self._bar = bar
        self._due = 0.0

    def _draw(self) -> None:
        if self._bar is None or self._task is None:
            return
        bar, task = self._bar, self._task
        self._write(lambda: bar.update(task, completed=self._step, refresh=True, **self._fields()))
        self._due = perf_counter() + _REDRAW_SECONDS

    def _fields(self) -> dict[str, Any]:
        of = f"/{self._total}" if self._total else ""
        times = duration(perf_counter() - self._began)
        left = self._seconds_left()
        return {
            "done": f"{self._phase} {self._step}{of}" if self._phase else f"Step {self._step}{of}",
            "percent": f"{100 * self._step / self._total:3.0f}%" if self._total else "",
            "loss": "" if self._loss is None else f"loss {self._loss:.4f}",
            "times": times if left is None else f"{times}, {duration(left)} left",
        }

    def _seconds_left(self) -> float | None:
        done = self._step - self._first_step
        if not self._total or self._first_at is None or done <= 0:
            return None
        return (self._total - self._step) * (perf_counter() - self._first_at) / done


def answered(source: TextIO, seconds: float) -> str:
    """A line from `source`, or nothing if none comes in time (or the system cannot wait for one)."""
    import select

    try:
        ready, _, _ = select.select([source], [], [], seconds)
    except (OSError, ValueError):  # Windows waits for sockets only
        return ""
    return source.readline().strip() if ready else ""


def _is_terminal(file: TextIO) -> bool:
    return file.isatty() and os.environ.get("TERM") != "dumb"


def _summary_table(summary: Mapping[str, Any], rows: Sequence[tuple[str, str]]) -> Any:
    from rich.box import ROUNDED
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    colour = {"completed": "green", "stopped": "green", "failed": "red"}.get(str(summary.get("status", "")), "yellow")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value, style=f"bold {colour}" if name == "status" else ""))
    return Panel(table, box=ROUNDED, border_style=colour, expand=False)
