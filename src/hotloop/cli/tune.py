"""`hotloop ladder` and `hotloop tune`: settings tried on this model, data and machine, and what they brought."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotloop.cli.answer import json_option, plain_values, print_json
from hotloop.cli.train import load_named
from hotloop.errors import HotloopError

if TYPE_CHECKING:
    from hotloop.config.load import Loaded
    from hotloop.tune.search import Climbed

LADDER, TUNED = "ladder.json", "tuned.yaml"
_SETTINGS: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True}


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """What both commands take."""
    folder = click.Path(path_type=Path, file_okay=False)
    for one in (
        click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="TASK [KEY=VALUE ...]"),
        click.option("--minutes", type=click.FloatRange(min=0.0, min_open=True), default=5.0, show_default=True,
                     help="Begin no new candidate after this time."),
        click.option("--out", type=folder, default=".", show_default=True, help="The folder to write to."),
        click.option("--allow-batch-change", is_flag=True,
                     help="Also try larger effective batches, with the learning rate scaled: the result changes."),
        json_option,
    ):  # fmt: skip
        command = one(command)
    return command


@click.command(context_settings=_SETTINGS)
@_options
def ladder(words: tuple[str, ...], minutes: float, out: Path, allow_batch_change: bool, as_json: bool) -> None:
    """Measure what each setting brings on top of the plain way to train TASK.

    The baseline is float32, eager, with batches from the host. Each candidate runs in a process of its own, in turn
    with the baseline; it is kept only if it is faster beyond noise and computes the same. Written are ladder.json and
    ladder.png.
    """
    loaded = _loaded("ladder", words)
    _make(out)
    found = _climb(loaded, minutes, allow_batch_change, as_json, own=False)
    written = _write(found, out)
    if as_json:
        print_json({**found.to_json(), "written": [str(path) for path in written]})
        return
    _show(found)
    click.echo(f"written: {', '.join(map(str, written))}")


@click.command(context_settings=_SETTINGS)
@_options
def tune(words: tuple[str, ...], minutes: float, out: Path, allow_batch_change: bool, as_json: bool) -> None:
    """Find the fastest settings for TASK on this machine that compute the same.

    As `hotloop ladder`, beginning with what hotloop would choose by itself; compiling must pay for itself within the
    run. Written are tuned.yaml, ladder.json and ladder.png. Later runs of the same model, data shape, machine and
    versions use what was found by themselves (training.tune=off leaves that out).
    """
    from hotloop.disk import write_atomic
    from hotloop.tune.written import tuned_yaml

    loaded = _loaded("tune", words)
    _make(out)
    found = _climb(loaded, minutes, allow_batch_change, as_json, own=True)
    if not allow_batch_change:
        _keep(loaded, found)
    written = _write(found, out)
    file = out / TUNED
    write_atomic(file, tuned_yaml(found, " ".join(words)).encode())
    if as_json:
        print_json({**found.to_json(), "written": [str(path) for path in (file, *written)]})
        return
    _show(found)
    click.echo(f"written: {', '.join(map(str, (file, *written)))}")
    click.echo(f"train with it: hotloop train {words[0]} --config {file}")


def _loaded(command: str, words: tuple[str, ...]) -> Loaded:
    loaded = load_named(command, words)
    if switches := loaded.arguments.switches | ({"resume"} if loaded.arguments.resume_from else set()):
        flag = sorted(switches)[0].replace("_", "-")
        raise HotloopError(f"--{flag} belongs to `hotloop train`", fix=f"leave it out of `hotloop {command}`")
    return loaded


def _climb(loaded: Loaded, minutes: float, batch_change: bool, as_json: bool, own: bool) -> Climbed:
    from hotloop import folds
    from hotloop.runs.console import Console
    from hotloop.tune import search

    folds.require_one(loaded)
    reporter = Console(sys.stderr if as_json else None)
    try:
        climb = search.tune if own else search.ladder
        return climb(loaded, reporter, minutes, batch_change=batch_change)
    finally:
        reporter.close()


def _make(out: Path) -> None:
    """The folder for what is found, before minutes are spent on finding it; it must take a file."""
    from hotloop.disk import telling

    with telling("write to", out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


def _write(found: Climbed, out: Path) -> list[Path]:
    from hotloop.disk import write_atomic
    from hotloop.runs.ladder import plot_ladder

    file, values = out / LADDER, plain_values(found.to_json())
    write_atomic(file, (json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n").encode())
    return [file, plot_ladder(values, file.with_suffix(".png"))]


def _keep(loaded: Loaded, found: Climbed) -> None:
    """For later runs; what was found counts without that too."""
    from hotloop.tune.auto import remember
    from hotloop.tune.kept import key_of

    file, why = remember(key_of(loaded, found.facts.parameters, found.facts.shape), found)
    if file is None:
        click.secho(f"note: not kept for later runs: {why}", fg="yellow", err=True)


def _show(found: Climbed) -> None:
    from hotloop.tune.row import table
    from hotloop.tune.written import in_words, levels

    click.echo("\n".join(["", *table(found.baseline, found.rows), ""]))
    click.secho(f"{found.factor:.2f}x the baseline: {in_words(found.knobs)}", bold=True)
    for line in levels():
        click.secho(line, dim=True)
