"""`hotloop generate`: text from a run's trained model: what goes on from a prompt, or the translation of one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hotloop.errors import HotloopError


@click.command("generate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--prompt", default=None, help="Text to go on from, or to translate; - reads lines from the input.")
@click.option("--length", default=500, show_default=True, help="gpt: tokens to write.")
@click.option("--temperature", default=0.8, show_default=True, help="gpt: below 1 safer, above 1 wilder, 0 likeliest.")
@click.option("--top-k", type=int, default=None, help="gpt: draw from this many likeliest tokens only.  [default: all]")
@click.option("--seed", default=1337, show_default=True, help="gpt: the same seed writes the same text.")
@click.option("--beam", type=int, default=None, help="translate: candidates kept in the search.  [default: the run's]")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True, help="Weights.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda or cuda:N.")
@click.pass_context
def command(
    context: click.Context, /, run: Path, prompt: str | None, checkpoint: str, device: str, **rest: Any
) -> None:
    """Write text with the model of RUN, a run folder of the task gpt or translate.

    gpt goes on from the prompt; translate translates it, or each line of the input where no prompt is given.
    """
    from hotloop.device import pick_device
    from hotloop.runs.store import RunFolder
    from hotloop.saved import saved_model, weights_file

    folder = RunFolder.open(run)
    weights = weights_file(folder, checkpoint)
    if checkpoint == "best" and weights is not None and weights.name != "best_model.pt":
        click.echo(f"note: the run kept no best checkpoint; {weights.name} is used", err=True)
    task, model = saved_model(folder, checkpoint)
    write = getattr(task, "write", None)
    if write is None:
        fix = "use a run of the task gpt or translate; hotloop predict RUN --input FILE is for the others"
        raise HotloopError(f"runs of the task {type(task).__name__} write no text", where=str(run), fix=fix)
    options = _fitting(context, write, rest, type(task).__name__)
    written = 0
    for text in _prompts(prompt, getattr(task, "needs_prompt", False)):
        click.echo(write(model, text, device=pick_device(device), **options))
        written += 1
    if not written:
        raise HotloopError("no line came in", where="standard input", fix='give lines, or --prompt "TEXT"')


def _fitting(context: click.Context, write: Callable[..., str], given: dict[str, Any], task: str) -> dict[str, Any]:
    """The options that the task's method takes; another one that was typed is refused."""
    taken = set(inspect.signature(write).parameters)
    for name in given:
        if name not in taken and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            shown = name.replace("_", "-")
            raise HotloopError(f"runs of the task {task} know no --{shown}", where=f"--{shown}", fix="leave it out")
    return {name: value for name, value in given.items() if name in taken}


def _prompts(prompt: str | None, needed: bool) -> Iterable[str]:
    """The prompt, or the lines of the input."""
    if prompt == "-" or (prompt is None and needed):
        if sys.stdin.isatty():
            click.echo("reading lines to the end of the input (Ctrl-D)", err=True)
        return _lines()
    return [prompt or ""]


def _lines() -> Iterable[str]:
    """The lines of the input that are not empty."""
    try:
        for line in sys.stdin:
            if line.strip():
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        what = f"the input holds byte 0x{error.object[error.start]:02x}, which is not {error.encoding}"
        raise HotloopError(what, where="standard input", fix="give text in UTF-8") from None
