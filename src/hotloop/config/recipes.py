"""Templates: recipes kept as YAML files beside this module.

A task's own file (`templates/TASK/NAME.yaml`) comes before the general one (`templates/NAME.yaml`). A template may
extend one other; named after another one, it adds its own values only. On a GPU, NAME stands for NAME_cuda where that
exists. `default` is applied when none is named.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from hotloop.config.yaml_reader import Item, read_file
from hotloop.errors import Problem

FOLDER = Path(__file__).parent / "templates"


def available(task: str) -> list[str]:
    """Names of the templates that a task can use."""
    files = [*FOLDER.glob("*.yaml"), *(FOLDER / task).glob("*.yaml")] if _is_plain(task) else [*FOLDER.glob("*.yaml")]
    return sorted({file.stem.removesuffix("_cuda") for file in files})


def chain(
    name: str, task: str, device_kind: str, origin: str
) -> tuple[list[tuple[str, dict[str, Item]]], list[Problem]]:
    """Read a template and those it extends.

    Args:
        name: the template's name.
        task: name of the task.
        device_kind: "cpu" or "cuda".
        origin: who asked for it, for problems.

    Returns:
        (name, content) of each, the most general first; problems.
    """
    found: list[tuple[str, dict[str, Item]]] = []
    used: set[Path] = set()
    wanted: str | None = name
    while wanted is not None:
        file = _find(wanted, task, device_kind, used)
        if file is None:
            return found, [_unknown(wanted, task, origin)]
        used.add(file)
        top, problems = read_file(file)
        if problems:
            return found, problems
        extends = top.pop("extends", None)
        found.insert(0, (file.stem, top))
        wanted, origin = (None if extends is None else str(extends.value)), f"template {file.stem}"
    return found, []


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in ("", ".", "..")


def _find(name: str, task: str, device_kind: str, used: set[Path]) -> Path | None:
    names = [f"{name}_cuda", name] if device_kind == "cuda" else [name]
    folders = [FOLDER / task, FOLDER] if _is_plain(task) else [FOLDER]
    files = [folder / f"{stem}.yaml" for folder in folders for stem in names if _is_plain(stem)]
    return next((file for file in files if file not in used and file.is_file()), None)


def _unknown(name: str, task: str, origin: str) -> Problem:
    names = available(task)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}? " if near else ""
    if name.endswith((".yaml", ".yml")):
        advice = f"a file of your own is given with --config {name}; "
    return Problem("--template", name, origin, f"no such template for {task}", f"{advice}there are: {', '.join(names)}")
