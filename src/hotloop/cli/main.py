"""The `hotloop` command: finds the command, runs it, and turns what went wrong into words and an exit code.

Invariants: importing this, and `hotloop --help`, load neither torch nor any command's module; a user's fault is never
shown with a traceback, a fault of ours always is. Exit codes: 0 well, 1 our own fault, 2 the user's, 3 stopped by a
check, 4 interrupted and resumable.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import click

from hotloop import __version__
from hotloop.errors import HotloopError

OUR_FAULT, USER_FAULT, INTERRUPTED = 1, 2, 4


class Entry(NamedTuple):
    """Where a command is, and what one line says about it."""

    module: str
    attribute: str
    line: str


COMMANDS = {
    "train": Entry("train", "train", "Train a task: hotloop train gpt training.batch_size=8"),
    "resume": Entry("train", "resume", "Go on with an interrupted run, exactly where it was."),
    "tune": Entry("tune", "tune", "Find the fastest settings that compute the same, on this machine."),
    "ladder": Entry("tune", "ladder", "Measure what each setting of speed brings."),
    "profile": Entry("profile", "command", "Show where a step's time goes, and what to change."),
    "generate": Entry("generate", "command", "Write text with a trained language model."),
    "predict": Entry("after", "predict", "Predict every row of a file with a trained run, or several."),
    "evaluate": Entry("after", "evaluate", "Measure a trained run on a file with targets."),
    "export": Entry("after", "export", "Write a trained model for other programs: safetensors, ONNX, ..."),
    "runs": Entry("runs", "runs", "List the runs and how they ended."),
    "plot": Entry("runs", "plot", "Draw the loss curves of runs and logs."),
    "knobs": Entry("settings", "knobs", "List every key: unit, range, default, meaning."),
    "init": Entry("settings", "init", "Write a commented YAML file for a task."),
    "schema": Entry("settings", "schema", "Print a task's JSON Schema, for editors."),
    "prepare": Entry("prepare", "command", "Turn raw data into the form that a task reads fastest."),
    "env": Entry("env", "env", "Show versions, processor, memory and GPUs."),
}
SECTIONS = {
    "Train": ("train", "resume"),
    "Make it fast": ("tune", "ladder", "profile"),
    "Use a trained run": ("predict", "evaluate", "generate", "export"),
    "Look at runs": ("runs", "plot"),
    "Set up": ("prepare", "init", "knobs", "schema", "env"),
}
PLANNED = [
    "doctor",
    "lab",
    "sweep",
    "compare",
    "report",
    "verify-resume",
    "monitor",
]


class Commands(click.Group):
    """The commands by name, each imported when it is called (click's own way to load lazily is a subclass)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        entry = COMMANDS[cmd_name]
        module = importlib.import_module(f"hotloop.cli.{entry.module}")
        command: click.Command = getattr(module, entry.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may be meant."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise _no_command(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table above: asking each command would import it."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name].line) for name in names], col_max=12)


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"hotloop {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def hotloop() -> None:
    """Train PyTorch models on the hardware you have: fast, correct, resumable.

    \b
    First steps:
      hotloop train gpt                 train on text that comes with Python
      hotloop train gpt data.path=my.txt training.max_steps=500
      hotloop runs                      what has been trained
      hotloop COMMAND --help            about one command
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after `hotloop`; those of the process by default.
    Returns:
        The exit code.
    """
    if "_HOTLOOP_COMPLETE" in os.environ:  # the shell asks for completions
        hotloop.main(prog_name="hotloop")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with hotloop.make_context("hotloop", words) as context:
            hotloop.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:  # a word that click did not understand
        return _wrong_usage(error)
    except HotloopError as error:
        _show_error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.secho("interrupted", fg="yellow", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        from hotloop.cli.blame import show_fault

        return show_fault()


def _no_command(name: str) -> HotloopError:
    if name in PLANNED:
        return HotloopError(f"`hotloop {name}` is not available in this version", fix="`hotloop --help` lists what is")
    near = get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    meant = f"; did you mean `hotloop {near[0]}`?" if near else ""
    return HotloopError(f"there is no command '{name}'{meant}", fix="`hotloop --help` lists the commands")


def _wrong_usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message())
        return 0
    context = getattr(error, "ctx", None)
    hint = f"\n  fix: `{context.command_path} --help` shows how it is called" if context is not None else ""
    _show_error(error.format_message() + hint)
    return USER_FAULT


def _show_error(text: str) -> None:
    first, _, rest = text.partition("\n")
    sys.stdout.flush()
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.secho(first, bold=True, err=True)
    if rest:
        click.echo(rest, err=True)
