"""`hotloop train` and `hotloop resume`.

Invariants: everything after TASK goes to the configuration unread, so that there is one place that reads keys; standard
output carries nothing but JSON when --json is given (what a person sees goes to standard error then).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hotloop.cli.answer import json_option, print_json
from hotloop.errors import HotloopError

if TYPE_CHECKING:
    from hotloop.config.load import Loaded
    from hotloop.config.schema import TaskOptions
    from hotloop.runs.console import Console

HELP = """\
Usage: hotloop train TASK [key=value ...] [--key-name value ...]

  Train a task. TASK is a built-in one, or a class of your own as FILE.py:CLASS.

  Keys are dotted, as in the YAML file; as flags they may be short:
    hotloop train gpt data.path=my.txt training.max_steps=500
    hotloop train gpt --max-steps 500 --batch-size 32 --learning-rate 1e-3
    hotloop train gpt --config my.yaml optimization.learning_rate=3e-4

  Who wins: the command line over the file over the template over the defaults.

Options:
  --template NAME  Start from a recipe (may be repeated); without it, from `default`.
  --config FILE    A YAML file; `hotloop init TASK` writes one to start from.
  --show-config    Print every value and where it comes from; train nothing.
  --show-schedule  Print and draw the learning rate over the run; train nothing.
  --resume-from-checkpoint RUN
                   Go on with RUN; the same as `hotloop resume RUN`.
  --json           Print the summary (or what is shown) as JSON on standard output.
  -h, --help       Show this message and exit.
"""
_SHOWN_RATES = 24


@click.command(
    add_help_option=False,  # `train gpt --help` is about gpt, so it is read below
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def train(words: tuple[str, ...]) -> None:
    """Train a task; its help is `HELP`."""
    if {"-h", "--help"} & set(words):
        click.echo(HELP + "\n" + _about(_named(words)))
        return
    loaded = load_named("train", words)
    switches = loaded.arguments.switches
    if "show_config" in switches:
        _show_config(loaded, "json" in switches)
    elif "show_schedule" in switches:
        _show_schedule(loaded, "json" in switches)
    else:
        _train(loaded, "json" in switches)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@json_option
def resume(run: Path, as_json: bool) -> None:
    """Go on with RUN, a run's folder, exactly where its last checkpoint is.

    The run keeps its own configuration and its own folder. On the same machine the result is equal to the bit to a run
    that was never interrupted.
    """
    _resume(run, as_json)


def _named(words: tuple[str, ...]) -> str:
    """The task that comes first among the words; empty if none does."""
    return words[0] if words and not words[0].startswith("-") else ""


def load_named(command: str, words: tuple[str, ...]) -> Loaded:
    """The configuration that TASK and the keys behind it make.

    Args:
        command: which reads them, for what is said where no task is named.
        words: after the command.

    Raises:
        HotloopError: no task, no such one, or faults in the keys.
    """
    from hotloop.config.load import load

    task = _named(words)
    if not task:
        way = f"put the task first: hotloop {command} gpt ..." if words else f"name one: hotloop {command} gpt"
        raise HotloopError("no task named", fix=f"{way}\n\n{_about('')}")
    options = options_of(task)
    from hotloop.device import device_kind

    return load(options, arguments=words[1:], device_kind=device_kind())


def options_of(task: str) -> TaskOptions:
    """The options of a built-in task, or of a user's own as FILE.py:CLASS (which loads torch).

    Raises:
        HotloopError: no such task, file or class.
    """
    if ".py:" in task or task.endswith(".py"):
        from hotloop.tasks.own import load_user_task

        return load_user_task(task)[0]
    from hotloop import tasks

    return tasks.options_of(task)


def _train(loaded: Loaded, as_json: bool) -> None:
    from hotloop import folds, launch
    from hotloop.runs.console import Console
    from hotloop.tune.auto import settle
    from hotloop.tune.choose import choose

    if loaded.arguments.resume_from is not None:
        run = Path(loaded.arguments.resume_from)
        refuse_other(loaded, run)
        _resume(run, as_json)
        return
    reporter = Console(sys.stderr if as_json else None)
    if folds.wanted(loaded):
        _train_folds(loaded, reporter, as_json)
        return
    try:
        choice = choose(loaded, reporter=reporter)
        done = launch.train(loaded, reporter=reporter, started=process_start(), choice=choice, settle=settle)
    finally:
        reporter.close()  # the terminal is given back before an error is printed
    if as_json:
        print_json({"dir": done.dir, **done.summary})


def _train_folds(loaded: Loaded, reporter: Console, as_json: bool) -> None:
    from hotloop import folds
    from hotloop.tune.choose import choose, refuse_idle_tuning

    refuse_idle_tuning(loaded, "folds are trained as they are")
    try:
        choice = choose(folds.only(loaded, 1), reporter=reporter)  # folds are alike: what pays in one pays in all
        done = folds.train_folds(loaded, reporter, choice=choice)
    finally:
        reporter.close()
    if as_json:
        print_json(done.to_json())
        return
    for line in [*done.lines(), f"written: {done.file}"]:
        click.echo(line)


def _resume(run: Path, as_json: bool) -> None:
    from hotloop import launch
    from hotloop.runs.console import Console

    reporter = Console(sys.stderr if as_json else None)
    try:
        done = launch.resume(run, reporter=reporter, started=process_start())
    finally:
        reporter.close()
    if as_json:
        print_json({"dir": done.dir, **done.summary})


def refuse_other(loaded: Loaded, run: Path) -> None:
    """A resumed run keeps its task and configuration: say so where the command line asks for others.

    Raises:
        HotloopError: something that was asked for differs from the run's own, or its configuration cannot be read.
    """
    from dataclasses import replace

    from hotloop.config.kept import refuse_changes
    from hotloop.runs.store import RunFolder
    from hotloop.saved import CONFIG, read_json, rooted

    directory = run.parent.parent if run.is_file() else run
    saved = read_json(RunFolder.open(directory).dir / CONFIG)
    wanted, fix = rooted(loaded.config), f"leave these out, as in `hotloop resume {directory}`, or train a new run"
    if saved.get("task") != wanted.task:
        raise HotloopError(f"this is a run of the task {saved.get('task')}", where=str(directory), fix=fix)
    refuse_changes(replace(loaded, config=wanted), saved, fix)


def process_start() -> float:
    """When this process began, in seconds since the epoch: loading Python and torch belongs to a run's start-up."""
    import psutil

    return psutil.Process().create_time()


def _about(task: str) -> str:
    """What follows the general help: the tasks, or how to see one task's keys."""
    from hotloop.tasks import BUILTIN

    if task:
        options = options_of(task)
        keys = [f"model.{name}" for name in options.model.model_fields]
        keys += [f"data.{name}" for name in options.data.model_fields]
        listed = click.wrap_text(" ".join(keys), width=78, initial_indent="  ", subsequent_indent="  ")
        return f"Keys of {task}:\n{listed}\n  `hotloop knobs {task}` tells what each of them and all others mean."
    lines = [f"  {name:<12}{line}" for name, line in BUILTIN.items()]
    return "\n".join(["Tasks:", *lines, f"  {'FILE.py:X':<12}your own class X"])


def _show_config(loaded: Loaded, as_json: bool) -> None:
    from hotloop.config.schema import to_plain
    from hotloop.config.show import config_lines

    if as_json:
        print_json({"config": to_plain(loaded.config), "origins": loaded.origins, "notes": loaded.notes})
        return
    for line in config_lines(loaded):
        click.echo(line)


def _show_schedule(loaded: Loaded, as_json: bool) -> None:
    from hotloop.assemble import schedule_preview
    from hotloop.runs.plot import plot_schedule
    from hotloop.saved import make_task

    rates = schedule_preview(loaded, make_task(loaded.config))
    title = f"{loaded.config.task}: learning rate, {loaded.config.optimization.lr_scheduler}"
    picture = plot_schedule(rates, Path("schedule.png"), title)
    if as_json:
        print_json({"schedule": rates, "picture": str(picture)})
        return
    highest = max(rate for _, rate in rates) or 1.0
    for step, rate in rates_to_show(rates):
        click.echo(f"Step {step:>8,}  {rate:.3e}  {'#' * round(44 * rate / highest)}")
    click.echo(f"drawn: {picture}")


def rates_to_show(rates: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Evenly spaced rates with the first, the highest and the last among them, in order."""
    every = max(1, len(rates) // _SHOWN_RATES)
    highest = max(rates, key=lambda pair: pair[1])
    return sorted({*rates[::every], rates[0], highest, rates[-1]})
