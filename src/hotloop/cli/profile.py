"""`hotloop profile`: where a step's time goes, against what this machine can do.

Invariants: keys after TASK are read as `hotloop train` reads them, so that what is profiled is what would be trained;
standard output carries nothing but JSON when --json is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hotloop.cli.answer import json_option, print_json
from hotloop.errors import HotloopError

if TYPE_CHECKING:
    from hotloop.config.load import Loaded
    from hotloop.profiler.report import Profile


@click.command(
    "profile",
    context_settings={"ignore_unknown_options": True},  # the keys of the configuration
    options_metavar="[OPTIONS]",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="TASK [key=value ...] [--key-name value ...]")
@click.option("--steps", type=click.IntRange(min=1), help="Steps to time.  [default: about five seconds of them]")
@click.option("--out", type=click.Path(path_type=Path), default="profile.png", show_default=True, help="The picture.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write torch's trace there (.json or .json.gz).")
@click.option("--measure-again", "again", is_flag=True, help="Measure the machine's ceilings anew.")
@json_option
def command(
    words: tuple[str, ...], steps: int | None, out: Path, trace: Path | None, again: bool, as_json: bool
) -> None:
    """Show where the time of a training step goes, and what to change.

    TASK and its keys are those of `hotloop train`. The real step is timed, phase by phase: waiting for data, copying
    it, forward, backward, optimizer, and the host's gap between them. Products and memory are set beside what this
    machine was measured to do. Nothing is trained or kept but the picture.

    \b
      hotloop profile gpt
      hotloop profile gpt --batch-size 64 training.precision=bf16
      hotloop profile mine.py:Mine --steps 50 --trace trace.json
    """
    from hotloop.cli.train import load_named
    from hotloop.profiler.operators import checked_trace
    from hotloop.runs.plot import checked

    loaded = load_named("profile", words)
    _refuse_switches(loaded)
    out = checked(out)  # what cannot be written is told before anything is measured
    if trace is not None:
        checked_trace(trace)
    found = _profiled(loaded, steps, trace, again)
    picture = _draw(found, out)
    if as_json:
        print_json({**found.to_dict(), "picture": str(picture), "trace": None if trace is None else str(trace)})
        return
    _show(found)
    click.echo(f"drawn: {picture}" + ("" if trace is None else f"; trace: {trace} (https://ui.perfetto.dev opens it)"))


def _refuse_switches(loaded: Loaded) -> None:
    """Nothing that was asked for is left out without a word."""
    given = [f"--{name.replace('_', '-')}" for name in sorted(loaded.arguments.switches)]
    if loaded.arguments.resume_from is not None:
        given.append("--resume-from-checkpoint")
    if given:
        what = f"{', '.join(given)} belongs to `hotloop train`"
        raise HotloopError(what, fix="leave it out; a profile takes a task and its keys")


def _profiled(loaded: Loaded, steps: int | None, trace: Path | None, again: bool) -> Profile:
    """The measurement; what it says meanwhile goes to standard error."""
    import sys

    from hotloop import device as machine
    from hotloop import folds, memory
    from hotloop.ceilings import ceilings
    from hotloop.launch import settled
    from hotloop.profiler.measure import profile
    from hotloop.runs.console import Console
    from hotloop.runs.reporter import Silent
    from hotloop.saved import make_task
    from hotloop.shortage import before_training
    from hotloop.tune.auto import known
    from hotloop.tune.choose import choose

    wanted = folds.wanted(loaded)
    loaded = folds.only(loaded, 1) if wanted else loaded
    device = machine.pick_device(loaded.config.training.device)
    machine.set_threads(loaded.config.training.threads)
    limits = ceilings(device, again=again, tell=lambda line: click.echo(line, err=True))  # while memory is free
    reporter = Console(sys.stderr)
    try:
        choice = choose(loaded, reporter=reporter)
    finally:
        reporter.close()
    try:
        # what `hotloop tune` found, as a training would use it
        settle = None if wanted else known
        found, _, session = settled(loaded, make_task(loaded.config), choice, settle, Silent())
        for note in found.notes[len(loaded.notes) :]:
            click.echo(note, err=True)
        return profile(session, limits, steps=steps, trace=trace)
    except Exception as error:
        if isinstance(error, HotloopError) or not memory.is_out_of_memory(error):
            raise
        short = before_training(loaded.config, choice, error)
    raise short


def _draw(found: Profile, out: Path) -> Path:
    from hotloop.runs.pictures import plot_profile

    figures = found.to_dict()
    shares = {
        f"products, {found.plan.precision}": figures["share_of_matrix_ceiling"],
        "memory, at most": figures["share_of_bandwidth_ceiling"],
    }
    if found.busy is not None:
        shares["GPU runs kernels"] = found.busy
    phases = {name: phase["ms"] for name, phase in figures["phases"].items()}
    subtitle = f"{found.verdict.name}: {found.verdict.reason.partition('; ')[0]}"
    return plot_profile(phases, shares, out, f"{found.name}: {figures['ms_per_step']:.3g} ms a step", subtitle)


def _show(found: Profile) -> None:
    from hotloop.profiler.report import OPERATOR_COLUMNS, PHASE_COLUMNS
    from hotloop.runs.table import show_table

    click.echo(found.head() + "\n")
    show_table(PHASE_COLUMNS, found.phase_rows())
    click.echo()
    for line in [*found.lines(), found.marks_line()]:
        click.echo(line)
    click.echo()
    show_table(OPERATOR_COLUMNS, found.operator_rows())
    click.echo(f"\n{found.verdict.name}: {found.verdict.reason}.")
    for option in found.verdict.options or ("nothing in the configuration is known to help; `hotloop knobs` lists it",):
        click.echo(f"  try {option}" if found.verdict.options else f"  {option}")
