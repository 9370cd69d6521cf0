"""`hotloop knobs`, `hotloop init` and `hotloop schema`: every key, for people, for a file and for an editor.

`knobs` and `schema` load no torch; `init` asks the machine for its device, so that the recipe fits it.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from hotloop.cli.answer import json_option, print_json
from hotloop.errors import HotloopError


@click.command()
@click.argument("task", required=False)
@json_option
def knobs(task: str | None, as_json: bool) -> None:
    """List every key with its default, type, range, unit and meaning.

    With TASK (a built-in one, or FILE.py:CLASS) those of this task; without, those of all tasks, the ones that belong
    to a single task marked with its name.
    """
    rows = _rows_of(task) if task else _rows_of_all()
    if as_json:
        print_json(rows)
        return
    click.secho(
        f"A task's recipe sets some of these otherwise: hotloop train {task or 'gpt'} --show-config\n", dim=True
    )
    section = ""
    for row in rows:
        if section != (section := row["key"].partition(".")[0]):
            click.secho(f"\n{section}" if row is not rows[0] else section, bold=True)
        _show(row)


@click.command()
@click.argument("task")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write; - prints.  [default: TASK.yaml]")
@click.option("--force", is_flag=True, help="Replace a file that is already there.")
def init(task: str, output: Path | None, force: bool) -> None:
    """Write a commented YAML file with every key of TASK, to edit and to train with --config."""
    from hotloop.cli.train import options_of
    from hotloop.config.starter import init_yaml
    from hotloop.disk import write_atomic

    options = options_of(task)
    from hotloop.device import device_kind

    text = init_yaml(options, device_kind())
    target = Path(f"{Path(options.name).stem}.yaml") if output is None else output
    if str(target) == "-":
        click.echo(text, nl=False)
        return
    if target.exists() and not force:
        fix = "choose another with --output, or replace it with --force"
        raise HotloopError(f"{target} is already there", where=str(target.absolute()), fix=fix)
    write_atomic(target, text.encode())
    click.echo(f"written: {target}\ntrain with it: hotloop train {task} --config {target}")


@click.command()
@click.argument("task")
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead of printing.")
def schema(task: str, output: Path | None) -> None:
    """Print the JSON Schema of TASK's YAML file, for completion and checking in an editor.

    \b
    In editors with the YAML language server, put this first in the YAML file:
      # yaml-language-server: $schema=gpt.schema.json
    """
    from hotloop.cli.train import options_of
    from hotloop.config.knobs import json_schema
    from hotloop.disk import write_atomic

    found = json_schema(options_of(task))
    if output is None:
        print_json(found)
        return
    write_atomic(output, (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())
    click.echo(f"written: {output}")


def _rows_of(task: str) -> list[dict[str, str]]:
    from hotloop.cli.train import options_of
    from hotloop.config.knobs import rows

    return rows(options_of(task))


def _rows_of_all() -> list[dict[str, str]]:
    """What all tasks share, and in its section what single tasks add, with "task" set."""
    from hotloop.config.knobs import rows
    from hotloop.config.schema import TaskOptions
    from hotloop.tasks import BUILTIN

    shared = rows(TaskOptions(""))
    known = {row["key"] for row in shared}
    added: dict[str, dict[str, str]] = {}
    for name in BUILTIN:
        for row in _rows_of(name):
            if row["key"] not in known:
                added[row["key"]] = _joined(added.get(row["key"]), {**row, "task": name})
    order: dict[str, int] = {}
    for row in [*_rows_of(next(iter(BUILTIN))), *shared]:
        order.setdefault(row["key"].partition(".")[0], len(order))
    return sorted([*shared, *added.values()], key=lambda row: order[row["key"].partition(".")[0]])


def _joined(before: dict[str, str] | None, row: dict[str, str]) -> dict[str, str]:
    """One row for a key that several tasks have; what differs between them is said to."""
    if before is None:
        return row
    same = {name: value if value == row.get(name) else "differs by task" for name, value in before.items()}
    return {**same, "meaning": before["meaning"], "task": f"{before['task']}, {row['task']}"}


def _show(row: dict[str, str]) -> None:
    details = ", ".join(row[name] for name in ("type", "range", "unit") if row[name])
    only = f"  only {row['task']}" if row.get("task") else ""
    click.echo(
        "  "
        + click.style(row["key"], fg="cyan")
        + f" = {row['default'] or chr(34) * 2}  "
        + click.style(f"({details}){only}", dim=True)
    )
    click.echo(click.wrap_text(row["meaning"], width=_width(), initial_indent="      ", subsequent_indent="      "))


def _width() -> int:
    import shutil

    return min(100, shutil.get_terminal_size().columns)
